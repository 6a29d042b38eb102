"""Peers of bench_prototypes, from their papers.

K is the kernel matrix (N, N), with zeros between classes where it is local. Greedy
methods return their picks in order and the CPU seconds after each.
"""

from __future__ import annotations

import time
import warnings

import kmedoids
import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from sklearn.cluster import KMeans

Picks = tuple[list[int], list[float]]


def gaussian_kernel(x: np.ndarray, gamma: float) -> np.ndarray:
    """exp(-gamma |x - x'|²) of all pairs, (N, N) in float32."""
    norms = (x * x).sum(1)
    square = norms[:, None] + norms - 2 * x @ x.T
    square *= -gamma
    np.minimum(square, 0, out=square)
    return np.exp(square, out=square)


def mmd_critic(kernel: np.ndarray, n: int) -> Picks:
    """Greedy prototypes of MMD-critic (Kim et al., 2016), with running sums.

    Maximises J(S) = 2 / (n |S|) sum k(x_i, x_s) - 1 / |S|² sum k(x_s, x_s').
    """
    start = time.process_time()
    mean = kernel.mean(axis=1, dtype=np.float64)
    diagonal = kernel.diagonal().astype(np.float64)
    to_chosen = np.zeros(len(mean))  # sum of k(x, s) over the chosen
    first = second = 0.0
    chosen: list[int] = []
    seconds = []
    free = np.ones(len(mean), bool)
    for size in range(1, n + 1):
        value = 2 * (first + mean) / size
        value -= (second + 2 * to_chosen + diagonal) / size**2
        pick = int(np.where(free, value, -np.inf).argmax())
        first += mean[pick]
        second += 2 * to_chosen[pick] + diagonal[pick]
        to_chosen += kernel[pick]
        free[pick] = False
        chosen.append(pick)
        seconds.append(time.process_time() - start)
    return chosen, seconds


def mmd_critic_recomputed(kernel: np.ndarray, n: int) -> Picks:
    """The same picks, every sum over the chosen taken anew at each step."""
    start = time.process_time()
    mean = kernel.mean(axis=1, dtype=np.float64)
    diagonal = kernel.diagonal().astype(np.float64)
    chosen: list[int] = []
    seconds = []
    left = np.arange(len(mean))
    for size in range(1, n + 1):
        rows = kernel[chosen]  # (size - 1, N)
        to_chosen = rows[:, left].sum(axis=0, dtype=np.float64)
        second = rows[:, chosen].sum(dtype=np.float64)
        value = 2 * (mean[chosen].sum() + mean[left]) / size
        value -= (second + 2 * to_chosen + diagonal[left]) / size**2
        chosen.append(int(left[value.argmax()]))
        left = left[left != chosen[-1]]
        seconds.append(time.process_time() - start)
    return chosen, seconds


def protodash(kernel: np.ndarray, n: int) -> tuple[list[int], list[float], int]:
    """ProtoDash (Gurumoorthy et al., 2017): greedy, with non-negative weights.

    Picks the largest gradient of l(w) = w mu - w K w / 2, mu the mean kernel to all
    samples, then maximises l over the weights of the picks; also how often a weight
    came out as zero.
    """
    start = time.process_time()
    mean = kernel.mean(axis=1, dtype=np.float64)
    gradient = mean.copy()
    lower = np.zeros((n, n))  # Cholesky factor of K of the chosen
    half = np.zeros(n)  # lower^-1 mu of the chosen
    chosen: list[int] = []
    seconds = []
    bounded = 0
    free = np.ones(len(mean), bool)
    for size in range(n):
        pick = int(np.where(free, gradient, -np.inf).argmax())
        free[pick] = False
        row = solve_triangular(
            lower[:size, :size], kernel[pick, chosen].astype(np.float64), lower=True
        )
        lower[size, :size] = row
        lower[size, size] = np.sqrt(max(kernel[pick, pick] - row @ row, 1e-10))
        half[size] = (mean[pick] - row @ half[:size]) / lower[size, size]
        chosen.append(pick)
        factor, target = lower[: size + 1, : size + 1], half[: size + 1]
        # The maximum without bounds is that with bounds if no weight is negative.
        weights = solve_triangular(factor, target, lower=True, trans="T")
        if weights.min() < 0:
            weights, _ = nnls(factor.T, target, maxiter=100 * n)
            bounded += 1
        gradient = mean - weights @ kernel[chosen]
        seconds.append(time.process_time() - start)
    return chosen, seconds, bounded


def mmd_criticisms(kernel: np.ndarray, prototypes: list[int], n: int) -> list[int]:
    """Criticisms of MMD-critic: a large witness function, and diverse.

    Greedy on the sum of |mean k(x, x_i) - mean k(x, prototypes)| plus the log
    determinant of the kernel of the criticisms.
    """
    witness = np.abs(
        kernel.mean(axis=1, dtype=np.float64)
        - kernel[prototypes].mean(axis=0, dtype=np.float64)
    )
    free = np.ones(len(witness), bool)
    free[prototypes] = False
    # What each sample adds to the determinant: its residual on the chosen, by the
    # rows of an incremental Cholesky factor.
    residual = kernel.diagonal().astype(np.float64)
    rows = np.zeros((n, len(witness)))
    chosen: list[int] = []
    for size in range(n):
        value = witness + np.log(np.maximum(residual, 1e-10))
        pick = int(np.where(free, value, -np.inf).argmax())
        row = kernel[pick] - rows[:size, pick] @ rows[:size]
        rows[size] = row / np.sqrt(max(residual[pick], 1e-10))
        residual -= rows[size] ** 2
        free[pick] = False
        chosen.append(pick)
    return chosen


def by_class(y: np.ndarray, n: int):
    """Members of each class, and an equal share of n."""
    classes = np.unique(y)
    for c, label in enumerate(classes):
        yield np.flatnonzero(y == label), n // len(classes) + (c < n % len(classes))


def k_means_medoids(x: np.ndarray, y: np.ndarray, n: int, seed: int) -> list[int]:
    """The samples nearest to the centres of k-means in each class."""
    chosen: list[int] = []
    for members, share in by_class(y, n):
        if share == 0:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = KMeans(share, n_init=1, random_state=seed).fit(x[members])
        distance = model.transform(x[members])  # (members, share)
        chosen.extend(members[distance.argmin(axis=0)].tolist())
    return chosen


def k_medoids(x: np.ndarray, y: np.ndarray, n: int, seed: int) -> list[int]:
    """k-medoids in each class by FasterPAM, on unsquared distances."""
    chosen: list[int] = []
    for members, share in by_class(y, n):
        if share == 0:
            continue
        own = x[members]
        norms = (own * own).sum(1)
        square = norms[:, None] + norms - 2 * own @ own.T
        distance = np.sqrt(np.maximum(square, 0))
        found = kmedoids.fasterpam(distance, share, random_state=seed, n_cpu=1)
        chosen.extend(members[np.asarray(found.medoids, dtype=np.int64)].tolist())
    return chosen
