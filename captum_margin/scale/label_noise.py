"""Which of very many samples carry a wrong label: the whole run, on disk.

The question, and the answer, of :class:`captum_margin.influence.LabelNoise`; nothing of
the size N · C, N · F or E is held in memory.
"""

from __future__ import annotations

import os
import warnings
import zlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_margin.neighbors.rows import Metric
from captum_margin.scale._folder import BlockFolder
from captum_margin.scale._linear import (
    LabelSignal,
    Regression,
    axes_of,
    regress,
    turned_rows,
)
from captum_margin.scale._rounds import Rounds
from captum_margin.scale.build import build_shards
from captum_margin.scale.edges import EdgeShards, undirected
from captum_margin.scale.executor import Shared, share
from captum_margin.scale.filter import degrees, scale_of
from captum_margin.scale.functions import class_votes, row_labels
from captum_margin.scale.shards import BLOCK_SIZE
from captum_margin.signal import rank
from captum_margin.signal._labels import as_labels
from captum_margin.signal.protocol import Sided, influence

__all__ = ["NoiseScores", "label_noise"]


class NoiseScores(NamedTuple):
    """Scores of :func:`label_noise` and the graph that they come from.

    Args:
        scores (Tensor): Shape (N,), high for labels that the others contradict.
        edges (EdgeShards): The graph on disk.
    """

    scores: Tensor
    edges: EdgeShards

    def ranking(self) -> Tensor:
        """All samples, the most suspect first, ties by index; shape (N,)."""
        return rank(self.scores)


class _Votes(NamedTuple):
    """What the tasks need for the votes of the others."""

    edges: EdgeShards
    signal: LabelSignal
    factor: Shared  # of the columns of the weights, trust included, (N,)
    scale: Shared  # of their rows, (N,)
    points: BlockFolder | None
    fit: Regression | None
    share: float


def label_noise(
    features: Any,
    labels: Any,
    path: str | os.PathLike[str],
    *,
    k: int = 30,
    metric: Metric = "cosine",
    bandwidth: float | None = 0.5,
    shift: Literal["symmetric", "random_walk"] = "symmetric",
    trusted: bool = True,
    linear: bool = True,
    sided: Sided = "both",
    recall: float = 0.95,
    seed: int = 0,
    executor: Any = None,
    block_size: int = BLOCK_SIZE,
    show_progress: bool = False,
) -> NoiseScores:
    """Scores samples by how much the others contradict their labels, from disk.

    On the same neighbours the scores are those of
    :class:`~captum_margin.influence.LabelNoise`, to the rounding of float32. Kill it
    anywhere and call it again: the neighbours, the edges and the blocks of the scores
    that were finished are read, and the result is the same, byte for byte. Other labels
    with the same ``path`` need only the last part.

    Args:
        features (array or path): Shape (N, F), as in :func:`build_shards`.
        labels (array): Shape (N,), integers, bools or strings.
        path (str or Path): The folder of the graph, ``rows`` and ``edges``, and of the
            ``scores`` of the last labels and options.
        k (int, optional): Neighbours per sample. Default: 30.
        metric (str, optional): Of the neighbours. Default: ``"cosine"``.
        bandwidth (float, optional): Width of the Gaussian weights in median edges;
            None: all edges count the same. Default: 0.5.
        shift (str, optional): ``"symmetric"`` or ``"random_walk"``.
            Default: ``"symmetric"``.
        trusted (bool, optional): Whether contradicted labels are trusted less.
            Default: True.
        linear (bool, optional): Whether all samples vote too. Default: True.
        sided (str, optional): As in :func:`~captum_margin.signal.influence`.
            Default: ``"both"``.
        recall (float, optional): As in :func:`build_shards`. Default: 0.95.
        seed (int, optional): As in :func:`build_shards`. Default: 0.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.
        block_size (int, optional): As in :func:`build_shards`. Default: 262,144.
        show_progress (bool, optional): A bar over the blocks. Default: False.

    Returns:
        NoiseScores: Scores in the order of the samples, and the graph.

    Raises:
        TypeError: If the labels are fractions or of several types.
        ValueError: As :func:`build_shards`, if labels are not (N,) or one is missing,
            or an option is unknown.

    Cost: that of :func:`build_shards` and :func:`undirected`, then with ``linear``
    O(N F (F + P C)) for P = 10 penalties, and O(E) for each of at most three passes
    over the edges. Memory O(N) and that of a block; disk (F + 4 k) · 4 · N bytes.

    >>> import tempfile
    >>> x = np.array([[9.0, 0], [9, 1], [9, 2], [0, 9], [1, 9], [2, 9]])
    >>> noise = label_noise(x, list("aabbbb"), tempfile.mkdtemp(), k=2)
    >>> noise.ranking()[0].item()
    2
    """
    if shift not in ("symmetric", "random_walk"):
        raise ValueError(f"expected shift 'symmetric' or 'random_walk' (got {shift!r})")
    codes, classes = as_labels(labels, len(labels))  # N is not known yet
    path = Path(path)
    rows = build_shards(
        features,
        path / "rows",
        k,
        metric=metric,
        seed=seed,
        executor=executor,
        recall=recall,
        block_size=block_size,
        show_progress=show_progress,
    )
    y = row_labels(rows, codes)
    edges = undirected(rows, path / "edges", executor=executor)
    if bandwidth is not None:
        edges = edges.gaussian(bandwidth)
    if len(classes) == 1:
        warnings.warn(
            "all samples are of one class: there is nothing their neighbours could "
            "contradict, and all scores are 0",
            stacklevel=2,
        )
        return NoiseScores(torch.zeros(len(y)), edges)
    points = BlockFolder(path / "rows" / "points") if linear else None
    request = {
        "rows": rows.folder.manifest,
        "labels": f"{len(classes)} {y.dtype} {zlib.crc32(y.data):08x}",
        "options": [bandwidth, shift, trusted, linear, sided],
    }
    rounds = Rounds(path / "scores", request, edges.folder.starts, executor)
    scores = _scores(edges, points, y, len(classes), shift, trusted, sided, rounds)
    return NoiseScores(edges.to_samples(scores), edges)


