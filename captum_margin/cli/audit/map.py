"""Where each sample of the page lies on its map: those alike beside each other."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LANDMARKS = 2_000
"""Samples that the map is made of; more take minutes. Others go between these."""

_AXES = 50  # principal axes that distances are taken in
_PERPLEXITY = 30
_STEPS = 500
_NEAR = 5  # landmarks that say where another sample goes
_BLOCK = 4096
_FEWEST = 4  # samples that can be laid out at all


def lay_out(features: Tensor, metric: Literal["cosine", "euclidean"]) -> Tensor:
    """Places all samples on a square, those alike beside each other.

    2,000 of them at most, drawn at random, are laid out by t-SNE of their first
    principal axes. Each other sample goes where most of its five nearest landmarks are:
    into the middle of the three of these that lie together, for the mean of all five
    would be in empty space where they are of two groups. The same data, the same map.

    Args:
        features (Tensor): Shape (N, F), finite.
        metric (str): What distances of the features mean something.

    Returns:
        Tensor: Shape (N, 2), within [0, 1]; empty, (0, 2), where there are fewer than
        four samples, or all are the same.

    Cost: 4 CPU seconds for the landmarks, O(N F) for the rest.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    n = len(features)
    points = features.float().cpu()
    if metric == "cosine":
        points = torch.nn.functional.normalize(points, dim=1)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(n, generator=generator)[:LANDMARKS].sort().values
    landmarks = points[chosen].numpy()
    if n < _FEWEST or (landmarks == landmarks[0]).all():
        return torch.empty(0, 2)
    with threadpool_limits(limits=1):  # sums in another order make another map
        axes = min(_AXES, *landmarks.shape)
        pca = PCA(axes, random_state=0).fit(landmarks)
        placed = torch.from_numpy(_by_tsne(pca.transform(landmarks)))
        places = torch.empty(n, 2)
        for start in range(0, n, _BLOCK):
            rows = slice(start, start + _BLOCK)
            inner = torch.from_numpy(pca.transform(points[rows].numpy()))
            places[rows] = _between(inner, pca.transform(landmarks), placed)
    places[chosen] = placed
    middle = (places.amin(dim=0) + places.amax(dim=0)) / 2
    reach = (places - middle).abs().max().clamp(min=1e-30)
    return ((places - middle) / reach + 1) / 2


def _by_tsne(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    start = np.zeros((len(landmarks), 2), np.float32)
    first = landmarks[:, :2]
    start[:, : first.shape[1]] = 1e-4 * first / first[:, 0].std()
    layout = TSNE(
        perplexity=min(_PERPLEXITY, (len(landmarks) - 1) / 3),
        init=start,
        max_iter=_STEPS,
        random_state=0,
    )
    placed: NDArray[np.float32] = layout.fit_transform(landmarks)
    return placed.astype(np.float32)


def _between(points: Tensor, landmarks: NDArray[np.float32], placed: Tensor) -> Tensor:
    """The middle of most of the nearest landmarks of each point, (block, 2)."""
    k = min(_NEAR, len(placed))
    distance = torch.cdist(points, torch.from_numpy(landmarks))
    found = placed[distance.topk(k, dim=1, largest=False).indices]  # (block, k, 2)
    apart = torch.cdist(found, found)
    central = apart.sum(dim=2).argmin(dim=1)
    to_central = apart[torch.arange(len(found)), central]  # (block, k)
    together = to_central.topk(k // 2 + 1, dim=1, largest=False).indices
    return found.gather(1, together[..., None].expand(-1, -1, 2)).mean(dim=1)
