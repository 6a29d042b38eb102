"""What a planted model must give, and what Captum promises of a perturbation method."""

import warnings

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from torch import nn

from captum_margin.attr import CoalitionPerturbation, feature_coalitions
from captum_margin.attr.coalition import search as mask_search
from captum_margin.attr.coalition.losses import coalition_loss, evenness_loss
from tests.attr.coalition.test_clustering import assert_left_as, left
from tests.helpers.models import Counted, Planted, conv, images, tiles

FEW = {"n_steps": 6, "n_coalitions": 4}
LONG = {"n_steps": 60, "learning_rate": 0.2, "confidence_weight": 3.0}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
BOX = (slice(8, 16), slice(4, 12))


def attribute(model, x, layer=None, **options):
    options = {**FEW, **options}
    return CoalitionPerturbation(model, layer).attribute(x, **options)


def thin(height=12, width=10, batch=2, channels=3):
    """Small images, a partition of them, and a quick model.

    It sees less of the classes 0 to 2 in their mean colours than in the images: a
    class whose score does not fall needs no search.
    """
    x = images(batch, channels, height, width)
    return x, tiles(height, width, 4)[None, None], conv(channels, seed=2121)


class Box(nn.Module):
    """Asks whether a box is bright, after a convolution that lets all through."""

    def __init__(self, gain=40.0):
        super().__init__()
        self.through = nn.Conv2d(3, 3, 1, bias=False)
        self.through.weight.data = torch.eye(3)[:, :, None, None]
        self.head = Planted(BOX, gain=gain)

    def forward(self, x):
        return self.head(self.through(x)) - self.head.gain * x.new_tensor([0.5, 0.0])


def bright_box(batch=1, seed=0, side=24):
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.rand(batch, 3, side, side, generator=generator)
    x[:, :, BOX[0], BOX[1]] += 0.6
    return x


def found(maps):
    """Which share of a map, above what it is far from the box, is in it or next to it.

    By itself the box and its neighbours are a quarter of the image.
    """
    far = maps[:, :, :, 17:].mean(dim=(1, 2, 3), keepdim=True)
    above = (maps - far).clamp(min=0)
    return above[:, :, 6:18, 2:14].sum(dim=(1, 2, 3)) / above.sum(dim=(1, 2, 3))


def contrast(maps):
    """Between the box and what is far from it."""
    inside = maps[:, :, BOX[0], BOX[1]].mean(dim=(1, 2, 3))
    return inside - maps[:, :, :, 17:].mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_size": None},
        {"noise": 0.5},
        {"move_coalitions": False},
        {"softmax": False},
        {"baselines": 0.0},
        {"feature_mask": tiles(24, 24, 4)[None, None]},
    ],
    ids=lambda options: str(list(options)),
)
def test_the_map_is_where_the_model_looks(options):
    x = bright_box(2)
    maps = attribute(Box(), x, target=0, **LONG, **options)
    assert maps.shape == x.shape and 0 <= maps.min() and maps.max() <= 1
    assert (found(maps) > 0.85).all() and (contrast(maps) > 0.4).all()


def test_the_papers_setting():
    """Noise is not tolerated where the model looks, once it would change the class."""
    x = bright_box()
    model = Box()
    options = {"paper": True, "n_steps": 60, "learning_rate": 0.1, "n_samples": 8}
    noisy = {"noise": 60.0, "confidence_weight": 20.0}  # a mean of 192 values is even
    (mask,) = attribute(model, x, model.through, target=0, **options, **noisy).flatten(
        2
    )
    assert mask.std(dim=0).max() > 1e-3  # each channel has a mask of its own
    assert found(mask.view(1, 3, 24, 24)) > 0.8


def test_classes_that_look_elsewhere_have_other_maps():
    x = bright_box().expand(2, -1, -1, -1)
    model = nn.Sequential(Box(), Opposed())
    mask = tiles(24, 24, 4)[None, None]
    with pytest.warns(UserWarning, match=r"1 of 2 images \(number 1\)"):
        maps = attribute(model, x, target=[0, 1], feature_mask=mask, **LONG)
    assert found(maps)[0] > 0.9 and contrast(maps)[0] > 0.4
    # Nothing need stay for the class that only loses: all is taken away.
    assert not maps[1].any()


class Opposed(nn.Module):
    def forward(self, scores):
        return torch.stack([scores[:, 0], -scores[:, 0]], dim=1)


