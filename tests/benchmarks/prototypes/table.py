"""Tables of Prototypes: the error of a classifier that has seen only these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, number
from tests.benchmarks.forms import FORMS
from tests.benchmarks.records import load

SIZES = ("10", "110", "410", "960", "2500")
SHARE_SIZES = ("10", "50", "110", "200", "410", "960", "2500")
# Rows of the page: the case (with labels or without), the record's name, our name.
PROTOTYPES = (
    ("local", "ours", "**Prototypes**, with labels"),
    ("local", "k-means medoids by class", "k-means medoids of each class"),
    ("local", "k-medoids by class", "k-medoids of each class"),
    ("local", "MMD-critic, running sums", "MMD-critic, with labels"),
    ("local", "ProtoDash", "ProtoDash, with labels"),
    ("global", "ours", "**Prototypes**, without labels"),
    ("global", "MMD-critic, running sums", "MMD-critic, without labels"),
    ("local", "paper, algorithm", "`paper=True`, with labels"),
    ("global", "random", "random"),
)
CASES = {"local": "with labels", "global": "without labels"}
CRITIC = {"prototypes": "MMD-critic, running sums", "criticisms": "MMD-critic"}


def prototypes() -> str:
    """Test error with prototypes as the training set."""
    sizes = [f"{int(size):,}" for size in SIZES]
    rows = _errors(load("prototypes"), PROTOTYPES, "prototypes")
    return markdown(["prototypes", *sizes], rows, best="min")


def prototype_forms() -> str:
    """The paper's rule in each form beside MMD-critic's and the default's."""
    sizes = [f"{int(size):,}" for size in SIZES]
    rows = _errors(load("prototypes"), _forms("prototypes"), "prototypes")
    return markdown(["prototypes", *sizes], rows, best="min")


def prototype_shares() -> str:
    """Algorithm 1 with several shares of samples that count as of low influence."""
    record = load("prototypes")["shares_of_low_influence"]
    rows: list[Row] = []
    for case, labels in CASES.items():
        shares = record[case]["algorithm"]
        for share, errors in shares.items():
            cells = [_test(errors.get(size)) for size in SHARE_SIZES]
            rows.append([f"{float(share):.0%}, {labels}", *cells])
        chosen = []
        for size in SHARE_SIZES:
            known = [errors[size] for errors in shares.values() if size in errors]
            chosen.append(_test(min(known, key=lambda e: e["training"])))
        rows.append([f"by the training images, {labels}", *chosen])
    sizes = [f"{int(size):,}" for size in SHARE_SIZES]
    return markdown(["of low influence", *sizes], rows)


def criticisms() -> str:
    """Test error with criticisms as the training set: high is good."""
    wanted = _forms("criticisms")
    rows = [row[:-1] for row in _errors(load("prototypes"), wanted, "criticisms")]
    return markdown(["criticisms", *SIZES[:-1]], rows, best="max")


def _forms(what: str) -> tuple[tuple[str, str, str], ...]:
    """Rows of the paper's forms, MMD-critic and the default, in both cases."""
    return tuple(
        (case, name, f"{label}, {labels}")
        for case, labels in CASES.items()
        for name, label in (
            *((f"paper, {form}", title) for form, title in FORMS.items()),
            (CRITIC[what], "MMD-critic"),
            ("ours", "**Prototypes**"),
        )
    )


def _test(errors: Mapping[str, float] | None) -> Cell:
    return EMPTY if errors is None else number(errors["test"], 1)


def _errors(
    record: Mapping[str, Any], rows: tuple[tuple[str, str, str], ...], what: str
) -> list[Row]:
    found: list[Row] = []
    for case, name, label in rows:
        errors = record[what][case][name]
        cells = [number(errors[n]["mean"], 1) if n in errors else EMPTY for n in SIZES]
        found.append([label, *cells])
    return found
