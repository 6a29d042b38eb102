"""What a map rests on when its polytope holds few of the class, and the draw's seed."""

import copy
import warnings

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_margin.attr import RepresentativeInterpretation
from tests.attr.representative.test_explainer import (
    DOUBLE,
    beside,
    case,
    decisions,
    examples,
    explainer,
    feature_maps,
    oracle_map,
    over_forms,
    over_kinds,
    polytope,
)
from tests.attr.representative.test_views import grey
from tests.helpers.models import Counted
from tests.reference import representative_reference as oracle

FEW = "fewer than 5 references that are predicted alike"
ABSENT = 2


@pytest.fixture
def references():
    generator = torch.Generator().manual_seed(2)
    return torch.rand(60, 1, 8, 8, generator=generator).double()


def without_a_class(kind="conv"):
    """An explainer whose references lack a class, and inputs predicted as that."""
    c, x = case(kind), examples(kind, 60, 2)
    rest = c.references[[m for m in range(40) if c.classes[m] != ABSENT]]
    x = x[[label == ABSENT for label in decisions(c, x)]]
    fitted = explainer(c.model, rest)
    assert len(x) >= 3 and not (fitted.state_dict()["classes"] == ABSENT).any()
    return c, fitted, x


def caught(call):
    """What a call returns, and its warnings of few references."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    return result, [one for one in found if FEW in str(one.message)]


@over_forms
@pytest.mark.parametrize("kind", ["flat", "conv"])
def test_a_polytope_that_holds_none_of_the_class_explains_as_grad_cam(kind, form):
    c, fitted, x = without_a_class(kind)
    (maps, details), said = caught(
        lambda: fitted.attribute(x, ABSENT, **form, return_details=True)
    )
    assert len(said) == 1 and f"covered by {len(x)} of the" in str(said[0].message)
    assert said[0].filename == __file__
    assert not details.own_boundary.any() and all(map(len, details.boundaries))
    assert details.purity.tolist() == details.representativeness.tolist()
    assert details.purity.tolist() == [0.0] * len(x)
    if form["paper"]:
        activity = feature_maps(c, x)
        for one, psi, row in zip(maps, activity, details.boundaries, strict=True):
            state = fitted.state_dict()
            columns = [state["reference"].tolist().index(m) for m in row.tolist()]
            weights = state["weight"][columns].numpy()
            sides = oracle.sides(weights, state["bias"][columns].numpy(), psi)
            expected = oracle_map(weights, sides, activity, psi, form, None)
            np.testing.assert_allclose(one, expected, **DOUBLE)
        return
    options = {key: form[key] for key in ("relu_attributions", "attr_dim_summation")}
    cam = LayerGradCam(c.model, c.model[1]).attribute(x, ABSENT, **options)
    torch.testing.assert_close(maps, cam.detach(), **DOUBLE)
    one, said = caught(lambda: fitted.interpret(x[:1]))
    assert len(said) == 1 and said[0].filename == __file__
    assert (one.purity, one.representativeness, one.own_boundary) == (0.0, 0.0, False)
    torch.testing.assert_close(one.attribute(x[:1], **form), cam[:1].detach(), **DOUBLE)


def halves(n, seed):
    """Grey images whose left or right half is bright, or neither, and their net."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.rand(n, 1, 8, 8, generator=generator).double()
    images[::3, :, :, :4] *= 5
    images[1::3, :, :, 4:] *= 5
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 3)).double()
    weight = torch.tensor([[1.0, -0.5, 1, -0.5], [-0.5, 1, -0.5, 1], [0, 0, 0, 0]])
    net[2].load_state_dict({"weight": weight, "bias": torch.tensor([0, 0, 0.25])})
    return images, net


@over_forms
@pytest.mark.parametrize("n", [90, 150])
def test_one_that_holds_forty_is_of_its_boundaries_alone(form, n):
    references, net = halves(n, 0)
    x = halves(3, 1)[0][:1]
    counted = Counted(net)
    fitted = RepresentativeInterpretation(counted, net[0]).fit(references, seed=0)
    counted.calls = 0
    (maps, details), said = caught(
        lambda: fitted.attribute(x, 0, **form, return_details=True)
    )
    classes = fitted.state_dict()["classes"]
    n_alike = int((classes[details.covered[0]] == 0).sum())
    assert n_alike == n / 3 and float(details.representativeness) == min(
        n_alike / 40, 1
    )
    # A pass for a gradient is taken only where it has a share.
    assert counted.calls == (2 if n_alike < 40 and not form["paper"] else 1)
    assert not said
    psi, state = net[0](x)[0].numpy(), fitted.state_dict()
    columns = [state["reference"].tolist().index(m) for m in details.boundaries[0]]
    weights = state["weight"][columns].numpy()
    sides = oracle.sides(weights, state["bias"][columns].numpy(), psi)
    above = oracle.operations(list(net)[1:])
    beside = oracle.own_evidence(above, psi, 0), n_alike / 40
    beside = None if n_alike >= 40 else beside
    expected = oracle_map(weights, sides, net[0](references).numpy(), psi, form, beside)
    np.testing.assert_allclose(maps[0], expected, **DOUBLE)


