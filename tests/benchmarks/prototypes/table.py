"""Tables of Prototypes: the error of a classifier that has seen only these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.cells import EMPTY, Row, markdown, number
from tests.benchmarks.records import load

SIZES = ("10", "110", "410", "960", "2500")
# Rows of the page: the case (with labels or without), the record's name, our name.
PROTOTYPES = (
    ("local", "ours", "**Prototypes**, with labels"),
    ("local", "k-means medoids by class", "k-means medoids of each class"),
    ("local", "k-medoids by class", "k-medoids of each class"),
    ("local", "MMD-critic, running sums", "MMD-critic, with labels"),
    ("local", "ProtoDash", "ProtoDash, with labels"),
    ("global", "ours", "**Prototypes**, without labels"),
    ("global", "MMD-critic, running sums", "MMD-critic, without labels"),
    ("local", "ours, paper=True", "`paper=True`, with labels"),
    ("global", "random", "random"),
)
FORMS = (
    ("local", "ours, paper=True", "`paper=True`, with labels"),
    ("local", "MMD-critic, running sums", "MMD-critic, with labels"),
    ("local", "ours", "**Prototypes**, with labels"),
    ("global", "ours, paper=True", "`paper=True`, without labels"),
    ("global", "MMD-critic, running sums", "MMD-critic, without labels"),
    ("global", "ours", "**Prototypes**, without labels"),
)


def prototypes() -> str:
    """Test error with prototypes as the training set."""
    sizes = [f"{int(size):,}" for size in SIZES]
    rows = _errors(load("prototypes"), PROTOTYPES, "prototypes")
    return markdown(["prototypes", *sizes], rows, best="min")


def prototype_forms() -> str:
    """The paper's rule beside MMD-critic's and the default's."""
    sizes = [f"{int(size):,}" for size in SIZES]
    rows = _errors(load("prototypes"), FORMS, "prototypes")
    return markdown(["prototypes", *sizes], rows, best="min")


def criticisms() -> str:
    """Test error with criticisms as the training set: high is good."""
    wanted = (
        ("local", "ours", "**Prototypes**, with labels"),
        ("local", "MMD-critic", "MMD-critic, with labels"),
        ("global", "ours", "**Prototypes**, without labels"),
        ("global", "MMD-critic", "MMD-critic, without labels"),
    )
    rows = [row[:-1] for row in _errors(load("prototypes"), wanted, "criticisms")]
    return markdown(["criticisms", *SIZES[:-1]], rows, best="max")


def _errors(
    record: Mapping[str, Any], rows: tuple[tuple[str, str, str], ...], what: str
) -> list[Row]:
    found: list[Row] = []
    for case, name, label in rows:
        errors = record[what][case][name]
        cells = [number(errors[n]["mean"], 1) if n in errors else EMPTY for n in SIZES]
        found.append([label, *cells])
    return found
