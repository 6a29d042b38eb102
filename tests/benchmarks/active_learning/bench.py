"""Accuracy of a graph network trained on the labels of chosen nodes.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.active_learning.bench --cache DIR [--methods A B]
    python -m tests.benchmarks.active_learning.bench --cache DIR --report
    python -m tests.benchmarks.active_learning.bench --cache DIR --methods A B --update

"open": 20 to 140 nodes from all outside the validation and test sets, no label known;
a graph convolutional network of two layers. "paper": so many nodes of each class out
of the standard training nodes, whose labels are known; three layers. All networks have
16 hidden units and are trained for 200 epochs without validation labels; accuracy is
that on the 1,000 standard test nodes.

A cell (graph, protocol, method, budget) is 20 trainings; the i-th has the i-th seed for
the initial weights and dropout, and for the selection where that has chance. Finished
cells are kept in DIR; those of this package's forms are measured again where the choice
has changed. Differences are paired by seed; of methods without chance their standard
errors are those of the training alone. ``--update`` puts the rows of a later run, with
the same seeds, beside those on record. A method of "paper" that was measured before
tells whether a machine agrees: it stays as it was, and what differs is written down.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

import captum_margin
from tests.benchmarks.active_learning.ablation import VARIANTS, ours, ours_per_class
from tests.benchmarks.active_learning.data import PLANETOID, load
from tests.benchmarks.active_learning.paper import PAPER
from tests.benchmarks.active_learning.peers import NESTED, PEERS, Selector
from tests.benchmarks.active_learning.training import accuracies
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

MODULE = "tests.benchmarks.active_learning.bench"
RESULT = RESULTS / "active_learning.json"
SEEDS = range(20)
DATASETS = PLANETOID
BUDGETS = {
    "Cora": (20, 40, 80, 140),
    "CiteSeer": (20, 40, 80, 120),
}
PER_CLASS = (1, 2, 3, 5, 10, 15)  # all 20 are the same for every method
LAYERS = {"open": 2, "paper": 3}
DEFAULT = "select_nodes"
METHODS: dict[str, dict[str, Selector]] = {
    "open": {DEFAULT: ours(), **PEERS},
    "paper": {DEFAULT: ours_per_class, **PAPER},
}


def budgets(dataset: str, protocol: str) -> tuple[int, ...]:
    """Nodes in all, or of each class."""
    return BUDGETS[dataset] if protocol == "open" else PER_CLASS


def run(
    data: Data,
    protocol: str,
    method: str,
    selector: Selector,
    sizes: Sequence[int],
    folder: Path,
) -> None:
    """Measures the missing cells of a method on a graph."""
    whole: list[Tensor] | None = None
    nested = 0.0
    for budget in sizes:
        kept = folder / f"{method}, {budget}.json"
        cell = json.loads(kept.read_text()) if kept.exists() else {}
        if cell and method not in (DEFAULT, *VARIANTS):
            continue
        start = time.process_time()
        if method in NESTED:
            if whole is None:
                whole = selector(data, max(sizes), SEEDS)
                nested = time.process_time() - start
            chosen, seconds = [nodes[:budget] for nodes in whole], nested
        else:
            chosen = selector(data, budget, SEEDS)
            seconds = time.process_time() - start
        text = json.dumps([nodes.tolist() for nodes in chosen])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if cell.get("digest") == digest:
            continue
        start = time.process_time()
        hits = accuracies(data, chosen, SEEDS, layers=LAYERS[protocol])
        cell = {
            "accuracy": hits.tolist(),
            "digest": digest,
            "selections": len({tuple(nodes.tolist()) for nodes in chosen}),
            "seconds_selection": round(seconds, 3),
            "seconds_training": round(time.process_time() - start, 1),
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(cell))
        print(f"{kept}: {100 * hits.mean():.1f} ± {100 * hits.std():.1f}", flush=True)


def table(folder: Path, methods: Sequence[str], sizes: Sequence[int]) -> dict[str, Any]:
    """Statistics of the cells that are there, in per cent: method, budget, value."""
    cells: dict[str, dict[int, dict[str, Any]]] = {}
    for method in methods:
        for budget in sizes:
            kept = folder / f"{method}, {budget}.json"
            if kept.exists():
                cells.setdefault(method, {})[budget] = json.loads(kept.read_text())
    rows: dict[str, Any] = {}
    for method, row in cells.items():
        rows[method] = {}
        for budget, cell in row.items():
            values = 100 * np.array(cell["accuracy"])
            entry = {
                "mean": round(values.mean(), 2),
                "median": round(float(np.median(values)), 2),
                "sd": round(values.std(ddof=1), 2),
                **{key: cell[key] for key in cell if key not in ("accuracy", "digest")},
            }
            if method != DEFAULT and budget in cells.get(DEFAULT, {}):
                own = 100 * np.array(cells[DEFAULT][budget]["accuracy"])
                pairs = own - values
                error = pairs.std(ddof=1) / len(pairs) ** 0.5
                entry["default_minus_this"] = round(pairs.mean(), 2)
                entry["standard_error"] = round(error, 2)
            rows[method][str(budget)] = entry
    return rows


def update(
    record: dict[str, Any], title: str, rows: dict[str, Any], about: dict[str, Any]
) -> None:
    """Puts the rows of a later run beside those on record.

    Those that were there stay, and how far the later means are from theirs is kept;
    a new default takes the place of the old one, and all differences are to it.
    Rows of methods that are no longer compared are left out. Accuracies by seed are not
    on record: differences to the default have the error of two independent means.
    """
    found = record["results"][title]
    protocol = title.split(", ")[1]
    old = found["methods"]
    if protocol == "paper":
        old = {name: row for name, row in old.items() if name in METHODS[protocol]}
    later = found.setdefault("later_rows", {})
    for name, row in rows.items():
        if name in old and name not in later and name != DEFAULT:
            later.setdefault("measured again", {})[name] = {
                n: round(cell["mean"] - old[name][n]["mean"], 2)
                for n, cell in row.items()
            }
            continue
        old[name] = row
        later[name] = about
    for name in old if DEFAULT in rows else set(rows) & set(later):
        if name == DEFAULT:
            continue
        for n, cell in old[name].items():
            own = old[DEFAULT][n]
            error = ((own["sd"] ** 2 + cell["sd"] ** 2) / len(SEEDS)) ** 0.5
            cell["default_minus_this"] = round(own["mean"] - cell["mean"], 2)
            cell["standard_error"] = round(error, 2)
    found["methods"] = old
    found["losses"] = losses(old)


def losses(rows: dict[str, Any]) -> list[str]:
    """Where a method is better than the default by more than a standard error."""
    return [
        f"{method}, {budget}: {entry['default_minus_this']} ± {entry['standard_error']}"
        for method, row in rows.items()
        for budget, entry in row.items()
        if entry.get("default_minus_this", 0) < -entry.get("standard_error", 0)
    ]


def markdown(title: str, rows: dict[str, Any], sizes: Sequence[int]) -> str:
    """Two tables: mean, median and deviation; the default's lead."""
    form = {
        "mean (median) ± standard deviation": "{mean:.1f} ({median:.1f}) ± {sd:.1f}",
        f"{DEFAULT} minus this, ± standard error": (
            "{default_minus_this:+.1f} ± {standard_error:.1f}"
        ),
    }
    lines = []
    for what, text in form.items():
        lines += [f"\n{title}: {what}\n", f"| | {' | '.join(map(str, sizes))} |"]
        lines += ["|" + "---|" * (len(sizes) + 1)]
        for method, row in rows.items():
            entries = [row.get(str(size), {}) for size in sizes]
            if "minus" in what and not any("standard_error" in e for e in entries):
                continue
            marks = [
                text.format(**e)
                if e and ("minus" not in what or "standard_error" in e)
                else ""
                for e in entries
            ]
            lines.append(f"| {method} | {' | '.join(marks)} |")
    return "\n".join(lines)


