"""The four questions of ``audit``, and their answers as tables."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.output import one_line
from captum_margin.influence import (
    DecisionBoundary,
    InfluenceResult,
    LabelNoise,
    Prototypes,
    Settings,
)
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
        suspects (InfluenceResult, optional): Of :class:`LabelNoise`.
        decided (Tensor, optional): Class numbers (N,): those that the neighbours
            suggest, else the given ones.
        prototypes (Tensor, optional): Indices, those that stand for most first.
        stands_for (Tensor, optional): How many samples each prototype is nearest to.
        criticisms (InfluenceResult, optional): Of :class:`Prototypes`.
        boundary (InfluenceResult, optional): Of :class:`DecisionBoundary`.
        errors (dict[str, str]): By question: why there is no answer.
        record (dict): By question: settings and seconds, fit for JSON.
        searches (dict): By metric: what found the neighbours, fit for JSON.
        files (list[Path]): The tables written.
    """

    suspects: InfluenceResult | None = None
    decided: Tensor | None = None
    prototypes: Tensor | None = None
    stands_for: Tensor | None = None
    criticisms: InfluenceResult | None = None
    boundary: InfluenceResult | None = None
    errors: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    searches: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    @cached_property
    def is_issue(self) -> Tensor | None:
        """Whose label the neighbours contradict, (N,)."""
        if self.suspects is None:
            return None
        assert self.suspects.labels is not None  # LabelNoise needs them
        return self.suspects.predicted() != self.suspects.labels


def ask(
    data: AuditData,
    n_prototypes: int | None,
    folder: Path,
    show_progress: bool = False,
) -> Answers:
    """Asks all questions the data allow, one by one.

    The neighbours are searched once for each metric. Each table is written as soon as
    its question is answered, and a question that fails does not keep the others from
    being asked. Criticisms and boundary samples go by the
    classes that the neighbours suggest: by the given ones wrong labels would top the
    list of the boundary, too. Prototypes are chosen among samples that are no suspects.

    Args:
        data (AuditData): The samples.
        n_prototypes (int, optional): How many in all. Default: None, five for each
            class and 20 at least.
        folder (Path): Where the tables go.
        show_progress (bool, optional): A bar over the questions. Default: False.

    Cost: one or two searches, O(N² F) time each up to 50,000 samples and about
    O(N sqrt(N) F) beyond, and the MMD; O(N (F + C + k)) memory.
    """
    answers = Answers(decided=data.labels)
    near = _Search(data, answers)

    # Questions of one metric follow each other: the neighbours of one are kept.
    steps: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    if data.has_classes:
        steps.append(("suspects", lambda: _suspects(data, answers, near, folder)))
        steps.append(("boundary", lambda: _boundary(data, answers, near, folder)))
    steps.append(
        (
            "prototypes",
            lambda: _prototypes(data, answers, near, n_prototypes, folder),
        )
    )
    steps.append(("criticisms", lambda: _criticisms(data, answers, near, folder)))
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


class _Search:
    """The neighbours of all samples, searched once for each metric."""

    def __init__(self, data: AuditData, answers: Answers) -> None:
        self.data, self.answers = data, answers
        self.found: dict[str, Neighbors] = {}
        self.seconds = 0.0
        settings = LabelNoise.settings, Prototypes.settings, DecisionBoundary.settings
        self.k = neighbors_for(data, max(used.k for used in settings))

    def __call__(self, metric: Literal["cosine", "euclidean"]) -> Neighbors:
        """As many as any question takes."""
        if metric not in self.found:
            self.found.clear()  # gigabytes, of millions
            started = time.perf_counter()
            found = find_neighbors(self.data.features, self.k, metric=metric)
            seconds = time.perf_counter() - started
            self.seconds += seconds
            self.found[metric] = found
            self.answers.searches[metric] = {
                "k": self.k,
                "backend": found.backend,
                "recall": found.recall and found.recall._asdict(),
                "seconds": round(seconds, 3),
            }
        return self.found[metric]


def among(found: Neighbors, kept: Tensor) -> Neighbors:
    """The neighbours of some samples (M,) that are among them, numbered as they are."""
    place = torch.full((len(found.indices) + 1,), -1)
    place[kept] = torch.arange(len(kept))
    indices = place[found.indices[kept]]  # -1 for none is the last place
    distances = found.distances[kept].masked_fill(indices < 0, torch.inf)
    return found._replace(indices=indices, distances=distances)


def neighbors_for(data: AuditData, at_most: int, share: float = 0.5) -> int:
    """Neighbours per sample: no more than this share of the median sample's class."""
    size = len(data.names)
    if data.labels is not None:
        size = int(data.labels.bincount()[data.labels].median())
    return min(at_most, max(1, int(share * size)))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table, numbers to six digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row])


def _used(settings: Settings) -> dict[str, Any]:
    """Fit for JSON: without the neighbours, of which ``searches`` tells."""
    return asdict(replace(settings, backend="auto"))


