"""The page of ``audit``: one file that needs nothing else, for a reader of any kind."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_margin.cli.audit.browse import FIRST, N_NEAR, browse
from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.audit.near_duplicates import Duplicates
from captum_margin.cli.audit.questions import (
    Answers,
    class_of,
    given_label,
    unknown_classes,
    votes,
)
from captum_margin.cli.audit.why import Why, overlaid
from captum_margin.cli.output import CommandError
from captum_margin.influence._knowledge import Knowledge

_N_PAIRS = 10
_MIN_ODD = 10
_MAX_PROTOTYPES = 200  # pictures weigh a few kB each
_GROUP = 8  # samples shown of a group of near duplicates
_LARGE, _MEDIUM, _SMALL = 176, 128, 80  # pixels
_TINY = 64  # pictures up to here are shown pixel by pixel


def write_page(
    path: Path,
    data: AuditData,
    answers: Answers,
    made: dict[str, str],
    n_top: int,
    why: Why,
) -> None:
    """Writes the page.

    Args:
        path (Path): The file.
        data (AuditData): The samples.
        answers (Answers): What is known of them.
        made (dict[str, str]): How it was made, by what is said.
        n_top (int): Samples shown of each list.
        why (Why): Heat maps of suspects.

    Cost: reads the picture of each sample, and those of the lists a second time.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("captum_margin.cli", "audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = _Thumbnails(data)
    samples = browse(data, answers, n_top)
    ids = samples.pop("ids")
    suspects = _suspects(data, answers, pictures, n_top, why)
    sections = _sections(data, answers, pictures, n_top)
    text = environment.get_template("page.html.j2").render(
        title=data.title,
        summary=_summary(data),
        notes=data.notes,
        origin=data.origin,
        cards=_cards(data, suspects, sections, len(ids)),
        suspects=suspects,
        sections=sections,
        errors=answers.errors,
        unreadable=data.unreadable,
        unreadable_heading=_count(len(data.unreadable), "file") + " could not be read",
        made=made.items(),
        pictures=data.picture is not None,
        small_pictures=pictures.all_tiny,
        n_near=N_NEAR,
        n_samples=len(data.names),
        first=max(FIRST, n_top),
        samples=samples,
        n_shown=len(ids),
        place={i: at for at, i in enumerate(ids)},
    )
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


class _Thumbnails:
    """Pictures as addresses that hold their contents."""

    def __init__(self, data: AuditData) -> None:
        self.data = data
        self.all_tiny = data.picture is not None

    def __call__(self, index: int, side: int, heat: Tensor | None = None) -> str | None:
        """The address; None if there is no picture, or it is gone since.

        With a heat map over it.
        """
        from PIL import ImageOps

        if self.data.picture is None:
            return None
        try:
            image = self.data.picture(index, side)
        except CommandError:
            return None
        contents = io.BytesIO()
        if heat is not None:
            seen = self.data.seen
            assert seen is not None  # which it is of
            if seen.side_seen is None:
                whole = overlaid(seen.picture(index), heat, None)
                image = ImageOps.pad(whole, (side, side), color="white")
            else:
                square = ImageOps.fit(image.convert("RGB"), (side, side))
                image = overlaid(square, heat, seen.side_seen)
        if max(image.size) <= _TINY:
            image.save(contents, "PNG", optimize=True)
            kind = "png"
        else:
            self.all_tiny = False
            # The network, too, sees a square from the middle.
            square = ImageOps.fit(image.convert("RGB"), (side, side))
            square.save(contents, "JPEG", quality=80, optimize=True)
            kind = "jpeg"
        encoded = base64.b64encode(contents.getvalue()).decode("ascii")
        return f"data:image/{kind};base64,{encoded}"


def _suspects(
    data: AuditData, answers: Answers, pictures: _Thumbnails, n_top: int, why: Why
) -> dict[str, Any] | None:
    """The section of suspects; None if the data have no classes."""
    if not data.has_classes:
        return None
    result, is_issue = answers.suspects, answers.is_issue
    if result is None or is_issue is None:
        return {
            "heading": "Suspects",
            "total": 0,
            "entries": [],
            "pairs": [],
            "twins": 0,
            "known": [],
            "warnings": answers.warnings,
            "why": None,
        }
    assert data.labels is not None and answers.decided is not None  # has_classes
    ranking = result.ranking()
    flagged = ranking[is_issue[ranking]].tolist()
    given, decided = data.labels.tolist(), answers.decided.tolist()
    pairs = Counter((given[i], decided[i]) for i in flagged).most_common(_N_PAIRS)
    n = len(data.names)
    if flagged:
        verb = "has a label" if len(flagged) == 1 else "have a label"
        heading = f"{len(flagged):,} of {n:,} samples {verb} that the others contradict"
    else:
        heading = f"None of {n:,} samples has a label that the others contradict"
    known = result.knowledge
    if known is not None and not bool(known.known.any()):
        heading = f"Nothing is known of the labels of {n:,} samples"
    counts, _ = votes(result, data.labels, len(data.classes))
    contradicted = _contradicted(answers)
    entries = []
    for rank, i in enumerate(flagged[:n_top], start=1):
        near = result.neighbors(i).indices[:N_NEAR].tolist()
        most, own = int(counts[i, decided[i]]), int(counts[i, given[i]])
        total = int(counts[i].sum())
        if most > own:
            because = f"but {most} of its {_count(total, 'neighbour')}"
            because += " is labelled" if most == 1 else " are labelled"
            rest = ""
        else:  # fewer, but nearer, or of the same kind by all that tells kinds apart
            because = "but what is seen in it says"
            rest = f" ({most} of {total}, {own} are {data.classes[given[i]]})"
        entries.append(
            _entry(data, pictures, i, _LARGE)
            | {
                "rank": rank,
                "suggested": data.classes[decided[i]],
                "because": because,
                "rest": rest,
                "twin": i in contradicted,
                "why": pictures(i, _LARGE, why.heat[i]) if i in why.heat else None,
                "near": [
                    _entry(data, pictures, j, _SMALL)
                    | {
                        "label": given_label(data, j),
                        "contradicts": given[j] != given[i],
                    }
                    for j in near
                ],
            }
        )
    named = [(data.classes[a], data.classes[b], count) for (a, b), count in pairs]
    return {
        "heading": heading,
        "total": len(flagged),
        "entries": entries,
        "pairs": named,
        "twins": len(contradicted - {*flagged}),
        "known": [] if known is None else _known(data, known),
        "warnings": answers.warnings,
        "why": (why.record or {}).get("by") if why.heat else None,
    }


def _known(data: AuditData, known: Knowledge) -> list[str]:
    """How much what is said of the labels is worth, a line each."""
    unknown = unknown_classes(data, known)
    if len(unknown) == len(data.classes):
        return []  # the warning says it
    wrong = _count(known.n_wrong, "label is", "labels are")
    lines = [
        f"From the others alone {known.accuracy:.1%} of the labels can be told "
        f"(95% interval: {known.low:.1%} to {known.high:.1%}); always "
        f"naming the commonest class would be right for {known.chance:.1%}. Probably "
        f"{wrong} wrong."
    ]
    if unknown:
        verb = "It does" if len(unknown) == 1 else "They do"
        lines.append(
            f"Of {_listed(unknown) if len(unknown) > 1 else unknown[0]} the votes know "
            f"nothing. {verb} not stand out among the others, so no label of "
            f"{'this class' if len(unknown) == 1 else 'these classes'} is called wrong."
        )
    return lines


def _contradicted(answers: Answers) -> set[int]:
    """Samples of which a near duplicate has another label."""
    return set() if answers.duplicates is None else answers.duplicates.contradicted()


def _sections(
    data: AuditData, answers: Answers, pictures: _Thumbnails, n_top: int
) -> list[dict[str, Any]]:
    """The sections after the suspects."""
    sections = [
        _near_duplicates(data, answers, pictures, n_top),
        _prototypes(data, answers, pictures),
        _criticisms(data, answers, pictures, n_top),
    ]
    if data.has_classes:
        sections.append(_boundary(data, answers, pictures, n_top))
    return sections


def _near_duplicates(
    data: AuditData, answers: Answers, pictures: _Thumbnails, n_top: int
) -> dict[str, Any]:
    found = answers.duplicates
    groups = [] if found is None else found.groups
    n_samples, several = sum(map(len, groups)), "" if len(groups) == 1 else "s"
    heading = "No near duplicates"
    if groups:
        heading = f"{n_samples:,} near duplicates in {len(groups):,} group{several}"
    shown, entries = [], 0
    for at, group in enumerate(groups[:n_top], start=1):
        listed = [_twin(data, answers, pictures, i) for i in group[:_GROUP]]
        entries += len(listed)
        shown.append({"title": _group_title(data, at, group), "entries": listed})
    return {
        "key": "near_duplicates",
        "heading": heading,
        "text": "Samples that are far nearer to each other than is usual around them: "
        "copies, copies changed a little, or two of the same thing."
        + (" Groups of several labels come first." if data.has_classes else ""),
        "notes": [] if found is None else _duplicate_notes(found),
        "total": n_samples,
        "shown": entries,
        "groups": shown,
    }


def _twin(
    data: AuditData, answers: Answers, pictures: _Thumbnails, i: int
) -> dict[str, Any]:
    """A near duplicate under its label, with its split."""
    label = [given_label(data, i)] if data.labels is not None else []
    split = [f"in {data.splits[i]}"] if data.splits else []
    issue = answers.is_issue
    remark = ["also a suspect"] if issue is not None and bool(issue[i]) else []
    lines = [*label, data.names[i], *split, *remark]
    return _entry(data, pictures, i, _MEDIUM, *lines)


def _group_title(data: AuditData, at: int, group: list[int]) -> str:
    """Such as ``Group 3: 2 samples, labelled cat and dog, in train and val``."""
    title = f"Group {at:,}: {len(group):,} samples"
    if data.labels is not None:
        labels = sorted({given_label(data, i) for i in group})
        if len(labels) > 1:
            title += f", labelled {_listed(labels)}"
    splits = sorted({data.splits[i] for i in group}) if data.splits else []
    return title + (f", in {_listed(splits)}" if len(splits) > 1 else "")


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _duplicate_notes(found: Duplicates) -> list[str]:
    """What near duplicates mean for labels and splits."""
    notes = []
    labels, splits = sum(found.labels_differ), sum(found.splits_differ)
    if labels:
        notes.append(
            f"{_count(labels, 'group')} with several labels: one of them is wrong, or "
            "both say what is there"
        )
    if splits:
        notes.append(
            f"{_count(splits, 'group')} in several splits, which is a leak: a model "
            "that was trained on one split has seen these samples of the other"
        )
    return notes


def _prototypes(
    data: AuditData, answers: Answers, pictures: _Thumbnails
) -> dict[str, Any]:
    chosen = [] if answers.prototypes is None else answers.prototypes.tolist()
    sizes = [] if answers.stands_for is None else answers.stands_for.tolist()
    each = max(1, _MAX_PROTOTYPES // max(1, len(data.classes)))
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in data.classes}
    for i, size in zip(chosen, sizes, strict=True):
        group = groups.setdefault(class_of(data, answers.decided, i), [])
        if len(group) < each:
            lines = [f"stands for {size:,}"]
            group.append(_entry(data, pictures, i, _MEDIUM, *lines, data.names[i]))
    shown = dict(list(groups.items())[:_MAX_PROTOTYPES])
    return {
        "key": "prototypes",
        "heading": f"{_count(len(chosen), 'prototype')}: samples that stand for all",
        "text": "Each stands for the samples that are nearer to it than to another "
        "prototype. Together they show what the data hold"
        + (", class by class." if data.has_classes else "."),
        "total": len(chosen),
        "shown": sum(map(len, shown.values())),
        "groups": [
            {
                "title": name
                + (
                    ""
                    if entries
                    else ": none, for the neighbours of its "
                    "samples are of other classes"
                ),
                "entries": entries,
            }
            for name, entries in shown.items()
        ]
        if chosen
        else [],
    }


def _criticisms(
    data: AuditData, answers: Answers, pictures: _Thumbnails, n_top: int
) -> dict[str, Any]:
    result = answers.criticisms
    top = [] if result is None else result.top(_n_odd(data, n_top)).tolist()
    return {
        "key": "criticisms",
        "heading": "Criticisms: samples that nothing else stands for",
        "text": "The oddest first: rare views, odd crops, damaged pictures, or things "
        "that do not belong here at all."
        if data.picture is not None
        else "The oddest first: rare cases, outliers, or things that do not belong "
        "here at all.",
        "total": 0 if result is None else len(data.names),
        "shown": len(top),
        "groups": [
            {
                "title": "",
                "entries": [_labelled(data, answers, pictures, i) for i in top],
            }
        ],
    }


def _boundary(
    data: AuditData, answers: Answers, pictures: _Thumbnails, n_top: int
) -> dict[str, Any]:
    result = answers.boundary
    entries = []
    if result is not None:
        assert data.labels is not None  # has_classes
        counts, _ = votes(result, data.labels, len(data.classes))
        for i in result.top(_n_odd(data, n_top)).tolist():
            values, classes = counts[i].sort(descending=True, stable=True)
            around = ", ".join(
                f"{count} {data.classes[c]}"
                for count, c in zip(values[:3].tolist(), classes.tolist(), strict=False)
                if count
            )
            entry = _labelled(data, answers, pictures, i)
            entry["lines"].insert(2, f"near {around}")
            entries.append(entry)
    return {
        "key": "boundary",
        "heading": "Boundary: samples where the classes meet",
        "text": "Their neighbours are of several classes, so these are the samples "
        "that are hard to tell apart. Under each stands its label and how many of its "
        "neighbours are of which class. A sample among the suspects counts here as "
        "what the others say it is.",
        "total": 0 if result is None else len(data.names),
        "shown": len(entries),
        "groups": [{"title": "", "entries": entries}],
    }


def _n_odd(data: AuditData, n_top: int) -> int:
    """How many are shown of a ranking of all: at most a tenth is odd."""
    return min(n_top, max(_MIN_ODD, len(data.names) // 10))


def _labelled(
    data: AuditData, answers: Answers, pictures: _Thumbnails, i: int
) -> dict[str, Any]:
    """An entry under its label, and a remark if it is a suspect too."""
    issue = answers.is_issue
    remark = ["also a suspect"] if issue is not None and bool(issue[i]) else []
    if i in _contradicted(answers):
        remark.append("a near duplicate has another label")
    label = [given_label(data, i)] if data.labels is not None else []
    return _entry(data, pictures, i, _MEDIUM, *label, data.names[i], *remark)


def _entry(
    data: AuditData, pictures: _Thumbnails, i: int, side: int, *lines: str
) -> dict[str, Any]:
    label = given_label(data, i)
    return {
        "index": i,
        "name": data.names[i],
        "given": label,
        "image": pictures(i, side),
        "alt": f"{data.names[i]}, labelled {label}" if label else data.names[i],
        "lines": list(lines),
    }


def _summary(data: AuditData) -> str:
    text = _count(len(data.names), "sample")
    if data.labels is not None:
        sizes = data.labels.bincount(minlength=len(data.classes)).tolist()
        text += f" in {_count(len(sizes), 'class', 'classes')}"
        if len(sizes) <= _N_PAIRS:
            listed = zip(data.classes, sizes, strict=True)
            text += ": " + ", ".join(f"{name} ({size:,})" for name, size in listed)
        else:
            text += f" of {min(sizes):,} to {max(sizes):,}"
    return text + "."


def _cards(
    data: AuditData,
    suspects: dict[str, Any] | None,
    sections: Sequence[dict[str, Any]],
    n_all: int,
) -> list[dict[str, str]]:
    """What leads to each section: a number and what it counts."""
    cards = []
    if suspects is not None:
        number = f"{suspects['total']:,}"
        cards.append(("suspects", number, "suspects: labels that may be wrong"))
    texts = {
        "near_duplicates": "near duplicates: samples almost the same",
        "prototypes": "prototypes: samples that stand for all",
        "criticisms": "criticisms: the oddest samples",
        "boundary": "boundary: samples between classes",
    }
    for section in sections:
        key = section["key"]
        number = section["total" if key == "near_duplicates" else "shown"]
        cards.append((key, f"{number:,}", texts[key]))
    cards.append(("all", f"{n_all:,}", "samples: map, search, filter, sort"))
    if data.unreadable:
        n = len(data.unreadable)
        cards.append(("unreadable", f"{n:,}", "files that cannot be read"))
    return [{"key": k, "number": n, "text": t} for k, n, t in cards]


def _count(n: int, one: str, several: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else several or one + 's'}"