def versions(*more: str) -> dict[str, str]:
    """Of Python and what the numbers depend on."""
    packages = ["torch", "torch-geometric", "numpy", "scipy", "scikit-learn", *more]
    own = {"python": platform.python_version()}
    own["captum_margin"] = captum_margin.__version__
    return own | {name: version(name) for name in packages}


def later_run(datasets: Sequence[str], protocols: Sequence[str]) -> dict[str, Any]:
    """What is said of rows that a later run has put in."""
    options = f"--datasets {' '.join(datasets)} --protocols {' '.join(protocols)}"
    return {
        "command": f"python -m {MODULE} --cache DIR {options} --methods ... --update",
        "standard_error": "of two independent means",
        "versions": versions(),
        "machine": machine(),
    }


def main() -> None:
    """Measures what is missing; prints the tables, and writes them if told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="see above")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--protocols", nargs="+", default=list(LAYERS), choices=LAYERS)
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--ablation", action="store_true", help="deviations as well")
    parser.add_argument("--report", action="store_true", help="measure nothing, write")
    parser.add_argument("--update", action="store_true", help="write these rows only")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    record = json.loads(args.out.read_text()) if args.update else {}
    for name in args.datasets:
        data = load(name, Path(os.environ["CAPTUM_MARGIN_DATA"]), args.cache)
        for protocol in args.protocols:
            methods = dict(METHODS[protocol])
            if protocol == "open" and (args.ablation or args.report):
                methods |= VARIANTS
            folder = args.cache / name / protocol
            sizes = budgets(name, protocol)
            for method, selector in methods.items():
                if not args.report and method in (args.methods or methods):
                    run(data, protocol, method, selector, sizes, folder)
            rows = table(folder, list(methods), sizes)
            title = f"{name}, {protocol}"
            results[title] = {"methods": rows, "losses": losses(rows)}
            print(markdown(title, rows, sizes))
            worse = results[title]["losses"] or ["none"]
            print(f"\nbetter than {DEFAULT}:", *worse, sep="\n  ")
            if args.update:
                update(record, title, rows, later_run(args.datasets, args.protocols))
    if args.update:
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    if not args.report:
        return
    record = {
        "command": f"python -m {MODULE} --cache DIR --ablation; the same with --report",
        "versions": versions("kmedoids", "networkx"),
        "machine": machine(),
        "settings": {
            "seeds": len(SEEDS),
            "networks": "GCN, 16 hidden units, Adam, learning rate 0.01, weight decay "
            "0.0005 on the first layer, dropout 0.5, 200 epochs, last epoch",
            "layers": LAYERS,
            "units": "per cent; CPU seconds of 20 selections (of the largest budget "
            "where those of the smaller are its beginnings), of 20 trainings",
        },
        "results": results,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
