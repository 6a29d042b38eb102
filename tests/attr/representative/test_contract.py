"""What Captum promises of a layer method, what its tools need, what users bring."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel
from captum.attr import visualization as viz
from captum.concept import TCAV, Concept
from captum.metrics import infidelity, sensitivity_max
from torch import nn
from torch.utils import data
from torch.utils.data import DataLoader

from captum_margin.attr import RepresentativeInterpretation
from tests.attr.representative.test_explainer import (
    DOUBLE,
    case,
    decisions,
    examples,
    explainer,
    grad_cam,
    margin,
    net,
    states_agree,
)

try:  # not documented by Captum, and not in every release
    from captum.testing.attr.helpers.test_config import config
except ImportError:
    config = []
CASES = [row for row in config if LayerGradCam in row["algorithms"]]


@pytest.fixture
def c():
    return case("conv")


class Items(data.Dataset):
    """Items that a data set may have."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        item = tuple(column[index] for column in self.columns)
        return item if len(item) > 1 else item[0]


SOURCES = {
    "tuple": lambda x: (x,),
    "items": Items,
    "labelled": lambda x: Items(x, list(range(len(x)))),
    "NaN labels": lambda x: data.TensorDataset(x, torch.full((len(x),), torch.nan)),
    "loader": lambda x: DataLoader(Items(x), batch_size=7),
    "labelled loader": lambda x: DataLoader(Items(x, ["a"] * len(x)), batch_size=9),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_sources_are_alike(c, source):
    fitted = explainer(c.model, source(c.references))
    states_agree(fitted.state_dict(), c.explainer.state_dict())
    lazy = RepresentativeInterpretation(c.model, c.model[1], source(c.references))
    torch.manual_seed(3)
    target = decisions(c, c.x)
    maps = lazy.attribute(c.x, target=target)
    expected = explainer(c.model, c.references, n_boundaries=50)
    expected = expected.attribute(c.x, target=target)
    torch.testing.assert_close(maps, expected, **DOUBLE)


def test_several_inputs_and_forward_arguments():
    c = case("flat")
    factor = torch.linspace(0.5, 2, 40).double()
    target = decisions(c, c.x)

    def scaled(a, b, factor, power):
        return c.model((a + b) * factor.view(-1, 1) ** power)

    def half(x, f):
        part = x / f.view(-1, 1) ** 2
        return 3 * part, -2 * part

    fitted = RepresentativeInterpretation(scaled, c.model[1])
    a, b = half(c.references, factor)
    for source in [(a, b), Items(a, b, [0] * 40)]:
        fitted.fit(source, (factor, 2), n_boundaries=12, seed=3, batch_size=7)
        states_agree(fitted.state_dict() | {"layer": "1"}, c.explainer.state_dict())
    expected = c.explainer.attribute(c.x, target=target)
    inputs, args = half(c.x, factor[:6]), (factor[:6], 2)
    maps = fitted.attribute(inputs, target, additional_forward_args=args)
    torch.testing.assert_close(maps, expected, **DOUBLE)
    one = fitted.interpret(half(c.x[:1], factor[:1]), (factor[:1], 2))
    maps = one.attribute(inputs, additional_forward_args=args)
    same = c.explainer.interpret(c.x[:1]).attribute(c.x)
    torch.testing.assert_close(maps, same, **DOUBLE)


def bare(model=None, layer=1):
    model = case("conv").model if model is None else model
    return RepresentativeInterpretation(model, model[layer])


def fit(references, wrap=None, **options):
    model = case("conv").model
    forward = (lambda x: wrap(model(x))) if wrap else model
    return RepresentativeInterpretation(forward, model[1]).fit(references, **options)


def attribute(inputs, target=0):
    return case("conv").explainer.attribute(inputs, target=target)


def load(model=None, layer=1, **changes):
    explainer = bare(model, layer)
    explainer.load_state_dict({**case("conv").explainer.state_dict(), **changes})
    return explainer


def pooled(x):
    """An explainer of a net that takes images of any size."""
    above = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)]
    return bare(nn.Sequential(nn.Conv2d(2, 3, 3), *above).double()).fit(x)


def spoilt(x):
    x = x.clone()
    x[1, 0, 2, 3] = torch.nan
    return x


