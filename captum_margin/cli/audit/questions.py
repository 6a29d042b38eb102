"""The questions of ``audit``, and their answers as tables."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin.cli.audit.csv_files import write_ranking
from captum_margin.cli.audit.data import AuditData, half_of_a_class
from captum_margin.cli.audit.near_duplicates import (
    Duplicates,
    sort_duplicates,
    write_duplicates,
)
from captum_margin.cli.output import one_line
from captum_margin.influence import (
    DecisionBoundary,
    InfluenceResult,
    LabelNoise,
    Prototypes,
    Settings,
    near_duplicates,
)
from captum_margin.influence._knowledge import Knowledge
from captum_margin.neighbors import Neighbors, find_neighbors

_MIN_PROTOTYPES = 20
_PROTOTYPES_PER_CLASS = 5
_EXACT_UP_TO = 20_000  # samples; the exact MMD takes minutes beyond
_LEFT_OUT = 0.05
_BLOCK = 4096
_CHOSEN_AMONG = 100_000  # samples; cells of more are no better known


@dataclass
class Answers:
    """What is known so far; None where a question was not or could not be answered.

    Attributes:
        pred_probs (Tensor, optional): Class probabilities (N, C) of somebody's model.
        noise (LabelNoise, optional): The question of the suspects.
        suspects (InfluenceResult, optional): Its answer.
        decided (Tensor, optional): Class numbers (N,): those that the others suggest,
            where the label is called wrong, else the given ones.
        prototypes (Tensor, optional): Indices, those that stand for most first.
        stands_for (Tensor, optional): How many samples each prototype is nearest to.
        criticisms (InfluenceResult, optional): Of :class:`Prototypes`.
        boundary (InfluenceResult, optional): Of :class:`DecisionBoundary`.
        duplicates (Duplicates, optional): The samples that are almost the same.
        errors (dict[str, str]): By question: why there is no answer.
        warnings (list[str]): What speaks against an answer that there is, a line each.
        record (dict): By question: settings and seconds, fit for JSON.
        searches (dict): By metric: what found the neighbours, fit for JSON.
        files (list[Path]): The tables written.
    """

    pred_probs: Tensor | None = None
    noise: LabelNoise | None = None
    suspects: InfluenceResult | None = None
    decided: Tensor | None = None
    prototypes: Tensor | None = None
    stands_for: Tensor | None = None
    criticisms: InfluenceResult | None = None
    boundary: InfluenceResult | None = None
    duplicates: Duplicates | None = None
    errors: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    searches: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    @cached_property
    def is_issue(self) -> Tensor | None:
        """Whose label the others contradict, (N,)."""
        if self.suspects is None:
            return None
        assert self.suspects.labels is not None  # LabelNoise needs them
        return self.suspects.predicted() != self.suspects.labels

    def knowledge(self, data: AuditData) -> dict[str, Any] | None:
        """What the votes know of the labels, fit for JSON."""
        known = None if self.suspects is None else self.suspects.knowledge
        if known is None:
            return None
        return {
            "accuracy": known.accuracy,
            "low": known.low,
            "high": known.high,
            "chance": known.chance,
            "probably_wrong": known.n_wrong,
            "unknown_classes": unknown_classes(data, known),
        }


def unknown_classes(data: AuditData, known: Knowledge) -> list[str]:
    """Names of the classes that the votes do not know."""
    pairs = zip(data.classes, known.known.tolist(), strict=True)
    return [name for name, is_known in pairs if not is_known]


def ask(
    data: AuditData,
    n_prototypes: int | None,
    folder: Path,
    show_progress: bool = False,
    pred_probs: Tensor | None = None,
) -> Answers:
    """Asks all questions the data allow, one by one.

    The neighbours are searched once for all. Each table is written as soon as
    its question is answered, and a question that fails does not keep the others from
    being asked. Criticisms and boundary samples go by the classes that the neighbours
    suggest: by the given ones wrong labels would top the list of the boundary, too.
    Prototypes are chosen among samples that are no suspects.

    Args:
        data (AuditData): The samples.
        n_prototypes (int, optional): How many in all. Default: None, five for each
            class and 20 at least.
        folder (Path): Where the tables go.
        show_progress (bool, optional): A bar over the questions. Default: False.
        pred_probs (Tensor, optional): Class probabilities (N, C), a further vote on the
            labels. Default: None.

    Cost: one search, O(N² F) time up to 50,000 samples and about O(N sqrt(N) F) beyond,
    the votes, and the MMD; O(N (F + C + k)) memory.
    """
    answers = Answers(pred_probs=pred_probs, decided=data.labels)
    near = _Search(data, answers)
    steps = _steps(data, answers, near, n_prototypes, folder)
    for name, answer in tqdm(steps, desc="questions", disable=not show_progress):
        started, searching = time.perf_counter(), near.seconds
        try:
            settings = answer()
        except (MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            answers.errors[name] = one_line(error)
            continue
        seconds = time.perf_counter() - started - (near.seconds - searching)
        answers.record[name] = {"settings": settings, "seconds": round(seconds, 3)}
    return answers


def _steps(
    data: AuditData,
    answers: Answers,
    near: _Search,
    n_prototypes: int | None,
    folder: Path,
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """The questions by name, in order; each gives its settings."""
    asked = data, answers, near
    steps: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("near duplicates", lambda: _near_duplicates(*asked, folder))
    ]
    if data.has_classes:
        steps.append(("suspects", lambda: _suspects(*asked, folder)))
        steps.append(("boundary", lambda: _boundary(*asked, folder)))
    steps.append(("prototypes", lambda: _prototypes(*asked, n_prototypes, folder)))
    steps.append(("criticisms", lambda: _criticisms(*asked, folder)))
    return steps


class _Search:
    """The neighbours of all samples, searched once for all questions."""

    def __init__(self, data: AuditData, answers: Answers) -> None:
        self.data, self.answers = data, answers
        self.found: Neighbors | None = None
        self.seconds = 0.0
        settings = LabelNoise.settings, Prototypes.settings, DecisionBoundary.settings
        self.k = neighbors_for(data, max(used.k for used in settings))

    def __call__(self) -> Neighbors:
        """As many as any question takes, by the metric of the data."""
        if self.found is None:
            data, started = self.data, time.perf_counter()
            self.found = find_neighbors(data.features, self.k, metric=data.metric)
            self.seconds = time.perf_counter() - started
            self.answers.searches[data.metric] = {
                "k": self.k,
                "backend": self.found.backend,
                "recall": self.found.recall and self.found.recall._asdict(),
                "seconds": round(self.seconds, 3),
            }
        return self.found


def among(found: Neighbors, kept: Tensor) -> Neighbors:
    """The neighbours of some samples (M,) that are among them, numbered as they are."""
    place = torch.full((len(found.indices) + 1,), -1)
    place[kept] = torch.arange(len(kept))
    indices = place[found.indices[kept]]  # -1 for none is the last place
    distances = found.distances[kept].masked_fill(indices < 0, torch.inf)
    return found._replace(indices=indices, distances=distances)


def neighbors_for(data: AuditData, at_most: int, share: float = 0.5) -> int:
    """Neighbours per sample: no more than this share of the median sample's class."""
    if data.labels is None:
        return min(at_most, max(1, int(share * len(data.names))))
    return min(at_most, half_of_a_class(data.labels, share))


