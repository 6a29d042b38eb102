"""Where prototypes start: a share for each class, and samples spread over its data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_array
from torch import Tensor

from captum_margin._numbers import middle
from captum_margin.signal._kernel import check_block_size, distance_blocks, sum_dtype
from captum_margin.signal._sparse_rows import as_sparse, minus_products, square_norms

_EARLY = 100  # picks that decide which clusters are found at all
_TRIALS = (10, 4)  # samples drawn for each of the early picks, and of the others
_ITERATIONS = 10  # of k-means; the moves on the graph do the rest


def class_shares(sizes: Tensor, n: int) -> list[int]:
    """Splits n equally among classes of these sizes, no share above its class.

    What a small class cannot take, and the remainder, goes to the larger ones.
    """
    shares = [0] * sizes.numel()
    order = sizes.argsort(stable=True).tolist()
    for place, c in enumerate(order):
        shares[c] = min(int(sizes[c]), n // (len(order) - place))
        n -= shares[c]
    return shares


def spread_seeds(
    x: Tensor, n: int, generator: torch.Generator, block_size: int | None
) -> Tensor:
    """Finds n different samples near the centres of k-means, (n,).

    k-means runs on the CPU wherever x is.
    """
    if n >= x.size(0):
        return torch.arange(x.size(0), device=x.device)
    if n == 0:
        return torch.arange(0, device=x.device)
    is_sparse = as_sparse(x) is not None  # what is centred is dense
    picks = _far_picks(x if is_sparse else x - middle(x), n, generator)
    centres = _sparse_centres(x, picks) if is_sparse else _centres(x, picks)
    rows = check_block_size(block_size, x.size(0))
    blocks = distance_blocks(centres, x, rows)
    nearest = torch.cat([square.argmin(dim=1) for _, square in blocks])
    # Two centres may share a sample: the first picks take the places left.
    queue = torch.cat([nearest, picks])
    order = torch.arange(queue.numel(), device=x.device)
    first = order.new_full((x.size(0),), queue.numel())
    first = first.scatter_reduce(0, queue, order, "amin")
    return queue[first.sort().values[:n]]


def _centres(x: Tensor, picks: Tensor) -> Tensor:
    """Those of SciPy's k-means from the picked samples on, (n, F)."""
    with warnings.catch_warnings():
        # A cluster that is left empty, of duplicates say, keeps its centre.
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        found, _ = kmeans2(
            x.cpu().numpy(), x[picks].cpu().numpy(), _ITERATIONS, minit="matrix"
        )
    return torch.from_numpy(found).to(x)


def _sparse_centres(x: Any, picks: Tensor) -> Tensor:
    """The same of sparse samples, which scikit-learn's k-means takes."""
    from sklearn.cluster import KMeans

    start = x[picks].to_dense().numpy()
    rows = x.tocsr()
    # It wants 32-bit indices, which SciPy does not choose everywhere.
    indices, pointer = (
        part.astype(np.int32, copy=False) for part in (rows.indices, rows.indptr)
    )
    rows = csr_array((rows.data, indices, pointer), shape=rows.shape)
    means = KMeans(
        len(picks), init=start, n_init=1, max_iter=_ITERATIONS, tol=0, random_state=0
    )  # with given centres nothing is random; so it leaves NumPy's generator alone
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters")
        return torch.from_numpy(means.fit(rows).cluster_centers_)


def _far_picks(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draws n different samples far from the earlier ones (greedy k-means++).

    The chance of a sample is its squared distance to the nearest pick; of a few drawn
    the one that leaves the smallest sum of them is taken (Arthur and Vassilvitskii,
    2007). Each pick depends on all earlier ones, so they are a loop; SciPy's takes the
    distances to all earlier picks again for each, O(n²) of them for every sample.
    """
    norms = square_norms(x)
    start = torch.randint(x.size(0), (1,), generator=generator).to(x.device)
    picks = [start]
    square = _square_distances(x, norms, start)[:, 0]
    left = torch.ones_like(square, dtype=sum_dtype(x))
    for count in range(1, n):
        left[picks[-1]] = 0
        chance = (square * left).cumsum(dim=0)
        if not bool(chance[-1] > 0):  # only duplicates of picks are left
            chance = left.cumsum(dim=0)
        # In proportion to the steps of the sum, none of which is at an earlier pick.
        below = torch.nextafter(chance[-1], torch.zeros_like(chance[-1]))
        trials = _TRIALS[0] if count < _EARLY else _TRIALS[1]
        draws = torch.rand(trials, generator=generator, dtype=torch.float64)
        draws = (draws.to(chance) * chance[-1]).clamp(max=below)
        drawn = torch.searchsorted(chance, draws, right=True)
        candidates = torch.minimum(
            square[:, None], _square_distances(x, norms, drawn)
        )  # (N, trials)
        best = candidates.sum(dim=0).argmin()
        picks.append(drawn[best, None])
        square = candidates[:, best].contiguous()
    return torch.cat(picks)


def _square_distances(x: Tensor, norms: Tensor, nodes: Tensor) -> Tensor:
    """Squared distances from all samples to a few of them, (N, len(nodes))."""
    square = minus_products(norms[:, None], x, x[nodes]) + norms[nodes]
    return square.clamp_(min=0)
