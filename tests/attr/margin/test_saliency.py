"""The maps, end to end, against their definitions; the laws they obey."""

import numpy as np
import pytest
import torch

from captum_margin.attr import MarginSaliency
from captum_margin.attr.margin import joint, regression, shrinkage, varied
from captum_margin.attr.margin import unions as union_form
from captum_margin.attr.margin.domains.axes import (
    CELLS,
    PATCHES_A_CELL,
    coarse_shape,
)
from captum_margin.attr.margin.domains.focused import FocusedUnions
from captum_margin.attr.margin.domains.tents import TentUnions
from tests.helpers import models
from tests.reference import margin_saliency_reference as reference
from tests.reference.margin_listings import high_pass, knn_weights

EXACT = {"rtol": 1e-10, "atol": 1e-14}
DERIVED = {"rtol": 1e-8, "atol": 1e-12}  # many sums in another order
SOLVED = {"rtol": 1e-5, "atol": 1e-7}  # and equations


def numpy_score(model, column):
    """Softmax probability of a class of one NumPy example."""

    def score(example):
        with torch.no_grad():
            logits = model(torch.from_numpy(example)[None])[0].numpy()
        odds = np.exp(logits - logits.max())
        return odds[column] / odds.sum()

    return score


def mean_colour(image):
    return np.broadcast_to(image.mean(axis=(1, 2), keepdims=True), image.shape)


def explain_one(model, image, column, segmentation_func=None, **options):
    """The map (H, W) of one image and the details, in NumPy."""
    found, details = MarginSaliency(model, segmentation_func).attribute(
        image, target=column, return_details=True, **options
    )
    assert torch.equal(found, found[:, :1].expand_as(found))
    return found[0, 0].numpy(), details


def evidence_of(stage, score, image, baseline, n_neighbors):
    """Evidence of a round, whose masked copies are scored anew."""
    domain = stage.domain
    (masks,) = domain.masks(torch.arange(len(domain)))
    scores = [score(reference.masked(image, baseline, mask)) for mask in masks.numpy()]
    np.testing.assert_allclose(stage.scores, scores, **EXACT)
    presence = domain.presence.numpy()
    sizes = domain.sizes.numpy()
    weights = knn_weights(sizes[:, None], n_neighbors)
    filtered = high_pass(weights, np.array(scores), "random_walk")
    np.testing.assert_allclose(stage.influence, filtered**2, rtol=1e-7, atol=1e-16)
    return reference.cross_energy(
        scores, presence, sizes, domain.kinds.numpy(), n_neighbors
    )


@pytest.mark.parametrize("size", [(80, 64), (16, 24)])
def test_few_soft_unions_are_one_round_of_cross_energy(size):
    image, model = models.images(1, 3, *size), models.conv(seed=5)
    found, details = explain_one(model, image, 1, n_evaluations=76, seed=7)
    (stage,), score = details.stages[0], numpy_score(model, 1)
    assert len(stage.scores) == 75
    pixels = image[0].numpy()
    n_neighbors = 75 // union_form._NEIGHBOR_SHARE
    evidence = evidence_of(stage, score, pixels, mean_colour(pixels), n_neighbors)
    deviation = union_form._BLUR_CELLS * PATCHES_A_CELL[2]
    coarse = reference.blurred(evidence.reshape(coarse_shape(size)), deviation)
    np.testing.assert_allclose(found, reference.enlarged(coarse, size), **DERIVED)

    generator = torch.Generator().manual_seed(7)  # the unions come from the seed
    tents = TentUnions(75, size, generator, image.device, image.dtype)
    assert torch.equal(tents.presence, stage.domain.presence)