def _used(settings: Settings) -> dict[str, Any]:
    """Fit for JSON: without the neighbours, of which ``searches`` tells."""
    return asdict(replace(settings, backend="auto"))


def _near_duplicates(
    data: AuditData, answers: Answers, near: _Search, folder: Path
) -> dict[str, Any]:
    neighbors = near()
    found = near_duplicates(neighbors)
    answers.duplicates = sort_duplicates(data, found)
    answers.files.append(folder / "near_duplicates.csv")
    write_duplicates(answers.files[-1], data, answers.duplicates)
    return {"k": near.k, "metric": data.metric, "threshold": found.threshold}


def _suspects(
    data: AuditData, answers: Answers, near: _Search, folder: Path
) -> dict[str, Any]:
    question = LabelNoise.from_features(
        data.features,
        data.labels,
        k=neighbors_for(data, LabelNoise.settings.k),
        metric=data.metric,
        backend=near(),
        pred_probs=answers.pred_probs,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = question.result()
    # What libraries deprecate is nothing that a reader of the page could mend.
    answers.warnings += [
        str(warning.message) for warning in caught if warning.category is UserWarning
    ]
    if data.seen is not None:  # it holds gigabytes, of millions, and only maps need it
        answers.noise = question
    answers.suspects, answers.decided = result, result.predicted()
    columns = _suspect_columns(data, result, answers.decided)
    columns |= _duplicate_columns(data, answers.duplicates)
    answers.files.append(folder / "suspects.csv")
    write_ranking(answers.files[-1], data, result.ranking().tolist(), columns)
    used = _used(question.used)
    return used if answers.pred_probs is None else {**used, "pred_probs": True}


def _suspect_columns(
    data: AuditData, result: InfluenceResult, predicted: Tensor
) -> dict[str, Any]:
    """The columns of ``InfluenceResult.to_pandas``, and the votes."""
    given = result.labels
    assert given is not None  # LabelNoise needs them
    count, weight = votes(result, given, len(data.classes))
    bound = max(result.bound, float(result.scores.max()))
    share = _of(weight, predicted) / weight.sum(dim=1).clamp(min=1e-30)
    assert result.knowledge is not None  # of two classes or more
    return {
        "given_label": class_names(data, given),
        "predicted_label": class_names(data, predicted),
        "is_label_issue": (predicted != given).tolist(),
        "class_is_known": result.knowledge.known[given].tolist(),
        "label_score": (1 - result.scores / bound).tolist(),
        "influence": result.scores.tolist(),
        "share": share.tolist(),
        "neighbors": count.sum(dim=1).tolist(),
        "neighbors_given": _of(count, given).tolist(),
        "neighbors_predicted": _of(count, predicted).tolist(),
    }


def _duplicate_columns(
    data: AuditData, duplicates: Duplicates | None
) -> dict[str, Any]:
    """The group of near duplicates that a sample is in, and whether labels differ."""
    if duplicates is None:
        return {}
    number, contradicted = duplicates.number(), duplicates.contradicted()
    n = range(len(data.names))
    return {
        "near_duplicates": [number.get(i, "") for i in n],
        "near_duplicate_of_other_label": [i in contradicted for i in n],
    }


def _prototypes(
    data: AuditData, answers: Answers, near: _Search, n: int | None, folder: Path
) -> dict[str, Any]:
    clean, backend = _prototype_candidates(data, answers, near)
    labels = None if answers.decided is None else answers.decided[clean]
    question = Prototypes.from_features(
        data.points[clean],
        labels,
        k=neighbors_for(data, Prototypes.settings.k),
        backend=backend,
    )
    if n is None:
        n = max(_MIN_PROTOTYPES, _PROTOTYPES_PER_CLASS * len(data.classes))
    chosen = clean[question.select(n)]
    stands_for = _cell_sizes(data.points, chosen, answers.decided)
    order = stands_for.argsort(descending=True, stable=True)
    answers.prototypes, answers.stands_for = chosen[order], stands_for[order]
    listed, sizes = answers.prototypes.tolist(), answers.stands_for.tolist()
    answers.files.append(folder / "prototypes.csv")
    write_ranking(
        answers.files[-1],
        data,
        listed,
        {
            "given_label": class_names(data, data.labels),
            "class": class_names(data, answers.decided),
            "stands_for": dict(zip(listed, sizes, strict=True)),
        },
    )
    used = {**_used(question.used), "metric": data.metric}
    return {"n": n, "chosen_among": len(clean), **used}


def _prototype_candidates(
    data: AuditData, answers: Answers, near: _Search
) -> tuple[Tensor, Any]:
    """Among which samples the prototypes are chosen, and what finds their neighbours.

    A sample under a doubtful label stands for nothing.
    """
    clean = torch.arange(len(data.names))
    issue = answers.is_issue
    if issue is not None and not bool(issue.all()):
        clean = clean[~issue]
    if len(clean) <= _CHOSEN_AMONG:
        return clean, among(near(), clean)
    drawn = torch.randperm(len(clean), generator=torch.Generator().manual_seed(0))
    return clean[drawn[:_CHOSEN_AMONG].sort().values], "auto"  # neighbours of their own


def _criticisms(
    data: AuditData, answers: Answers, near: _Search, folder: Path
) -> dict[str, Any]:
    # The MMD leaves the neighbourhood out, so that must be a small part of the class.
    question = Prototypes.from_features(
        data.points,
        answers.decided,
        k=neighbors_for(data, Prototypes.settings.k, share=_LEFT_OUT),
        estimate="exact" if len(data.names) <= _EXACT_UP_TO else "features",
        backend=near(),
    )
    result = question.result()
    answers.criticisms = result
    answers.files.append(folder / "criticisms.csv")
    write_ranking(
        answers.files[-1],
        data,
        result.ranking().tolist(),
        {
            "given_label": class_names(data, data.labels),
            "class": class_names(data, answers.decided),
            "influence": result.scores.tolist(),
        },
    )
    return {**_used(question.used), "metric": data.metric}


def _boundary(
    data: AuditData, answers: Answers, near: _Search, folder: Path
) -> dict[str, Any]:
    assert data.labels is not None  # has_classes
    question = DecisionBoundary.from_features(
        data.features,
        answers.decided,
        k=neighbors_for(data, DecisionBoundary.settings.k),
        metric=data.metric,
        backend=near(),
        label_source="given",
    )
    result = question.result()
    answers.boundary = result
    answers.files.append(folder / "boundary.csv")
    columns = _boundary_columns(data, result, data.labels)
    write_ranking(answers.files[-1], data, result.ranking().tolist(), columns)
    return _used(question.used)


def _boundary_columns(
    data: AuditData, result: InfluenceResult, labels: Tensor
) -> dict[str, Any]:
    """The two classes that meet at each sample, and their shares of the votes."""
    _, weight = votes(result, labels, len(data.classes))
    share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-30)
    shares, classes = share.topk(2, dim=1)
    return {
        "given_label": class_names(data, labels),
        "influence": result.scores.tolist(),
        "first_class": class_names(data, classes[:, 0]),
        "first_share": shares[:, 0].tolist(),
        "second_class": class_names(data, classes[:, 1]),
        "second_share": shares[:, 1].tolist(),
    }


