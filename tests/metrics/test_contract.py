"""What all the metrics share: forms of input, errors, dtypes, no side effects."""

import functools
import warnings

import pytest
import torch

from captum_margin.metrics import average_drop, insertion_deletion, smallest_region
from tests.metrics import cases

EXACT = {"rtol": 1e-10, "atol": 1e-12}
METRICS = {
    "insertion_deletion": functools.partial(insertion_deletion, n_steps=9),
    "average_drop": average_drop,
    "average_drop keep": functools.partial(average_drop, keep=0.2),
    "smallest_region": functools.partial(smallest_region, n_steps=9),
}
pytestmark = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


def tensors(result):
    return {k: v for k, v in vars(result).items() if isinstance(v, torch.Tensor)}


def assert_same(result, other, **tolerance):
    assert tensors(result).keys() == tensors(other).keys()
    for name, value in tensors(result).items():
        torch.testing.assert_close(
            value,
            tensors(other)[name],
            equal_nan=True,
            **(tolerance or EXACT),
            check_dtype=not tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_target_forms(metric):
    x = cases.images()
    model, a = cases.conv(x), cases.maps(x)
    forms = [1, torch.tensor([1]), torch.tensor([1, 1, 1]), [1, 1, 1], [(1,)] * 3]
    results = [metric(model, x, a, target) for target in forms]
    for result in results[1:]:
        assert_same(result, results[0])
    differing = metric(model, x, a, [0, 1, 2])
    for i, target in enumerate([0, 1, 2]):
        one = metric(model, x[i : i + 1], a[i : i + 1], target)
        for name, value in tensors(one).items():
            if name != "fractions":
                torch.testing.assert_close(
                    tensors(differing)[name][i : i + 1],
                    value,
                    **EXACT,
                    equal_nan=True,
                )
    with pytest.raises(AssertionError):
        metric(model, x, a, [0, 1])


def test_tuples_of_one_are_taken(metric):
    x = cases.images()
    model, a = cases.conv(x), cases.maps(x)
    assert_same(metric(model, (x,), (a,), 1), metric(model, x, a, 1))


def test_additional_arguments_follow_their_example(metric):
    x = cases.images()
    model, a = cases.conv(x), cases.maps(x, "regions")
    factor = torch.tensor([0.5, 1.0, 2.0], dtype=x.dtype)

    def scaled(image, factors, power):
        return model(image) * factors[:, None] ** power

    whole = metric(scaled, x, a, 1, (factor, 2))
    for i in range(3):
        one = metric(
            lambda image, i=i: model(image) * factor[i] ** 2,
            x[i : i + 1],
            a[i : i + 1],
            1,
        )
        for name, value in tensors(one).items():
            if name != "fractions":
                torch.testing.assert_close(
                    tensors(whole)[name][i : i + 1], value, **EXACT, equal_nan=True
                )


def test_one_score_per_example(metric):
    x = cases.images(channels=1)  # grey
    model, a = cases.linear(x, n_outputs=1, positive=True), cases.maps(x)
    column = metric(model, x, a)
    assert_same(metric(lambda image: model(image)[:, 0], x, a), column)
    assert_same(metric(model, x, a, 0), column)


def test_non_contiguous_and_expanded_inputs(metric):
    x = cases.images()
    model, a = cases.conv(x), cases.maps(x)
    turned = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    assert_same(metric(model, turned, a.contiguous(), 1), metric(model, x, a, 1))


def test_bfloat16(metric):
    x = cases.images()
    model, a = cases.conv(x), cases.maps(x)
    exact = metric(model, x, a, 1)
    half = metric(model.bfloat16(), x.bfloat16(), a.bfloat16(), 1)
    for name, value in tensors(half).items():
        assert value.dtype in (torch.bool, torch.float32), name
        if value.is_floating_point() and name not in ("fraction", "drop"):
            # bfloat16 has 8 bits, over about 30 sums of numbers near one.
            torch.testing.assert_close(
                value.double(), tensors(exact)[name], rtol=0, atol=0.06
            )
    assert half.settings["dtype"] == "torch.bfloat16"


def test_nothing_is_changed(metric):
    x = cases.images().requires_grad_()
    a = cases.maps(x.detach()).clone().requires_grad_()
    model = cases.conv(x)
    model[0].weight.requires_grad_(False)
    before = [x.detach().clone(), a.detach().clone()]
    state, rng = model.state_dict(), torch.get_rng_state()
    result = metric(model, x, a, 1)
    assert torch.equal(x, before[0])
    assert torch.equal(a, before[1])
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[0].weight.requires_grad
    assert model[0].bias.requires_grad
    assert not model.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(value.requires_grad for value in tensors(result).values())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(metric, value):
    x = cases.images()
    model, bad = cases.conv(x), cases.images()
    bad[1, 0, 2, 2] = value
    with pytest.raises(ValueError, match="finite attributions"):
        metric(model, x, bad, 1)
    with pytest.raises(ValueError, match="finite inputs"):
        metric(model, bad, x, 1)
    with pytest.raises(ValueError, match="finite model outputs"):
        metric(lambda image: model(image) * value, x, x, 1)


def test_shapes_that_do_not_fit(metric):
    x = cases.images()
    model = cases.conv(x)
    for shape in [(3, 2, 6, 5), (3, 3, 5, 6), (2, 3, 6, 5), (3, 6, 5), (6, 5)]:
        with pytest.raises(ValueError, match="expected attributions of shape"):
            metric(model, x, torch.zeros(shape), 1)
    for bad in (x[0], x[None], x.flatten(1), (x, x)):
        with pytest.raises(ValueError, match="one batch of images"):
            metric(model, bad, x, 1)
    with pytest.raises(TypeError, match="floating-point"):
        metric(model, (255 * x).to(torch.uint8), x, 1)
    with pytest.raises(TypeError, match="one tensor"):
        metric(model, x, x.numpy(), 1)


def test_baselines_that_do_not_fit(metric):
    x = cases.images()
    model = cases.conv(x)
    name = "baseline"
    if "insertion" in str(metric.func if hasattr(metric, "func") else metric):
        name = "deletion_baseline"
    for bad in (
        torch.zeros(5),
        torch.zeros(3, 6, 5),
        float("nan"),
        x.new_zeros(2, 3, 6, 5),
    ):
        with pytest.raises(ValueError, match=f"expected {name} to be finite"):
            metric(model, x, x, 1, **{name: bad})
    with pytest.raises(TypeError, match=f"expected {name} to be a number"):
        metric(model, x, x, 1, **{name: "black"})


def test_silent_unless_asked(metric, capsys):
    x = cases.images()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(cases.conv(x), x, cases.maps(x), 1)
    assert capsys.readouterr().err == ""
