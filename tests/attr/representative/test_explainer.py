"""Interpretations of small nets against their linear regions, enumerated in NumPy."""

import functools
import io
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_margin.attr import RepresentativeInterpretation
from tests.helpers.models import Counted
from tests.reference import representative_reference as oracle

DOUBLE = {"rtol": 1e-10, "atol": 1e-12}
KINDS = ["flat", "one column", "conv"]
over_kinds = pytest.mark.parametrize("kind", KINDS)
over_forms = pytest.mark.parametrize(
    "form",
    [
        {"relu_attributions": relu, "attr_dim_summation": summation, "paper": paper}
        for relu, summation, paper in itertools.product([False, True], repeat=3)
    ],
    ids=str,
)


def net(kind, activation=nn.ReLU):
    """A small float64 net; the layer explained is the first activation."""
    # The conv net's has negative values, and a channel for strong images only.
    if kind == "conv":
        below, above = [nn.Conv2d(2, 3, 3, padding=1)], [nn.MaxPool2d(2)]
        above += [nn.Conv2d(3, 4, 2), activation(), nn.Flatten(), nn.Linear(16, 3)]
    else:
        below, above = [nn.Linear(6, 8)], [nn.Linear(8, 7), activation()]
        above += [nn.Linear(7, 1 if kind == "one column" else 3)]
    first = nn.Threshold(-1.0, 0.0) if kind == "conv" else activation()
    model = nn.Sequential(*below, first, *above).double().eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    with torch.no_grad():  # every class is predicted now and then
        model[0].bias[2] -= 20 * (kind == "conv")
        model[-1].bias -= model(examples(kind, 200, 7)).mean(dim=0)
    return model


def examples(kind, n, seed):
    shape = (2, 6, 6) if kind == "conv" else (6,)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator).double()


def explainer(model, references, **options):
    explainer = RepresentativeInterpretation(model, model[1])
    return explainer.fit(references, **{"n_boundaries": 12, "seed": 3, **options})


@functools.cache
def case(kind):
    """A fitted explainer, unseen examples, and the oracle's view of the references."""
    model, references, x = net(kind), examples(kind, 40, 0), examples(kind, 6, 1)
    x[5] *= 50 if kind == "conv" else 1
    above = oracle.operations(list(model)[2:])
    psi = model[:2](references).detach().numpy()
    outputs = [oracle.forward(above, one) for one in psi]
    generator = torch.Generator().manual_seed(3)
    sampled = sorted(torch.randperm(40, generator=generator)[:12].tolist())
    found = [oracle.boundary(above, psi[m]) for m in sampled]
    weights, biases = zip(*found, strict=True)
    return SimpleNamespace(
        model=model,
        explainer=explainer(model, references),
        references=references,
        x=x,
        above=above,
        psi=psi,
        sampled=sampled,
        weights=weights,
        biases=biases,
        classes=[oracle.predicted(output) for output in outputs],
        signs=np.array([oracle.sides(weights, biases, one) for one in psi]),
    )


def polytope(c, psi, predicted):
    """The oracle's P(x): boundaries in order of choice, their sides, the cover, tau."""
    own = oracle.sides(c.weights, c.biases, psi)
    others = {m for m, label in enumerate(c.classes) if label != predicted}
    chosen, tau = oracle.greedy(c.signs, own, others)
    covered = sorted(oracle.covered(c.signs, own, chosen))
    return chosen, own[chosen], covered, tau


def feature_maps(c, x):
    return c.model[:2](x).detach().numpy()


def decisions(c, x):
    return [
        oracle.predicted(oracle.forward(c.above, psi)) for psi in feature_maps(c, x)
    ]


def oracle_map(weights, sides, references, psi, form, beside):
    """The oracle's heat map; the references are given by their feature maps."""
    options = list(form.values())
    if options.pop():
        return oracle.papers_heat_map(weights, sides, psi, *options)
    activity = abs(references).mean(axis=0)
    return oracle.heat_map(weights, sides, psi, activity, *options, beside)


def beside(c, psi, label, covered, n_boundaries):
    """Grad-CAM's weights at a feature map, and how far a polytope is for a class."""
    n_alike = sum(c.classes[m] == label for m in covered)
    share = oracle.representativeness(n_alike, n_boundaries)
    return oracle.own_evidence(c.above, psi, label), share