@pytest.mark.parametrize("size", [(20, 16), (16, 24)])
@pytest.mark.parametrize("deletion", [False, True])
@pytest.mark.parametrize(
    ("n_evaluations", "with_prior"), [(160, False), (641, False), (70, True)]
)
def test_varied_unions_are_explained_together(
    size, n_evaluations, with_prior, deletion
):
    image, model = models.images(1, 3, *size), models.conv(seed=5)
    prior, options = None, {"n_evaluations": n_evaluations, "deletion": deletion}
    if with_prior:
        focus = 0.2 + models.images(1, 1, *coarse_shape(size), seed=8)
        options["prior"] = focus
        prior = focus.numpy().reshape(1, -1)
    found, details = explain_one(model, image, 1, seed=7, **options)
    stages, score = details.stages[0], numpy_score(model, 1)
    pixels, patches = image[0].numpy(), coarse_shape(size)
    cell = [
        n * min(size) / CELLS[2] / side for n, side in zip(patches, size, strict=True)
    ]
    kernel = np.kron(
        *(
            reference.kernel_of_axis(
                n, varied._CELLS_A_KERNEL * of_axis, joint._SMALLEST_SHARE
            )
            for n, of_axis in zip(patches, cell, strict=True)
        )
    )
    before = torch.zeros(patches[0] * patches[1]) if prior is None else focus.flatten()
    strengths = varied._STRENGTHS_OF_PRIOR if with_prior else varied._STRENGTHS
    generator = torch.Generator().manual_seed(7)
    rounds, share = [], varied._MOST_DELETING if deletion else 0.0
    assert len(stages) == len(strengths)
    own = score(pixels)
    for stage, strength in zip(stages, strengths, strict=True):
        domain, count = stage.domain, len(stage.scores)
        if rounds:
            so_far = np.concatenate([of_round[0] for of_round in rounds])
            trust = reference.trust(own, so_far, varied._TRUSTED_SHARE)
            strength = tuple(trust * end for end in strength)
        deleting = share if any(strength) else 0.0
        drawn = FocusedUnions(
            before.double(), count, size, generator, strength, deleting
        )
        torch.testing.assert_close(drawn.presence, domain.presence, **SOLVED)
        kinds = domain.kinds.numpy()
        n_deleting = round(round(deleting * count, 6))
        assert kinds.sum() == (n_deleting if n_deleting > 1 else 0)
        (masks,) = domain.masks(torch.arange(count))
        scores = [
            score(reference.masked(pixels, mean_colour(pixels), mask))
            for mask in masks.numpy()
        ]
        np.testing.assert_allclose(stage.scores, scores, **EXACT)
        sizes = domain.sizes.numpy()
        rounds.append((np.array(scores), domain.presence.numpy(), sizes, kinds))
        for kind in np.unique(kinds):
            alike = kinds == kind
            n_neighbors = max(1, min(count // joint._NEIGHBOR_SHARE, alike.sum() - 1))
            weights = knn_weights(sizes[alike, None], n_neighbors)
            filtered = high_pass(weights, np.array(scores)[alike], "random_walk")
            np.testing.assert_allclose(
                stage.influence[alike], filtered**2, rtol=1e-6, atol=1e-14
            )
        # The next ones: as many of a kind as there is room to its best.
        taken = [s for s, kind in zip(scores, kinds, strict=True) if kind] or scores
        kept = [s for s, kind in zip(scores, kinds, strict=True) if not kind]
        below = np.mean(taken) - min(scores)
        above = max(scores) - np.mean(kept)
        evidence, error, ratio = reference.joint_evidence(
            rounds,
            kernel,
            cell[0] * cell[1],
            regression.NOISES,
            regression.RATIOS,
            prior,
        )
        if share:
            share = min(varied._MOST_DELETING, below / (above + below)) / ratio
        before = torch.from_numpy(evidence)
    root = np.sqrt((error**2).mean())
    levels = [
        reference.noise_level(side * evidence, root, shrinkage._FALSE_DISCOVERIES)
        for side in (1, -1)
    ]
    expected = reference.without_noise(
        reference.enlarged(evidence.reshape(patches), size),
        *levels,
        shrinkage._NOT_SURE,
    )
    scale = abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, **SOLVED)


@pytest.mark.parametrize(
    ("n_evaluations", "rounds"),
    [
        (150, [149]),
        (151, [37, 38, 37, 38]),
        (200, [49, 50, 50, 50]),
        (800, [199, 200, 200, 200]),
    ],
)
def test_rounds_share_the_budget(n_evaluations, rounds):
    image, model = models.images(1, 3, 16, 16), models.conv()
    _, details = explain_one(model, image, 0, n_evaluations=n_evaluations)
    assert [len(stage.scores) for stage in details.stages[0]] == rounds
    assert details.n_forward == n_evaluations


def test_region_unions_are_means_over_partitions():
    image, model = models.images(1), models.conv()
    partitions = torch.stack([models.tiles(24, 20, side) for side in (5, 7)])
    found, details = explain_one(
        model, image, 2, lambda _: partitions, n_evaluations=62
    )
    pixels, score = image[0].numpy(), numpy_score(model, 2)
    stages = details.stages[0]
    assert [len(stage.scores) for stage in stages] == [31, 30]
    painted = []
    for stage, partition in zip(stages, partitions.numpy(), strict=True):
        evidence = evidence_of(stage, score, pixels, mean_colour(pixels), 3)
        (masks,) = stage.domain.masks(torch.arange(len(stage.scores)))
        kept = stage.domain.presence.numpy()[:, partition]
        np.testing.assert_array_equal(masks.numpy(), kept[:, None])
        painted.append(evidence[partition])
    np.testing.assert_allclose(found, np.mean(painted, axis=0), **DERIVED)


@pytest.mark.parametrize("sided", ["below", "above", "both"])
@pytest.mark.parametrize("signed", [True, False])
def test_regions_against_the_dense_restatement(signed, sided):
    image, model = models.images(1), models.conv()
    partitions = torch.stack([models.tiles(24, 20, side) for side in (5, 7)])
    found, details = explain_one(
        model,
        image,
        0,
        lambda _: partitions,
        domain="regions",
        signed=signed,
        sided=sided,
        baselines=0.4,
    )
    expected = reference.regions_map(
        numpy_score(model, 0),
        image[0].numpy(),
        0.4,
        partitions.numpy(),
        signed=signed,
        sided=sided,
    )
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, **DERIVED)
    assert details.n_forward == 1 + 20 + 12


