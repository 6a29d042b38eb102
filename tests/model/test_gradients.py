"""Models that run but have no gradient, and layers that are not one tensor."""

import warnings

import pytest
import torch
from torch import nn

from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
)


def images(batch=6):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, 16, 16, generator=generator)


class Net(nn.Module):
    """Two convolutions, with something between them, or between them and the scores."""

    def __init__(self, between=None, head=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.auxiliary, self.last = nn.Linear(6, 3), nn.Linear(6, 3)
        self.between, self.head = between, head

    def forward(self, x):
        maps = self.first(x - 0.5).relu()
        maps = self.second(maps if self.between is None else self.between(maps))
        features = maps.mean(dim=(2, 3))
        self.auxiliary(features)
        if self.head is not None:
            features = self.head(features)
        return 20 * self.last(features)


@torch.no_grad()
def unseen(x):
    return x * 2


@torch.inference_mode()
def inferred(x):
    return x * 2


WITHOUT = {
    "detach": lambda x: x.detach(),
    "no_grad": unseen,
    "inference_mode": lambda x: inferred(x).clone(),
    "inference tensors": inferred,
    "whole numbers": lambda x: (x * 100).int().float(),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "numpy of what wants a gradient": lambda x: torch.from_numpy(x.numpy()),
    "lists": lambda x: torch.tensor(x.tolist()),
    "in place": lambda x: x.pow(2) + x.exp_(),
}
over_models = pytest.mark.parametrize("step", WITHOUT.values(), ids=WITHOUT.keys())
MESSAGE = "expected scores that have a gradient with respect to the "


@over_models
def test_a_layer_without_a_way_to_the_scores(step):
    model = Net(between=step).eval()
    explainer = RepresentativeInterpretation(model, model.first, references=images())
    with pytest.raises(ValueError, match=MESSAGE + "layer"):
        explainer.attribute(images(1), target=0)
    if step is not WITHOUT["in place"]:
        model.requires_grad_(False)  # or they want to be differentiated on the way
        explainer = RepresentativeInterpretation(
            model, model.second, references=images()
        )
        assert explainer.attribute(images(1), target=0).any()


@over_models
def test_inputs_without_a_way_to_the_scores(step):
    model = Net(between=step).eval()
    with pytest.raises(ValueError, match=MESSAGE + "inputs"):
        CoalitionPerturbation(model).attribute(images(1), target=0, n_steps=2)
    assert MarginSaliency(model).attribute(images(1), target=0, n_evaluations=40).any()


@over_models
def test_a_prior_without_a_way_to_the_scores(step):
    model = Net(head=step).eval()
    with pytest.raises(ValueError, match=MESSAGE + "layer"):
        MarginSaliency(model).attribute(images(1), target=0, prior="gradcam")


def test_what_is_changed_in_place_is_said():
    model = Net(between=WITHOUT["in place"]).eval()
    explainer = RepresentativeInterpretation(model, model.first, references=images())
    with pytest.raises(ValueError, match="is changed in place; make a copy of it"):
        explainer.attribute(images(1), target=0)


def test_an_auxiliary_head_is_said():
    model = Net().eval()
    explainer = RepresentativeInterpretation(
        model, model.auxiliary, references=images()
    )
    with pytest.raises(ValueError, match="not for an auxiliary head; explain another"):
        explainer.attribute(images(1), target=0)


def test_a_model_that_fails_in_any_case_says_so_itself():
    class Fails(Net):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("out of coffee")
            return super().forward(x)

    model = Fails().eval()
    explainer = RepresentativeInterpretation(model, model.first, references=images())
    with pytest.raises(RuntimeError, match="out of coffee"):
        explainer.attribute(images(1), target=0)


def test_a_slope_of_zero_throughout_is_warned_of():
    model = Net(between=lambda x: (4 * x).round()).eval()
    with pytest.warns(UserWarning, match="its gradient was zero throughout"):
        CoalitionPerturbation(model).attribute(images(1), target=0, n_steps=3)
    explainer = RepresentativeInterpretation(model, model.first, references=images())
    with pytest.warns(UserWarning, match="or rounds what it reads"):
        assert not explainer.attribute(images(1), target=0).any()


def test_a_class_that_stays_ahead_has_no_slope_to_warn_of():
    """The margin is 0 as long as no other class is ahead, and its slope with it."""

    def model(x):
        return torch.stack([x.mean(dim=(1, 2, 3)), x.new_full(x.shape[:1], 0.1)], 1)

    options = {"confidence": "margin", "n_steps": 1, "return_details": True}
    options |= {"baselines": 0.0, "feature_mask": torch.zeros(1, 1, 16, 16).long()}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*gradient was zero")
        _, details = CoalitionPerturbation(model).attribute(
            images(1), target=0, **options
        )
    assert details.n_steps.tolist() == [1] and details.losses[0, 1] == 0


class Returns(nn.Module):
    """A layer that returns its maps in a container."""

    def __init__(self, pack):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.pack = nn.Conv2d(3, 6, 3), pack

    def forward(self, x):
        return self.pack(self.inner(x).relu())


class Around(nn.Module):
    def __init__(self, pack, unpack):
        super().__init__()
        self.layer, self.unpack = Returns(pack), unpack
        torch.manual_seed(1)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.unpack(self.layer(x)).mean(dim=(2, 3)))


def first(packed):
    return packed[0]


PACKS = {
    "tuple": (lambda x: (x, 2 * x), first, "a tuple of 2"),
    "state": (lambda x: (x, None), first, "a tuple of 2"),
    "list": (lambda x: [x], first, "a list of 1"),
    "dict": (lambda x: {"out": x}, lambda d: d["out"], "a dict of 1"),
    "one axis": (lambda x: x.flatten(), lambda x: x.view(-1, 6, 14, 14), r"\("),
}


@pytest.mark.parametrize(("pack", "unpack", "got"), PACKS.values(), ids=PACKS.keys())
def test_layers_that_are_not_one_tensor(pack, unpack, got):
    model = Around(pack, unpack).eval()
    explainer = RepresentativeInterpretation(model, model.layer, references=images())
    error = AssertionError if "tuple" in got else ValueError  # Captum's, of tuples
    with pytest.raises(error, match=rf"a layer with one tensor, .*\(got {got}"):
        explainer.attribute(images(1), target=0)


def test_a_tuple_of_one_is_its_tensor():
    model, plain = Around(lambda x: (x,), first), Around(lambda x: x, lambda x: x)
    found, expected = (
        RepresentativeInterpretation(
            net.eval(), net.layer, references=images(), seed=0
        ).attribute(images(1), target=0)
        for net in (model, plain)
    )
    torch.testing.assert_close(found, expected)


class Twice(nn.Module):
    """One activation in two places; the layer is the second use, as in Captum."""

    def __init__(self, shared):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.relu = nn.ReLU()
        self.again = self.relu if shared else nn.ReLU()
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        maps = self.again(self.second(self.relu(self.first(x))))
        return self.last(maps.mean(dim=(2, 3)))


def test_a_layer_that_is_run_twice_is_its_last_use():
    found, expected = (
        RepresentativeInterpretation(
            net.eval(), net.again, references=images(), seed=0
        ).attribute(images(2), target=0)
        for net in (Twice(True), Twice(False))
    )
    assert found.any()
    torch.testing.assert_close(found, expected)


def test_nothing_is_said_of_models_with_gradients():
    model = Net().eval()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        CoalitionPerturbation(model).attribute(images(1), target=0, n_steps=3)
    assert [str(w.message) for w in seen if "gradient" in str(w.message)] == []
