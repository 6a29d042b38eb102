"""Greedy coverage: its definition, kept lazily or in blocks, and its ends."""

import numpy as np
import pytest
import torch

from captum_margin.signal import coverage, select_covering
from tests.reference import active_learning_reference as reference


def points(n=40, features=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, features, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 256])
def test_picks_are_those_of_greedy(kept, batch, monkeypatch):
    monkeypatch.setattr(coverage, "_BATCH", batch)
    if not kept:
        monkeypatch.setattr(coverage, "_KEPT", 0)
    x = points()
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    weight[::5] = 0
    s = reference.similarity(x.numpy())
    candidates = torch.arange(30, 3, -1)
    groups = torch.arange(40) % 3
    for options in (
        {},
        {"candidates": candidates},
        {"candidates": candidates, "chosen": torch.tensor([2, 8, 9, 35])},
        {"candidates": candidates, "groups": groups},
    ):
        picks = select_covering(x, 4, weight=weight, **options)
        among = {key: value.tolist() for key, value in options.items()}
        among.setdefault("candidates", range(40))
        expected = reference.greedy(s, weight.tolist(), 4, **among)
        assert picks.tolist() == expected
        assert len(expected) == (12 if "groups" in options else 4)


def test_a_sample_of_the_nodes_stands_for_all():
    x = points(60)
    drawn = torch.randperm(60, generator=torch.Generator().manual_seed(7))[:20]
    weight = torch.zeros(60).index_fill(0, drawn, 1.0)
    expected = select_covering(x, 5, weight=weight)
    assert torch.equal(select_covering(x, 5, max_targets=20, seed=7), expected)
    assert not torch.equal(select_covering(x, 5, max_targets=60, seed=7), expected)


def test_rows_without_direction_and_equal_rows():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    # One of either direction, then what adds nothing, by its place.
    assert select_covering(x, 5).tolist() == [1, 3, 0, 2, 4]
    assert select_covering(torch.zeros(3, 2), 2).tolist() == [0, 1]
    assert select_covering(x.half(), 2).tolist() == [1, 3]


def test_scale_of_a_row_is_of_no_account():
    x = points()
    scale = torch.rand(40, 1, generator=torch.Generator().manual_seed(2)) + 0.1
    assert torch.equal(select_covering(x * scale, 9), select_covering(x, 9))


def test_greedy_reaches_its_share_of_the_best():
    x = points(12, 3, seed=3)
    s = reference.similarity(x.numpy())
    ones = np.ones(12)
    triples = [(i, j, k) for i in range(12) for j in range(i) for k in range(j)]
    best = max(reference.coverage(s, ones, picks) for picks in triples)
    reached = reference.coverage(s, ones, select_covering(x, 3).tolist())
    assert best * (1 - 1 / np.e) <= reached <= best * (1 + 1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": -1}, "n >= 0"),
        ({"max_targets": 0}, "max_targets >= 1"),
        ({"candidates": torch.tensor([2, 40])}, r"candidates within \[0, 40\)"),
        ({"chosen": torch.tensor([-1])}, r"chosen within \[0, 40\)"),
        ({"points": torch.ones(3)}, r"\(N, F\)"),
        ({"points": torch.ones(3, 2).long()}, "floating"),
        ({"points": torch.full((3, 2), torch.inf)}, "finite points"),
        ({"weight": torch.ones(3)}, "finite weights"),
        ({"weight": -torch.ones(40)}, "finite weights"),
        ({"weight": torch.full((40,), torch.nan)}, "finite weights"),
    ],
)
def test_wrong_use_is_told(options, says):
    with pytest.raises(ValueError, match=says):
        select_covering(**{"points": points(), "n": 2, **options})


def test_equal_gains_go_to_the_first_whatever_the_rounding():
    """Two worlds of the same nodes in another order, none like one of the other."""
    generator = torch.Generator().manual_seed(0)
    half = torch.rand(300, 7, generator=generator, dtype=torch.float64)
    order = torch.randperm(300, generator=generator)
    nothing = torch.zeros_like(half)
    here, there = torch.cat([half, nothing], 1), torch.cat([nothing, half[order]], 1)
    twin = 300 + order.argsort()
    for dtype in (torch.float32, torch.float64):
        picks = select_covering(torch.cat([here, there]).to(dtype), 40)
        alone = select_covering(half.to(dtype), 20)
        expected = torch.stack([alone, twin[alone]], dim=1).flatten()
        assert picks.tolist() == expected.tolist()
