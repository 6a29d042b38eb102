"""The maps of budgets between few and many: their rounds, and the laws they obey."""

import weakref

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


@pytest.mark.parametrize("deletion", [False, True])
def test_a_batch_its_examples_and_any_chunks_agree(deletion):
    x, model = models.images(), models.conv()
    target, options = [1, 3], {"deletion": deletion}
    found, details = explain(model, x, target=target, return_details=True, **options)
    deleting = torch.cat([stage.domain.kinds for stage in details.stages[0]])
    assert bool(deleting.any()) == deletion
    assert details.settings["deletion"] == deletion
    for stages in details.stages:
        assert all(isinstance(stage.domain, FocusedUnions) for stage in stages)
        assert [len(stage.scores) for stage in stages] == [37, 38, 37, 38]
    for chunk in (7, 400):
        again = explain(
            model, x, target=target, perturbations_per_eval=chunk, **options
        )
        torch.testing.assert_close(again, found, **SAME)
    for example in range(2):
        alone = explain(
            model, x[example : example + 1], target=target[example], **options
        )
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


@pytest.mark.parametrize("deletion", [False, True])
def test_the_map_has_the_unit_of_the_score(deletion):
    x, model = models.images(1), models.conv(classes=1)
    options = {"target": None, "softmax": False, "deletion": deletion}
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


def test_unions_are_of_the_kind_with_more_room():
    scores = torch.tensor([0.9, 0.5, 0.4, 0.3, 0.1])
    kinds = torch.tensor([0, 0, 0, 1, 1])
    # Kept ones have 0.6 of 0.9 in the mean, the others 0.2 of 0.1.
    share = 0.1 / (0.3 + 0.1)
    for scale, shift in ((1.0, 0.0), (4.0, -3.0)):  # any unit, any zero
        found = varied._next_deleting(scale * scores + shift, kinds, 0.4)
        assert found == pytest.approx(share, rel=1e-5)
    kept = torch.tensor([0.9, 0.9, 0.8, 0.9, 0.1])
    assert varied._next_deleting(kept, kinds, 0.4) == 0.5  # at most
    # Random unions are both: 0.44 in the mean, of 0.9 and of 0.1.
    found = varied._next_deleting(scores, 0 * kinds, 0.4)
    assert found == pytest.approx(0.34 / 0.8, rel=1e-5)
    # Fewer of those that are noisier.
    assert varied._next_deleting(scores, kinds, 0.4, 3.0) == pytest.approx(share / 3)
    # Each is as good as it can be, but for how the mean of equal numbers is rounded.
    for count in range(3, 60):
        alike = torch.tensor(count * [0.7] + count * [0.1])
        kinds_of_these = torch.tensor(count * [0] + count * [1])
        assert varied._next_deleting(alike, kinds_of_these, 0.4, 3.0) == 0.4
    # Nothing to be seen, or given up before.
    assert varied._next_deleting(0 * scores, kinds, 0.4) == 0.4
    assert varied._next_deleting(scores, 0 * kinds, 0.0) == 0.0


def test_a_map_is_followed_as_far_as_the_image_is_of_the_class():
    seen = [torch.tensor([0.2, 0.8]), torch.tensor([0.1, 0.7, 0.3])]
    # The range is 0.7 from 0.1, and a third of it ends at 0.3333.
    cases = {0.0: 0, 0.1: 0, 0.17: 0.3, 0.24: 0.6, 1 / 3: 1, 0.5: 1, 0.9: 1}
    for own, trust in cases.items():
        for scale, shift in ((1.0, 0.0), (4.0, -3.0), (-1.0, 0.0)):
            if scale < 0:  # the range of a score's negative is turned round
                trust = min(1.0, max(0.0, (0.8 - own) / 0.7 * 3))
            found = varied._as_far_as_trusted(
                (1.0, 2.0),
                torch.tensor(scale * own + shift, dtype=torch.float64),
                [scale * scores + shift for scores in seen],
            )
            assert found == pytest.approx((trust, 2 * trust), abs=1e-5)
    # Nothing to be seen.
    own = torch.tensor(0.5)
    assert varied._as_far_as_trusted((1.0, 2.0), own, []) == (1.0, 2.0)
    alike = [torch.full((3,), 0.7)]
    assert varied._as_far_as_trusted((1.0, 2.0), own, alike) == (1.0, 2.0)


