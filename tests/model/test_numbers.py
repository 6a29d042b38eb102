"""Targets, baselines and counts of every kind of number."""

import numpy as np
import pytest
import torch

from captum_margin._model.arguments import expand_baselines
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
    feature_coalitions,
    slic_segments,
)
from captum_margin.metrics import insertion_deletion
from tests.helpers import models

MODEL = models.conv(classes=3)


def x():
    return models.images(3)


ENTRIES = {
    "saliency": lambda t: MarginSaliency(MODEL).attribute(
        x(), target=t, n_evaluations=40
    ),
    "representative": lambda t: RepresentativeInterpretation(
        MODEL, MODEL[1], references=x(), seed=0
    ).attribute(x(), target=t),
    "coalition": lambda t: CoalitionPerturbation(MODEL).attribute(
        x(), target=t, n_steps=2
    ),
    "curves": lambda t: insertion_deletion(MODEL, x(), x(), t, n_steps=3).insertion,
}
over_entries = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())

DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16]


@over_entries
def test_targets_of_any_whole_numbers(entry):
    expected = entry([0, 2, 1])
    given = [torch.tensor([0, 2, 1], dtype=dtype) for dtype in DTYPES]
    given += [[np.int64(0), np.uint8(2), 1], list(torch.tensor([0, 2, 1]))]
    for target in given:
        torch.testing.assert_close(entry(target), expected, rtol=0, atol=0)
    torch.testing.assert_close(entry(np.int64(1)), entry(1), rtol=0, atol=0)


@over_entries
def test_targets_that_are_none(entry):
    with pytest.raises(ValueError, match="expected a target from 0 to 2"):
        entry(torch.tensor([0, 1, 3], dtype=torch.uint8))
    for target in (
        torch.tensor([True, False, True]),
        [True, False, True],
        torch.tensor([0.0, 1.0, 2.0]),
        [0.0, 1.0, 2.0],
        np.array([0, 1, 2]),
    ):
        with pytest.raises(AssertionError, match="expected target as an int"):
            entry(target)


WHOLE = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("dtype", "baseline"),
    [
        (torch.int64, 0.9),
        (torch.int64, torch.tensor([[0.0, 1.0, 0.5]])),
        (torch.uint8, 300),
        (torch.uint8, -1),
        (torch.bool, 2),
        (torch.float16, 1e6),
    ],
)
def test_baselines_that_the_inputs_cannot_hold(dtype, baseline):
    with pytest.raises(ValueError, match=f"the inputs' {dtype} can hold"):
        expand_baselines(baseline, (WHOLE.to(dtype),))


@pytest.mark.parametrize("baseline", [2, 2.0, True, torch.tensor(2, dtype=torch.int8)])
def test_baselines_that_they_can_hold(baseline):
    (found,) = expand_baselines(baseline, (WHOLE,))
    assert torch.equal(found, torch.full_like(WHOLE, int(baseline)))


def test_baselines_keep_their_digits():
    (found,) = expand_baselines(0.1, (WHOLE.double(),))
    assert found[0, 0].item() == 0.1


COUNTS = {
    "n_evaluations": lambda n: MarginSaliency(MODEL).attribute(
        x(), target=0, n_evaluations=n
    ),
    "perturbations_per_eval": lambda n: MarginSaliency(MODEL).attribute(
        x(), target=0, n_evaluations=40, perturbations_per_eval=n
    ),
    "seed": lambda n: MarginSaliency(MODEL).attribute(
        x(), target=0, n_evaluations=40, seed=n
    ),
    "n_segments": lambda n: slic_segments(x()[0], n),
    "n_boundaries": lambda n: (
        RepresentativeInterpretation(MODEL, MODEL[1])
        .fit(x(), n_boundaries=n, seed=0)
        .attribute(x(), target=0)
    ),
    "n_coalitions": lambda n: feature_coalitions(MODEL, x(), n_coalitions=n),
    **{
        name: lambda n, name=name: CoalitionPerturbation(MODEL).attribute(
            x(), target=0, **{"n_steps": 2, name: n}
        )
        for name in ("n_steps", "internal_batch_size", "mask_size")
    },
}


@pytest.mark.parametrize(("name", "call"), COUNTS.items(), ids=COUNTS.keys())
def test_counts(name, call):
    for value in (32.0, 2.5, True, "32"):
        with pytest.raises(ValueError, match=f"expected {name} as a whole number"):
            call(value)
    torch.testing.assert_close(call(np.int64(32)), call(32), rtol=0, atol=0)
