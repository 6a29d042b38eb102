"""What ``torch.compile`` and ``torch.jit`` return: there hooks are not called."""

import copy

import pytest
import torch
from torch import nn

from captum_margin import explain
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
    feature_coalitions,
    last_conv_layer,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:no sampled boundary", "ignore:no layer given", "ignore:.*torch.jit"
)


@pytest.fixture(scope="module")
def plain():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3))
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)]
        return nn.Sequential(body, *head).double().eval()


@pytest.fixture(scope="module")
def drawn():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 3, 16, 16, generator=generator).double()


@pytest.fixture(scope="module")
def compiled(plain, drawn):
    """Compiled, and run before anyone asks for hooks."""
    model = torch.compile(plain, backend="eager")
    for n in (1, 2, 24):
        with torch.no_grad():
            model(drawn[:n])
    called = []
    with torch.no_grad():
        handle = plain[0].register_forward_hook(lambda *_: called.append(1))
        model(drawn[:2])
        handle.remove()
    assert not called  # or this file would test nothing
    return model


def representative(model, layer, x, **options):
    fitted = RepresentativeInterpretation(model, layer)
    fitted.fit(x, n_boundaries=6, seed=0)
    return fitted.attribute(x[:2], target=1, **options)


def coalition(model, layer, x):
    explainer = CoalitionPerturbation(model, layer)
    return explainer.attribute(x[:2], target=1, n_steps=3, n_coalitions=4)


@pytest.mark.parametrize("method", [representative, coalition])
@pytest.mark.parametrize("form", ["compiled", "within a function", "own layer", "none"])
def test_compiled_models(method, form, plain, compiled, drawn):
    model, layer = compiled, plain[0]
    if form == "within a function":
        model = lambda x: compiled(x)  # noqa: E731
    elif form == "own layer":
        layer = compiled.get_submodule("0")
    elif form == "none":
        layer = None
    given = None if form == "none" else plain[0]
    assert torch.equal(method(model, layer, drawn), method(plain, given, drawn))


def test_a_compiled_layer(plain, drawn):
    part = copy.deepcopy(plain)
    part[0].compile(backend="eager")
    part(drawn)
    expected = representative(plain, plain[0], drawn)
    assert torch.equal(representative(part, part[0], drawn), expected)


def test_names_are_those_of_the_model_itself(plain, compiled, drawn):
    assert last_conv_layer(compiled, drawn).name == "0"
    fitted = RepresentativeInterpretation(compiled).fit(drawn, n_boundaries=6, seed=0)
    found = explain(fitted, drawn[:2], 1)
    assert found.settings["layer"] == "0"
    for model in (plain, compiled, nn.DataParallel(plain)):
        loaded = RepresentativeInterpretation(model)
        loaded.load_state_dict(fitted.state_dict())
        assert loaded.layer is plain[0]
        assert torch.equal(loaded.attribute(drawn[:2], 1), found.attributions)


def test_the_stance_is_what_it_was_and_code_stays_compiled(plain, drawn):
    runs = []

    def backend(graph, _):
        def run(*args):
            runs.append(1)
            return graph(*args)

        return run

    model = torch.compile(plain, backend=backend)
    fitted = RepresentativeInterpretation(model, plain[0])
    fitted.fit(drawn, n_boundaries=6, seed=0).attribute(drawn[:2], target=1)
    assert not runs
    with torch.no_grad():
        model(drawn)
    assert runs
    before = len(runs)
    MarginSaliency(model).attribute(drawn[:1], target=1, n_evaluations=20)
    assert len(runs) > before


@pytest.mark.parametrize("traced", [False, True])
def test_scripted_and_traced_models(traced, plain, drawn):
    x = drawn[:2]
    model = torch.jit.trace(plain, x) if traced else torch.jit.script(plain)
    options = {"n_evaluations": 20, "perturbations_per_eval": 1}
    record = explain(MarginSaliency(model), x, 1, **options)
    expected = MarginSaliency(plain).attribute(x, target=1, **options)
    torch.testing.assert_close(record.attributions, expected)
    assert record.n_forward == 20
    hidden = r"torch\.jit.*use MarginSaliency"
    for layer in (plain[0], next(model.children()), None):
        with pytest.raises(ValueError, match=hidden):
            representative(model, layer, drawn)
        with pytest.raises(ValueError, match=hidden):
            explain(RepresentativeInterpretation(model, layer, drawn), x, 1)
    with pytest.raises(ValueError, match=hidden):
        feature_coalitions(model, x, plain[0])
    with pytest.raises(ValueError, match=r"feature_mask="):
        feature_coalitions(model, x)


def test_a_layer_of_another_model(plain, drawn):
    other = copy.deepcopy(plain)
    with pytest.raises(ValueError, match=r"a Sequential that is not run.*very model"):
        representative(plain, other[0], drawn)