def test_what_masks_draw_is_not_what_the_image_shows(monkeypatch):
    # A square speaks for the class, a little, where the rest is not shown. A pattern of
    # four fields speaks for it ten times as much, and only masks can draw it.
    square, upper, lower = slice(2, 10), slice(8, 16), slice(16, 24)
    x = torch.full((1, 1, 24, 24), 0.5, dtype=torch.float64)
    x[:, :, square, square] = 1.0

    def model(images):
        shown = images[:, 0] / x[0, 0]

        def mean(rows, columns):
            return shown[:, rows, columns].mean(dim=(1, 2))

        rest = shown[:, 8:, 8:].mean(dim=(1, 2))
        on = mean(upper, upper) + mean(lower, lower)
        pattern = (on - mean(upper, lower) - mean(lower, upper)) / 2
        return 0.1 * mean(square, square) * (1 - rest) + pattern.clamp(min=0) ** 3

    def shares_in_the_square():
        shares = []
        for seed in range(4):
            options = {"target": None, "baselines": 0.0, "n_evaluations": 400}
            heat = explain(model, x, seed=seed, **options)[0, 0].clamp(min=0)
            shares.append(float(heat[square, square].sum() / heat.sum()))
        return shares

    assert min(shares_in_the_square()) > 0.9
    monkeypatch.setattr(varied, "_as_far_as_trusted", lambda strengths, *_: strengths)
    assert max(shares_in_the_square()) < 0.1


@pytest.mark.parametrize("n_evaluations", [60, 151])
def test_scores_of_any_unit_have_the_same_map(n_evaluations):
    x, model = models.images().float(), models.conv().float()
    options = {"softmax": False, "n_evaluations": n_evaluations}
    expected = explain(model, x, **options)
    for power in (-100, 100):  # whose squares are no float32
        found = explain(
            lambda images, unit=2.0**power: unit * model(images), x, **options
        )
        torch.testing.assert_close(found * 2.0**-power, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"n_evaluations": 100},
        {"n_evaluations": 151},
        {"n_evaluations": 100, "prior": torch.eye(24)[None, None]},
        {"feature_mask": models.tiles(24, 24, 6)[None, None], "n_evaluations": 300},
        {"feature_mask": models.tiles(24, 24, 12)[None, None], "n_evaluations": 300},
        {"domain": "regions"},
        {"paper": True},
    ],
)
def test_the_smallest_and_largest_scores_are_explained(options):
    x = 0.5 + torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(5))

    def heat(unit):
        def model(images):
            return unit * images[:, 0, 8:14, 8:14].mean(dim=(1, 2))

        found = explain(model, x, target=None, baselines=0.0, **options)[0, 0].double()
        return found / unit

    expected = heat(1.0)
    # The smallest ones have few digits in float32.
    for power, digits in ((-122, 1e-3), (-132, 2e-2), (125, 1e-5)):
        torch.testing.assert_close(
            heat(2.0**power), expected, rtol=0, atol=digits * float(expected.max())
        )


def test_a_model_that_looks_at_one_pixel_is_explained():
    x = 0.5 + torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(5))
    options = {"target": None, "baselines": 0.0}
    for seed in range(4):
        found = explain(lambda images: images[:, 0, 12, 12], x, seed=seed, **options)
        heat = found[:, 0].clamp(min=0)
        assert (heat[:, 8:17, 8:17].sum(dim=(1, 2)) > 0.9 * heat.sum(dim=(1, 2))).all()


