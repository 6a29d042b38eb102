"""Captum's own table of test cases, wherever FeatureAblation stands in it."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, NoiseTunnel

from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    feature_coalitions,
)
from tests.reference import margin_saliency_reference as reference

# Not documented by Captum: skipped where a release does not ship it.
table = pytest.importorskip(
    "captum.testing.attr.helpers.test_config", exc_type=ImportError
)
CASES = [case for case in table.config if FeatureAblation in case["algorithms"]]
PLAIN = [case for case in CASES if not case.get("noise_tunnel")]

pytestmark = [
    # Some of Captum's models end in a softmax.
    pytest.mark.filterwarnings("ignore:the model's outputs are probabilities"),
    pytest.mark.filterwarnings("ignore:no masked copy"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
over_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
over_plain = pytest.mark.parametrize("case", PLAIN, ids=lambda case: case["name"])
over_softmax = pytest.mark.parametrize("softmax", [False, True])


def parts(case):
    """The case's own model and arguments, for this test alone."""
    return copy.deepcopy(case["model"]), copy.deepcopy(case["attribute_args"])


def explain(case, model, arguments, **options):
    explainer = MarginSaliency(model)
    options = {"n_evaluations": 100, "softmax": False, **options}
    if case.get("noise_tunnel"):
        return NoiseTunnel(explainer).attribute(**arguments, **options)
    return explainer.attribute(**arguments, **options)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def state(model):
    """All that an explanation may leave behind in a model."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [
        (module.training, [len(getattr(module, name)) for name in hooks])
        for module in model.modules()
    ]
    parameters = [
        (parameter.requires_grad, parameter.grad is None, parameter._version)
        for parameter in model.parameters()
    ]
    return modules, parameters


def test_the_table_is_driven():
    assert len(CASES) >= 15
    assert any(case.get("noise_tunnel") for case in CASES)


@over_softmax
@over_cases
def test_shapes_and_state(case, softmax):
    model, arguments = parts(case)
    before = state(model)
    grad = [tensor.requires_grad for tensor in as_tuple(arguments["inputs"])]
    maps = explain(case, model, arguments, softmax=softmax)
    inputs = arguments["inputs"]
    assert isinstance(maps, tuple) == isinstance(inputs, tuple)
    for found, tensor, original in zip(
        as_tuple(maps),
        as_tuple(inputs),
        as_tuple(case["attribute_args"]["inputs"]),
        strict=True,
    ):
        assert found.shape == tensor.shape and found.dtype == tensor.dtype
        assert found.isfinite().all() and not found.requires_grad
        assert torch.equal(tensor, original)
    assert state(model) == before
    assert [tensor.requires_grad for tensor in as_tuple(inputs)] == grad


def of_example(value, example, n_examples):
    """One example's share of a target or a forward argument."""
    if isinstance(value, torch.Tensor):
        if value.dim() == 0 or value.numel() == 1:
            return int(value)
        return value[example] if len(value) == n_examples else value
    if isinstance(value, list):
        return value[example]
    return value


@over_plain
def test_few_features_have_their_banzhaf_values(case):
    model, arguments = parts(case)
    inputs = as_tuple(arguments["inputs"])
    n_units = sum(tensor[0].numel() for tensor in inputs)
    if 2**n_units > 99:
        pytest.skip("too many features for all their unions")
    maps = as_tuple(explain(case, model, arguments))
    n_examples = len(inputs[0])
    extra = as_tuple(arguments.get("additional_forward_args", ()))
    baselines = as_tuple(
        arguments.get("baselines", tuple(torch.zeros_like(t) for t in inputs))
    )
    for example in range(n_examples):

        def value(union, example=example):
            copies, start = [], 0
            for tensor, baseline in zip(inputs, baselines, strict=True):
                size = tensor[0].numel()
                mask = torch.from_numpy(union[start : start + size]).float()
                pair = tensor[example], baseline[example]
                copies.append(
                    torch.where(mask.view_as(pair[0]) > 0.5, *pair).unsqueeze(0)
                )
                start += size
            with torch.no_grad():
                output = model(
                    *copies,
                    *(
                        of_example(arg, example, n_examples).unsqueeze(0)
                        if isinstance(arg, torch.Tensor)
                        else arg
                        for arg in extra
                    ),
                )
            column = of_example(arguments["target"], example, n_examples)
            column = (
                tuple(column) if isinstance(column, tuple | list) else (int(column),)
            )
            return float(output[(0, *column)])

        expected = reference.banzhaf(value, n_units)
        found = np.concatenate([m[example].flatten().numpy() for m in maps])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.get("noise_tunnel")],
    ids=lambda case: case["name"],
)
def test_no_noise_changes_nothing(case):
    model, arguments = parts(case)
    assert arguments["stdevs"] == 0.0
    tunnelled = explain(case, model, arguments)
    for name in ("nt_samples", "nt_samples_batch_size", "stdevs"):
        arguments.pop(name, None)
    plain = MarginSaliency(model).attribute(
        **arguments, n_evaluations=100, softmax=False
    )
    torch.testing.assert_close(tunnelled, plain, rtol=1e-4, atol=1e-5)