def shuffled_batches(x):
    return DataLoader(
        x, batch_sampler=data.BatchSampler(data.RandomSampler(x), 4, False)
    )


class Stream(data.IterableDataset):
    def __iter__(self):
        return iter(case("conv").references)


ERRORS = [
    (lambda x: bare().attribute(x, 0), ValueError, r"fit\(references"),
    (lambda x: bare().interpret(x[:1]), ValueError, r"fit\(references"),
    (lambda x: bare().bank(), ValueError, r"fit\(references"),
    (lambda x: bare().state_dict(), ValueError, r"fit\(references"),
    (lambda x: fit(x[:0]), ValueError, "at least one reference"),
    (lambda x: fit(5), TypeError, "references"),
    (lambda x: fit("images"), TypeError, "tensor"),
    (lambda x: fit(spoilt(x)), ValueError, "finite"),
    (lambda x: fit((x, x[:3])), ValueError, "same length"),
    (lambda x: fit(x, n_boundaries=0), ValueError, "n_boundaries"),
    (lambda x: fit(x, batch_size=0), ValueError, "batch_size"),
    (lambda x: fit(Stream()), ValueError, "indices"),
    (lambda x: fit(DataLoader(Stream())), ValueError, "indices"),
    (lambda x: fit(DataLoader(x, shuffle=True)), ValueError, "shuffle=False"),
    (lambda x: fit(shuffled_batches(x)), ValueError, "order"),
    (lambda x: fit(DataLoader(x, 7, drop_last=True)), ValueError, "drop_last"),
    (lambda x: fit(x, lambda y: y * torch.nan), ValueError, "finite"),
    (lambda x: fit(x, lambda y: {"logits": y}), TypeError, "tensor"),
    (lambda x: attribute(spoilt(x)), ValueError, "finite"),
    (lambda x: attribute(x, None), AssertionError, "Target"),
    (lambda x: attribute(x, 3), ValueError, "from 0 to 2 .got 3"),
    (lambda x: case("conv").explainer.interpret(x[:2]), ValueError, "one example"),
    (lambda x: case("conv").explainer.bank(0), ValueError, "n_per_class"),
    (lambda x: pooled(x).attribute(x[..., 1:], 0), ValueError, "of shape"),
    (lambda x: pooled(x).interpret(x[:1, :, 1:]), ValueError, "of shape"),
    (lambda x: pooled(x).bank(1).assign(x[..., 1:]), ValueError, "of shape"),
    (lambda x: load(version=99), ValueError, "version 1"),
    (lambda x: load(layer=3), ValueError, "layer"),
    (lambda x: bare().load_state_dict({"version": 1}), ValueError, "without"),
    (lambda x: load(bias=torch.zeros(3)), ValueError, "bias"),
    (lambda x: load(net("flat")).attribute(x[:, 0, 0], 0), ValueError, "of shape"),
]


@pytest.mark.filterwarnings("ignore:no sampled boundary")
@pytest.mark.parametrize("call, error, match", ERRORS)
def test_errors_say_what_to_do(call, error, match):
    with pytest.raises(error, match=match):
        call(case("conv").references)


def parts(row, parallel=False):
    """A row's model, its arguments, and an explainer fitted to its own inputs."""
    model, arguments = copy.deepcopy((row["model"], row["attribute_args"]))
    layer = functools.reduce(getattr, row["layer"].split("."), model)
    forward = nn.DataParallel(model) if parallel else model
    fitted = RepresentativeInterpretation(forward, layer)
    references, extra = arguments["inputs"], arguments.get("additional_forward_args")
    return model, arguments, fitted.fit(references, extra, seed=0)


def left(model, *tensors):
    """All that an explanation may leave behind."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [
        (m.training, [len(getattr(m, name)) for name in hooks]) for m in model.modules()
    ]
    values = [*model.parameters(), *tensors]
    return modules, [(v.requires_grad, v.grad is None, v._version) for v in values]


def example(arguments, i):
    """The i-th example of arguments in the table's forms."""

    def part(value):
        if isinstance(value, tuple):
            return tuple(map(part, value))
        if isinstance(value, torch.Tensor | list) and len(value) > 1:
            return value[i : i + 1]
        return value

    return {name: part(value) for name, value in arguments.items()}