def votes(
    result: InfluenceResult, labels: Tensor, n_classes: int
) -> tuple[Tensor, Tensor]:
    """Neighbours of each sample by class: their number and weight, both (N, C)."""
    source, target = result.graph.edge_index
    weight = result.graph.edge_weight
    assert weight is not None  # neighbor_graph always weighs
    flat = target * n_classes + labels[source]
    size = result.graph.num_nodes * n_classes
    count = flat.bincount(minlength=size).view(-1, n_classes)
    total = weight.new_zeros(size).index_add_(0, flat, weight).view(-1, n_classes)
    return count, total


def given_label(data: AuditData, index: int) -> str:
    """The label of a sample; an empty text without labels."""
    return class_of(data, data.labels, index)


def class_of(data: AuditData, labels: Tensor | None, index: int) -> str:
    """The name of a sample's class; an empty text without labels."""
    return "" if labels is None else data.classes[int(labels[index])]


def class_names(data: AuditData, labels: Tensor | None) -> list[str]:
    """The names of all samples' classes; empty texts without labels."""
    if labels is None:
        return [""] * len(data.names)
    return [data.classes[c] for c in labels.tolist()]


def _of(table: Tensor, column: Tensor) -> Tensor:
    """From each row of (N, C) the entry of the column (N,) names."""
    return table.gather(1, column[:, None])[:, 0]


def _cell_sizes(features: Tensor, chosen: Tensor, labels: Tensor | None) -> Tensor:
    """How many samples each prototype is nearest to, of its own class with labels."""
    sizes = torch.zeros(len(chosen), dtype=torch.long)
    for start in range(0, len(features), _BLOCK):
        rows = slice(start, start + _BLOCK)
        distance = torch.cdist(features[rows], features[chosen])  # (block, n)
        if labels is not None:
            foreign = labels[rows, None] != labels[chosen]
            distance[foreign] = torch.inf
            distance = distance[~foreign.all(dim=1)]
        sizes += distance.argmin(dim=1).bincount(minlength=len(chosen))
    return sizes