@over_kinds
def test_interpretations_are_the_oracles(kind):
    c = case(kind)
    sizes = []
    for x, psi, label in zip(c.x, feature_maps(c, c.x), decisions(c, c.x), strict=True):
        found = c.explainer.interpret(x[None])
        chosen, sides, covered, tau = polytope(c, psi, label)
        assert found.predicted == label and found.tau == tau
        assert found.covered.tolist() == covered
        assert found.boundaries.reference.tolist() == [c.sampled[h] for h in chosen]
        assert found.boundaries.side.tolist() == sides.tolist()
        weight, bias = (np.array(v)[chosen] for v in (c.weights, c.biases))
        np.testing.assert_allclose(found.boundaries.weight, weight, **DOUBLE)
        np.testing.assert_allclose(found.boundaries.bias, bias, **DOUBLE)
        alike = np.array([c.classes[m] == label for m in covered])
        assert found.purity == (alike.mean() if covered else 0.0)
        share = oracle.representativeness(alike.sum(), len(chosen))
        assert found.representativeness == pytest.approx(share)
        assert not found.own_boundary
        sizes.append((len(chosen), len(covered)))
    # The nets are folded enough for the cover to be a matter of choice.
    assert max(sizes)[0] >= (1 if kind == "one column" else 2)
    assert len({n for _, n in sizes}) > 1


@over_kinds
def test_covers_and_similar(kind):
    c = case(kind)
    found = c.explainer.interpret(c.x[:1])
    assert found.covers(c.references).nonzero()[:, 0].tolist() == found.covered.tolist()
    psi = feature_maps(c, c.x)
    chosen, sides, covered, _ = polytope(c, psi[0], found.predicted)
    weights, biases = ([v[h] for h in chosen] for v in (c.weights, c.biases))
    inside = [(oracle.sides(weights, biases, one) == sides).all() for one in psi]
    assert found.covers(c.x).tolist() == inside and inside[0]
    ranked = sorted((oracle.distance(weights, psi[0], c.psi[m]), m) for m in covered)
    for k in (3, 100):
        expected, indices = zip(*ranked[:k], strict=True)
        assert found.similar(k).indices.tolist() == list(indices)
        np.testing.assert_allclose(found.similar(k).distances, expected, **DOUBLE)


@over_kinds
@over_forms
def test_heat_maps_are_the_oracles(kind, form):
    c = case(kind)
    found = c.explainer.interpret(c.x[:1])
    at = feature_maps(c, c.x)[0]
    chosen, sides, covered, _ = polytope(c, at, found.predicted)
    weights = [c.weights[h] for h in chosen]
    own = beside(c, at, found.predicted, covered, len(chosen))
    maps = found.attribute(c.x, **form)
    for one, psi in zip(maps, feature_maps(c, c.x), strict=True):
        expected = oracle_map(weights, sides, c.psi, psi, form, own)
        np.testing.assert_allclose(one, expected, **DOUBLE)
    assert maps.any() and maps.is_contiguous() and not maps.requires_grad


@over_kinds
@over_forms
@pytest.mark.parametrize("other", [0, 1, 2])
def test_attribute_is_the_oracles(kind, form, other):
    c = case(kind)
    asked = [(label + other) % 3 for label in decisions(c, c.x)]
    if kind == "one column":
        asked = [1] * len(asked)
    target = None if kind == "one column" else asked
    maps = c.explainer.attribute(c.x, target=target, **form)
    for i, psi in enumerate(feature_maps(c, c.x)):
        label, own = decisions(c, c.x)[i], psi
        if label != asked[i]:  # the most similar reference that is predicted so
            members = [m for m in range(40) if c.classes[m] == asked[i]]
            psi = c.psi[min(members, key=lambda m: distance(c, own, m))]
        chosen, sides, covered, _ = polytope(c, psi, asked[i])
        weights = [c.weights[h] for h in chosen]
        alone = beside(c, own, asked[i], covered, len(chosen))
        expected = oracle_map(weights, sides, c.psi, own, form, alone)
        np.testing.assert_allclose(maps[i], expected, **DOUBLE)
        one = slice(i, i + 1)
        alone = c.explainer.attribute(c.x[one], target=target and target[one], **form)
        torch.testing.assert_close(maps[one], alone, **DOUBLE)
        if label == asked[i]:
            same = c.explainer.interpret(c.x[one]).attribute(c.x[one], **form)
            torch.testing.assert_close(maps[one], same, **DOUBLE)


def distance(c, psi, reference):
    return oracle.distance(c.weights, psi, c.psi[reference])


def grad_cam(c, score, x):
    return LayerGradCam(score, c.model[1]).attribute(x).detach()