def test_an_easy_model_stops_early():
    x = torch.cat([bright_box(), bright_box()])
    model = Box()
    model.head.gain = 0.01  # hardly anything matters
    maps, details = attribute(
        model, x, target=0, n_steps=200, learning_rate=0.2, return_details=True,
        evidence_weight=0.0,
    )  # fmt: skip
    assert (details.n_steps < 60).all() and maps.std() < 0.02
    taken = details.n_steps[0]
    assert torch.equal(details.n_evaluations, details.n_steps)
    assert details.losses.shape == (200, 3, 2)
    assert details.losses[:taken].isfinite().all()
    assert details.losses[taken:].isnan().all()
    extent, confidence, _ = details.losses[: int(taken), :, 0].T
    assert extent[0] == 0 and extent[-1] == pytest.approx(-1)
    assert 0 < confidence[-1] < 0.01


@pytest.mark.parametrize("confidence", ["drop", "margin"])
def test_nothing_is_kept_of_a_class_that_the_baseline_has_too(confidence, monkeypatch):
    x, mask, model = thin()
    options = {"feature_mask": mask, "confidence": confidence, "return_details": True}
    # Where class 3 is ahead in the mean colours, and not in the second image.
    base = model(x.mean(dim=(2, 3), keepdim=True).expand_as(x)).argmax(dim=1)
    target = [int(base[0]), int(model(x)[1].argmax())]
    assert target[0] == 3 and base[1] == 3 and target[1] != 3
    with pytest.warns(UserWarning, match=r"1 of 2 images \(number 0\) is no lower"):
        maps, details = attribute(model, x, target=target, **options)
    assert not maps[0].any() and maps[1].std() > 0.01
    assert details.n_steps[0] == details.n_evaluations[0] == 0 < details.n_steps[1]
    assert details.losses[:, :, 0].isnan().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone, _ = attribute(model, x[1:], target=target[1], **options)
        # What noise does is not known from a few draws.
        attribute(model, x, target=target, **options, noise=0.5)
    torch.testing.assert_close(alone[0], maps[1], **CLOSE)
    # No step of a search is better, and its map would have a pattern.
    monkeypatch.setattr(
        mask_search._Scorer, "stand_without_image", lambda _: torch.tensor([False])
    )
    maps, details = attribute(model, x[:1], target=3, **{**options, "n_steps": 60})
    all_of_it = coalition_loss(torch.ones(1, 1, 12, 10).double(), mask[:, 0])
    extent, loss, coalition = details.losses[: details.n_steps[0], :, 0].T
    assert extent.min() >= -1 - 1e-12 and loss.min() >= -1e-4
    assert (coalition >= all_of_it - 1e-12).all() and maps.std() > 1e-4


def test_each_image_stops_by_itself():
    """One that is done waits for the others, unchanged."""
    x = torch.cat([bright_box(), bright_box(seed=1)])
    gain = torch.tensor([0.01, 40.0])

    def model(x, gain):
        return gain[:, None] * Box(1.0)(x)

    mask = tiles(24, 24, 4)[None, None]
    options = {"target": 0, "feature_mask": mask, "n_steps": 80, "learning_rate": 0.2}
    options["return_details"] = True
    maps, both = attribute(model, x, additional_forward_args=gain, **options)
    assert both.n_steps[0] < both.n_steps[1]
    for row in range(2):
        part = slice(row, row + 1)
        alone, details = attribute(
            model, x[part], additional_forward_args=gain[part], **options
        )
        torch.testing.assert_close(alone, maps[part], **CLOSE)
        assert details.n_steps[0] == both.n_steps[row]
    assert found(maps)[1] > 0.9


@pytest.mark.parametrize(
    "off", ["extent_weight", "confidence_weight", "coalition_weight"]
)
def test_each_loss_can_be_switched_off(off):
    x, options = bright_box(), {"target": 0, "evidence_weight": 0.0, **LONG}
    options["feature_mask"] = tiles(24, 24, 4)[None, None]
    base = attribute(Box(), x, **options)
    maps = attribute(Box(), x, **{**options, off: 0.0})
    assert not torch.allclose(maps, base, atol=1e-3)
    if off == "confidence_weight":
        assert maps.std() < 0.02  # all goes, and as fast
    options |= {"extent_weight": 0.0, "coalition_weight": 0.0}
    assert attribute(Box(), x, **options).min() > 0.5  # nothing need go


class TwoBoxes(nn.Module):
    """Asks for light in two boxes, of which the first counts three times as much."""

    def forward(self, x):
        light = x.mean(dim=1)
        first, second = light[:, 2:10, 2:10], light[:, 14:22, 14:22]
        logit = 9 * first.mean(dim=(1, 2)) + 3 * second.mean(dim=(1, 2)) - 6
        return torch.stack([logit, torch.zeros_like(logit)], dim=1)


