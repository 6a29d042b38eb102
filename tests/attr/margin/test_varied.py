"""The maps of budgets between few and many: their rounds, and the laws they obey."""

import pytest
import torch

from captum_margin.attr import MarginSaliency
from captum_margin.attr.margin import varied
from captum_margin.attr.margin.domains.focused import FocusedUnions
from tests.helpers import models

SAME = {"rtol": 1e-8, "atol": 1e-11}


def explain(model, x, **options):
    options = {"target": 1, "n_evaluations": 151, **options}
    return MarginSaliency(model).attribute(x, **options)


def test_a_batch_its_examples_and_any_chunks_agree():
    x, model = models.images(), models.conv()
    target = [1, 3]
    found, details = explain(model, x, target=target, return_details=True)
    for stages in details.stages:
        assert all(isinstance(stage.domain, FocusedUnions) for stage in stages)
        assert [len(stage.scores) for stage in stages] == [37, 38, 37, 38]
    for chunk in (7, 400):
        again = explain(model, x, target=target, perturbations_per_eval=chunk)
        torch.testing.assert_close(again, found, **SAME)
    for example in range(2):
        alone = explain(model, x[example : example + 1], target=target[example])
        torch.testing.assert_close(alone, found[example : example + 1], **SAME)


def test_the_seed_decides_alone():
    x, model = models.images(), models.conv()
    found, state = explain(model, x, seed=3), torch.get_rng_state()
    assert torch.equal(explain(model, x, seed=3), found)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(explain(model, x, seed=4), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype):
    x = models.images(dtype=dtype)
    found = explain(models.conv(dtype=dtype), x)
    assert found.dtype == dtype
    exact = explain(models.conv(), x.double())
    both = torch.stack([found.double().flatten(), exact.flatten()])
    assert both.corrcoef()[0, 1] > {torch.float32: 0.9999}.get(dtype, 0.9)


def test_the_map_has_the_unit_of_the_score():
    x, model = models.images(1), models.conv(classes=1)
    options = {"target": None, "softmax": False}
    found = explain(model, x, **options)
    assert torch.equal(explain(lambda x: 4 * model(x), x, **options), 4 * found)


def test_equal_scores_are_no_evidence_whatever_the_image_scores():
    def rounding(images):  # another batch size, another last digit
        return torch.full((len(images),), 0.1 + 1e-7 * (len(images) == 1))

    with pytest.warns(UserWarning, match="no masked copy"):
        found = explain(
            rounding, models.images(1), target=None, perturbations_per_eval=7
        )
    assert not found.any()


def test_unions_are_of_the_kind_whose_scores_spread():
    # Filtered scores that spread by 2 among the kept and by 1 among the taken away.
    energy, kinds = (
        torch.tensor([4.0, 4.0, 4.0, 1.0, 1.0]),
        torch.tensor([0, 0, 0, 1, 1]),
    )
    assert varied._next_removing(energy, kinds, 0.4) == pytest.approx(1 / 3)
    assert varied._next_removing(energy.flip(0), kinds.flip(0), 0.4) == pytest.approx(
        1 / 3
    )
    assert varied._next_removing(energy, 1 - kinds, 0.4) == varied._MOST_REMOVING
    # Nothing to be seen: no scores that spread, or none of a kind.
    assert varied._next_removing(0 * energy, kinds, 0.4) == 0.4
    assert varied._next_removing(energy, 0 * kinds, 0.4) == 0.4


def test_where_the_least_loss_is_the_end_no_unions_are_spent_on_losses():
    # All of a square has to be there: what lacks a part of it scores nothing.
    x = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    x[:, :, 6:18, 6:18] = 1.0

    def all_of_it(images):
        return (images[:, :, 6:18, 6:18].amin(dim=(1, 2, 3)) > 0.05).double()

    def any_of_it(images):
        return images[:, :, 6:18, 6:18].mean(dim=(1, 2, 3))

    options = {"target": None, "baselines": 0.0, "return_details": True}
    counts = []
    for model in (all_of_it, any_of_it):
        _, details = explain(model, x, n_evaluations=401, **options)
        counts.append(int(details.stages[0][-1].domain.kinds.sum()))
    assert counts[0] < 0.5 * counts[1]


def test_parts_that_are_enough_alone_are_all_found():
    # Each of two corners is enough for the score.
    first, last = slice(0, 4), slice(20, 24)
    x = torch.zeros(2, 1, 24, 24, dtype=torch.float64)
    x[:, :, first, first] = x[:, :, last, last] = 1.0
    x[1, :, last, last] = 0.5  # here one is enough for half of it

    def either(images):
        corners = images[:, :, first, first], images[:, :, last, last]
        return torch.stack([c.mean(dim=(1, 2, 3)) for c in corners]).amax(dim=0)

    options = {"target": None, "baselines": 0.0}
    found = explain(either, x, **options)
    heat = found[0, 0]
    corners = torch.stack([heat[first, first].mean(), heat[last, last].mean()])
    assert corners.min() > 3 * heat[8:16, 8:16].abs().mean()
    for example in range(2):
        alone = explain(either, x[example : example + 1], **options)
        torch.testing.assert_close(alone, found[example : example + 1], **SAME)


def test_what_is_above_zero_stands_out_of_the_noise():
    # Scores that have nothing to do with what is shown, but always the same.
    def noise(images):
        return (images.sum(dim=(1, 2, 3)) * 1e4).sin()

    x = models.images(4)
    options = {"target": None, "softmax": False, "n_evaluations": 200}
    with pytest.warns(UserWarning, match="in example 1 speaks for the target beyond"):
        found = explain(noise, x, **options)
    assert (found > 0).double().mean() < 0.25
    # What is not above zero still has an order.
    assert found[1].max() <= 0 and found[1, 0].unique().numel() > 100
    # Of a model with a part that counts most of the map is noise too.
    planted = models.Planted((slice(8, 14), slice(8, 14)))
    found = explain(planted, x, target=0, n_evaluations=400)
    positive = found.clamp(min=0)
    assert (positive[..., 5:17, 5:17].sum() / positive.sum()) > 0.9