def test_the_papers_form():
    image, model = models.images(1), models.conv()
    # More regions than the paper's form has neighbours: 80, 30 and 9.
    partitions = torch.stack([models.tiles(24, 20, side) for side in (2, 4, 9)])
    found, details = explain_one(model, image, 1, lambda _: partitions, paper=True)
    expected = reference.regions_map(
        numpy_score(model, 1),
        image[0].numpy(),
        mean_colour(image[0].numpy()),
        partitions.numpy(),
        paper=True,
    )
    np.testing.assert_allclose(found, expected, **DERIVED)
    assert details.settings["domain"] == "regions"
    assert (details.settings["signed"], details.settings["sided"]) == (False, "both")


def test_all_unions_give_banzhaf_values():
    x, baseline = models.rows(3), models.rows(3, seed=9)
    model = models.tabular()
    found = MarginSaliency(model).attribute(
        x, baseline, target=[2, 0, 1], n_evaluations=33
    )
    for example, column in enumerate([2, 0, 1]):
        score = numpy_score(model, column)

        def value(union, example=example, score=score):
            pair = x[example].numpy(), baseline[example].numpy()
            return score(reference.masked(*pair, union))

        np.testing.assert_allclose(found[example], reference.banzhaf(value, 5), **EXACT)


def test_one_feature_may_span_inputs():
    one, two = models.rows(2, 5), models.images(2, 1, 16, 16)
    pixels = models.tiles(16, 16, 8)
    net, conv = models.tabular(), models.conv(1, classes=3)
    found = MarginSaliency(lambda a, b: net(a) * conv(b)).attribute(
        (one, two),
        (0.25, 0.25),
        target=1,
        feature_mask=(torch.tensor([7, 1, 1, 40, 7]), pixels),
        n_evaluations=70,
        softmax=False,
    )
    units = [0, 1, 2, 3, 7, 40]  # the pixels are features 0 to 3

    def value(union):
        kept = dict(zip(units, union, strict=True))
        first = np.array([kept[i] for i in (7, 1, 1, 40, 7)])
        second = np.vectorize(kept.get)(pixels.numpy())
        with torch.no_grad():
            a = torch.from_numpy(reference.masked(one[1].numpy(), 0.25, first))
            b = torch.from_numpy(reference.masked(two[1].numpy(), 0.25, second))
            return float((net(a[None]) * conv(b[None]))[0, 1])

    values = dict(zip(units, reference.banzhaf(value, 6), strict=True))
    expected = np.array([values[i] for i in (7, 1, 1, 40, 7)])
    np.testing.assert_allclose(found[0][1], expected, **EXACT)
    expected = np.vectorize(values.get)(pixels.numpy())
    np.testing.assert_allclose(found[1][1, 0], expected, **EXACT)


