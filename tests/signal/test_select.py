"""The selection: order, ties, ends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.signal import rank, top


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-2, 2), max_size=30), st.booleans())
def test_rank_breaks_ties_by_index(values, descending):
    scores = torch.tensor(values, dtype=torch.float32)
    sign = -1 if descending else 1
    expected = sorted(range(len(values)), key=lambda i: (sign * values[i], i))
    assert rank(scores, descending).tolist() == expected


@pytest.mark.parametrize("descending", [True, False])
def test_ties_among_many(descending):
    scores = torch.arange(10_000).remainder(2).float()
    odd_first = list(range(1, 10_000, 2)) + list(range(0, 10_000, 2))
    even_first = list(range(0, 10_000, 2)) + list(range(1, 10_000, 2))
    expected = odd_first if descending else even_first
    assert rank(scores, descending).tolist() == expected


def test_top_is_the_head_of_the_ranking():
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=20))
    assert torch.equal(top(scores, 5), rank(scores)[:5])
    assert top(scores, 0).shape == (0,)
    assert top(scores, 99).shape == (20,)
    assert top(torch.tensor([1.0, torch.inf, -torch.inf]), 1).tolist() == [1]


def test_bad_scores():
    with pytest.raises(ValueError, match=r"\(N,\) \(got \(2, 2\)\)"):
        rank(torch.eye(2))
    with pytest.raises(ValueError, match="NaN"):
        rank(torch.tensor([0.0, torch.nan]))
    with pytest.raises(ValueError, match="n >= 0"):
        top(torch.ones(2), -1)