def scripted(model, inputs, extra):
    return torch.jit.script(model)


def traced(model, inputs, extra):
    return torch.jit.trace(model, (*inputs, *extra))


@pytest.mark.parametrize("compiler", [scripted, traced])
@over_cases
def test_compiled_models_have_the_same_map(case, compiler):
    model, arguments = parts(case)
    inputs = as_tuple(arguments["inputs"])
    extra = as_tuple(arguments.get("additional_forward_args", ()))
    if compiler is traced and not all(isinstance(a, torch.Tensor) for a in extra):
        pytest.skip("a trace takes tensors only")
    expected = explain(case, model, copy.deepcopy(arguments))
    found = explain(case, compiler(model, inputs, extra), arguments)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@over_cases
def test_data_parallel_has_the_same_map(case):
    model, arguments = parts(case)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        pytest.skip("inputs of the table lie on the CPU")
    expected = explain(case, model, copy.deepcopy(arguments))
    found = explain(case, torch.nn.DataParallel(model), arguments)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@over_cases
def test_bad_target_leaves_nothing_behind(case):
    model, arguments = parts(case)
    before = state(model)
    arguments["target"] = (9999,) * 20
    with pytest.raises(AssertionError):
        explain(case, model, arguments)
    assert state(model) == before


# Of coalition perturbation: every row whose inputs are images.
IMAGES = [
    case
    for case in table.config
    if getattr(case["attribute_args"]["inputs"], "dim", int)() == 4
    and "target" in case["attribute_args"]
    and "neuron_selector" not in case["attribute_args"]
]


@pytest.mark.parametrize("wrap", ["none", "layer", "jit", "parallel", "tunnel"])
@pytest.mark.parametrize("case", IMAGES, ids=lambda case: case["name"])
def test_coalition_perturbation_of_images(case, wrap):
    model, arguments = parts(case)
    inputs, target = arguments["inputs"], arguments["target"]
    # With noise: some of the scores are no lower in the mean colour, a map of 0.
    options = {"target": target, "n_steps": 4, "n_coalitions": 4, "noise": 0.3}
    expected = CoalitionPerturbation(model).attribute(inputs, **options)
    assert expected.shape == inputs.shape and expected.std() > 0
    before = state(model)
    if wrap == "jit":
        explainer = CoalitionPerturbation(torch.jit.script(model))
        with pytest.raises(ValueError, match="pass layer="):
            explainer.attribute(inputs, **options)
        mask = feature_coalitions(model, inputs, n_coalitions=4)
        options["feature_mask"] = mask[:, None]
    elif wrap == "parallel":
        explainer = CoalitionPerturbation(torch.nn.DataParallel(model))
    else:
        explainer = CoalitionPerturbation(
            model, model.conv2 if wrap == "layer" else None
        )
    if wrap == "tunnel":
        tunnel, still = NoiseTunnel(explainer), {"nt_samples": 2, "stdevs": 0.0}
        maps = tunnel.attribute(inputs, **still, **options)
    else:
        maps = explainer.attribute(inputs, **options)
    if wrap == "layer":
        assert maps.shape == inputs.shape
    else:
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        options["target"] = (9999,) * 20
        explainer.attribute(inputs, **options)
    assert state(model) == before