def test_evidence_ranks_what_the_mask_leaves_alike():
    x = torch.zeros(1, 3, 24, 24)
    x[:, :, 2:10, 2:10] = x[:, :, 14:22, 14:22] = 1.0
    options = {"target": 0, "feature_mask": tiles(24, 24, 4)[None, None], **LONG}
    options["confidence_weight"] = 60.0  # so that both boxes must stay

    def boxes(eta):
        (maps,) = attribute(TwoBoxes(), x, evidence_weight=eta, **options)[:, 0]
        outside = maps[14:22, 2:10].mean()
        return maps[4:8, 4:8].mean(), maps[16:20, 16:20].mean(), outside

    first, second, _ = boxes(0.0)
    assert first > 0.8 and second > 0.8 and abs(first - second) < 0.1
    first, second, outside = boxes(1.0)
    # The slope of 3 is a third of that of 9; where there is none, 0.2 / 1.2 is left.
    assert first == pytest.approx(1, abs=0.1)
    assert second == pytest.approx((0.2 + 1 / 3) / 1.2, abs=0.1)
    assert outside == pytest.approx(0.2 / 1.2, abs=0.05)
    first, second, outside = boxes(0.5)
    assert first - second > 0.15 and second > 3 * outside


class EitherBox(nn.Module):
    """Asks for the brighter of two boxes: each is enough, the first a little more."""

    def forward(self, x):
        light = x.mean(dim=1)
        first = light[:, 2:10, 2:10].mean(dim=(1, 2))
        second = light[:, 14:22, 14:22].mean(dim=(1, 2))
        logit = 9 * torch.maximum(first, 0.9 * second) - 4
        return torch.stack([logit, torch.zeros_like(logit)], dim=1)


def test_deletion_finds_what_would_do_instead():
    """Where the first box is kept nothing asks for the second; without it all does."""
    x = torch.zeros(1, 3, 24, 24)
    x[:, :, 2:10, 2:10] = x[:, :, 14:22, 14:22] = 1.0
    options = {"target": 0, "feature_mask": tiles(24, 24, 4)[None, None], **LONG}

    def boxes(**more):
        (maps,) = attribute(EitherBox(), x, **options, **more)[:, 0]
        outside = maps[14:22, 2:10].mean()
        return maps[4:8, 4:8].mean(), maps[16:20, 16:20].mean(), outside

    first, second, outside = boxes(deletion=False, evidence_weight=1.0)
    assert first > 0.9 and second == pytest.approx(float(outside), abs=0.01)
    first, second, outside = boxes(evidence_weight=1.0)
    assert first > 0.9 and second > 0.9 and outside == pytest.approx(1 / 6, abs=0.01)
    first, second, outside = boxes()
    assert first > 0.9 and second > 2 * outside


def test_deletion_only_adds_evidence():
    """The search is the same, to the last bit: what is enough stays what it was."""
    x, mask, model = thin(batch=3)
    options = {"target": 0, "feature_mask": mask, "n_steps": 12, "return_details": True}
    _, without = attribute(model, x, **options, deletion=False)
    _, details = attribute(model, x, **options)
    assert torch.equal(details.kept, without.kept)
    assert torch.equal(details.losses.nan_to_num(), without.losses.nan_to_num())
    assert not torch.equal(details.evidence, without.evidence)


@pytest.mark.parametrize("options", [{}, {"noise": 0.5}, {"mask_size": None}], ids=str)
def test_the_map_is_the_geometric_mean_of_mask_and_evidence(options):
    x, mask, model = thin()
    maps = [
        attribute(model, x, target=0, feature_mask=mask, evidence_weight=eta, **options)
        for eta in (0.0, 1.0, 0.25)
    ]
    expected = maps[0].pow(0.75) * maps[1].pow(0.25)
    torch.testing.assert_close(maps[2], expected)
    assert maps[1].amax(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1])
    default, details = attribute(
        model, x, target=0, feature_mask=mask, return_details=True, **options
    )
    torch.testing.assert_close(default, (maps[0] * maps[1]).sqrt())
    assert torch.equal(details.kept.expand_as(x).to(x), maps[0])
    evidence = (0.2 + details.evidence) / 1.2
    torch.testing.assert_close(evidence.expand_as(x).to(x), maps[1])
    assert details.settings["evidence_weight"] == 0.5
    paper = {"paper": True, "n_samples": 2, "return_details": True}
    maps, details = attribute(model, x, target=0, feature_mask=mask, **paper)
    assert details.settings["evidence_weight"] == 0
    assert torch.equal(maps, details.kept.to(x))