def test_where_any_loss_is_the_end_few_unions_are_spent_on_losses():
    x = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    x[:, :, 6:18, 6:18] = 1.0

    def nearly_all_of_it(images):
        share = images[:, :, 6:18, 6:18].mean(dim=(1, 2, 3))
        return (share - 0.9).clamp(min=0) * 10

    def any_of_it(images):
        return images[:, :, 6:18, 6:18].mean(dim=(1, 2, 3)).clamp(max=0.1) * 10

    shares = []
    for model in (nearly_all_of_it, any_of_it):
        _, details = explain(
            model,
            x,
            target=None,
            baselines=0.0,
            n_evaluations=401,
            deletion=True,
            return_details=True,
        )
        last = details.stages[0][-1].domain.kinds
        shares.append(float(last.double().mean()))
    assert shares[0] < 0.1 and shares[1] == varied._MOST_DELETING


def test_what_cannot_be_done_without_is_found_beside_what_is_enough():
    # Either of two squares is enough; the score falls only where both are gone, and
    # the second alone keeps a little less.
    first, second = slice(2, 8), slice(16, 22)
    x = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    x[:, :, first, first] = x[:, :, second, second] = 1.0

    def either(images):
        one = images[:, :, first, first].mean(dim=(1, 2, 3))
        other = images[:, :, second, second].mean(dim=(1, 2, 3))
        return torch.maximum(one, 0.8 * other)

    def found_of_the_second(deletion):
        heat = torch.stack(
            [
                explain(
                    either,
                    x,
                    target=None,
                    baselines=0.0,
                    n_evaluations=400,
                    deletion=deletion,
                    seed=seed,
                )[0, 0]
                for seed in range(3)
            ]
        ).mean(dim=0)
        return float(heat[second, second].mean() / heat[first, first].mean())

    assert found_of_the_second(True) > 2 * found_of_the_second(False)


@pytest.mark.parametrize(
    "options",
    [
        {"n_evaluations": 150},
        {"domain": "regions"},
        {"feature_mask": models.tiles(24, 20, 5)[None, None]},
    ],
)
def test_deletion_says_nothing_where_there_are_no_rounds(options):
    x, model = models.images(), models.conv()
    found = explain(model, x, **options)
    assert torch.equal(explain(model, x, deletion=False, **options), found)


def test_deletion_is_the_default():
    x, model = models.images(), models.conv()
    found = explain(model, x)
    assert torch.equal(explain(model, x, deletion=True), found)
    assert not torch.allclose(explain(model, x, deletion=False), found)


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
    # Scores that have nothing to do with what is shown, nor with its last bits.
    generator = torch.Generator().manual_seed(0)

    def noise(images):
        return torch.randn(len(images), generator=generator, dtype=images.dtype)

    x = models.images(8)
    options = {"target": None, "softmax": False, "n_evaluations": 200}
    with pytest.warns(UserWarning, match="in example 7 speaks for the target beyond"):
        found = explain(noise, x, **options)
    assert (found > 0).double().mean() < 0.1
    # What is not above zero still has an order.
    assert found[7].max() < 0 and found[7, 0].unique().numel() > 100
    # Of a model with a part that counts most of the map is noise too.
    planted = models.Planted((slice(8, 14), slice(8, 14)))
    found = explain(planted, x, target=0, n_evaluations=400)
    positive = found.clamp(min=0)
    assert (positive[..., 5:17, 5:17].sum() / positive.sum()) > 0.9


def test_unions_of_one_round_are_alive_at_a_time_but_for_details(monkeypatch):
    x, model = models.images(2), models.conv()
    drawn = weakref.WeakSet()
    alive = []

    class Watched(FocusedUnions):
        def __init__(self, *args):
            alive.append(len(drawn))
            super().__init__(*args)
            drawn.add(self)

    monkeypatch.setattr(varied, "FocusedUnions", Watched)
    found = explain(model, x)
    assert alive == 4 * [0, 1]  # of the two images, in each of four rounds
    assert len(drawn) == 0
    again, details = explain(model, x, return_details=True)
    assert torch.equal(again, found)
    assert len(drawn) == 8 and len(details.stages[0]) == 4
