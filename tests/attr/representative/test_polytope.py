"""The greedy choice of boundaries, step by step, and banks of such polytopes."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from captum_margin.attr import RepresentativeInterpretation
from captum_margin.attr.representative.polytope import SignTable
from tests.attr.representative.test_explainer import (
    DOUBLE,
    case,
    decisions,
    distance,
    examples,
    feature_maps,
    polytope,
    states_agree,
)
from tests.reference import representative_reference as oracle


class Problem(NamedTuple):
    """References' signs (M, Q) and classes (M,); the signs (Q,) and class of x."""

    signs: np.ndarray
    classes: np.ndarray
    own: np.ndarray
    label: int

    @property
    def others(self):
        return {m for m, c in enumerate(self.classes) if c != self.label}

    @property
    def sets(self):
        return self.signs, self.own, self.others

    def solve(self):
        return SignTable(self.signs, self.classes).polytope(self.own, self.label)


@st.composite
def problems(draw, most=10):
    """Rows and columns repeat often; x may be one of the references."""
    n_references, n_boundaries = draw(st.integers(1, 20)), draw(st.integers(1, most))
    codes = st.integers(0, 2**n_boundaries - 1)
    few = draw(st.lists(codes, min_size=1, max_size=6))
    codes = st.sampled_from(few) if draw(st.booleans()) else codes

    def several(values, n):
        return draw(st.lists(values, min_size=n, max_size=n))

    rows = several(codes, n_references + 1)
    signs = np.array(
        [[row >> h & 1 for h in range(n_boundaries)] for row in rows], bool
    )
    if draw(st.booleans()):
        signs = signs[:, several(st.integers(0, n_boundaries - 1), n_boundaries)]
    classes = np.array(several(st.integers(0, 2), n_references))
    own, signs, label = signs[-1], signs[:-1], draw(st.integers(0, 2))
    if draw(st.booleans()):
        example = draw(st.integers(0, n_references - 1))
        own, label = signs[example], int(classes[example])
    return Problem(signs, classes, own, label)


def noisy(seed, n_references, n_boundaries, n_classes=3, noise=0.25):
    """Classes whose signs differ, with noise; x is the first reference."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(n_classes, size=n_references)
    signs = (rng.random((n_classes, n_boundaries)) < 0.5)[classes]
    signs ^= rng.random(signs.shape) < noise
    return Problem(signs, classes, signs[0], int(classes[0]))


def planted(alike, others):
    """A problem from the boundaries that each reference lies across, x at the origin.

    ``alike`` and ``others`` hold one string of 0s and 1s per reference.
    """
    signs = np.array([[bit == "1" for bit in row] for row in alike + others], bool)
    classes = np.array([0] * len(alike) + [1] * len(others))
    return Problem(signs, classes, np.zeros(signs.shape[1], bool), 0)


def check(problem):
    """The answer is the oracle's, and each step is best by its definition."""
    found = problem.solve()
    expected, tau = oracle.greedy(*problem.sets)
    assert found.tau == tau
    for step, boundary in enumerate(found.chosen.tolist()):
        chosen = found.chosen[:step].tolist()
        assert boundary == oracle.best_steps(*problem.sets, chosen)[0]
    assert found.chosen.tolist() == expected
    assert found.covered.tolist() == sorted(
        oracle.covered(problem.signs, problem.own, expected)
    )
    return found


@settings(max_examples=150, deadline=None)
@given(problems())
def test_every_step_is_the_definitions(problem):
    check(problem)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_cover(problem):
    found = problem.solve()
    signs, own, others = problem.sets
    covered = set(found.covered.tolist())
    assert len(covered & others) == found.tau
    # Whoever lies where x lies is covered, and x itself if it is a reference.
    assert {m for m in range(len(signs)) if (signs[m] == own).all()} <= covered
    # No choice of boundaries, all of them included, leaves fewer of the others.
    assert found.tau == len(oracle.covered(signs, own, range(len(own))) & others)
    # It stops at the first chance, and no boundary is chosen in vain.
    assert len(set(found.chosen.tolist())) == len(found.chosen)
    left = [
        len(oracle.covered(signs, own, found.chosen[:n]) & others)
        for n in range(len(found.chosen) + 1)
    ]
    assert left == sorted(set(left), reverse=True)


