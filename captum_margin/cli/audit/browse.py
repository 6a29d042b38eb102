"""The samples of ``audit`` as one block of data, which the page's script shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.audit.map import lay_out
from captum_margin.cli.audit.questions import Answers, votes
from captum_margin.cli.output import CommandError

N_NEAR = 6
"""Neighbours that the page shows of a sample."""

WHOLE = 50_000
"""Samples up to which the page holds all; 100 bytes each, and a small picture."""

FIRST = 10_000
"""Samples of each question that it holds of more, and their neighbours."""

_BUDGET = 12_000_000  # characters that all small pictures may take
_PER_PIXEL = 0.3  # characters; more than most photographs take
_SMALLEST, _LARGEST = 32, 96  # pixels
_QUALITY = 75
_EDGES = 8192  # in a block
_MAP = 9999  # steps of the map: a pixel, enlarged ten times


def browse(data: AuditData, answers: Answers, n_top: int = 0) -> dict[str, Any]:
    """What is known of each sample on the page, in data order and fit for JSON.

    Those are all up to ``WHOLE``; of more the prototypes, the ``FIRST`` samples (or
    ``n_top``, if that is more) of each question, and the neighbours of all these.

    Args:
        data (AuditData): The samples.
        answers (Answers): What is known of them.
        n_top (int, optional): Samples that the page shows of each list. Default: 0.

    Returns:
        dict: ``total``, how many samples there are; ``ids``, which of them are on the
        page, everything else numbers them in this order; ``names``; ``classes``, and
        ``given`` and ``decided`` as numbers of these (empty without labels);
        ``suspects``, the flagged samples, the clearest first; ``places``, by question
        the place of each sample in the ranking of all, from 1; ``prototypes``, pairs of
        a sample and how many it stands for; ``near``, by sample its neighbours, the
        nearest first; ``votes``, by sample how many neighbours there are, how many have
        its label and how many the decided one; ``splits``, their names, and ``split``,
        by sample the number of its own; ``groups`` of near duplicates, and which
        samples of these have one of another label (``contradicted``) or in another
        split (``leaking``); ``x`` and ``y``, by sample its place on the map, within
        [0, 9999]; ``tiles``, by sample a small picture, or an empty text; and ``kind``,
        the format of these.

    Cost: reads each picture once until they take 12 MB, the suspects' first; about
    100 bytes per sample beside.
    """
    n = len(data.names)
    ranked = {
        "suspects": answers.suspects,
        "criticisms": answers.criticisms,
        "boundary": answers.boundary,
    }
    orders = {k: r.ranking().cpu() for k, r in ranked.items() if r is not None}
    flagged = torch.empty(0, dtype=torch.long)
    if answers.is_issue is not None:
        flagged = orders["suspects"][answers.is_issue.cpu()[orders["suspects"]]]
    chosen, sizes = answers.prototypes, answers.stands_for
    if chosen is None or sizes is None:
        chosen, sizes = flagged[:0], flagged[:0]
    first = max(FIRST, n_top) if n > WHOLE else n
    groups = [] if answers.duplicates is None else answers.duplicates.groups
    alike = torch.tensor([*chain.from_iterable(groups)], dtype=torch.long)[:first]
    lists = [flagged[:first], chosen, alike]
    lists += [order[:first] for order in orders.values()]
    listed = torch.cat([*lists, torch.arange(n if n <= WHOLE else 0)]).unique()
    near = _near(data, answers, listed)
    others = torch.tensor([*chain.from_iterable(near)], dtype=torch.long)
    ids = torch.cat([listed, others]).unique()
    place = torch.full((n,), -1)
    place[ids] = torch.arange(len(ids))
    around: list[list[int]] = [[] for _ in range(len(ids))]
    numbered = iter(place[others].tolist())
    for i, found in zip(place[listed].tolist(), near, strict=True):
        around[i] = [next(numbered) for _ in found]
    suspects = place[flagged[place[flagged] >= 0]].tolist()
    pairs = list(zip(place[chosen].tolist(), sizes.tolist(), strict=True))
    odd = [*suspects, *(j for i in suspects for j in around[i]), *(i for i, _ in pairs)]
    order = next(iter(orders.values()), ids)
    rest = place[order][place[order] >= 0].tolist()
    odd += place[alike].tolist()
    kind, tiles = _tiles(data, ids.tolist(), [*dict.fromkeys([*odd, *rest])])
    x, y = (lay_out(data.features[ids], data.metric) * _MAP).round().int().T.tolist()
    return {
        "total": n,
        "ids": ids.tolist(),
        "names": [data.names[i] for i in ids.tolist()],
        "classes": data.classes,
        "given": [] if data.labels is None else data.labels[ids].tolist(),
        "decided": [] if answers.decided is None else answers.decided[ids].tolist(),
        "suspects": suspects,
        "places": {k: _places(order)[ids].tolist() for k, order in orders.items()},
        "prototypes": pairs,
        "near": around,
        "votes": _votes(data, answers, ids),
        **_split_codes(data, ids.tolist()),
        **_duplicates(answers, place),
        "x": x,
        "y": y,
        "kind": kind,
        "tiles": tiles,
    }


def _split_codes(data: AuditData, ids: list[int]) -> dict[str, Any]:
    """The names of the splits, and of each sample on the page the number of its own."""
    names = sorted({*data.splits})
    number = {name: at for at, name in enumerate(names)}
    split = [number[data.splits[i]] for i in ids] if names else []
    return {"splits": names, "split": split}


def _duplicates(answers: Answers, place: Tensor) -> dict[str, Any]:
    """Near duplicates by their places on the page; -1 in ``place`` is not on it."""
    duplicates = answers.duplicates
    if duplicates is None:
        return {"groups": [], "contradicted": [], "leaking": []}

    def held(samples: Iterable[int]) -> list[int]:
        return [at for i in samples if (at := int(place[i])) >= 0]

    return {
        "groups": [held(group) for group in duplicates.groups],
        "contradicted": held(sorted(duplicates.contradicted())),
        "leaking": held(sorted(duplicates.leaking())),
    }


def _places(order: Tensor) -> Tensor:
    """From the samples in their order to the place of each, from 1."""
    places = torch.empty_like(order)
    places[order] = torch.arange(1, len(order) + 1)
    return places


def _near(data: AuditData, answers: Answers, listed: Tensor) -> list[list[int]]:
    """The nearest neighbours of each listed sample."""
    result = answers.suspects or answers.criticisms or answers.boundary
    if result is None:
        return [[]] * len(listed)
    place = torch.full((len(data.names),), -1)
    place[listed] = torch.arange(len(listed))
    edge_index, weight = result.graph.edge_index, result.graph.edge_weight
    kept = place[edge_index[1]] >= 0
    edge_index = edge_index[:, kept]
    if answers.suspects is None or weight is None:
        weight = closeness(data.points, edge_index)  # other graphs weigh alike
    else:
        weight = weight[kept]
    edge_index = torch.stack([edge_index[0], place[edge_index[1]]])
    return nearest(edge_index, weight, len(listed))


def nearest(edge_index: Tensor, edge_weight: Tensor, n: int) -> list[list[int]]:
    """The neighbours of all n samples at once, the nearest first, N_NEAR at most.

    They are those of ``InfluenceResult.neighbors``, ties in the same order.
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


