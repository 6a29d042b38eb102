"""Measures of agreement and sparsity, in closed form."""

import numpy as np
import pytest

from tests.benchmarks.saliency.agreement import gini, half_share, measures


def test_gini_of_known_maps():
    assert gini(np.full((3, 4), 0.7)) == pytest.approx(0)
    one = np.zeros((3, 4))
    one[1, 2] = 5.0
    assert gini(one) == pytest.approx(1 - 1 / 12)
    # Half of the mean absolute difference over the mean.
    values = np.random.default_rng(0).exponential(size=(5, 6))
    expected = np.abs(values.reshape(-1, 1) - values.reshape(1, -1)).mean()
    assert gini(values) == pytest.approx(expected / 2 / values.mean())
    assert gini(3 * values) == pytest.approx(gini(values))


def test_the_negative_part_does_not_count():
    values = np.random.default_rng(1).normal(size=(5, 6))
    assert gini(values) == gini(np.maximum(values, 0))
    assert half_share(values) == half_share(np.maximum(values, 0))
    assert np.isnan(gini(-np.ones((2, 2)))) and np.isnan(half_share(np.zeros((2, 2))))


def test_half_of_a_map():
    assert half_share(np.array([[4.0, 1.0], [1.0, 2.0]])) == 1 / 4
    assert half_share(np.ones((2, 5))) == 1 / 2
    assert half_share(np.array([3.0, 3.0, 1.0, 1.0])) == 2 / 4


def test_agreement_is_of_the_order():
    values = np.random.default_rng(2).normal(size=(7, 7))
    same = measures(np.exp(values), values)
    assert same["spearman_with_grad_cam"] == pytest.approx(1)
    assert measures(-values, values)["spearman_with_grad_cam"] == pytest.approx(-1)
