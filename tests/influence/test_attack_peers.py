"""Peers of the attack detector where the answer is known in closed form."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from tests.benchmarks.adversarial import peers


def ball(n, dimension, seed):
    """Uniform in the unit ball."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    radius = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True) * radius ** (1 / dimension)


@pytest.mark.parametrize("dimension", [2, 5, 9])
def test_lid_of_a_uniform_ball_is_its_dimension(dimension):
    """P(distance to the centre < r) = r^d: of k distances -1 / mean log is d.

    The sum of k - 1 exponential terms has a relative error of 1 / sqrt(k - 1).
    """
    n, k, trials = 2000, 400, 12
    centre = torch.zeros(1, dimension, dtype=torch.float64)
    found = [
        float(peers.lid(peers.nearest_distances(centre, ball(n, dimension, s), k)))
        for s in range(trials)
    ]
    error = dimension / np.sqrt(k - 1) / np.sqrt(trials)
    # k terms with one 0 among k - 1: the mean is that of k / (k - 1) times d.
    assert abs(np.mean(found) - dimension * k / (k - 1)) < 4 * error


def test_terms_of_multilid_are_exponential():
    """-log(d_i / d_k) of a ball are k - 1 draws of an exponential of rate d, sorted."""
    terms = torch.cat(
        [
            -peers.log_ratios(
                peers.nearest_distances(
                    torch.zeros(1, 3, dtype=torch.float64), ball(500, 3, s), 20
                )
            )
            for s in range(300)
        ]
    )
    assert (terms[:, :-1] >= terms[:, 1:]).all() and (terms[:, -1] == 0).all()
    i = np.arange(1, 20)
    # The expectation of the i-th largest of 19: sums of 1 / j, over the rate.
    expected = np.array([sum(1 / j for j in range(a, 20)) for a in i]) / 3
    np.testing.assert_allclose(terms[:, :-1].mean(0), expected, rtol=0.12)


def test_deep_neighbours_count_other_labels():
    references = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
    labels = torch.tensor([0, 1, 1, 1])
    x = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    found = peers.other_labels(x, references, labels, torch.tensor([0, 0]), 2)
    assert found.tolist() == [0.5, 1.0]


def test_mahalanobis_of_a_gaussian_is_chi_squared():
    detector = pytest.importorskip("pytorch_ood.detector")
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4, 4, generator=generator)
    x = torch.randn(8000, 4, generator=generator) @ mix
    y = torch.zeros(8000, dtype=torch.long)
    fitted = detector.Mahalanobis(None).fit_features(x, y)
    new = torch.randn(8000, 4, generator=generator) @ mix
    # Theirs is half the square, and its covariance a sum over the samples.
    square = 2 * 8000 * fitted.predict_features(new).double().numpy()
    for share in (0.1, 0.5, 0.9):
        assert np.mean(square < chi2.ppf(share, 4)) == pytest.approx(share, abs=0.02)
