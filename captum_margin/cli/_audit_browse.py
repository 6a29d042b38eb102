"""All samples of ``audit`` as one block of data, which the page's script shows."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from torch import Tensor

from captum_margin.cli._audit_data import AuditData
from captum_margin.cli._audit_questions import Answers, votes
from captum_margin.cli._output import CommandError

N_NEAR = 6
"""Neighbours that the page shows of a sample."""

_BUDGET = 12_000_000  # characters that all small pictures may take
_PER_PIXEL = 0.3  # characters; more than most photographs take
_SMALLEST, _LARGEST = 32, 96  # pixels
_QUALITY = 75
_EDGES = 8192  # in a block


def browse(data: AuditData, answers: Answers) -> dict[str, Any]:
    """What is known of each sample, in data order and fit for JSON.

    Args:
        data (AuditData): The samples.
        answers (Answers): What is known of them.

    Returns:
        dict: ``names``; ``classes``, and ``given`` and ``decided`` as numbers of these
        (empty without labels); ``suspects``, the flagged samples, the clearest first;
        ``orders``, by question a ranking of all samples; ``prototypes``, pairs of a
        sample and how many it stands for; ``near``, by sample its neighbours, the
        nearest first; ``votes``, by sample how many neighbours there are, how many have
        its label and how many the decided one; ``tiles``, by sample a small picture, or
        an empty text; and ``kind``, the format of these.

    Cost: reads each picture once until they take 12 MB, the suspects' first; about
    100 bytes per sample beside.
    """
    result = answers.suspects or answers.criticisms or answers.boundary
    ranked = {
        "suspects": answers.suspects,
        "criticisms": answers.criticisms,
        "boundary": answers.boundary,
    }
    orders = {k: r.ranking().tolist() for k, r in ranked.items() if r is not None}
    issue = answers.is_issue
    flagged = [] if issue is None else [i for i in orders["suspects"] if issue[i]]
    chosen = [] if answers.prototypes is None else answers.prototypes.tolist()
    sizes = [] if answers.stands_for is None else answers.stands_for.tolist()
    near: list[list[int]] = []
    if result is not None:
        edge_index, weight = result.graph.edge_index, result.graph.edge_weight
        if answers.suspects is None or weight is None:
            weight = closeness(data.features, edge_index)  # other graphs weigh alike
        near = nearest(edge_index, weight, len(data.names))
    first = dict.fromkeys([*flagged, *(j for i in flagged for j in near[i]), *chosen])
    rest = next(iter(orders.values()), range(len(data.names)))
    kind, tiles = _tiles(data, [*dict.fromkeys([*first, *rest])])
    return {
        "names": data.names,
        "classes": data.classes,
        "given": [] if data.labels is None else data.labels.tolist(),
        "decided": [] if answers.decided is None else answers.decided.tolist(),
        "suspects": flagged,
        "orders": orders,
        "prototypes": list(zip(chosen, sizes, strict=True)),
        "near": near,
        "votes": _votes(data, answers),
        "kind": kind,
        "tiles": tiles,
    }


def nearest(edge_index: Tensor, edge_weight: Tensor, n: int) -> list[list[int]]:
    """The neighbours of all n samples at once, the nearest first, N_NEAR at most.

    They are those of :meth:`InfluenceResult.neighbors`, ties in the same order.
    """
    order = edge_weight.argsort(descending=True, stable=True)
    order = order[edge_index[1, order].argsort(stable=True)]  # by sample, then weight
    source, target = edge_index[:, order]
    count = target.bincount(minlength=n)
    start = count.cumsum(0) - count
    place = torch.arange(len(target), device=target.device) - start[target]
    few = place < N_NEAR
    lengths = count.clamp(max=N_NEAR).tolist()
    return [part.tolist() for part in source[few].cpu().split(lengths)]


def closeness(features: Tensor, edge_index: Tensor) -> Tensor:
    """The negative distance of the ends of each edge, a block of edges at a time."""
    pairs = zip(*(ends.split(_EDGES) for ends in edge_index), strict=True)
    return torch.cat([-(features[a] - features[b]).norm(dim=1) for a, b in pairs])


def _votes(data: AuditData, answers: Answers) -> list[list[int]]:
    """How many neighbours there are, with the given and the decided label."""
    if answers.suspects is None:
        return []
    assert data.labels is not None and answers.decided is not None  # LabelNoise's
    count, _ = votes(answers.suspects, data.labels, len(data.classes))
    of = [count.gather(1, x[:, None])[:, 0] for x in (data.labels, answers.decided)]
    table: list[list[int]] = torch.stack([count.sum(dim=1), *of], dim=1).tolist()
    return table


def _tiles(data: AuditData, order: list[int]) -> tuple[str, list[str]]:
    """Format and contents of the small pictures, until the budget is spent.

    The more samples, the smaller the pictures, so that all have one if they can.
    """
    from PIL import ImageOps, features

    if data.picture is None:
        return "", []
    kind = "webp" if features.check("webp") else "jpeg"  # its header is 20 times longer
    side = int((_BUDGET / _PER_PIXEL / len(order)) ** 0.5)
    side = min(max(side, _SMALLEST), _LARGEST)
    tiles = [""] * len(data.names)
    left = _BUDGET
    for i in order:
        try:
            image = data.picture(i, side).convert("RGB")
        except CommandError:  # gone since
            continue
        if max(image.size) > side:
            image = ImageOps.fit(image, (side, side))
        contents = io.BytesIO()
        image.save(contents, kind, quality=_QUALITY)
        tile = base64.b64encode(contents.getvalue()).decode("ascii")
        left -= len(tile)
        if left < 0:
            break
        tiles[i] = tile
    return kind, tiles