@settings(max_examples=80, deadline=None)
@given(problems(most=7))
def test_against_every_set_of_boundaries(problem):
    cost = oracle.cost(*problem.sets, problem.solve().chosen.tolist())
    best = oracle.optimum(*problem.sets)
    assert best <= cost <= oracle.guarantee(*problem.sets)
    if best == 0:  # what can be separated for nothing is
        assert cost == 0


@settings(max_examples=60, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_what_must_not_matter(problem, random):
    found = problem.solve()
    signs, classes, own, label = problem
    # The order of the references.
    order = random.sample(range(len(signs)), len(signs))
    moved = Problem(signs[order], classes[order], own, label).solve()
    assert moved.chosen.tolist() == found.chosen.tolist()
    assert {order[m] for m in moved.covered} == set(found.covered.tolist())
    # Which side of a boundary is called positive.
    turned = np.array([random.random() < 0.5 for _ in own])
    same = Problem(signs ^ turned, classes, own ^ turned, label).solve()
    assert same.chosen.tolist() == found.chosen.tolist()
    assert same.covered.tolist() == found.covered.tolist()
    # Every boundary twice: the first of each is taken.
    twice = Problem(np.tile(signs, 2), classes, np.tile(own, 2), label).solve()
    assert twice.chosen.tolist() == found.chosen.tolist()
    assert twice.tau == found.tau
    # The names of the classes.
    renamed = np.array([7, 3, 5])
    other = Problem(signs, renamed[classes], own, int(renamed[label])).solve()
    assert other.covered.tolist() == found.covered.tolist()


@pytest.mark.parametrize("n_references", [1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 300])
@pytest.mark.parametrize("n_boundaries", [1, 50, 130])
def test_sizes_around_a_word(n_references, n_boundaries):
    problem = noisy(n_references, n_references, n_boundaries)
    found = check(problem)
    if n_references >= 63 and n_boundaries >= 50:
        assert len(found.chosen) >= 2 and found.tau == 0


def test_the_first_step_is_for_nothing():
    # The second boundary loses more of D, but one of x's own class; the third loses
    # as little as the first, and more of D.
    problem = planted(["010", "010"], ["110", "111", "011", "011"])
    found = check(problem)
    assert found.chosen.tolist() == [2, 0]
    assert found.covered.tolist() == [0, 1] and found.tau == 0


def test_the_price_is_of_what_is_left():
    # Boundary 0 goes first, at 1 for 4. Boundary 1 lost 2 for 2 until then and 1 for 1
    # since; boundary 2 loses 1 for 2 of those left: 1 / 2 < 1.
    problem = planted(
        ["110", "010", "001"],
        ["110", "100", "100", "100", "011", "001"],
    )
    found = check(problem)
    assert found.chosen.tolist() == [0, 2]
    assert found.covered.tolist() == [1]


def test_it_is_greedy_and_not_the_optimum():
    # Two boundaries at 2 for 3 each would do for 4; the greedy first pays 2 for 4.
    alike = ["100", "100", "010", "010", "001", "001"]
    others = ["110", "110", "101", "101", "010", "001"]
    problem = planted(alike, others)
    chosen = check(problem).chosen.tolist()
    assert chosen == [0, 1, 2]
    assert oracle.optimum(*problem.sets) == 4
    assert oracle.cost(*problem.sets, chosen) == 6
    assert 6 <= oracle.guarantee(*problem.sets)


def test_nothing_to_separate():
    signs = np.random.default_rng(0).random((70, 9)) < 0.5
    found = Problem(signs, np.full(70, 2), signs[3], 2).solve()
    assert found.chosen.tolist() == [] and found.tau == 0
    assert found.covered.tolist() == list(range(70))


def test_nothing_can_be_separated():
    signs = np.ones((70, 9), bool)
    found = Problem(signs, np.arange(70) % 2, signs[0], 0).solve()
    assert found.chosen.tolist() == [] and found.tau == 35
    assert found.covered.tolist() == list(range(70))


def test_only_what_can_be_separated_is():
    # The last of D lies where x lies, and stays.
    found = check(planted(["00", "01"], ["10", "10", "00"]))
    assert found.chosen.tolist() == [0] and found.tau == 1
    assert found.covered.tolist() == [0, 1, 4]


def test_alone_in_its_class():
    # x is predicted as no reference is: all that lies across a boundary goes.
    signs = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    found = Problem(signs, np.zeros(4, int), np.zeros(2, bool), 1).solve()
    assert found.chosen.tolist() == [0, 1] and found.tau == 1
    assert found.covered.tolist() == [3]


def test_nothing_is_written():
    problem = noisy(0, 100, 20)
    before = [np.copy(part) for part in problem]
    table = SignTable(problem.signs, problem.classes)
    first = table.polytope(problem.own, problem.label)
    table.polytope(~problem.own, 1 - problem.label)
    again = table.polytope(problem.own, problem.label)
    assert again.chosen.tolist() == first.chosen.tolist()
    assert again.covered.tolist() == first.covered.tolist()
    for part, same in zip(problem, before, strict=True):
        np.testing.assert_array_equal(part, same)


def test_bank_is_made_of_interpretations():
    c = case("conv")
    bank = c.explainer.bank(3, seed=1)
    centers = bank.centers.tolist()
    assert len(bank) == len(bank.interpretations) == len(set(centers))
    for label in range(3):
        of_class = [m for m in centers if c.classes[m] == label]
        assert len(of_class) == min(3, c.classes.count(label))
    for center, one in zip(centers, bank, strict=True):
        chosen, sides, covered, tau = polytope(c, c.psi[center], c.classes[center])
        assert one.boundaries.reference.tolist() == [c.sampled[h] for h in chosen]
        assert one.boundaries.side.tolist() == sides.tolist()
        assert one.covered.tolist() == covered and one.tau == tau
        assert one.predicted == c.classes[center]
    ranks = [(-one.purity, -len(one.covered)) for one in bank]
    assert ranks == sorted(ranks)


def test_bank_assigns_and_explains():
    c = case("conv")
    bank, x = c.explainer.bank(2), examples("conv", 30, 9)
    index, covered = bank.assign(x)
    covers = torch.stack([one.covers(x) for one in bank])
    assert covered.tolist() == covers.any(dim=0).tolist() and covered.any()
    assert not covered.all()
    for i, psi in enumerate(feature_maps(c, x)):
        if covered[i]:
            assert index[i] == covers[:, i].tolist().index(True)
        else:
            far = [distance(c, psi, m) for m in bank.centers.tolist()]
            assert index[i] == np.argmin(far)
    for form in ({}, {"relu_attributions": True, "paper": True}, {"paper": True}):
        maps = bank.attribute(x, **form)
        for i in range(30):
            expected = bank[index[i]].attribute(x[i : i + 1], **form)
            torch.testing.assert_close(maps[i : i + 1], expected, **DOUBLE)
    report, atlas = bank.evaluate(x, batch_size=7), bank.atlas()
    pure = sum(
        bank[j].predicted == label
        for j, label, inside in zip(index, decisions(c, x), covered, strict=True)
        if inside
    )
    n = int(covered.sum())
    assert (report.n, report.n_covered, report.n_pure) == (30, n, pure)
    assert report.coverage == n / 30 and report.purity == pure / n
    expected = [oracle.wilson(n, 30), oracle.wilson(pure, n)]
    found = [report.coverage_interval, report.purity_interval]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    every = [(j, o.predicted, len(o.covered), o.purity) for j, o in enumerate(bank)]
    assert [tuple(group) for group in atlas.groups] == sorted(
        every, key=lambda group: -group[2]
    )
    everyone = set().union(*(one.covered.tolist() for one in bank))
    assert atlas.uncovered.tolist() == sorted(set(range(40)) - everyone)


def test_bank_centres_are_those_of_the_clusters():
    # Four far clusters of one class at the layer, and one of another class.
    corners = [[9.0, 9], [9, 5], [30, 9], [30, 30], [-9, -9]]
    noise = 0.1 * examples("flat", 50, 0)[:, :2]
    points = torch.tensor(corners).double().repeat_interleave(10, dim=0) + noise
    layer = nn.Identity()
    model = nn.Sequential(layer, nn.Linear(2, 2)).double()
    model[1].weight.data = torch.tensor([[1.0, 1.5], [-1.0, -0.5]]).double()
    model[1].bias.data.zero_()
    fitted = RepresentativeInterpretation(model, layer)
    bank = fitted.fit(points, n_boundaries=50, seed=0).bank(4)
    assert sorted(int(m) // 10 for m in bank.centers if m < 40) == [0, 1, 2, 3]


def test_who_lies_on_a_boundary_is_on_its_positive_side():
    layer = nn.Identity()
    model = nn.Sequential(layer, nn.Linear(2, 2, bias=False)).double()
    model[1].weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    references = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]]).double()
    fitted = RepresentativeInterpretation(model, layer).fit(references, seed=0)
    found = fitted.interpret(references[:1])
    # Of two boundaries alike but for their direction, the first keeps the last one.
    assert found.boundaries.reference.tolist() == [0]
    assert found.covered.tolist() == [0, 2]
    assert found.covers(references).tolist() == [True, False, True]


