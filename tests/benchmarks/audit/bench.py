"""What ``captum-margin audit`` costs on features in a file: CPU time and memory.

    python -m tests.benchmarks.audit.bench --folder DIR

Each line is one audit from the command line, in a process of its own with one thread:
CPU seconds of each search for neighbours, of each question (searches taken off) and of
the page, CPU seconds and peak memory of the whole process, reading of the file and the
libraries included, what share of the planted wrong labels is among as many first
suspects, and the size of the page. Rows on record are kept without ``--again``; data
and answers stay in DIR.

Data: 10 classes of 20 modes in 24 dimensions, put into 64 or 128 by a random map, with
noise; 2% of the labels are wrong.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import captum_margin
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "audit.json"
PLAN = {"10,000 x 64": (10_000, 64), "100,000 x 64": (100_000, 64)}
PLAN["1,000,000 x 128"] = (1_000_000, 128)
BAR_GB = 8.0
_CLASSES, _MODES, _INNER, _WRONG, _ROWS = 10, 20, 24, 0.02, 2**16


def make(path: Path, n: int, width: int) -> None:
    """Writes features and labels, and which of these are wrong."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(_INNER, width)).astype(np.float32) / np.sqrt(_INNER)
    centres = 1.5 * rng.normal(size=(_CLASSES * _MODES, _INNER)).astype(np.float32)
    mode = rng.integers(0, len(centres), n)
    x = np.empty((n, width), np.float32)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        z = centres[mode[rows]]
        z = z + rng.normal(size=z.shape).astype(np.float32)
        x[rows] = z @ basis + 0.1 * rng.normal(size=(len(z), width))
    labels = mode // _MODES
    wrong = rng.random(n) < _WRONG
    other = (labels + rng.integers(1, _CLASSES, n)) % _CLASSES
    np.save(path.with_suffix(".wrong.npy"), wrong)
    np.savez(path, features=x, labels=np.where(wrong, other, labels))


def one(path: Path, out: Path) -> dict[str, Any]:
    """One audit in this process; the seconds it notes are CPU seconds."""
    torch.set_num_threads(1)
    time.perf_counter = time.process_time
    from captum_margin.cli import main as command

    status = command(["audit", str(path), "--out", str(out)])
    record = json.loads((out / "audit.json").read_text())
    with (out / "suspects.csv").open(newline="") as file:
        ranked = [int(row["name"].split()[1]) for row in csv.DictReader(file)]
    wrong = np.load(path.with_suffix(".wrong.npy"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    questions = record["questions"].items()
    return {
        "status": status,
        "searches": record["searches"],
        "questions_cpu_seconds": {name: q["seconds"] for name, q in questions},
        "page_cpu_seconds": record["seconds"]["page"],
        "cpu_seconds": round(time.process_time(), 2),
        "peak_gb": round(peak, 3),
        "within_bar": peak < BAR_GB,
        "precision_of_suspects": float(wrong[ranked[: wrong.sum()]].mean()),
        "page_mb": round((out / "index.html").stat().st_size / 1e6, 2),
    }


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--one", nargs=2, type=Path, metavar=("DATA", "OUT"))
    parser.add_argument("--again", action="store_true", help="measure every row anew")
    parser.add_argument("--only", choices=PLAN, help="this row")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.one:
        print(json.dumps({**one(*args.one), "machine": machine()}))
        return
    table: dict[str, Any] = {}
    if args.out.exists() and not args.again:
        table = json.loads(args.out.read_text())["table"]
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, (n, width) in PLAN.items():
        if name in table or (args.only and name != args.only):
            continue
        path = args.folder / f"{n}x{width}.npz"
        if not path.exists():
            make(path, n, width)
        out = args.folder / path.stem
        command = [sys.executable, "-m", "tests.benchmarks.audit.bench"]
        command += ["--folder", str(args.folder), "--one", str(path), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        table[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:16} {table[name]}", flush=True)
        write(table, args.out)


def write(table: dict[str, Any], path: Path) -> None:
    """The record so far."""
    try:
        import faiss

        search = {"faiss": faiss.__version__}
    except ImportError:
        search = {}
    record = {
        "command": "python -m tests.benchmarks.audit.bench --folder DIR/audit",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "captum_margin": captum_margin.__version__,
            **search,
        },
        "settings": {"seed": 0, "wrong": _WRONG, "bar_gb": BAR_GB, "load": "shared"},
        "machine": machine(),
        "table": table,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
