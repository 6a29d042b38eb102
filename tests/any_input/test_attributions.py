"""Explanations of inputs, targets and options in any dress: the plain map, or words."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from captum_margin import explain
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
)
from captum_margin.metrics import (
    average_drop,
    evaluate,
    insertion_deletion,
    localization,
    smallest_region,
)
from tests.any_input.disguises import SAME, SPOILT, TENSORS
from tests.any_input.oracle import answer_of, assert_alike, examples

SIZE = 16
SHAPES = {
    "table": (3, 6),
    "one column": (3, 1),
    "series": (3, 2, 20),
    "images": (3, 3, SIZE, SIZE),
    "grey": (3, 1, SIZE, SIZE),
    "wide": (3, 3, SIZE, 40),
    "volume": (3, 1, 6, 6, 6),
    "one": (1, 6),
}


class AnyDtype(nn.Module):
    """Three classes from any input, in double; each element has its own weight."""

    def forward(self, x, *others):
        x = x.flatten(1).double()
        numbers = torch.arange(x.shape[1], dtype=torch.float64)
        weights = torch.stack([torch.sin(numbers * f) for f in (0.3, 0.7, 1.1)])
        return (x / 100) @ weights.T / x.shape[1] ** 0.5


def conv_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
        net = nn.Sequential(body, *head).eval()
    net[0][0].weight.data /= 100
    return net


ANY, NET = AnyDtype(), conv_net()


def whole(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, shape, generator=generator).float()


FITTED = RepresentativeInterpretation(NET, NET[0])
FITTED.fit(whole((20, 3, SIZE, SIZE), 5), n_boundaries=4, seed=0)


def unions(x, target=1, **options):
    return MarginSaliency(ANY).attribute(x, target=target, n_evaluations=24, **options)


def regions(x, target=1, **options):
    options = {"domain": "regions", "feature_mask": TILES, **options}
    return MarginSaliency(ANY).attribute(x, target=target, **options)


def of_net(x, target=1, **options):
    return MarginSaliency(NET).attribute(x, target=target, n_evaluations=24, **options)


def coalition(x, target=1, **options):
    options = {"n_steps": 2, "n_coalitions": 3, **options}
    return CoalitionPerturbation(NET).attribute(x, target=target, **options)


def representative(x, target=1, **options):
    return FITTED.attribute(x, target=target, **options)


def recorded(x, target=1, **options):
    return explain(
        MarginSaliency(ANY), x, target, n_evaluations=24, **options
    ).attributions


TILES = torch.arange(SIZE * SIZE).view(SIZE, SIZE) // 32
OF_IMAGES = {
    "regions": regions,
    "unions, net": of_net,
    "coalition": coalition,
    "representative": representative,
}
METHODS = {"unions": unions, **OF_IMAGES, "explain": recorded}
methods = st.sampled_from(sorted(METHODS))
seeds = st.integers(0, 2)
INPUTS = "inputs|images|forward_func|example|model"


@given(methods, st.sampled_from(sorted(SAME)), seeds)
@examples(60)
def test_inputs_in_any_dress(method, dress, seed):
    explained, x = METHODS[method], whole(SHAPES["images"], seed)
    found = answer_of(lambda: explained(SAME[dress](x)), INPUTS)
    if found is not None:
        found = found[0] if isinstance(found, tuple) else found
        assert_alike(
            found, explained(x), 0.02 if dress in ("bfloat16", "float16") else 1e-4
        )


@given(st.sampled_from(sorted(SHAPES)), st.sampled_from(sorted(TENSORS)), seeds)
@examples(60)
def test_inputs_of_any_shape(shape, dress, seed):
    x = whole(SHAPES[shape], seed)
    given = TENSORS[dress](x)
    found = answer_of(lambda: unions(given), INPUTS)
    if found is not None:
        options = {}
        if shape == "series" and not given.is_floating_point():
            # Whole numbers, such as ids, cannot fade: each is a feature of its own.
            options = {"feature_mask": torch.arange(x[0].numel()).view(x[:1].shape)}
        loose = 0.02 if dress in ("bfloat16", "float16") else 1e-4
        assert_alike(found, unions(x, **options), loose)


@given(methods, st.sampled_from(sorted(SPOILT)), seeds)
@examples(40)
def test_spoilt_inputs_are_refused(method, spoil, seed):
    x = whole(SHAPES["images"], seed)
    assert answer_of(lambda: METHODS[method](SPOILT[spoil](x)), INPUTS) is None


TARGETS = {
    "int": lambda t: t[0],
    "NumPy's": lambda t: np.int32(t[0]),
    "array": lambda t: np.array(t),
    "list": lambda t: t,
    "tensor": torch.tensor,
    "one tensor": lambda t: torch.tensor(t[0]),
    "one of one": lambda t: torch.tensor(t[:1]),
    "int32": lambda t: torch.tensor(t, dtype=torch.int32),
    "uint8": lambda t: torch.tensor(t, dtype=torch.uint8),
    "int8": lambda t: torch.tensor(t, dtype=torch.int8),
    "uint16": lambda t: torch.tensor(t, dtype=torch.uint16),
    "column": lambda t: torch.tensor(t)[:, None],
    "floats": lambda t: torch.tensor(t).float(),
    "whole float": lambda t: float(t[0]),
    "bools": lambda t: torch.tensor(t).bool(),
    "list of NumPy's": lambda t: [np.int64(v) for v in t],
    "list of tensors": lambda t: list(torch.tensor(t)),
    "list of floats": lambda t: [float(v) for v in t],
    "list of strings": lambda t: [str(v) for v in t],
    "list of tuples": lambda t: [(v,) for v in t],
    "tuple": tuple,
    "tuple of one": lambda t: (t[0],),
    "range": lambda t: range(t[0], t[0] + 1),
    "set": set,
    "a word": lambda t: "tabby",
    "too long": lambda t: [*t, 0],
    "empty": lambda t: [],
    "from the end": lambda t: [v - 3 for v in t],
    "too high": lambda t: [v + 3 for v in t],
    "nested": lambda t: [t],
    "None among them": lambda t: [None, *t[1:]],
}


@given(methods, st.sampled_from(sorted(TARGETS)), st.integers(0, 2), seeds)
@examples(60)
def test_targets_in_any_dress(method, dress, target, seed):
    x = whole(SHAPES["images"], seed)
    given = TARGETS[dress]([target] * 3)
    found = answer_of(lambda: METHODS[method](x, given), "target|class")
    if found is not None:
        assert_alike(found, METHODS[method](x, target), 1e-4)


NUMBERS = {
    "NumPy's": np.int64(32),
    "NumPy's small": np.int8(32),
    "a tensor": torch.tensor(32),
    "a whole float": 32.0,
    "a fraction": 32.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "zero": 0,
    "negative": -1,
    "True": True,
    "text": "32",
    "None": None,
    "a list": [32],
    "huge": 2**70,
}
OPTIONS = {
    "n_evaluations": ("unions", unions),
    "perturbations_per_eval": ("unions", unions),
    "seed": ("unions", unions),
    "n_steps": ("coalition", coalition),
    "n_coalitions": ("coalition", coalition),
}


def with_option(name, value):
    x = whole(SHAPES["grey" if name == "n_evaluations" else "images"])
    if name == "n_evaluations":
        return MarginSaliency(ANY).attribute(x, target=1, n_evaluations=value)
    return OPTIONS[name][1](x, **{name: value})


@given(st.sampled_from(sorted(OPTIONS)), st.sampled_from(sorted(NUMBERS)))
@examples(40)
def test_numbers_of_options(name, dress):
    value = NUMBERS[dress]
    if dress == "huge" and name in ("n_evaluations", "n_steps", "seed"):
        return  # what it asks for
    if dress == "None" and name == "n_steps":
        return  # its default
    found = answer_of(lambda: with_option(name, value), name)
    if found is not None:
        plain = {"zero": 0, "negative": -1, "True": 1, "huge": 2**40}.get(dress, 32)
        if name == "seed" and dress == "negative":
            return
        assert_alike(found, with_option(name, plain), 1e-4)


BASELINES = {
    "number": lambda b: float(b.flatten()[0]),
    "integer": lambda b: int(b.flatten()[0]),
    "NumPy's": lambda b: np.float64(b.flatten()[0].item()),
    "one of one": lambda b: b.flatten()[:1],
    "whole": lambda b: b,
    "an image": lambda b: b[:1],
    "tuple": lambda b: (b,),
    "double": lambda b: b.double(),
    "half": lambda b: b.half(),
    "int": lambda b: b.long(),
    "bool": lambda b: True,
    "array": lambda b: b.numpy(),
    "list": lambda b: [b],
    "nested": lambda b: b.tolist(),
    "text": lambda b: "blur",
    "NaN": lambda b: b / 0 * 0,
    "too many": lambda b: (b, b),
    "complex": lambda b: b.to(torch.complex64),
    "sparse": lambda b: b.to_sparse(),
    "gradient": lambda b: b.clone().requires_grad_(),
    "function": lambda b: torch.zeros_like,
}


@given(
    st.sampled_from(["unions", "regions", "unions, net", "coalition"]),
    st.sampled_from(sorted(BASELINES)),
    st.integers(0, 9),
)
@examples(40)
def test_baselines_in_any_dress(method, dress, level):
    x, explained = whole(SHAPES["images"]), METHODS[method]
    if dress == "bool":
        level = 1
    baseline = torch.full_like(x, level)
    given = BASELINES[dress](baseline)
    found = answer_of(lambda: explained(x, baselines=given), "baseline")
    if found is not None:
        assert_alike(found, explained(x, baselines=baseline), 1e-4)


MASKS = {
    "int64": lambda m: m,
    "int32": lambda m: m.int(),
    "uint8": lambda m: m.to(torch.uint8),
    "float": lambda m: m.float(),
    "bfloat16": lambda m: m.bfloat16(),
    "bool": lambda m: m > 3,
    "numbers with gaps": lambda m: m * 1000 - 7,
    "per channel": lambda m: m.expand(3, -1, -1),
    "batched": lambda m: m.expand(3, 3, -1, -1),
    "one of a batch": lambda m: m[None, None],
    "two of a batch": lambda m: m.expand(2, 1, -1, -1),
    "tuple": lambda m: (m,),
    "array": lambda m: m.numpy(),
    "list": lambda m: m.tolist(),
    "flat": lambda m: m.flatten(),
    "transposed": lambda m: m.T.contiguous().T,
    "sparse": lambda m: m.to_sparse(),
    "complex": lambda m: m.to(torch.complex64),
    "fractions": lambda m: m / 7,
    "one feature": lambda m: m * 0,
}


@given(
    st.sampled_from(["unions", "regions", "unions, net", "coalition"]),
    st.sampled_from(sorted(MASKS)),
)
@examples(40)
def test_feature_masks_in_any_dress(method, dress):
    x, explained = whole(SHAPES["images"]), METHODS[method]
    mask = MASKS[dress](TILES)
    found = answer_of(lambda: explained(x, feature_mask=mask), "mask|regions|features")
    if found is not None:
        same = {"bool": (TILES > 3).long(), "one feature": TILES * 0}.get(dress, TILES)
        assert_alike(found, explained(x, feature_mask=same), 1e-4)


def insertion(x, maps, **options):
    found = insertion_deletion(ANY, x, maps, 1, n_steps=6, **options)
    return torch.stack([found.insertion_auc, found.deletion_auc])


def drop(x, maps, **options):
    return average_drop(ANY, x, maps, 1, **options).drop


def smallest(x, maps, **options):
    decided = ANY(whole(SHAPES["images"], 0)).argmax(dim=1)
    found = smallest_region(ANY, x, maps, decided, n_steps=6, **options).fraction
    return found.nan_to_num(2.0)


def all_metrics(x, maps, **options):
    found = evaluate(ANY, x, maps, 1, **options)
    return found.insertion_deletion.insertion_auc


def inside(x, maps, **options):
    masks = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    masks[:, :8] = True
    return localization(maps, masks, **options).energy


METRICS = {
    "insertion_deletion": insertion,
    "average_drop": drop,
    "smallest_region": smallest,
    "localization": inside,
}
MAPS = "attributions|maps"
metrics = st.sampled_from(sorted(METRICS))


@given(metrics, st.sampled_from(sorted(SAME | SPOILT)), seeds)
@examples(60)
def test_maps_in_any_dress(metric, dress, seed):
    x, measured = whole(SHAPES["images"]), METRICS[metric]
    maps = whole((3, 1, SIZE, SIZE), seed + 1)
    found = answer_of(lambda: measured(x, (SAME | SPOILT)[dress](maps)), MAPS)
    if found is not None:
        assert dress not in SPOILT
        assert_alike(found, measured(x, maps), 1e-3)


@given(metrics, st.sampled_from(sorted(SAME | SPOILT)), seeds)
@examples(60)
def test_measured_images_in_any_dress(metric, dress, seed):
    x, measured = whole(SHAPES["images"], seed), METRICS[metric]
    maps = whole((3, 1, SIZE, SIZE), 9)
    found = answer_of(lambda: measured((SAME | SPOILT)[dress](x), maps), INPUTS)
    if found is not None and metric != "localization":
        assert dress not in SPOILT
        # The masked copies are as coarse as the images.
        assert_alike(found, measured(x, maps), 0.01 if dress == "bfloat16" else 1e-3)


SHAPED = {
    "a channel": (3, 1, SIZE, SIZE),
    "no channel": (3, SIZE, SIZE),
    "all channels": (3, 3, SIZE, SIZE),
    "coarse": (3, 1, 4, 4),
    "one of a batch": (1, 1, SIZE, SIZE),
    "flat": (3, SIZE * SIZE),
    "channels last": (3, SIZE, SIZE, 1),
    "two channels": (3, 2, SIZE, SIZE),
    "transposed size": (3, 1, SIZE, 8),
    "image": (SIZE, SIZE),
}


@given(metrics, st.sampled_from(sorted(SHAPED)))
@examples(30)
def test_maps_of_any_shape(metric, shape):
    x, measured = whole(SHAPES["images"]), METRICS[metric]
    maps = whole(SHAPED[shape], 3)
    found = answer_of(lambda: measured(x, maps), MAPS)
    if found is None:
        return
    if shape == "all channels":
        assert_alike(found, measured(x, maps.sum(dim=1, keepdim=True)), 1e-3)
    elif metric == "localization" and shape != "a channel":
        # Maps of any resolution, brought to the size of the masks.
        assert shape in ("coarse", "transposed size", "two channels")
        whole_map = maps.sum(dim=1, keepdim=True)
        resized = F.interpolate(whole_map, (SIZE, SIZE), mode="bilinear")
        assert_alike(found, measured(x, resized), 1e-3)
    else:
        assert_alike(found, measured(x, maps.reshape(-1, 1, SIZE, SIZE)), 1e-3)