def _suspects(
    data: AuditData, answers: Answers, near: _Search, folder: Path
) -> dict[str, Any]:
    question = LabelNoise.from_features(
        data.features,
        data.labels,
        k=neighbors_for(data, LabelNoise.settings.k),
        metric=data.metric,
        backend=near(data.metric),
    )
    result = question.result()
    predicted = result.predicted()
    answers.suspects, answers.decided = result, predicted
    given = result.labels
    assert given is not None  # LabelNoise needs them
    count, weight = votes(result, given, len(data.classes))
    # The columns of InfluenceResult.to_pandas, and the votes.
    bound = max(result.bound, float(result.scores.max()))
    columns = {
        "is_label_issue": predicted != given,
        "label_score": 1 - result.scores / bound,
        "influence": result.scores,
        "share": _of(weight, predicted) / weight.sum(dim=1).clamp(min=1e-30),
        "neighbors": count.sum(dim=1),
        "neighbors_given": _of(count, given),
        "neighbors_predicted": _of(count, predicted),
    }
    values = [column.tolist() for column in columns.values()]
    labelled, suggested = class_names(data, given), class_names(data, predicted)
    answers.files.append(folder / "suspects.csv")
    write_csv(
        answers.files[-1],
        ("rank", "name", "given_label", "predicted_label", *columns),
        (
            (
                rank,
                data.names[i],
                labelled[i],
                suggested[i],
                *(column[i] for column in values),
            )
            for rank, i in enumerate(result.ranking().tolist(), start=1)
        ),
    )
    return _used(question.used)


def _prototypes(
    data: AuditData, answers: Answers, near: _Search, n: int | None, folder: Path
) -> dict[str, Any]:
    issue = answers.is_issue
    clean = torch.arange(len(data.names))
    if issue is not None and not bool(issue.all()):
        clean = clean[~issue]  # a sample under a doubtful label stands for nothing
    backend: Any = "auto"
    if len(clean) > _CHOSEN_AMONG:  # with neighbours of their own
        drawn = torch.randperm(len(clean), generator=torch.Generator().manual_seed(0))
        clean = clean[drawn[:_CHOSEN_AMONG].sort().values]
    else:
        backend = among(near("euclidean"), clean)
    labels = None if answers.decided is None else answers.decided[clean]
    question = Prototypes.from_features(
        data.features[clean],
        labels,
        k=neighbors_for(data, Prototypes.settings.k),
        backend=backend,
    )
    if n is None:
        n = max(_MIN_PROTOTYPES, _PROTOTYPES_PER_CLASS * len(data.classes))
    chosen = clean[question.select(n)]
    stands_for = _cell_sizes(data.features, chosen, answers.decided)
    order = stands_for.argsort(descending=True, stable=True)
    answers.prototypes, answers.stands_for = chosen[order], stands_for[order]
    answers.files.append(folder / "prototypes.csv")
    rows = zip(answers.prototypes.tolist(), answers.stands_for.tolist(), strict=True)
    write_csv(
        answers.files[-1],
        ("rank", "name", "given_label", "class", "stands_for"),
        (
            (
                rank,
                data.names[i],
                given_label(data, i),
                class_of(data, answers.decided, i),
                size,
            )
            for rank, (i, size) in enumerate(rows, start=1)
        ),
    )
    return {"n": n, "chosen_among": len(clean), **_used(question.used)}


def _criticisms(
    data: AuditData, answers: Answers, near: _Search, folder: Path
) -> dict[str, Any]:
    # The MMD leaves the neighbourhood out, so that must be a small part of the class.
    question = Prototypes.from_features(
        data.features,
        answers.decided,
        k=neighbors_for(data, Prototypes.settings.k, share=_LEFT_OUT),
        estimate="exact" if len(data.names) <= _EXACT_UP_TO else "features",
        backend=near("euclidean"),
    )
    result = question.result()
    answers.criticisms = result
    scores = result.scores.tolist()
    labelled = class_names(data, data.labels)
    suggested = class_names(data, answers.decided)
    answers.files.append(folder / "criticisms.csv")
    write_csv(
        answers.files[-1],
        ("rank", "name", "given_label", "class", "influence"),
        (
            (
                rank,
                data.names[i],
                labelled[i],
                suggested[i],
                scores[i],
            )
            for rank, i in enumerate(result.ranking().tolist(), start=1)
        ),
    )
    return _used(question.used)


def _boundary(
    data: AuditData, answers: Answers, near: _Search, folder: Path
) -> dict[str, Any]:
    assert data.labels is not None  # has_classes
    question = DecisionBoundary.from_features(
        data.features,
        answers.decided,
        k=neighbors_for(data, DecisionBoundary.settings.k),
        metric=data.metric,
        backend=near(data.metric),
        label_source="given",
    )
    result = question.result()
    answers.boundary = result
    _, weight = votes(result, data.labels, len(data.classes))
    share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-30)
    shares, classes = (part.tolist() for part in share.topk(2, dim=1))
    scores, labelled = result.scores.tolist(), class_names(data, data.labels)
    answers.files.append(folder / "boundary.csv")
    write_csv(
        answers.files[-1],
        (
            *("rank", "name", "given_label", "influence"),
            *("first_class", "first_share", "second_class", "second_share"),
        ),
        (
            (
                rank,
                data.names[i],
                labelled[i],
                scores[i],
                data.classes[classes[i][0]],
                shares[i][0],
                data.classes[classes[i][1]],
                shares[i][1],
            )
            for rank, i in enumerate(result.ranking().tolist(), start=1)
        ),
    )
    return _used(question.used)


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