def margin(scores, target):
    others = scores.clone()
    others[:, target] = -torch.inf
    return scores[:, target] - others.amax(dim=1)


@over_forms
def test_one_class_only(form):
    c = case("conv")
    label = decisions(c, c.x)[0]
    alike = c.references[[m for m in range(40) if c.classes[m] == label]]
    fitted = explainer(c.model, alike)
    with pytest.warns(UserWarning, match="own boundary"):
        found = fitted.interpret(c.x[:1])
    assert found.own_boundary and found.purity == 1.0 and found.tau == 0
    assert found.covered.tolist() == list(range(len(alike)))
    psi = feature_maps(c, c.x)[0]
    weight, bias = oracle.boundary(c.above, psi)
    np.testing.assert_allclose(found.boundaries.weight[0], weight, **DOUBLE)
    np.testing.assert_allclose(found.boundaries.bias[0], bias, **DOUBLE)
    assert found.boundaries.side.tolist() == [True]
    for target in range(3):
        with pytest.warns(UserWarning, match="own boundary"):
            maps = fitted.attribute(c.x[:1], target=target, **form)
        weight, _ = oracle.boundary(c.above, psi, target)
        references = feature_maps(c, alike)
        own = beside(c, psi, target, [], 0)
        expected = oracle_map([weight], [True], references, psi, form, own)
        np.testing.assert_allclose(maps[0], expected, **DOUBLE)
        if target == label:
            torch.testing.assert_close(found.attribute(c.x[:1], **form), maps, **DOUBLE)
        if list(form.values()) == [False, True, True]:  # the paper's map: Grad-CAM
            expected = grad_cam(c, lambda x: margin(c.model(x), target), c.x[:1])  # noqa: B023
            torch.testing.assert_close(maps, expected, **DOUBLE)
        elif not form["paper"]:
            expected = LayerGradCam(c.model, c.model[1]).attribute(
                c.x[:1],
                target,
                relu_attributions=form["relu_attributions"],
                attr_dim_summation=form["attr_dim_summation"],
            )
            torch.testing.assert_close(maps, expected.detach(), **DOUBLE)


def test_some_of_a_batch_fall_back():
    c, absent = case("flat"), 2
    x = torch.cat([c.x, examples("flat", 30, 2)])
    x = x[[label != absent for label in decisions(c, x)]][:6]
    assert len(x) == 6
    rest = c.references[[m for m in range(40) if c.classes[m] != absent]]
    fitted = explainer(c.model, rest)
    # No reference is predicted as every other of these targets.
    labels = decisions(c, x)
    target = [absent if i % 2 else labels[i] for i in range(6)]
    with pytest.warns(UserWarning, match="3 of the inputs"):
        maps = fitted.attribute(x, target=target)
    expected = grad_cam(c, lambda x: c.model(x)[:, absent], x[1::2])
    torch.testing.assert_close(maps[1::2], expected, **DOUBLE)
    others = fitted.attribute(x[::2], target=labels[::2])
    torch.testing.assert_close(maps[::2], others, **DOUBLE)


def test_references_all_alike():
    c, outcomes = case("flat"), set()
    weight, bias = oracle.boundary(c.above, c.psi[0])
    several = examples("flat", 20, 4)
    for x, label in zip(several.split(1), decisions(c, several), strict=True):
        alike = label == c.classes[0]
        fitted = explainer(c.model, c.references[:1].expand(9, -1))
        side = oracle.sides([weight], [bias], feature_maps(c, x)[0])
        outcomes.add((alike, bool(side[0])))
        # One boundary nine times over, the references on its positive side.
        if not alike and not side:
            found = fitted.interpret(x)
            assert found.covered.tolist() == [] and found.purity == 0.0
            assert found.representativeness == 0.0
            assert len(found.boundaries.bias) == 1 and found.tau == 0
            continue
        with pytest.warns(UserWarning, match="own boundary"):
            found = fitted.interpret(x)
        assert found.covered.tolist() == list(range(9))
        assert found.purity == float(alike) and found.tau == (0 if alike else 9)
    assert {(True, True), (False, False)} <= outcomes


@over_kinds
def test_more_boundaries_than_references(kind):
    c = case(kind)
    fitted = explainer(c.model, c.references, n_boundaries=100)
    assert fitted.state_dict()["reference"].tolist() == list(range(40))
    found = fitted.interpret(c.references[7:8])
    # The image's own boundary is among them, and a reference covers itself.
    assert 7 in found.covered and found.predicted == c.classes[7]


