"""The three methods under what users bring: precision, layout, sizes, other tasks."""

import copy

import pytest
import torch
from torch import nn

from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
    feature_coalitions,
)
from tests.reference import margin_saliency_reference as reference

SIZE = 24
MASK = torch.arange(4).view(2, 2).repeat_interleave(12, 0).repeat_interleave(12, 1)


class Net(nn.Module):
    """Class 1 is brightness in the upper left quarter, class 0 in the lower right."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4 * 4, 2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            weight = self.body[0].weight
            weight.copy_(torch.rand(weight.shape, generator=generator))
            self.body[0].bias.zero_()
            self.head.weight.zero_().view(2, 4, 4)[1, :, 0] = 0.1  # channel, place
            self.head.weight.view(2, 4, 4)[0, :, 3] = 0.1

    def forward(self, x):
        places = nn.functional.adaptive_avg_pool2d(self.body(x), 2)
        return self.head(places.flatten(1))


def images(n=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.rand(n, 3, SIZE, SIZE, generator=generator)
    bright = torch.rand(2, n, 1, 1, 1, generator=generator)
    x[:, :, 2:10, 2:10] += bright[0]
    x[:, :, 14:22, 14:22] += bright[1]
    return x


def margin(model, x, **options):
    options = {"target": 1, "n_evaluations": 150, **options}
    return MarginSaliency(model).attribute(x, **options)


def representative(model, x, target=1, layer=None, **options):
    layer = model.body if layer is None else layer
    fitted = RepresentativeInterpretation(model, layer)
    references = images(30, seed=2).to(x)
    if not x.is_contiguous():
        references = references.contiguous(memory_format=torch.channels_last)
    fitted.fit(references, n_boundaries=8, seed=0)
    return fitted.attribute(x, target=target, **options)


def coalition(model, x, layer=None, **options):
    # Class 0: of class 1 the net sees more in the mean colour, and nothing is kept.
    options = {"target": 0, "n_steps": 30, "n_coalitions": 4, **options}
    return CoalitionPerturbation(model, layer).attribute(x, **options)


METHODS = [margin, representative, coalition]
over_methods = pytest.mark.parametrize("method", METHODS)


def correlation(a, b):
    return float(torch.stack([a.flatten(), b.flatten()]).double().corrcoef()[0, 1])


@over_methods
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(method, dtype):
    model, x = Net(), images()
    exact = method(copy.deepcopy(model).double(), x.double())
    found = method(model.to(dtype), x.to(dtype))
    assert found.dtype == dtype and found.isfinite().all()
    assert correlation(found, exact) > 0.9


class Autocast(nn.Module):
    """A model that rounds by itself."""

    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.body, self.dtype = model, model.body, dtype

    def forward(self, x):
        with torch.autocast("cpu", dtype=self.dtype):
            return self.model(x)


@over_methods
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_rounds_in_the_model_and_nowhere_else(method, dtype):
    model, x = Net(), images()
    expected = method(Autocast(model, dtype), x)
    with torch.autocast("cpu", dtype=dtype):
        found = method(model, x)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(found, expected)
    assert not torch.equal(found, method(model, x).to(found.dtype))
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_does_not_keep_autocast_suspended():
    def broken(x):
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError("broken")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        for method in (margin, coalition):
            with pytest.raises(RuntimeError, match="broken"):
                method(
                    broken,
                    images(),
                    **({"feature_mask": torch.zeros(1, 1, SIZE, SIZE).long()}),
                )
        assert torch.is_autocast_enabled("cpu")


@over_methods
def test_channels_last(method):
    model, x = Net().double(), images().double()
    options = {"feature_mask": MASK} if method is coalition else {}
    expected = method(model, x, **options)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for other in (model, last):
        given = x.contiguous(memory_format=torch.channels_last)
        found = method(other, given, **options)
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    if method is coalition:
        # They are learnt in many steps from values where the last bit counts.
        assert torch.equal(
            feature_coalitions(model, given), feature_coalitions(model, x)
        )


@over_methods
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_frozen_models(method, mode):
    model, x = Net().double(), images().double()
    expected = method(model, x)
    model.requires_grad_(False)
    with mode():
        found = method(model, x + 0)
    assert torch.equal(found, expected)
    for parameter in model.parameters():
        assert not parameter.requires_grad and parameter.grad is None


def test_batches_of_different_sizes_one_after_another():
    model, x = Net().double(), images(5).double()
    target = torch.tensor([1, 0, 1, 1, 0])
    fitted = RepresentativeInterpretation(model, model.body)
    fitted.fit(images(30, seed=2).double(), n_boundaries=8, seed=0)
    for explainer, options in [
        (MarginSaliency(model), {"n_evaluations": 40}),
        (fitted, {}),
        (CoalitionPerturbation(model), {"n_steps": 5, "feature_mask": MASK}),
    ]:
        alone = torch.cat(
            [
                explainer.attribute(x[i : i + 1], target=target[i : i + 1], **options)
                for i in range(5)
            ]
        )
        for rows in (slice(0, 3), slice(3, 4), slice(0, 5), slice(1, 3)):
            found = explainer.attribute(x[rows], target=target[rows], **options)
            torch.testing.assert_close(found, alone[rows], rtol=1e-6, atol=1e-9)


class Segmenter(nn.Module):
    """Scores of two classes at every pixel, in a dictionary, as torchvision's."""

    def __init__(self):
        super().__init__()
        self.body = Net().body
        self.head = nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.head.weight.fill_(-1.0)
            self.head.weight[1, 1:] = 1.0
            self.head.bias.zero_()

    def forward(self, x):
        return {"out": self.head(self.body(x)), "aux": None}


