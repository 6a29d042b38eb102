"""Slow, independent NumPy restatements of LabelNoise and of what its votes know.

Nothing here imports captum_margin. Regressions are made anew without each sample, least
squares are searched for, and pairs are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm

from tests.reference.influence_reference import shifted

PENALTIES = [4.0**power for power in range(-8, 2)]

Voter = Callable[[np.ndarray], np.ndarray]


def square_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|² of all pairs, by their differences."""
    return np.array([[((one - other) ** 2).sum() for other in b] for one in a])


def gaussian_kernel(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """exp(-gamma |a - b|²)."""
    return np.exp(-gamma * square_distances(a, b))


def gamma_of(points: np.ndarray) -> float:
    """1 / 2 s², s the median distance of two points that differ; 1/2 if none do."""
    apart = square_distances(points, points)[np.triu_indices(len(points), 1)]
    apart = np.sort(apart[apart > 0])
    return 0.5 / apart[(len(apart) - 1) // 2] if len(apart) else 0.5


def nystrom(
    a: np.ndarray, b: np.ndarray, landmarks: np.ndarray, gamma: float
) -> np.ndarray:
    """The kernel as the landmarks see it, k(a, Z) k(Z, Z)^+ k(Z, b)."""
    among = gaussian_kernel(landmarks, landmarks, gamma)
    inverse = np.linalg.pinv(among, rcond=1e-10, hermitian=True)
    to_a = gaussian_kernel(a, landmarks, gamma)
    return to_a @ inverse @ gaussian_kernel(landmarks, b, gamma)


def ridge(
    among: np.ndarray, f: np.ndarray, to: np.ndarray, penalty: float
) -> np.ndarray:
    """Kernel ridge with a free constant: (K + λ 1) a + b = f, where a adds up to 0.

    Args:
        among: Kernel (L, L) of those who are learnt from.
        f: Their values (L, C).
        to: Kernel (n, L) of those who are asked about.
        penalty: λ.

    Returns:
        to a + b, (n, C).
    """
    n = len(among)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = among + penalty * np.eye(n)
    system[n, n] = 0
    solved = np.linalg.solve(system, np.vstack([f, np.zeros((1, f.shape[1]))]))
    return to @ solved[:n] + solved[n]


def largest_eigenvalue(among: np.ndarray) -> float:
    """Of the scatter of what the kernel is the product of, about its mean."""
    centring = np.eye(len(among)) - 1 / len(among)
    return float(np.linalg.eigvalsh(centring @ among @ centring)[-1])


def left_out(among: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, float]:
    """Of each row by a regression on the others; with the λ that errs least."""
    n, largest = len(f), largest_eigenvalue(among)
    best, least, chosen = f, np.inf, 0.0
    for share in PENALTIES:
        votes = np.zeros_like(f, dtype=float)
        for i in range(n):
            rest = np.arange(n) != i
            votes[i] = ridge(
                among[np.ix_(rest, rest)], f[rest], among[[i]][:, rest], share * largest
            )[0]
        if ((f - votes) ** 2).sum() < least:
            least = ((f - votes) ** 2).sum()
            best, chosen = votes, share * largest
    return best, chosen


def all_votes(
    points: np.ndarray, f: np.ndarray, new: np.ndarray | None = None
) -> np.ndarray:
    """Votes of all samples on each other, those on ``new`` behind; not bounded.

    All are learnt from, and all are landmarks.
    """
    gamma = gamma_of(points)
    among = nystrom(points, points, points, gamma)
    votes, penalty = left_out(among, f)
    if new is None:
        return votes
    to = nystrom(new, points, points, gamma)
    return np.vstack([votes, ridge(among, f, to, penalty)])


def neighbor_votes(
    weights: np.ndarray, f: np.ndarray, shift: str, hops: int = 1
) -> np.ndarray:
    """A^p f, divided by the sum of the votes where that is more than one."""
    total = np.ones((len(f), 1))
    for _ in range(hops):
        f, total = shifted(weights, f, shift), shifted(weights, total, shift)
    return f / np.maximum(total, 1)


def nearest_mean(f: np.ndarray, votes: Sequence[np.ndarray]) -> np.ndarray:
    """The weights >= 0 of sum one that bring the mean of the votes nearest to f."""
    count = len(votes)
    apart = np.stack([(v - f).ravel() for v in votes], axis=1)
    gram = apart.T @ apart
    gram = gram / max(np.trace(gram), 1e-300)
    found = minimize(
        lambda w: w @ gram @ w,
        np.full(count, 1 / count),
        jac=lambda w: 2 * gram @ w,
        bounds=[(0, 1)] * count,
        constraints={
            "type": "eq",
            "fun": lambda w: w.sum() - 1,
            "jac": lambda w: np.ones(count),
        },
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    return np.asarray(found.x)


def voter_weights(f: np.ndarray, votes: Sequence[np.ndarray]) -> np.ndarray:
    """Half of them equal, half the nearest mean's."""
    return (1 / len(votes) + nearest_mean(f, votes)) / 2


def trust(f: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """2 · own / (own + most); 1 where there is no vote at all."""
    out = np.ones(len(f))
    for j, (row, label) in enumerate(zip(votes, f.argmax(axis=1), strict=True)):
        own, most = max(row[label], 0), row.max()
        if own + most > 0:
            out[j] = 2 * own / (own + most)
    return out


def rounds_of_votes(
    f: np.ndarray, voters: Sequence[Voter], rounds: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """The mean of the votes in the last round and in the first; the last; weights."""
    n, trusted, means, weights = len(f), np.ones(len(f)), [], None
    for _ in range(rounds):
        votes = [voter(trusted[:, None] * f) for voter in voters]
        if weights is None:
            weights = voter_weights(f, [v[:n] for v in votes])
        mean = sum(w * v for w, v in zip(weights, votes, strict=True))
        trusted = trust(f, mean[:n])
        means.append(mean)
    assert weights is not None
    return means[-1], means[0], votes, weights


def label_noise(
    weights: np.ndarray | None,
    labels: np.ndarray,
    shift: str,
    trusted: bool,
    points: np.ndarray | None = None,
    pred_probs: np.ndarray | None = None,
    hops: int = 1,
) -> np.ndarray:
    """Squared length of f - V T f; each vote takes part that is given.

    Of probabilities, f and V have two channels: the given class, and the others.
    """
    f = np.zeros((len(labels), int(labels.max()) + 1))
    f[np.arange(len(labels)), labels] = 1
    voters: list[Voter] = []
    if weights is not None:
        voters.append(lambda g: neighbor_votes(weights, g, shift, hops))
    if points is not None:
        voters.append(lambda g: all_votes(points, g).clip(0, 1))
    if pred_probs is not None:
        voters.append(lambda _: pred_probs)
    mean, _, votes, found = rounds_of_votes(f, voters, 3 if trusted else 1)
    if pred_probs is None:
        return ((f - mean) ** 2).sum(axis=1)
    given = pred_probs[np.arange(len(labels)), labels]
    energy = (1 - given) ** 2 + (0 - (1 - given)) ** 2
    if len(votes) == 1:
        return energy
    shares = found[:-1] / found[:-1].sum()
    others = sum(w * v for w, v in zip(shares, votes[:-1], strict=True))
    return found[-1] * energy + (1 - found[-1]) * ((f - others) ** 2).sum(axis=1)


def confident_joint(labels: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Counts (C, C) of given and confident class, scaled to the given ones.

    Northcutt, Jiang, Chuang, JAIR 2021, section 3.1: confident of class c is who has at
    least the mean probability of c among the samples given c; of several such classes
    the most probable counts. A probability of 0.7 is enough for any class.
    """
    n, classes = votes.shape
    p = np.array([row / row.sum() if row.sum() > 0 else row for row in votes])
    threshold = [
        min(0.7, p[labels == c, c].mean()) if (labels == c).any() else 0
        for c in range(classes)
    ]
    joint = np.zeros((classes, classes))
    for i in range(n):
        able = [c for c in range(classes) if p[i, c] >= threshold[c] and p[i, c] > 0]
        if able:
            joint[labels[i], max(able, key=lambda c: p[i, c])] += 1
    for c in range(classes):
        if joint[c].sum():
            joint[c] *= (labels == c).sum() / joint[c].sum()
    return joint


def number_wrong(labels: np.ndarray, votes: np.ndarray) -> int:
    """Outside the diagonal of the joint."""
    joint = confident_joint(labels, votes)
    return round(joint.sum() - np.trace(joint))


def mann_whitney(mine: np.ndarray, others: np.ndarray) -> float:
    """Chance that ``mine`` would be so much larger: normal, with ties and continuity.

    U counts the pairs that mine wins, ties half.
    """
    u = sum((a > others).sum() + 0.5 * (a == others).sum() for a in mine)
    m, n = len(mine), len(others)
    _, ties = np.unique(np.concatenate([mine, others]), return_counts=True)
    total = m + n
    spread = m * n / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    if spread == 0:
        return 1.0
    return float(norm.sf((u - m * n / 2 - 0.5) / np.sqrt(spread)))
