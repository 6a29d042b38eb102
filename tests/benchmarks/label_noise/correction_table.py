"""The table of what correcting the labels ranked highest does to a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.benchmarks.cells import Row, markdown, number
from tests.benchmarks.forms import FORMS
from tests.benchmarks.records import load

LEVELS = {"random1": "one person each", "worst": "the worst of three answers"}
RANKINGS = {
    **{f"paper, {form}": title for form, title in FORMS.items()},
    "LabelNoise": "**LabelNoise**",
    "5-fold self-confidence": "self-confidence, five-fold",
    "cleanlab, 5-fold": "cleanlab",
    "random": "random",
}


SHOWN = (0.2, 0.4)  # of the shares on record


def label_correction() -> str:
    """Accuracy on clean photographs by the share of labels looked at."""
    record = load("label_correction")
    shares = record["settings"]["shares"]
    parts = {
        (level, classifier): part
        for level in LEVELS
        for classifier, part in record["levels"][level]["classifiers"].items()
    }
    rows: list[Row] = [_end(parts.values(), "as given", "none looked at")]
    for name, title in RANKINGS.items():
        cells = []
        for part in parts.values():
            row = part["methods"][name]
            for share in SHOWN:
                column = shares.index(share)
                error = row["standard_error"][column]
                cells.append(number(row["mean"][column], 1, error))
        rows.append([title, *cells])
    rows.append(_end(parts.values(), "all true", "all right"))
    header = []
    for level, classifier in parts:
        wrong = record["levels"][level]["wrong"]
        first, second = (f"{share:.0%} ↑" for share in SHOWN)
        header += [f"{LEVELS[level]} ({wrong:.0%} wrong), {classifier}: {first}"]
        header += [second]
    return markdown(["looked at by", *header], rows)


def _end(parts: Iterable[Mapping[str, Any]], end: str, title: str) -> Row:
    """What no ranking changes: a string, never the best."""
    cells = [number(part[end]["mean"][0], 1).text for part in parts]
    return [title, *(cell for text in cells for cell in (text, text))]
