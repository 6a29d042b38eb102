"""Re-makes every table of measurements in the README and in the tutorials' pages.

    python -m tests.benchmarks.tables                  from the results on record
    python -m tests.benchmarks.tables --check          only compares; exit status 1
    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.tables --run --cache DIR

A table stands between ``<!-- table: NAME -->`` and ``<!-- /table -->`` and is made from
``results/*.json``; no number in it is written by hand. ``--run`` first runs the
benchmarks that write these files, all or those named (``--run saliency coalition``),
each by the command it has on record; all take many hours on two cores. What DIR holds
already is not computed again.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import (
    table_images,
    table_influence,
    table_sanity,
    table_scale,
    table_summary,
)
from .table_cells import RESULTS, load

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "tutorials/benchmarks.md", "tutorials/case_studies.md")
DOCUMENTS = tuple(ROOT / page for page in PAGES)
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.S)
TABLES: dict[str, Callable[[], str]] = {
    "summary": table_summary.summary,
    "saliency": table_images.saliency,
    "saliency-forms": table_images.saliency_forms,
    "representative": table_images.representative,
    "representative-increase": table_images.representative_increase,
    "coalition": table_images.coalition,
    "coalition-parts": table_images.coalition_parts,
    "label-noise": table_influence.label_noise,
    "label-noise-checked": table_influence.label_noise_checked,
    "label-noise-forms": table_influence.label_noise_forms,
    "prototypes": table_influence.prototypes,
    "prototype-forms": table_influence.prototype_forms,
    "criticisms": table_influence.criticisms,
    "adversarial": table_influence.adversarial,
    "adversarial-forms": table_influence.adversarial_forms,
    "decision-boundary": table_influence.decision_boundary,
    "neighbors": table_scale.neighbors,
    "scale": table_scale.scale,
    "audit": table_scale.audit,
    "sanity": table_sanity.sanity,
    "active-learning": table_influence.active_learning,
    "active-learning-forms": partial(table_influence.active_learning, forms=True),
    "active-learning-paper": table_influence.active_learning_paper,
}
_SALIENCY = "python -m tests.benchmarks.bench_saliency --cache DIR/saliency"
_COALITION = "python -m tests.benchmarks.bench_coalition --cache DIR/coalition"
_SCALE = "python -m tests.benchmarks.bench_scale"
_ACTIVE = "python -m tests.benchmarks.bench_active_learning --cache DIR/active"
# Results that take several commands, or one that the record does not tell in full.
COMMANDS: dict[str, tuple[str, ...]] = {
    "active_learning": (f"{_ACTIVE} --ablation", f"{_ACTIVE} --report"),
    "saliency": (_SALIENCY, f"{_SALIENCY} --report"),
    "coalition": (
        f"{_COALITION} --photographs 30",
        f"{_COALITION} --photographs 30 --methods 'without coalitions'",
        f"{_COALITION} --photographs 16 --methods 'without L_conf' 'margin loss' "
        "'without L_c' 'without moving coalitions' '15 steps' '30 steps' "
        "'SLIC coalitions' 'coalitions of 0 steps' '30 steps, 4 noises of 0.2'",
        f"{_COALITION} --photographs 7 --methods paper",
        f"{_COALITION} --report",
    ),
    "scale": tuple(
        f"{_SCALE} {part} --cache DIR/scale"
        for part in (
            *(f"run {n}" for n in (10**4, 10**5, 10**6, 10**7)),
            "filter",
            "equality",
            "report",
        )
    ),
    "influence_cost": ("python -m tests.benchmarks.bench_influence_cost --again",),
    "representative_cost": (
        "python -m tests.benchmarks.bench_representative_cost --cache DIR --again",
    ),
}


def render(text: str) -> str:
    """The document with all its tables made anew.

    Raises:
        ValueError: If a marker names no table, or is not closed.
    """
    if text.count("<!-- table:") != len(MARKED.findall(text)):
        raise ValueError("expected each <!-- table: NAME --> closed by <!-- /table -->")

    def make(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"no table is named {match[2]!r}; known: {[*TABLES]}")
        return f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[4]}"

    return MARKED.sub(make, text)


def results() -> list[str]:
    """Names of all results on record."""
    return sorted(path.stem for path in RESULTS.glob("*.json"))


def commands(name: str) -> tuple[str, ...]:
    """What makes ``results/NAME.json``; DIR stands for the cache."""
    if name in COMMANDS:
        return COMMANDS[name]
    record = load(name)
    return (record.get("command") or record["settings"]["command"],)


def run(names: list[str], cache: Path) -> None:
    """Runs the benchmarks, one after another; the first that fails ends it."""
    for name in names:
        for command in commands(name):
            words = shlex.split(command)
            settings = dict(word.split("=", 1) for word in words if _is_setting(word))
            call = [word for word in words if not _is_setting(word)]
            call = [re.sub(r"^DIR(?=$|/)", str(cache), word) for word in call]
            print(f"{name}: {shlex.join(call)}", flush=True)
            environment = {"OMP_NUM_THREADS": "1", **os.environ, **settings}
            subprocess.run(
                [sys.executable, *call[1:]], check=True, cwd=ROOT, env=environment
            )


def _is_setting(word: str) -> bool:
    return re.match(r"[A-Z_]+=", word) is not None


def main() -> int:
    """Parses the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="the default")
    what.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--run", nargs="*", metavar="NAME", choices=results())
    parser.add_argument("--cache", type=Path, help="where --run keeps what it makes")
    arguments = parser.parse_args()
    if arguments.run is not None:
        if arguments.cache is None:
            parser.error("--run needs --cache DIR")
        arguments.cache.mkdir(parents=True, exist_ok=True)
        run(arguments.run or results(), arguments.cache.resolve())
    differ = False
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        made = render(text)
        differ |= made != text
        name = str(path.relative_to(ROOT))
        lines = (text.splitlines(keepends=True), made.splitlines(keepends=True))
        sys.stdout.writelines(difflib.unified_diff(*lines, name, name, n=0))
        if not arguments.check:
            path.write_text(made, encoding="utf-8")
    return int(differ and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