@over_kinds
def test_the_shares_of_all_others_are_between(kind):
    c = case(kind)
    for x, psi in zip(c.x.split(1), feature_maps(c, c.x), strict=True):
        label = decisions(c, x)[0]
        one, said = caught(lambda: c.explainer.interpret(x))  # noqa: B023
        chosen, _, covered, _ = polytope(c, psi, label)
        own, share = beside(c, psi, label, covered, len(chosen))
        assert one.representativeness == pytest.approx(share)
        np.testing.assert_allclose(one._own_alpha, own, **DOUBLE)
        assert len(said) == (share < 5 / 40)


def test_a_class_of_one_score_is_explained_by_its_side():
    """Of one score a row, class 0 is the more likely the lower the score."""
    c = case("one column")
    x = torch.cat([c.x, examples("one column", 20, 5)])
    seen = set()
    for one, psi in zip(x.split(1), feature_maps(c, x), strict=True):
        label = decisions(c, one)[0]
        found = c.explainer.interpret(one)
        gradient = oracle.linear_region(c.above, psi)[0][0].reshape(len(psi), -1)
        sign = 1 if label == 1 else -1
        expected = sign * gradient.mean(axis=1)
        np.testing.assert_allclose(found._own_alpha, expected, **DOUBLE)
        seen.add(label)
    assert seen == {0, 1}


def test_a_bank_has_the_same_maps_as_its_interpretations(references):
    fitted = grey(references)
    bank, said = caught(lambda: fitted.bank(3))
    few = [one for one in bank if one.representativeness < 5 / 40]
    assert len(said) == (1 if few else 0)
    assert all(one.filename == __file__ for one in said)
    assert len({one.representativeness for one in bank}) > 1
    images = references[:20]
    which = bank.assign(images).which.tolist()
    for relu in (False, True):
        maps = bank.attribute(images, relu_attributions=relu)
        for row, number in enumerate(which):
            image = images[row : row + 1]
            expected = bank[number].attribute(image, relu_attributions=relu)
            torch.testing.assert_close(maps[row : row + 1], expected, **DOUBLE)


def test_no_number_is_missing_where_nothing_is_covered():
    _, fitted, x = without_a_class()
    _, details = fitted.attribute(x, ABSENT, return_details=True)
    values = details.as_dict()
    assert "settings" not in values
    for value in values.values():
        for tensor in value if isinstance(value, tuple) else [value]:
            assert torch.isfinite(tensor.double()).all()
    assert any(len(covered) == 0 for covered in details.covered)


def test_nearest_classes_are_those_the_model_scores_highest():
    c, fitted, x = without_a_class()
    one = fitted.interpret(x[:1])
    scores = oracle.forward(c.above, feature_maps(c, x)[0])
    known = fitted.state_dict()["classes"].tolist()
    order = sorted(set(known), key=lambda label: -scores[label])
    assert ABSENT not in order and len(order) == 2
    for k in (1, 7):
        found = one.nearest_classes(k)
        assert found.classes.tolist() == order[:k]
        assert found.n_references.tolist() == [known.count(n) for n in order[:k]]
        np.testing.assert_allclose(found.scores, scores[order[:k]], **DOUBLE)
    assert repr(one).endswith(f", nearest_classes={order})")
    # With references of the class it is the nearest itself, and nothing is said.
    known = c.explainer.interpret(x[:1])
    assert known.nearest_classes().classes[0] == ABSENT
    assert "nearest" not in repr(known)
    with pytest.raises(ValueError, match="k of at least 1"):
        one.nearest_classes(0)
    with pytest.raises(ValueError, match="a bank's"):
        c.explainer.bank(1)[0].nearest_classes()


def test_the_picture_names_the_nearest_classes(references):
    fitted = grey(references)
    unseen = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(9)).double()
    label = fitted.interpret(unseen).predicted
    assert "nearest" not in fitted.interpret(unseen).plot(1).get_suptitle()
    others = references[fitted.state_dict()["classes"] != label]
    one = RepresentativeInterpretation(
        fitted.forward_func, fitted.layer, others, seed=0
    )
    one = one.interpret(unseen)
    nearest = ", ".join(map(str, one.nearest_classes(3).classes.tolist()))
    heading = one.plot(1).get_suptitle()
    assert f"no reference of the class; nearest classes: {nearest}" in heading


def test_the_seed_of_the_constructor():
    c, target = case("conv"), [0, 1, 2, 0, 1, 2]

    def made(given, **options):
        found = RepresentativeInterpretation(
            c.model, c.model[1], examples("conv", 90, 0), seed=given
        )
        return found.fit(examples("conv", 90, 0), **options) if options else found

    def maps(given, **options):
        return made(given, **options).attribute(c.x, target=target)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second, other = maps(7), maps(7), maps(8)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second) and not torch.equal(first, other)
    # fit() has the same, unless it is given one.
    torch.testing.assert_close(maps(7, batch_size=9), first, **DOUBLE)
    assert torch.equal(maps(8, seed=7), first)
    drawn = [maps(None) for _ in range(2)]
    assert not torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(*drawn)
    clone = copy.deepcopy(made(7))
    assert torch.equal(clone.attribute(c.x, target=target), first)


@pytest.mark.parametrize("seed", [1.5, "0", True, torch.Generator()])
def test_a_seed_is_a_whole_number(seed):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(TypeError, match="seed as a whole number"):
        RepresentativeInterpretation(net, net[0], seed=seed)
    fitted = RepresentativeInterpretation(net, net[0])
    with pytest.raises(TypeError, match="seed as a whole number"):
        fitted.fit(torch.rand(3, 4), seed=seed)