@pytest.mark.filterwarnings("ignore:no sampled boundary", "ignore:.*probabilities")
@pytest.mark.parametrize("summation", [True, False])
@pytest.mark.parametrize("row", CASES, ids=lambda row: row["name"])
def test_captums_table(row, summation):
    if row["layer"] == "multi_relu":
        with pytest.raises(AssertionError, match="one tensor"):
            parts(row)
        return
    model, arguments, fitted = parts(row)
    inputs = arguments["inputs"]
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    before = left(model, *inputs)
    form = {"attr_dim_summation": summation}
    maps = fitted.attribute(**arguments, **form)
    shape = LayerGradCam(model, fitted.layer).attribute(**arguments, **form)
    assert maps.shape == shape.shape and maps.dtype == shape.dtype
    assert left(model, *inputs) == before
    parallel = parts(row, parallel=True)[2].attribute(**arguments, **form)
    torch.testing.assert_close(maps, parallel)
    still = {"nt_samples": 3, "stdevs": 0.0, **form}
    tunnelled = NoiseTunnel(fitted).attribute(**arguments, **still)
    torch.testing.assert_close(tunnelled, maps, rtol=1e-4, atol=1e-5)
    for i in range(len(maps)):
        alone = fitted.attribute(**example(arguments, i), **form)
        torch.testing.assert_close(maps[i : i + 1], alone)
    with pytest.raises(AssertionError):
        fitted.attribute(**{**arguments, "target": (9999,) * 20})
    assert left(model, *inputs) == before


def test_metrics_of_captum(c):
    target = [0, 1, 2, 0, 1, 2]

    def explain(inputs, **options):  # a tuple, as is needed of every layer method
        return (c.explainer.attribute(inputs, **options),)

    options = {"n_perturb_samples": 2, "target": target}
    still = sensitivity_max(explain, c.x, lambda x, radius: x, **options)
    torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=1e-9)
    half = sensitivity_max(explain, c.x, lambda x, radius: x / 2, **options)
    maps, halved = (c.explainer.attribute(x, target=target) for x in (c.x, c.x / 2))
    expected = (maps - halved).flatten(1).norm(dim=1) / maps.flatten(1).norm(dim=1)
    torch.testing.assert_close(half, expected)
    pixels = LayerAttribution.interpolate(maps, (6, 6)).expand_as(c.x)
    value = infidelity(
        c.model, lambda x: (x, torch.zeros_like(x)), c.x, pixels, target=target
    )
    change = (c.model(c.x) - c.model(0 * c.x)).detach()[range(6), target]
    missed = (pixels * c.x).flatten(1).sum(dim=1) - change
    torch.testing.assert_close(value, missed**2)


def test_visualize_image_attr():
    import matplotlib.pyplot as plt

    maps = case("conv").explainer.attribute(case("conv").x[:1], target=0)
    maps = LayerAttribution.interpolate(maps, (24, 20), "bilinear")
    attribution, image = maps[0].permute(1, 2, 0).numpy(), np.zeros((24, 20, 3))
    figure, axis = viz.visualize_image_attr(
        attribution, image, "blended_heat_map", "all", use_pyplot=False
    )
    drawn = np.asarray(axis.images[-1].get_array(), dtype=float)
    plt.close(figure)
    shown, given = drawn[abs(drawn) < 1], attribution[..., 0][abs(drawn) < 1]
    scale = (given @ shown) / (shown @ shown)
    np.testing.assert_allclose(given, scale * shown, rtol=1e-6, atol=1e-9)


def test_tcav(c, tmp_path):
    model, references = copy.deepcopy(c.model).float(), c.references.float()
    # TCAV moves an explainer of one layer to another, which is then fitted by itself.
    method = RepresentativeInterpretation(model, model[0]).fit(references, seed=0)
    concepts = [
        Concept(i, f"c{i}", DataLoader(examples("conv", 20, i).float() + 2 * i))
        for i in range(2)
    ]
    tcav = TCAV(model, ["1"], layer_attr_method=method, save_path=str(tmp_path))
    scores = tcav.interpret(c.x.float(), [concepts], 1, attr_dim_summation=False)
    scores = scores["0-1"]["1"]
    weights = tcav.cavs["0-1"]["1"].stats["weights"].float()
    fitted = RepresentativeInterpretation(model, model[1]).fit(references, seed=0)
    maps = fitted.attribute(c.x.float(), 1, attr_dim_summation=False).flatten(1)
    share = (maps @ weights.T > 0).float().mean(dim=0)
    torch.testing.assert_close(scores["sign_count"], share)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
