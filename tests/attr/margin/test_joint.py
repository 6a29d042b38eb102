"""One map for the unions of all rounds: against NumPy, and its laws."""

import math

import numpy as np
import pytest
import torch

from captum_margin.attr.margin import joint, regression
from captum_margin.attr.margin.joint import JointEvidence
from captum_margin.attr.margin.shrinkage import noise_levels, without_noise
from tests.reference import margin_saliency_reference as reference

SHAPE, CELL, KERNEL = (9, 12), (2.0, 2.5), 0.75
N_PATCHES = math.prod(SHAPE)
DOUBLE = torch.float64


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=DOUBLE)


def rounds(counts=(40, 25), noise=0.3, seed=0):
    """Rounds of unions of a map that is smooth, and scores with noise."""
    truth = true_map()
    made = []
    for number, count in enumerate(counts):
        presence = draws(count, N_PATCHES, seed=seed + number)
        presence = (presence > draws(count, 1, seed=seed + 50 + number)).to(DOUBLE)
        sizes = presence.sum(dim=1)
        scores = presence @ truth + 0.02 * sizes
        scores = scores + noise * (draws(count, seed=seed + 90 + number) - 0.5)
        made.append((scores, presence, sizes, torch.zeros(count, dtype=torch.int64)))
    return made


def of_second_kind(count, noise, seed=30):
    """A round of unions of the second kind."""
    ((scores, presence, sizes, kinds),) = rounds((count,), noise, seed)
    return scores, presence, sizes, kinds + 1


def true_map():
    y, x = torch.meshgrid(torch.arange(9), torch.arange(12), indexing="ij")
    bump = torch.exp(-((y - 3.0) ** 2 + (x - 8.0) ** 2) / 8)
    return (bump - 0.5 * bump.flip(1)).flatten().to(DOUBLE)


def gathered(made, *priors):
    stacked = None if not priors or priors[0] is None else torch.stack(priors)
    one = JointEvidence(SHAPE, CELL, KERNEL, stacked)
    for of_round in made:
        one.add(*of_round)
    return one


@pytest.mark.parametrize("n_priors", [0, 1, 2, 4])
@pytest.mark.parametrize("counts", [(40, 25), (12,), (150, 30)])
@pytest.mark.parametrize("noise_of_second", [None, 0.0, 6.0])
def test_against_a_gaussian_process(n_priors, counts, noise_of_second):
    made = rounds(counts)
    if noise_of_second is not None:
        made = [*made, of_second_kind(30, noise_of_second)]
    priors = [draws(N_PATCHES, seed=7 + number) for number in range(n_priors)]
    kernel = np.kron(
        *(
            reference.kernel_of_axis(n, KERNEL * cell, joint._SMALLEST_SHARE)
            for n, cell in zip(SHAPE, CELL, strict=True)
        )
    )
    expected, error, ratio = reference.joint_evidence(
        [tuple(part.numpy() for part in of_round) for of_round in made],
        kernel,
        CELL[0] * CELL[1],
        regression.NOISES,
        regression.RATIOS,
        np.stack([prior.numpy() for prior in priors]) if priors else None,
        joint._NEIGHBOR_SHARE,
    )
    one = gathered(made, *priors)
    np.testing.assert_allclose(one.evidence(), expected, rtol=1e-6, atol=1e-7)
    root = np.sqrt((error**2).mean())
    assert one.standard_error() == pytest.approx(root, rel=1e-6)
    assert one.noise_ratio() == pytest.approx(ratio, rel=1e-6)


