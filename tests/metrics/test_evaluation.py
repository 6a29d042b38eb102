"""All metrics in one call."""

import torch

from captum_margin import explain
from captum_margin.attr import MarginSaliency
from captum_margin.metrics import (
    average_drop,
    evaluate,
    insertion_deletion,
    smallest_region,
)
from tests.helpers import models
from tests.helpers.records import same


def test_evaluate_passes_its_options_on():
    model, x = models.conv(), models.images()
    maps = x.abs()
    raw = {"softmax": False, "baseline": 0.5}
    result = evaluate(model, x, maps, 1, perturbations_per_eval=3, **raw)
    curves = insertion_deletion(
        model, x, maps, 1,
        softmax=False, insertion_baseline=0.5, deletion_baseline=0.5,
    )  # fmt: skip
    assert torch.equal(result.insertion_deletion.insertion, curves.insertion)
    region = smallest_region(model, x, maps, 1, baseline=0.5)
    assert torch.equal(result.smallest_region.mask, region.mask)
    if curves.insertion[:, -1].min() >= 0:
        drop = average_drop(model, x, maps, 1, **raw)
        assert torch.equal(result.average_drop.drop, drop.drop)
    assert "insertion_auc=" in repr(result)
    second = result.curves_of(1)
    assert torch.equal(second.insertion, curves.insertion[1:])
    assert torch.equal(second.deletion_auc, curves.deletion_auc[1:])
    factor = torch.tensor([0.5, 2.0], dtype=torch.float64)
    scaled = evaluate(models.Scaled(model), x, maps, 1, (factor, 1))
    plain = evaluate(
        lambda t: model(t) * factor.repeat(len(t) // 2)[:, None], x, maps, 1
    )
    assert same(scaled.numbers, plain.numbers)


def test_scores_below_zero_have_no_drop():
    x = models.images()

    def dark(t):
        return -t.mean(dim=(1, 2, 3))

    found = explain(MarginSaliency(dark), x, n_evaluations=20).evaluate(dark)
    numbers = found.numbers
    assert found.average_drop is None and numbers["drop"].isnan().all()
    assert numbers["insertion_auc"].isfinite().all()
    curves, region = found.insertion_deletion, found.smallest_region
    assert found.n_forward == curves.n_forward + region.n_forward