def test_one_value_for_each_coalition():
    """Of a grid of one cell and the coalitions only these can differ."""
    plain = {"mask_size": 1, "smoothing": 0.0, "confidence_weight": 0.5}
    x, _, model = thin()
    mask = torch.tensor([7, 3, 11])[tiles(12, 10, 4) % 3][None, None]
    maps, details = attribute(
        model, x, target=0, feature_mask=mask, **plain, return_details=True
    )
    renumbered = torch.tensor([1, 0, 2])[tiles(12, 10, 4) % 3]
    assert torch.equal(details.coalitions, renumbered.expand(2, -1, -1))
    for one in maps:
        values = [one[:, renumbered == number] for number in range(3)]
        for value in values:
            torch.testing.assert_close(value, value[0, 0].expand_as(value))
        assert len({float(value[0, 0]) for value in values}) > 1
    again = attribute(model, x, target=0, feature_mask=renumbered, **plain)
    torch.testing.assert_close(again, maps, **CLOSE)


def test_evenness_leaves_one_value_to_neighbours_in_a_coalition():
    x, mask, model = thin()
    coalitions = mask[:, 0].expand(2, -1, -1)
    options = {"target": 0, "feature_mask": mask, "return_details": True, "n_steps": 40}
    options |= {"mask_size": None, "smoothing": 0.0, "coalition_weight": 30.0}

    def unevenness(**more):
        _, details = attribute(model, x, **{**options, **more})
        for name, value in more.items():
            assert details.settings[name] == value
        return evenness_loss(1 - details.kept, coalitions), details

    without, _ = unevenness(coalition_weight=0.0)
    even, details = unevenness(consistency="evenness")
    assert (even < 0.2 * without).all()
    _, other = unevenness(consistency="evenness", consistency_sigma=2.0)
    assert not torch.equal(details.kept, other.kept)
    # The loss that is reported is the one that was asked for.
    last = int(details.n_steps.min()) - 1
    assert (details.losses[1:last, 2] >= 0).all()
    _, mean = unevenness(consistency="mean")
    assert (mean.losses[1:last, 2] < 0).all()


def test_noises_come_in_pairs():
    """Under a linear score their mean effect is that of no noise, to rounding."""
    x, mask, _ = thin()
    weight = torch.randn(3, 12, 10, generator=torch.Generator().manual_seed(0))
    seen = []

    def model(x):
        scores = (x * weight.double()).sum(dim=(1, 2, 3))
        seen.append(scores.detach())
        return scores

    options = {"feature_mask": mask, "mask_size": 3, "internal_batch_size": 8}
    attribute(model, x, noise=0.7, n_samples=4, n_steps=2, **options)
    second = seen[-1].view(2, 4)  # the images, with two pairs each
    assert second.std(dim=1).min() > 1e-3
    halves = second.view(2, 2, 2).mean(dim=1)
    torch.testing.assert_close(halves[:, 0], halves[:, 1])
    generator = torch.Generator().manual_seed(3)
    setting = mask_search.Search(
        1,
        10,
        0.1,
        2,
        0.0,
        0.5,
        6,
        "drop",
        (1, 1, 1),
        "mean",
        1.0,
        True,
        True,
        True,
        3,
        9,
        False,
    )
    noises = mask_search._noises(x, setting, generator)
    assert noises.shape == (6, 3, 12, 10) and noises.dtype == x.dtype
    assert torch.equal(noises[:3], -noises[3:]) and not torch.equal(
        noises[0], noises[1]
    )


def test_units_do_not_matter():
    """An image and a model in other units have the same map."""
    x, mask, model = thin()
    options = {"target": 1, "feature_mask": mask}
    for more in ({}, {"noise": 0.5}, {"paper": True}):
        base = attribute(model, x, **options, **more)
        scaled = attribute(lambda y: model(y / 8), 8 * x, **options, **more)
        torch.testing.assert_close(scaled, base, rtol=1e-4, atol=1e-5)
    # Scores that are no logits count in units of what the baseline changes.
    options |= {"softmax": False, "target": None}
    base = attribute(lambda y: model(y)[:, 0], x, **options)
    scaled = attribute(lambda y: 50 * model(y)[:, 0] - 3, x, **options)
    torch.testing.assert_close(scaled, base, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"noise": 0.5}, {"paper": True}], ids=str)
