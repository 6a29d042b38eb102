"""Near duplicates in ``audit``: which contradict each other's labels, which leak."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_margin.cli.audit.csv_files import write_csv
from captum_margin.cli.audit.data import AuditData
from captum_margin.influence import DuplicateGroups


@dataclass(frozen=True)
class Duplicates:
    """Near duplicates among the samples.

    Attributes:
        found (DuplicateGroups): Those of the library.
        groups (list[list[int]]): The samples of each, in data order; first the groups
            of several labels, then those of several splits, then the largest.
        labels_differ (list[bool]): Of each group, whether it has several labels.
        splits_differ (list[bool]): Of each group, whether it lies in several splits.
    """

    found: DuplicateGroups
    groups: list[list[int]]
    labels_differ: list[bool]
    splits_differ: list[bool]

    def number(self) -> dict[int, int]:
        """By sample the number of its group, from 1; none without a group."""
        return {i: at for at, group in enumerate(self.groups, start=1) for i in group}

    def contradicted(self) -> set[int]:
        """Samples of which a near duplicate has another label."""
        return _of_those(self.groups, self.labels_differ)

    def leaking(self) -> set[int]:
        """Samples of which a near duplicate is in another split."""
        return _of_those(self.groups, self.splits_differ)

    def told(self) -> str:
        """In a line."""
        if not self.groups:
            return "none"
        text = _groups(len(self.groups)) + f" of {sum(map(len, self.groups)):,} samples"
        several = sum(self.labels_differ), "under several labels"
        across = sum(self.splits_differ), "in several splits, which is a leak"
        parts = [f"{_groups(n)} {what}" for n, what in (several, across) if n]
        return "; ".join([text, *parts])

    def record(self) -> dict[str, Any]:
        """Their numbers, fit for JSON."""
        return {
            "groups": len(self.groups),
            "samples": sum(map(len, self.groups)),
            "groups_of_several_labels": sum(self.labels_differ),
            "groups_in_several_splits": sum(self.splits_differ),
        }


def sort_duplicates(data: AuditData, found: DuplicateGroups) -> Duplicates:
    """What the groups mean for labels and splits, the gravest first."""
    labels = None if data.labels is None else data.labels.tolist()
    groups = [members.tolist() for members in found.members()]
    nearest = found.distance.tolist()

    def several(values: list[Any] | None, group: list[int]) -> bool:
        return bool(values) and len({values[i] for i in group}) > 1  # type: ignore[index]

    def key(group: list[int]) -> tuple[Any, ...]:
        differ = several(labels, group), several(data.splits, group)
        return (*(not d for d in differ), -len(group), min(nearest[i] for i in group))

    groups.sort(key=key)
    return Duplicates(
        found,
        groups,
        [several(labels, group) for group in groups],
        [several(data.splits, group) for group in groups],
    )


def write_duplicates(path: Path, data: AuditData, duplicates: Duplicates) -> None:
    """Writes the table: a line for each sample that has a near duplicate."""
    labels = None if data.labels is None else data.labels.tolist()
    distance = duplicates.found.distance.tolist()
    split = ("split",) if data.splits else ()
    leak = ("splits_differ",) if data.splits else ()
    rows = []
    for at, group in enumerate(duplicates.groups):
        for i in group:
            row = [at + 1, data.names[i], *([data.splits[i]] if split else [])]
            row += ["" if labels is None else data.classes[labels[i]], distance[i]]
            row += [duplicates.labels_differ[at]]
            rows.append([*row, *([duplicates.splits_differ[at]] if leak else [])])
    header = ("group", "name", *split, "given_label", "distance", "labels_differ")
    write_csv(path, (*header, *leak), rows)


def _of_those(groups: list[list[int]], which: list[bool]) -> set[int]:
    pairs = zip(groups, which, strict=True)
    return {i for group, chosen in pairs if chosen for i in group}


def _groups(n: int) -> str:
    return f"{n:,} group" if n == 1 else f"{n:,} groups"