def test_under_no_grad(c, mode, frozen):
    model = copy.deepcopy(c.model).requires_grad_(not frozen)
    with mode():
        x, factor = c.x + 0, torch.ones(6, 1).double()
        found = explainer(model, c.references + 0)
        maps = found.attribute(x, target=1)
        one = found.interpret(x[:1]).attribute(x)
        # One reference makes every input fall back to its own gradient.
        alone = RepresentativeInterpretation(lambda x, f: model(x) * f, model[1])
        alone.fit(x[:1], factor[:1])
        with pytest.warns(UserWarning, match="own boundary"):
            own = alone.attribute(x, 1, factor, paper=True)
    assert torch.equal(maps, c.explainer.attribute(c.x, target=1))
    assert torch.equal(one, c.explainer.interpret(c.x[:1]).attribute(c.x))
    expected = grad_cam(c, lambda x: margin(c.model(x), 1), c.x)
    torch.testing.assert_close(own, expected, **DOUBLE)
    assert torch.equal(found.attribute(c.x, target=1), maps)  # out here too


@pytest.mark.filterwarnings("ignore:no sampled boundary")
@pytest.mark.parametrize("broken", [None, 0, 5])
@pytest.mark.parametrize("to_input", [False, True])
def test_all_is_left_as_found(c, broken, to_input):
    model = copy.deepcopy(c.model)
    model[2].train()
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    x, references = c.x.clone(), c.references.clone()
    fitted = RepresentativeInterpretation(model, model[0])
    fitted.fit(references, None, to_input, n_boundaries=12, seed=3)
    one = fitted.interpret(x[:1], None, to_input)
    bank = fitted.bank(1, attribute_to_layer_input=to_input)
    alone = RepresentativeInterpretation(model, model[0])
    alone.fit(references[:1], None, to_input)  # falls back to gradients at x itself
    if broken is not None:  # the layer, or what is above it
        model[broken].forward = None
    before = left(model, x, references)
    calls = [
        lambda: one.attribute(x),  # stops at the layer, or before it
        lambda: fitted.fit(references, None, to_input, seed=3),
        lambda: fitted.attribute(x, 1, None, to_input),
        lambda: alone.attribute(x, 1, None, to_input),
        lambda: fitted.interpret(x[1:2], None, to_input),
        lambda: bank.evaluate(references),
    ]
    for number, call in enumerate(calls):
        if broken is None or (number == 0 and (broken == 5 or to_input)):
            call()
        else:
            with pytest.raises(TypeError, match="not callable"):
                call()
        assert left(model, x, references) == before
    assert torch.equal(x, c.x) and torch.equal(references, c.references)


def test_the_global_generator_is_left_alone(c):
    state = torch.get_rng_state()
    for source in (c.references, DataLoader(c.references, 7)):
        fitted = bare().fit(source, seed=0)
        fitted.interpret(c.x[:1])
        fitted.attribute(c.x, target=1)
        fitted.bank(2).evaluate(source)
        assert torch.equal(torch.get_rng_state(), state)


def test_copies_of_the_explainer(c):
    expected = c.explainer.attribute(c.x, target=1)
    pickled = pickle.loads(pickle.dumps(c.explainer))
    for other in (copy.deepcopy(c.explainer), pickled):
        assert other.layer is other.forward_func[1] and other.layer is not c.model[1]
        assert torch.equal(other.attribute(c.x, target=1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_kept(c, dtype):
    # Values that every dtype holds exactly, so that only the arithmetic differs.
    model = copy.deepcopy(c.model).bfloat16()
    x, references = c.x.bfloat16(), c.references.bfloat16()
    exact = explainer(copy.deepcopy(model).double(), references.double())
    found = explainer(model.to(dtype), references.to(dtype))
    maps, wanted = (
        e.interpret(x[:1].to(t)).attribute(x.to(t))
        for e, t in ((found, dtype), (exact, torch.float64))
    )
    assert maps.dtype == dtype == found.attribute(x.to(dtype), target=1).dtype
    assert (maps.double() - wanted).norm() / wanted.norm() < 8 * torch.finfo(dtype).eps
