"""Leave-one-out votes of a ridge regression."""

import numpy as np
import pytest
import torch

from captum_margin.signal import _linear
from captum_margin.signal._linear import LinearVotes
from tests.reference import influence_reference as reference


def problem(n=30, features=4, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64) + 2
    noise = torch.randn(n, channels, generator=generator, dtype=torch.float64)
    return x, x[:, :channels].sin() + 0.3 * noise


@pytest.mark.parametrize(("n", "features"), [(30, 4), (12, 20), (3, 2)])
def test_it_is_a_regression_on_all_others(n, features):
    x, f = problem(n, features, channels=2)
    expected = reference.linear_votes(x.numpy(), f.numpy())
    votes = LinearVotes(x)(f)
    np.testing.assert_allclose(votes.numpy(), expected, rtol=1e-9, atol=1e-11)


def test_a_sample_has_no_vote_on_itself():
    x, f = problem()
    changed = f.clone()
    changed[7] += 1e-6  # too little to change the penalty
    linear = LinearVotes(x)
    difference = (linear(changed) - linear(f)).abs().amax(dim=1)
    assert difference[7] < 1e-14 and (difference[:7] > 1e-12).any()


def test_linear_functions_are_their_own_votes():
    x, _ = problem(200)
    f = x @ torch.ones(4, 1, dtype=x.dtype) - 3
    assert (LinearVotes(x)(f) - f).abs().max() < 0.01 * f.std()


def test_rows_of_one_hot_labels_add_up_to_one():
    x, _ = problem()
    f = torch.nn.functional.one_hot(torch.arange(30) % 3).double()
    torch.testing.assert_close(LinearVotes(x)(f).sum(dim=1), torch.ones(30).double())


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-9])
def test_identical_points_get_the_mean_of_the_others(value):
    f = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    votes = LinearVotes(torch.full((3, 2), value, dtype=torch.float64))(f)
    torch.testing.assert_close(votes.flatten().tolist(), [3.0, 2.5, 0.5])


def test_blocks_do_not_change_it(monkeypatch):
    x, f = problem()
    votes = LinearVotes(x)(f)
    monkeypatch.setattr(_linear, "BLOCK_NUMBERS", 7 * 4)
    torch.testing.assert_close(LinearVotes(x)(f), votes, rtol=1e-10, atol=1e-12)


def test_many_features_are_projected():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(150, 3, generator=generator, dtype=torch.float64)
    wide = latent @ torch.randn(3, 2500, generator=generator, dtype=torch.float64)
    f = latent[:, :1] - 2 * latent[:, 1:2]
    assert (LinearVotes(wide)(f) - f).abs().max() < 0.02 * f.std()
    narrow = _linear._narrow(wide)
    assert narrow.shape == (150, 1024)
    products = narrow @ narrow.T / (wide @ wide.T).diagonal().mean()
    expected = wide @ wide.T / (wide @ wide.T).diagonal().mean()
    assert (products - expected).square().mean().sqrt() < 3 / 1024**0.5