def test_the_layers_input():
    c = case("conv")
    above = RepresentativeInterpretation(c.model, c.model[2])
    above.fit(c.references, None, True, n_boundaries=12, seed=3)
    options = {"target": decisions(c, c.x), "relu_attributions": True}
    found = above.attribute(c.x, attribute_to_layer_input=True, **options)
    expected = c.explainer.attribute(c.x, **options)
    torch.testing.assert_close(found, expected, **DOUBLE)
    one = above.interpret(c.x[:1], attribute_to_layer_input=True)
    same = c.explainer.interpret(c.x[:1])
    assert one.covered.tolist() == same.covered.tolist()
    torch.testing.assert_close(one.attribute(c.x), same.attribute(c.x), **DOUBLE)


class Tokens(nn.Module):
    """The conv net, with its feature map passed on as tokens (B, 36, K)."""

    def __init__(self, model):
        super().__init__()
        self.below, self.above, self.tokens = model[:2], model[2:], nn.Identity()

    def forward(self, x):
        tokens = self.tokens(self.below(x).flatten(2).transpose(1, 2))
        return self.above(to_maps(tokens))


def to_maps(tokens):
    return tokens.transpose(1, 2).unflatten(2, (6, 6))


@over_forms
def test_tokens_reshaped_are_their_untokenised_twin(form):
    c = case("conv")
    model, target = Tokens(c.model), [i % 3 for i in range(6)]
    fitted = RepresentativeInterpretation(
        model, model.tokens, reshape_transform=to_maps
    ).fit(c.references, n_boundaries=12, seed=3)
    expected = c.explainer.attribute(c.x, target=target, **form)
    found = fitted.attribute(c.x, target=target, **form)
    torch.testing.assert_close(found, expected, **DOUBLE)
    one, same = (e.interpret(c.x[:1]) for e in (fitted, c.explainer))
    assert one.covered.tolist() == same.covered.tolist()
    weight = to_maps(one.boundaries.weight)
    torch.testing.assert_close(weight, same.boundaries.weight, **DOUBLE)
    found, expected = one.attribute(c.x, **form), same.attribute(c.x, **form)
    torch.testing.assert_close(found, expected, **DOUBLE)
    found, expected = (e.bank(2).attribute(c.x, **form) for e in (fitted, c.explainer))
    torch.testing.assert_close(found, expected, **DOUBLE)


def states_agree(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[name], **DOUBLE)
        elif isinstance(value, float):  # rounding, divided by a small step
            assert value == pytest.approx(other[name], abs=1e-9)
        else:
            assert value == other[name]


@over_kinds
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_streamed_is_in_memory(kind, batch_size):
    c = case(kind)
    counted = Counted(c.model)
    fitted = RepresentativeInterpretation(counted, c.model[1])
    fitted.fit(c.references, n_boundaries=12, seed=3, batch_size=batch_size)
    assert counted.largest == batch_size
    state, expected = fitted.state_dict(), c.explainer.state_dict()
    assert state.pop("layer") == "model.1" and expected.pop("layer") == "1"
    states_agree(state, expected)


def test_a_saved_state():
    c = case("conv")
    torch.save(c.explainer.state_dict(), file := io.BytesIO())
    file.seek(0)
    found = RepresentativeInterpretation(c.model, c.model[1])
    found.load_state_dict(torch.load(file, weights_only=True))
    states_agree(found.state_dict(), c.explainer.state_dict())
    target = [0, 1, 2, 0, 1, 2]
    expected = c.explainer.attribute(c.x, target=target)
    assert torch.equal(found.attribute(c.x, target=target), expected)
    one, same = (e.interpret(c.x[:1]) for e in (found, c.explainer))
    assert one.covered.tolist() == same.covered.tolist()
    assert torch.equal(one.attribute(c.x), same.attribute(c.x))
    with pytest.warns(UserWarning, match="a loaded state holds no images"):
        bank = found.bank(2)
    expected = c.explainer.bank(2)
    for one, same in zip(bank, expected, strict=True):
        assert one.representativeness == same.representativeness < 1
        alone = replace(same, _own_alpha=None)  # the boundaries
        assert torch.equal(one.attribute(c.x), alone.attribute(c.x))
        assert not torch.equal(one.attribute(c.x), same.attribute(c.x))
    found.references = c.references  # of which the bank reads some
    assert torch.equal(found.bank(2).attribute(c.x), expected.attribute(c.x))
    found.references = None
    with pytest.raises(ValueError, match="references"):  # it holds the output's only
        found.attribute(c.x, target=target, attribute_to_layer_input=True)