ROWS, COLUMNS = slice(14, 22), slice(14, 22)  # where a class was found


def segment_score(model):
    """One score an image: the mean logit of class 1 over the segment."""
    return lambda x: model(x)["out"][:, 1, ROWS, COLUMNS].mean(dim=(1, 2))


def test_a_segment_is_explained_by_what_it_can_see():
    model, x = Segmenter().double(), images(2).double()
    score = segment_score(model)
    tiles = torch.arange(9).view(3, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    options = {"target": None, "feature_mask": tiles, "baselines": 0.0}
    maps = margin(score, x, n_evaluations=600, **options)
    for row in range(2):

        def value(union, row=row):
            kept = torch.from_numpy(union)[tiles].double()
            with torch.no_grad():
                return float(score(x[row : row + 1] * kept))

        expected = torch.from_numpy(reference.banzhaf(value, 9))[tiles]
        torch.testing.assert_close(maps[row, 0], expected, rtol=1e-6, atol=1e-9)
    # The segment and one pixel around it is all that the two layers see.
    seen = tiles[13:23, 13:23].unique()
    assert set(tiles[maps[0, 0].abs() > 1e-9].unique().tolist()) == set(seen.tolist())

    kept = coalition(score, x, layer=model.body, target=None, n_steps=60)
    inside = kept[:, :, 16:20, 16:20].mean()  # the mask is smooth
    outside = kept[:, :, :10, :10].mean()
    assert inside > outside + 0.3

    # Every boundary is that of the one linear head, so the weights are known.
    limit = float(score(images(30, seed=2).double()).median())
    heat = representative(
        lambda x: score(x) - limit, x, target=None, layer=model.body, paper=True
    )
    weights = torch.tensor([-1.0, 1, 1, 1]).view(1, 4, 1, 1) / SIZE**2
    expected = (weights * model.body(x).detach()).sum(dim=1, keepdim=True)
    torch.testing.assert_close(heat, expected, rtol=1e-6, atol=1e-9)


class Detector(nn.Module):
    """Boxes with scores, a list with one dictionary an image, as torchvision's."""

    def __init__(self):
        super().__init__()
        self.body = Net().body

    def forward(self, x):
        cells = nn.functional.avg_pool2d(self.body(x).mean(dim=1), 8)  # 3 x 3
        top, left = torch.meshgrid(*[torch.arange(0, SIZE, 8)] * 2, indexing="ij")
        corners = torch.stack([left, top, left + 8, top + 8], dim=-1).view(9, 4)
        return [
            {"boxes": corners.to(x), "scores": (scores - 0.5).sigmoid()}
            for scores in cells.flatten(1)
        ]


def box_score(model, box):
    """One score an image: the best of the boxes' scores by their overlap with one."""
    from torchvision.ops import box_iou

    def score(x):
        return torch.stack(
            [
                (box_iou(found["boxes"], box[None])[:, 0] * found["scores"]).max()
                for found in model(x)
            ]
        )

    return score


@pytest.mark.parametrize("method", [margin, coalition])
def test_a_detection_is_explained_by_its_box(method):
    model, x = Detector().double(), images(2).double()
    x[:, :, 2:6, 18:22] += 1.0  # bright, and not of this box
    box = torch.tensor([0.0, 0.0, 8.0, 8.0]).double()
    options = {"target": None, "baselines": 0.0}
    if method is coalition:
        options |= {"layer": model.body, "n_steps": 60, "n_coalitions": 8}
    else:
        options |= {"n_evaluations": 400}
    maps = method(box_score(model, box), x, **options).mean(dim=1)
    mean = nn.functional.avg_pool2d(maps, 8).flatten(1)
    assert mean.argmax(dim=1).tolist() == [0, 0]
    others = mean[:, 1:].amax(dim=1)
    assert (mean[:, 0] > 2 * others).all() or method is coalition
    assert (mean[:, 0] > others + (0.2 if method is coalition else 0.0)).all()


def test_the_layer_of_a_detection():
    model, x = Detector().double(), images(2).double()
    score = box_score(model, torch.tensor([0.0, 0.0, 8.0, 8.0]).double())
    heat = representative(
        lambda x: score(x) - 0.5, x, target=None, layer=model.body, paper=True
    )
    # All channels count alike in the score, and so do they in every boundary.
    ratio = heat / model.body(x).detach().sum(dim=1, keepdim=True)
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert (ratio > 0).all()
