"""What is taken for noise: against NumPy, its rate, and that the order stays."""

import numpy as np
import pytest
import torch

from captum_margin.attr.margin import shrinkage
from tests.reference import margin_saliency_reference as reference


def planted(count, seed):
    """Evidence of 500 patches with errors of one, and of some patches that count."""
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.randn(500, generator=generator, dtype=torch.float64)
    evidence[:count] += 3.0
    return evidence


@pytest.mark.parametrize("count", [0, 3, 40, 250, 500])
@pytest.mark.parametrize("error", [0.25, 1.0, 2.0])
def test_levels_and_maps_are_those_of_numpy(count, error):
    rate, kept = shrinkage._FALSE_DISCOVERIES, shrinkage._NOT_SURE
    for seed in range(5):
        evidence = planted(count, seed)
        levels = shrinkage.noise_levels(evidence, error)
        expected = [
            reference.noise_level(side * evidence.numpy(), error, rate)
            for side in (1, -1)
        ]
        assert levels == pytest.approx(expected, rel=1e-12)
        found = shrinkage.without_noise(evidence.view(25, 20), levels)
        expected = reference.without_noise(evidence.numpy(), *levels, kept)
        np.testing.assert_allclose(found.flatten(), expected, rtol=1e-9, atol=1e-14)
        for unit in (4.0, 2.0**-100, 2.0**100):  # whose squares are no float32
            scaled = shrinkage.noise_levels(unit * evidence, unit * error)
            assert scaled == tuple(unit * level for level in levels)
            in_this_unit = shrinkage.without_noise(unit * evidence.float(), scaled)
            expected = shrinkage.without_noise(evidence.float(), levels)
            assert torch.equal(in_this_unit, unit * expected)


def test_of_what_stands_out_one_in_ten_is_noise():
    levels = {}
    for count in (40, 250):
        false, of_count = [], []
        for seed in range(40):
            evidence = planted(count, seed)
            of_count.append(shrinkage.noise_levels(evidence, 1.0)[0])
            above = evidence >= of_count[-1]
            false.append(float(above[count:].sum() / above.sum()))
        assert sum(false) / len(false) == pytest.approx(0.1, abs=0.025)
        levels[count] = sum(of_count) / len(of_count)
    # Broad evidence is held against a lower level than evidence in few patches.
    assert levels[250] < 1.6 < 2.0 < levels[40]


@pytest.mark.parametrize(
    ("highest", "level"), [(2.9, 1.45), (1.5, 1.0), (0.5, 1.0), (-1.0, 1.0)]
)
def test_where_nothing_is_sure_half_of_the_highest_is_the_level(highest, level):
    evidence = torch.full((400,), -2.0, dtype=torch.float64)
    evidence[7] = highest
    assert shrinkage.noise_levels(evidence, 1.0)[0] == pytest.approx(level)
    assert shrinkage.noise_levels(-evidence, 1.0)[1] == pytest.approx(level)


def test_what_may_be_noise_is_shrunk_to_nothing_and_its_order_is_kept():
    generator = torch.Generator().manual_seed(3)
    evidence = torch.randn(500, generator=generator, dtype=torch.float64)
    evidence[:60] += 6.0
    evidence[60:90] -= 12.0
    levels = shrinkage.noise_levels(evidence, 1.0)
    found = shrinkage.without_noise(evidence, levels)
    assert torch.equal(found.argsort(), evidence.argsort())
    assert torch.equal(found > 0, evidence > levels[0])
    little, strong = evidence.abs() < 1, evidence.abs() > 10
    assert found[little].abs().max() < 0.05 and strong.sum() > 25
    expected = evidence[strong]
    torch.testing.assert_close(found[strong], expected, rtol=0.06, atol=0.0)
    # What is against the class is shrunk as what is for it, but for the order's part.
    other = shrinkage.noise_levels(-evidence, 1.0)
    assert other == levels[::-1]
    assert (found + shrinkage.without_noise(-evidence, other)).abs().max() < 0.06