def test_batches(options):
    x, mask, model = thin(batch=3)
    targets = [0, 2, 1]
    settings = {"n_samples": 4, "confidence_weight": 1.0, **options}
    masks = torch.cat([mask, mask % 3, mask % 4])
    counted = Counted(model)
    settings["feature_mask"] = masks
    base = attribute(counted, x, target=targets, **settings)
    assert counted.largest == (12 if options else 3)
    for size in (1, 4, 5, 100):
        counted = Counted(model)
        found = attribute(
            counted, x, target=targets, internal_batch_size=size, **settings
        )
        assert counted.largest <= size
        torch.testing.assert_close(found, base, **CLOSE)
    for row, target in enumerate(targets):
        settings["feature_mask"] = masks[row : row + 1]
        alone = attribute(model, x[row : row + 1], target=target, **settings)
        torch.testing.assert_close(alone[0], base[row], **CLOSE)
    settings["feature_mask"] = masks
    other = attribute(model, x, target=targets, **settings, seed=1)
    assert torch.allclose(other, base) == (not options)
    assert torch.equal(base, attribute(model, x, target=targets, **settings))


def test_batches_with_coalitions_of_their_own():
    x, _, model = thin(16, 16, batch=3)
    for paper in (False, True):
        layer = model[0] if paper else None
        maps, details = attribute(
            model, x, layer, target=1, paper=paper, return_details=True, n_samples=2
        )
        expected = feature_coalitions(
            model,
            x,
            layer,
            n_coalitions=FEW["n_coalitions"],
            paper=paper,
        )
        assert torch.equal(details.coalitions, expected)
        for row in range(3):
            alone = attribute(
                model, x[row : row + 1], layer, target=1, paper=paper, n_samples=2
            )
            torch.testing.assert_close(alone[0], maps[row], **CLOSE)


def test_the_cost_is_what_is_said():
    x, mask, model = thin(batch=3)
    counted = Counted(model)
    options = {"target": 0, "feature_mask": mask, "return_details": True}
    _, details = attribute(counted, x, **options, noise=0.5, n_samples=6)
    assert details.n_steps.tolist() == [6] * 3
    # Six steps, and once, at the fifth, what is kept is taken away.
    assert details.n_evaluations.tolist() == [7 * 6] * 3
    assert counted.rows == 3 * 7 * 6 + 3  # and the images themselves, once
    assert details.settings["n_samples"] == 6 and details.settings["paper"] is False
    for without in ({"deletion": False}, {"evidence_weight": 0.0}, {"paper": True}):
        counted.rows = 0
        _, details = attribute(counted, x, **options, n_samples=2, **without)
        rows = int(details.n_evaluations.sum())
        noises = 2 if "paper" in without else 1
        assert details.settings["deletion"] is False
        assert rows == noises * int(details.n_steps.sum())
        # The margin needs no score of the image to compare with.
        assert counted.rows - rows in ([0] if "paper" in without else [3, 6])


@pytest.mark.parametrize("paper", [False, True])
def test_noise_tunnel_and_metrics(paper):
    x, mask, model = thin()
    explainer = CoalitionPerturbation(model)
    options = {"target": [0, 2], "feature_mask": mask, "n_steps": 3, "paper": paper}
    options["n_samples"] = 2
    plain = explainer.attribute(x, **options)
    still = {"nt_samples": 2, "stdevs": 0.0}
    tunnelled = NoiseTunnel(explainer).attribute(x, **still, **options)
    torch.testing.assert_close(tunnelled, plain, **CLOSE)
    value = sensitivity_max(
        explainer.attribute, x, lambda y, r: y, n_perturb_samples=2, **options
    )
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-6)
    value = infidelity(
        model, lambda y: (y, torch.zeros_like(y)), x, plain, target=[0, 2]
    )
    change = (model(x) - model(0 * x)).detach()[[0, 1], [0, 2]]
    missed = (plain * x).sum(dim=(1, 2, 3)) - change
    torch.testing.assert_close(value, missed**2)


def test_the_model_is_left_as_found():
    x, _, model = thin()
    model = nn.Sequential(nn.ReLU(inplace=True), *model).requires_grad_(False)
    model[-1].requires_grad_(True)
    given, random = x.clone(), torch.get_rng_state()
    before = left(model)
    options = {"target": 1, "noise": 0.3, "layer": None}
    attribute(model, x, **options)
    assert_left_as(model, before)
    with pytest.raises(AssertionError):
        attribute(model, x, target=(99,) * 20)
    assert_left_as(model, before)
    assert torch.equal(x, given) and torch.equal(torch.get_rng_state(), random)
