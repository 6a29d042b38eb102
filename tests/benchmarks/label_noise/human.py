"""How well the label mistakes that people make are found.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.label_noise.human --half choice --cache DIR
    python -m tests.benchmarks.label_noise.human --half report --cache DIR
    python -m ... --half report --methods ours --cache DIR       makes these rows anew

Photographs of CIFAR-10N at three levels of mistakes, by the features of two networks,
by the out-of-fold probabilities of a small one, or by both. What LabelNoise does by
default is chosen on the half "choice" and reported on the half "report", which comes
with MNIST's verified digits. Measured are the average precision (AP) of the ranking,
its precision when as many are checked as are wrong, and how many samples a method
flags, with the precision and recall of its flags.

Differences to LabelNoise have the standard error of half subsets: the standard
deviation, over random halves of the samples, the same for all methods, of the
difference of the AP in that half (a jackknife that leaves out one half).

Every verdict of a method is kept in DIR, and the features, which take an hour to make;
what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import captum_margin
from captum_margin.influence import LabelNoise
from tests.benchmarks.label_noise import human_data as data
from tests.benchmarks.label_noise import human_peers as methods
from tests.benchmarks.label_noise import human_probabilities as network
from tests.benchmarks.label_noise.human_peers import OURS, Verdict
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "label_noise_human.json"
SEED, SUBSETS = 0, 30
FIRST = (100, 200, 500)  # digits checked
PROBABILITIES = "probabilities"
INPUTS = (
    *data.NETWORKS,
    PROBABILITIES,
    *(f"{name} + {PROBABILITIES}" for name in data.NETWORKS),
)
DIGITS = ("pixels", PROBABILITIES, f"pixels + {PROBABILITIES}")
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "cleanlab", "aum")
REMARKS = {
    "probabilities of photographs": network.DESCRIPTION,
    "probabilities of digits": (
        "of the network that proposed the 100 digits which people verified; that "
        "favours them"
    ),
    "chosen": (
        "defaults of LabelNoise on the half 'choice'; the penalty of logistic "
        "regressions by five-fold accuracy on the labels as given, for each table"
    ),
    "standard_error": f"deviation over {SUBSETS} random halves of the samples",
}


def verdicts(
    folder: Path,
    x: Tensor | None,
    p: np.ndarray | None,
    labels: Tensor,
    again: list[str] | None,
) -> dict[str, Verdict]:
    """All methods that take these inputs; kept in the folder.

    ``again``: only these are made, and anew. Default: those that are missing.
    """
    names: tuple[str, ...] = methods.FEATURES
    if p is not None:
        names = methods.SHARED if x is None else methods.BOTH
    paths = {name: _path(folder, name) for name in (OURS, *names)}
    wanted = {name for name in paths if again is not None and name in again}
    if again is None:
        wanted = {name for name, path in paths.items() if not path.exists()}
    made: dict[str, Verdict | None] = {}
    if OURS in wanted:
        made[OURS] = methods.ours(x, p, labels)
    if wanted - {OURS}:
        made |= _peers(folder, x, p, labels)
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        verdict = made[name]
        if verdict is not None:
            _write(paths[name], verdict)
    return stored(folder, paths)


def _peers(
    folder: Path, x: Tensor | None, p: np.ndarray | None, labels: Tensor
) -> dict[str, Verdict]:
    if p is None:
        assert x is not None
        return methods.of_features(x, labels, SEED)
    if x is None:
        return methods.of_probabilities(p, labels)
    of_features = folder.parent / folder.name.removesuffix(f" + {PROBABILITIES}")
    held_out = _read(_path(of_features, methods.SELF))
    own = 1 - p[np.arange(len(labels)), labels.numpy()]
    return methods.of_both(held_out.scores, own)


def stored(folder: Path, names: Iterable[str]) -> dict[str, Verdict]:
    """The verdicts of these methods that the folder has."""
    paths = {name: _path(folder, name) for name in names}
    return {name: _read(path) for name, path in paths.items() if path.exists()}


def _path(folder: Path, name: str) -> Path:
    return folder / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.npz"


def _write(path: Path, verdict: Verdict) -> None:
    values = verdict._asdict()
    np.savez(path, **{key: v for key, v in values.items() if v is not None})


def _read(path: Path) -> Verdict:
    kept = np.load(path)
    found = {key: kept[key] for key in kept.files}
    for key in {"seconds", "penalty"} & set(found):
        found[key] = float(found[key])
    return Verdict(**found)


def measured(found: dict[str, Verdict], wrong: np.ndarray) -> dict[str, Any]:
    """Quality of every method, and LabelNoise's lead over each."""
    rng = np.random.default_rng(SEED)
    n = len(wrong)
    halves = [rng.permutation(n)[: n // 2] for _ in range(SUBSETS)]
    parts = [np.arange(n), *halves]
    precision = {
        name: np.array(
            [average_precision_score(wrong[i], verdict.scores[i]) for i in parts]
        )
        for name, verdict in found.items()
    }
    rows = {}
    for name, verdict in found.items():
        order = np.argsort(-verdict.scores, kind="stable")
        row: dict[str, Any] = {
            "AP": precision[name][0],
            "precision_at_wrong": wrong[order[: wrong.sum()]].mean(),
        }
        if verdict.flagged is not None:
            right = (wrong & verdict.flagged).sum()
            row |= {
                "flagged": int(verdict.flagged.sum()),
                "flagged_of_wrong": verdict.flagged.sum() / wrong.sum(),
                "flagged_precision": right / max(verdict.flagged.sum(), 1),
                "flagged_recall": right / wrong.sum(),
            }
        if verdict.seconds:
            row["cpu_seconds"] = verdict.seconds
        if OURS in found and name != OURS:
            lead = precision[OURS] - precision[name]
            row["labelnoise_minus_this"] = lead[0]
            row["standard_error"] = np.std(lead[1:], ddof=1)
        rows[name] = row
    penalties = [v.penalty for v in found.values() if v.penalty is not None]
    return {
        "samples": n,
        "wrong": int(wrong.sum()),
        **({"penalty": penalties[0]} if penalties else {}),
        "methods": _rounded(rows),
    }


def measured_digits(found: dict[str, Verdict], digits: data.Digits) -> dict[str, Any]:
    """Where the verified mistakes rank among all digits.

    Average precision among all, of which only these count as wrong although others may
    be, and among the verified ones.
    """
    rows = {}
    for name, verdict in found.items():
        order = np.argsort(-verdict.scores, kind="stable")
        ranks = np.flatnonzero(digits.wrong[order]) + 1
        among = digits.verified
        row: dict[str, Any] = {
            "AP": average_precision_score(digits.wrong, verdict.scores),
            "AP_verified": average_precision_score(
                digits.wrong[among], verdict.scores[among]
            ),
            **{f"first_{n}": int((ranks <= n).sum()) for n in FIRST},
            "ranks": ranks.tolist(),
        }
        if verdict.flagged is not None:
            row["flagged"] = int(verdict.flagged.sum())
            row["flagged_wrong"] = int((verdict.flagged & digits.wrong).sum())
        rows[name] = row
    wrong, verified = int(digits.wrong.sum()), int(digits.verified.sum())
    counts = {"samples": len(digits.wrong), "verified": verified, "wrong": wrong}
    return {**counts, "methods": _rounded(rows)}


def _rounded(rows: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            key: round(float(v), 4) if isinstance(v, float) else v
            for key, v in row.items()
        }
        for name, row in rows.items()
    }


def probabilities(half: str, level: str, root: Path, cache: Path) -> np.ndarray:
    """Of the small network on both networks' features, kept in the cache."""
    path = cache / f"human_probabilities_{half}_{level}.npz"
    if not path.exists():
        x = data.features(data.NETWORKS, half, root, cache)
        labels, _ = data.answers(level, half, root)
        p = network.out_of_fold(x, labels, SEED)
        hit = p.argmax(axis=1) == labels.numpy()
        print(f"probabilities, {half}, {level}: {hit.mean():.3f} of the labels")
        np.savez(path, probabilities=p)
    return np.asarray(np.load(path)["probabilities"])


def show(title: str, table: dict[str, Any]) -> None:
    """Prints one table."""
    print(f"\n{title}: {table['wrong']} of {table['samples']} wrong")
    for name, row in table["methods"].items():
        cells = (f"{k} {v}" for k, v in row.items() if k != "ranks")
        print(f"  {name:36}", ", ".join(cells), flush=True)


def main() -> None:
    """Runs one half and writes it into the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", choices=[*data.HALVES], required=True)
    parser.add_argument("--cache", type=Path, required=True, help="see above")
    parser.add_argument("--levels", nargs="+", default=data.LEVELS)
    parser.add_argument("--inputs", nargs="+", default=[*INPUTS, DIGITS[0], DIGITS[2]])
    parser.add_argument("--methods", nargs="+", help="make only these, anew")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    again = args.methods and [OURS if m == "ours" else m for m in args.methods]
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    torch.set_num_threads(1)
    start = time.time()
    args.cache.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"results": {}}
    if args.out.exists():
        record = json.loads(args.out.read_text(encoding="utf-8"))
    results = record["results"]
    for inputs in (name for name in INPUTS if name in args.inputs):
        name = inputs.split(" + ")[0]
        x = None
        if name in data.NETWORKS:
            x = data.features((name,), args.half, root, args.cache)
        for level in (name for name in data.LEVELS if name in args.levels):
            labels, wrong = data.answers(level, args.half, root)
            p = None
            if PROBABILITIES in inputs:
                p = probabilities(args.half, level, root, args.cache)
            kept = args.cache / "human" / args.half / level
            found = verdicts(kept / inputs, x, p, labels, again)
            if x is not None and p is not None:  # peers that are given one of them, too
                found |= stored(kept / name, methods.FEATURES)
                found |= stored(kept / PROBABILITIES, methods.SHARED)
            table = measured(found, wrong)
            results.setdefault(args.half, {}).setdefault(inputs, {})[level] = table
            show(f"{args.half}, {inputs}, {level}", table)
    if args.half == "report":
        digits = data.digits(root)
        for inputs in (name for name in DIGITS if name in args.inputs):
            x = digits.features if "pixels" in inputs else None
            p = digits.probabilities if PROBABILITIES in inputs else None
            folder = args.cache / "human" / "mnist" / inputs
            found = verdicts(folder, x, p, digits.labels, again)
            table = measured_digits(found, digits)
            results.setdefault("mnist", {})[inputs] = table
            show(f"MNIST, {inputs}", table)
    module = "tests.benchmarks.label_noise.human"
    record = {
        "command": f"python -m {module} --half report --cache DIR",
        "versions": {**record.get("versions", {}), **versions()},
        "machine": machine(),
        "settings": {
            "seed": SEED,
            "halves": {
                half: f"{r.start} to {r.stop - 1} of each class"
                for half, r in data.HALVES.items()
            },
            "default": str(LabelNoise.settings),
            **REMARKS,
        },
        "results": results,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {args.out} after {time.time() - start:.0f} s")


def versions() -> dict[str, str]:
    """Of what is installed; a peer whose rows are in the cache need not be."""
    found = {
        "python": platform.python_version(),
        "captum_margin": captum_margin.__version__,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