def _scores(
    edges: EdgeShards,
    points: BlockFolder | None,
    y: np.ndarray,
    classes: int,
    shift: str,
    trusted: bool,
    sided: Sided,
    rounds: Rounds,
) -> Tensor:
    """Scores in the order of the rows, (N,)."""
    degree = rounds.once("degrees", partial(degrees, edges, executor=rounds.executor))
    scale = scale_of(degree)
    column = scale if shift == "symmetric" else torch.ones_like(scale)
    row = scale if shift == "symmetric" else scale.square()
    axes = None if points is None else axes_of(points, rounds)
    trust, mixed = torch.ones_like(scale), 1.0
    for last in (False, True) if trusted else (True,):
        number = 1 + (last and trusted)
        with ExitStack() as stack:
            kept = [
                stack.enter_context(share(array, edges.path, rounds.executor))
                for array in (y, trust.numpy(), (column * trust).numpy(), row.numpy())
            ]
            signal = LabelSignal(kept[0], kept[1], classes)
            fit = None
            if points is not None and axes is not None:
                fit = regress(points, axes, signal, rounds, number)
            votes = _Votes(edges, signal, kept[2], kept[3], points, fit, mixed)
            if fit is not None and number == 1:
                sums = torch.stack(rounds("share", partial(_share_block, votes)))
                square, along = sums.sum(dim=0).tolist()
                mixed = min(max(along / square, 0.0), 1.0) if square > 0 else 1.0
                votes = votes._replace(share=mixed)
            name, block = ("scores", _score_block) if last else ("trust", _trust_block)
            trust = torch.cat(rounds(name, partial(block, votes, sided)))
    return trust  # of the last round: the scores


def _block_votes(votes: _Votes, b: int) -> Any:
    """Rows, plain one-hot labels, votes of the neighbours and of all, by chunks."""
    edges, signal = votes.edges, votes.signal
    whole = edges.rows(b)
    factor = torch.from_numpy(votes.factor.get())
    near = class_votes(edges, b, signal.labels.get(), signal.classes, factor)
    edges.will_need(b + 1)
    scale = torch.from_numpy(np.array(votes.scale.get()[whole]))
    near *= scale[:, None]
    alone = scale == 0  # a sample without neighbours has its own vote
    near[alone] = signal.rows(whole)[alone]
    if votes.points is None or votes.fit is None:
        yield whole, signal.rows(whole, plain=True), near, None
        return
    for rows, turned in turned_rows(votes.points, votes.fit.axes, b, signal.classes):
        line = votes.fit.votes(turned, signal.rows(rows))
        part = near[rows.start - whole.start : rows.stop - whole.start]
        yield rows, signal.rows(rows, plain=True), part, line


def _share_block(votes: _Votes, b: int) -> Tensor:
    """Sums for the share of the neighbours' votes that is nearest to the labels."""
    square = along = 0.0
    for _, f, near, line in _block_votes(votes, b):
        apart = (near - line).double()
        square += float(apart.square().sum())
        along += float(((f - line) * apart).sum())
    return torch.tensor([square, along], dtype=torch.float64)


def _mixed(votes: _Votes, near: Tensor, line: Tensor | None) -> Tensor:
    if line is None:
        return near
    return votes.share * near + (1 - votes.share) * line


def _trust_block(votes: _Votes, _: Sided, b: int) -> Tensor:
    """Votes for the given class in those for the class with the most, (n,)."""
    parts = []
    for _, f, near, line in _block_votes(votes, b):
        found = _mixed(votes, near, line)
        own = (found * f).sum(dim=1).clamp(min=0)
        most = found.amax(dim=1)
        parts.append(torch.where(most > 0, own / most.where(most > 0, 1), 1))
    return torch.cat(parts)


def _score_block(votes: _Votes, sided: Sided, b: int) -> Tensor:
    """Scores of a block, (n,)."""
    parts = [
        influence(f - _mixed(votes, near, line), sided)
        for _, f, near, line in _block_votes(votes, b)
    ]
    return torch.cat(parts)