def _votes(data: AuditData, answers: Answers, ids: Tensor) -> list[list[int]]:
    """How many neighbours there are, with the given and the decided label."""
    if answers.suspects is None:
        return []
    assert data.labels is not None and answers.decided is not None  # LabelNoise's
    count, _ = votes(answers.suspects, data.labels, len(data.classes))
    of = [count.gather(1, x[:, None])[:, 0] for x in (data.labels, answers.decided)]
    table = torch.stack([count.sum(dim=1), *of], dim=1)
    rows: list[list[int]] = table[ids].tolist()
    return rows


def _tiles(data: AuditData, ids: list[int], order: list[int]) -> tuple[str, list[str]]:
    """Format and contents of the small pictures, until the budget is spent.

    The more samples, the smaller the pictures, so that all have one if they can.
    ``order`` are places in ``ids``.
    """
    from PIL import ImageOps, features

    if data.picture is None:
        return "", []
    kind = "webp" if features.check("webp") else "jpeg"  # its header is 20 times longer
    side = int((_BUDGET / _PER_PIXEL / len(ids)) ** 0.5)
    side = min(max(side, _SMALLEST), _LARGEST)
    tiles = [""] * len(ids)
    left = _BUDGET
    for i in order:
        try:
            image = data.picture(ids[i], side).convert("RGB")
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