def test_filtered_scores_are_those_of_each_round():
    one = JointEvidence(SHAPE, CELL, KERNEL)
    for scores, presence, sizes, kinds in rounds():
        weights = reference.knn_weights(sizes.numpy()[:, None], len(sizes) // 10)
        expected = reference.high_pass(weights, scores.numpy(), "random_walk")
        found = one.add(scores, presence, sizes, kinds)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_only_unions_of_one_kind_are_compared():
    (first, second), close = rounds((40, 25)), {"rtol": 1e-9, "atol": 1e-12}
    scores, presence, sizes, kinds = (
        torch.cat(parts) for parts in zip(first, second, strict=True)
    )
    kinds[40:] = 1
    mixed = torch.randperm(65, generator=torch.Generator().manual_seed(2))
    scores, presence, sizes, kinds = (
        values[mixed] for values in (scores, presence, sizes, kinds)
    )
    one, more = (JointEvidence(SHAPE, CELL, KERNEL) for _ in range(2))
    found = one.add(scores, presence, sizes, kinds)
    for kind in (0, 1):
        alike = kinds == kind
        # Like neighbours are a share of all unions of the round.
        weights = reference.knn_weights(sizes[alike].numpy()[:, None], 65 // 10)
        expected = reference.high_pass(weights, scores[alike].numpy(), "random_walk")
        np.testing.assert_allclose(found[alike], expected, rtol=1e-10, atol=1e-12)
    # A kind that scores more as a whole says nothing of the parts.
    more.add(scores + 5 * kinds, presence, sizes, kinds)
    torch.testing.assert_close(more.evidence(), one.evidence(), **close)
    assert more.standard_error() == pytest.approx(one.standard_error())


def test_how_noisy_the_second_kind_is_shows():
    ratios = {}
    for noise in (0.2, 2.0, 2.0 * 3, 2.0 * 30):
        made = [*rounds((150,), noise=2.0), of_second_kind(150, noise)]
        ratios[noise] = gathered(made).noise_ratio()
    # Of the noise's variances: never below 1, and 30 at most.
    assert ratios[0.2] == pytest.approx(1.0, abs=0.01)
    assert ratios[2.0] == pytest.approx(1.0, abs=0.2)
    assert 7 < ratios[6.0] < 15
    assert ratios[60.0] == pytest.approx(30.0, abs=0.01)
    assert gathered(rounds()).noise_ratio() == gathered([]).noise_ratio() == 1.0


def test_what_a_noisier_kind_says_is_believed_less():
    """Unions of the second kind that contradict the first: of another map."""

    def away(kind):
        made = rounds((200,), noise=1.0)
        if kind is not None:
            other = true_map().view(SHAPE).flip(1).flatten()
            _, presence, sizes, kinds = of_second_kind(200, 0.0)
            noise = 6.0 * (draws(200, seed=9) - 0.5)
            made.append((presence @ other + noise, presence, sizes, kinds * kind))
        found = gathered(made).evidence()
        return 1 - float(torch.stack([found, true_map()]).corrcoef()[0, 1])

    alone, as_the_second, as_the_first = (away(kind) for kind in (None, 1, 0))
    assert alone < as_the_second < as_the_first / 2


def test_a_union_alone_in_its_kind_says_nothing():
    made = rounds()
    one = gathered([*made, of_second_kind(1, 0.0)])
    assert torch.equal(one.evidence(), gathered(made).evidence())
    assert one.standard_error() == gathered(made).standard_error()
    nothing = gathered([of_second_kind(1, 0.0)])
    assert nothing.evidence().eq(0).all() and nothing.standard_error() == 0


def test_a_smooth_map_is_found_and_its_unit_is_a_cells():
    found = gathered(rounds((200, 200), noise=0.0)).evidence()
    expected = (true_map() + 0.02) * CELL[0] * CELL[1]
    error = (found - expected).square().mean() / expected.var()
    assert error < 0.02


def test_scores_and_the_priors_mean_and_scale():
    made, prior = rounds(), draws(N_PATCHES, seed=3)
    found = gathered(made, prior).evidence()
    scaled = [(4 * scores, *others) for scores, *others in made]
    assert torch.equal(gathered(scaled, prior).evidence(), 4 * found)
    shifted = [(scores + 3, *others) for scores, *others in made]
    for other in (gathered(shifted, prior), gathered(made, 5 * prior - 2)):
        torch.testing.assert_close(other.evidence(), found, rtol=1e-9, atol=1e-12)


def test_of_a_true_prior_all_is_believed():
    # Too few unions to tell the map by themselves.
    expected = (true_map() + 0.02) * CELL[0] * CELL[1]

    def error(prior):
        errors = []
        for seed in range(6):
            found = gathered(rounds((16,), noise=0.0, seed=seed), prior).evidence()
            errors.append(float((found - expected).square().mean() / expected.var()))
        return sum(errors) / len(errors)

    assert error(true_map()) < 0.02 < 0.2 < error(None)


def test_a_perfect_prior_leaves_nothing():
    """Scores that are exactly what a prior says, as far as fields show it."""
    one = gathered([], true_map())
    shown = one._field(one.priors[0])
    (_, presence, sizes, kinds), *_ = rounds((30,))
    for scale in (1e-6, 1.0, 3.0):
        scores = scale * presence @ shown
        found = gathered([(scores, presence, sizes, kinds)], true_map()).evidence()
        expected = scale * shown * CELL[0] * CELL[1]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * scale)


def test_noise_is_what_a_prior_leaves():
    """Of a true prior, noisy scores are taken for noise, and not for another map."""

    def away(prior):
        found = gathered(rounds((60,), noise=8.0, seed=1), prior).evidence()
        return 1 - float(torch.stack([found, true_map()]).corrcoef()[0, 1])

    assert away(true_map()) < 0.05 < 0.1 < away(None)


def test_a_right_prior_helps_and_a_wrong_one_is_dropped():
    def error(prior, seed):
        found = gathered(rounds((40,), noise=4.0, seed=seed), prior).evidence()
        both = torch.stack([found, true_map()])
        return 1 - float(both.corrcoef()[0, 1])

    near = true_map() + 0.3 * a_smooth_map()
    gains = [error(None, seed) - error(near, seed) for seed in range(8)]
    assert sum(gains) / 8 > 0.05
    made = rounds((200, 200), noise=0.0)
    without = gathered(made).evidence()
    torch.testing.assert_close(gathered(made, -true_map()).evidence(), without)


def test_priors_are_weighed_each():
    made, near = rounds((40,), noise=4.0, seed=2), true_map()
    other = draws(N_PATCHES, seed=4)
    both = gathered(made, near, other).evidence()
    # In any order, any scale, and the same twice is no more than once.
    for same in ((other, near), (3 * near + 1, other), (near, other, near)):
        torch.testing.assert_close(gathered(made, *same).evidence(), both)
    # What is contradicted is dropped, and what is left is as if it had not been there.
    alone = gathered(made, near).evidence()
    torch.testing.assert_close(gathered(made, near, -near).evidence(), alone)
    # A sum of two maps is found from both, better than from either.
    bump = true_map().clamp(min=0)
    dent = true_map().clamp(max=0)

    def error(*priors):
        errors = []
        for seed in range(6):
            found = gathered(rounds((16,), noise=0.5, seed=seed), *priors).evidence()
            errors.append(1 - float(torch.stack([found, true_map()]).corrcoef()[0, 1]))
        return sum(errors) / len(errors)

    assert error(bump, dent) < min(error(bump), error(dent)) / 2


def test_errors_are_as_large_as_they_say():
    """Maps drawn as the model thinks they are: how far from them what is found is."""
    kernel = np.kron(
        *(
            reference.kernel_of_axis(n, KERNEL * cell, joint._SMALLEST_SHARE)
            for n, cell in zip(SHAPE, CELL, strict=True)
        )
    )
    root = torch.from_numpy(np.linalg.cholesky(kernel + 1e-9 * np.eye(len(kernel))))
    generator = torch.Generator().manual_seed(0)
    away = []
    for seed in range(30):
        truth = root @ torch.randn(N_PATCHES, generator=generator, dtype=DOUBLE)
        made = []
        for _, presence, sizes, kinds in rounds((60,), seed=seed):
            noise = torch.randn(60, generator=generator, dtype=DOUBLE)
            made.append((presence @ truth + 3 * noise, presence, sizes, kinds))
        one = gathered(made)
        found = one.evidence()
        difference = (found - truth * CELL[0] * CELL[1]) / one.standard_error()
        # What all patches have in common is estimated apart, from few numbers.
        away.append(difference - difference.mean())
    spread = torch.cat(away).std()
    assert 0.85 < spread < 1.15


@pytest.mark.parametrize(
    ("height", "noise", "least"), [(1.0, 3.0, 0.45), (2.0, 3.0, 0.75), (4.0, 1.0, 0.99)]
)
def test_of_what_stands_out_of_the_noise_little_is_noise(height, noise, least):
    """Spots on nothing: how much of what is shown is nothing, how much of them is."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(9), torch.arange(12), indexing="ij")
    by_chance, found, by_one_error = [], [], []
    for seed in range(30):
        row = torch.randint(1, 8, (), generator=generator)
        column = torch.randint(1, 11, (), generator=generator)
        away = ((y - row) ** 2 + (x - column) ** 2).flatten().sqrt()
        truth = height * (1 - away**2 / 9).clamp(min=0).to(DOUBLE)
        # Within a patch of a spot what is shown is the spot, blurred by the kernel.
        nothing = away >= 4
        made = []
        for _, presence, sizes, kinds in rounds((60, 60), seed=seed):
            drawn = torch.randn(60, generator=generator, dtype=DOUBLE)
            made.append((presence @ truth + noise * drawn, presence, sizes, kinds))
        one = gathered(made)
        evidence, error = one.evidence(), one.standard_error()
        shown = without_noise(evidence, noise_levels(evidence, error)) > 0
        by_chance.append(float(nothing[shown].double().mean()))
        found.append(float(shown[truth > 0].double().mean()))
        by_one_error.append(float(nothing[evidence > error].double().mean()))
    assert sum(by_chance) / 30 < 0.1 and sum(found) / 30 > least
    assert sum(by_one_error) > 2 * sum(by_chance)


def a_smooth_map():
    return true_map().view(SHAPE).flip(0).flatten()