def test_an_interpretation_stops_at_the_layer(monkeypatch):
    c, calls = case("conv"), []
    one, bank = c.explainer.interpret(c.x[:1]), c.explainer.bank(2)

    def backward(*args, **kwargs):
        raise AssertionError("a backward pass")

    monkeypatch.setattr(torch.autograd, "grad", backward)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    handles = [
        module.register_forward_pre_hook(lambda m, _, i=i: calls.append(i))
        for i, module in enumerate(c.model)
    ]
    for function in (one.attribute, one.covers, bank.attribute, bank.assign):
        calls.clear()
        function(c.x)
        assert calls == [0, 1]
    for handle in handles:
        handle.remove()
    with pytest.raises(AssertionError, match="a backward pass"):  # it would be seen
        RepresentativeInterpretation(c.model, c.model[1]).fit(c.references)


@pytest.mark.parametrize("layer", [0, 1])
def test_layers_run_in_place(layer):
    c = case("conv")
    changed = copy.deepcopy(c.model)
    changed[1].inplace = changed[4].inplace = True
    found, expected = (
        RepresentativeInterpretation(model, model[layer]).fit(c.references, seed=3)
        for model in (changed, c.model)
    )
    states_agree(found.state_dict(), expected.state_dict())
    one, same = (e.interpret(c.x[:1]) for e in (found, expected))
    torch.testing.assert_close(one.attribute(c.x), same.attribute(c.x), **DOUBLE)
    maps, wanted = (e.attribute(c.x, target=1) for e in (found, expected))
    torch.testing.assert_close(maps, wanted, **DOUBLE)


def test_a_layer_used_twice_has_its_last_values():
    c = case("flat")
    below, relu, middle = nn.Linear(6, 6).double(), nn.ReLU(), c.model[0]
    once = nn.Sequential(below, nn.ReLU(), middle, relu, *c.model[2:])
    twice = nn.Sequential(below, relu, middle, relu, *c.model[2:])
    found, expected = (
        RepresentativeInterpretation(model, relu).fit(c.references, seed=3)
        for model in (twice, once)
    )
    unlike = {"layer": "", "executions": 0, "linearization_error": 0.0}
    states_agree(found.state_dict() | unlike, expected.state_dict() | unlike)
    one, same = (e.interpret(c.x[:1]) for e in (found, expected))
    torch.testing.assert_close(one.attribute(c.x), same.attribute(c.x), **DOUBLE)
    assert one.covers(c.x).tolist() == same.covers(c.x).tolist()
    assert found.linearization_error < 1e-9  # the last use alone is stepped