def test_a_linear_model_has_its_weights_times_the_difference():
    x, weights = models.rows(4, 6), models.rows(6, 2, seed=11)
    baseline = models.rows(1, 6, seed=12)
    found = MarginSaliency(lambda rows: rows @ weights - 3).attribute(
        x, baseline, target=1, n_evaluations=65, softmax=False
    )
    torch.testing.assert_close(found, weights[:, 1] * (x - baseline), **EXACT)


def test_names_of_features_mean_nothing():
    x, model = models.rows(2), models.tabular()
    explainer = MarginSaliency(model)
    found = explainer.attribute(x, target=0, n_evaluations=40)
    renamed = explainer.attribute(
        x,
        target=0,
        feature_mask=torch.tensor([[30, -4, 17, 5, 900]]),
        n_evaluations=40,
    )
    torch.testing.assert_close(renamed, found, **EXACT)


def test_the_order_of_features_means_nothing():
    x, model = models.rows(2), models.tabular()
    order = torch.tensor([3, 0, 4, 1, 2])
    back = order.argsort()
    found = MarginSaliency(model).attribute(x, target=0, n_evaluations=40)
    shuffled = MarginSaliency(lambda rows: model(rows[:, back])).attribute(
        x[:, order], target=0, n_evaluations=40
    )
    torch.testing.assert_close(shuffled, found[:, order], **EXACT)


FORMS = {
    "soft unions": {},
    "unions": {"feature_mask": models.tiles(24, 20, 5)},
    "regions": {"feature_mask": models.tiles(24, 20, 5), "domain": "regions"},
}
over_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def map_of(score, form, **options):
    return MarginSaliency(score).attribute(
        models.images(1), softmax=False, n_evaluations=60, **form, **options
    )


@over_forms
def test_the_map_has_the_unit_of_the_score(form):
    model = models.conv(classes=1)
    found = map_of(model, form)
    assert found.abs().max() > 0
    assert torch.equal(map_of(lambda x: 4 * model(x), form), 4 * found)
    shifted = map_of(lambda x: model(x) + 2, form)
    torch.testing.assert_close(shifted, found, rtol=1e-7, atol=1e-11)
    if form:  # later rounds follow the first's sign
        assert torch.equal(map_of(lambda x: -model(x), form), -found)


@over_forms
def test_unsigned_maps_are_absolute(form):
    model = models.conv(classes=1)
    found, unsigned = (map_of(model, form, signed=s) for s in (True, False))
    assert (unsigned >= 0).all()
    if form.get("domain") != "regions":  # there the regions' saliency is absolute
        assert (found < 0).any()
        assert torch.equal(unsigned, found.abs())


def test_the_softmax_is_of_the_whole_row():
    x, model = models.rows(2), models.tabular()
    found = MarginSaliency(model).attribute(x, target=1, n_evaluations=40)
    own = MarginSaliency(lambda rows: model(rows).softmax(dim=1)[:, 1]).attribute(
        x, n_evaluations=40
    )
    torch.testing.assert_close(found, own, **EXACT)
