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
from captum_margin.scale._regression import LabelSignal, Learners, RowVotes
from captum_margin.scale._rounds import Rounds
from captum_margin.scale.build import build_shards
from captum_margin.scale.edges import EdgeShards, undirected
from captum_margin.scale.executor import Shared, share
from captum_margin.scale.filter import degrees, scale_of
from captum_margin.scale.functions import class_votes, row_labels
from captum_margin.scale.shards import BLOCK_SIZE
from captum_margin.signal import rank
from captum_margin.signal._labels import as_labels
from captum_margin.signal._votes import ROUNDS, trust_in
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
    everybody: RowVotes | None
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
    regression: bool = True,
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
        regression (bool, optional): Whether all samples vote too. Default: True.
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

    Cost: that of :func:`build_shards` and :func:`undirected`, then with ``regression``
    that of :class:`~captum_margin.influence.LabelNoise`'s, and O(E) for each of at most
    five passes over the edges. Memory O(N) and that of a block, and the samples that
    the regression learns from; disk (F + 4 k) · 4 · N bytes.

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
    points = BlockFolder(path / "rows" / "points") if regression else None
    request = {
        "rows": rows.folder.manifest,
        "labels": f"{len(classes)} {y.dtype} {zlib.crc32(y.data):08x}",
        "options": [bandwidth, shift, trusted, regression, sided],
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
    column, row = _scales(edges, shift, rounds)
    learners = None if points is None else Learners(points, edges.order)
    found, mixed = torch.ones_like(row), None  # at first, all labels are trusted
    last = ROUNDS if trusted else 1
    for number in range(1, last + 1):
        with ExitStack() as stack:
            arrays = [y, found.numpy(), (column * found).numpy(), row.numpy()]
            kept = [_shared(array, edges, rounds, stack) for array in arrays]
            signal = LabelSignal(kept[0], kept[1], classes)
            everybody = None
            if learners is not None and points is not None:
                fit, *known = learners.fit(signal)
                shared = [_shared(array, edges, rounds, stack) for array in known]
                everybody = RowVotes(points, fit, *shared)
            votes = _Votes(edges, signal, kept[2], kept[3], everybody, 1.0)
            if everybody is not None:
                mixed = _share_of(votes, rounds) if mixed is None else mixed
                votes = votes._replace(share=mixed)
            if number < last:
                parts = rounds(f"trust-{number}", partial(_trust_block, votes))
            else:
                parts = rounds("scores", partial(_score_block, votes, sided))
            found = torch.cat(parts)
    return found


def _scales(edges: EdgeShards, shift: str, rounds: Rounds) -> tuple[Tensor, Tensor]:
    """Factors of the columns and of the rows of the weights, (N,) each.

    The votes of the neighbours, which they make of the weights, add up to at most one.
    """
    degree = rounds.once("degrees", partial(degrees, edges, executor=rounds.executor))
    scale = scale_of(degree)
    if shift == "random_walk":
        return torch.ones_like(scale), scale.square()
    with share(scale.numpy(), edges.path, rounds.executor) as shared:
        sums = torch.cat(rounds("totals", partial(_total_block, edges, shared)))
    return scale, scale / (scale * sums).clamp(min=1)


def _total_block(edges: EdgeShards, column: Shared, b: int) -> Tensor:
    """Sums of the weights times the factors of their columns, (n,)."""
    edges.will_need(b + 1)
    return edges.sparse_rows(b).times(torch.from_numpy(column.get())[:, None])[:, 0]


def _shared(
    array: np.ndarray, edges: EdgeShards, rounds: Rounds, stack: ExitStack
) -> Shared:
    return stack.enter_context(share(array, edges.path, rounds.executor))


def _share_of(votes: _Votes, rounds: Rounds) -> float:
    """The weight of the neighbours' votes: the mean of 1/2 and of what fits best."""
    sums = torch.stack(rounds("share", partial(_share_block, votes)))
    square, along = sums.sum(dim=0).tolist()
    nearest = min(max(along / square, 0.0), 1.0) if square > 0 else 0.5
    return (0.5 + nearest) / 2


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
    if votes.everybody is None:
        yield whole, signal.rows(whole, plain=True), near, None
        return
    for rows, line in votes.everybody.of_block(b):
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


def _trust_block(votes: _Votes, b: int) -> Tensor:
    """How far the labels are trusted in the next round, (n,)."""
    parts = [
        trust_in(f, _mixed(votes, near, line))[:, 0]
        for _, f, near, line in _block_votes(votes, b)
    ]
    return torch.cat(parts)


def _score_block(votes: _Votes, sided: Sided, b: int) -> Tensor:
    """Scores of a block, (n,)."""
    parts = [
        influence(f - _mixed(votes, near, line), sided)
        for _, f, near, line in _block_votes(votes, b)
    ]
    return torch.cat(parts)
