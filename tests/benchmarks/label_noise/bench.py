"""How many planted wrong labels are found by checking a share of the data.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.label_noise.bench --cache DIR

"Choice": the default of LabelNoise was chosen on USPS and MNIST (5,000 samples each,
pixels) and on features of 5,000 CIFAR-10 training images that are not reported on
("cifar-choice"), each with 10% and 40% symmetric and 30% pairwise flips: recall of the
flips when as many samples are checked as are flipped, and 1.5 times as many, and
average precision.

"Results": Enron (10% flips) with two kinds of features, photographs of cats and dogs
(10% flips), CIFAR-10 and MNIST (all three; the MNIST samples are those of the choice),
against other methods on the same features. LabelNoise in the paper's form is measured
as Algorithm 1 and as each listing. Recall at the shares checked, and average precision
(AP): means over repetitions with standard errors; then all AP that exceed LabelNoise's,
by the mean difference of pairs with its standard error. The oracle checks the wrong
labels first.

Finished repetitions of the other methods are kept in DIR, and features of the network,
which take minutes to make: 3,000 photographs and 10,000 of CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

import captum_margin
from captum_margin.influence import LabelNoise
from captum_margin.signal import Graph
from tests.benchmarks.forms import FORMS
from tests.benchmarks.label_noise.data import NOISE, SAMPLES, Data, flipped, load
from tests.benchmarks.label_noise.peers import Peers
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "label_noise.json"
SHARES = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]
CHOICE_SETS = ["usps", "mnist", "cifar-choice"]
TEN = ["10% symmetric"]
# Data sets, kinds of noise, and whether they have the repetitions of the small ones.
RESULT_SETS: dict[str, tuple[list[str], bool]] = {
    "enron": (TEN, True),
    "enron-paper": (TEN, True),
    "cats-dogs": (TEN, True),
    "cifar": (list(NOISE), False),
    "mnist": (list(NOISE), False),
}
FILTER = {"regression": False}
PLAIN = {"regression": False, "trusted": False}
OURS: dict[str, dict[str, Any]] = {
    "LabelNoise": {},
    "neighbours only": FILTER,
    "neighbours only, one pass": PLAIN,
    "one pass": {"trusted": False},
    **{f"paper, {form}": {"paper": form} for form in FORMS},
}
# Deviations from the default, one or two at a time; most of them without the vote
# of the regression, which they do not concern.
CHOICE: dict[str, dict[str, Any]] = {
    "default": {},
    "k 20": {"k": 20},
    "k 50": {"k": 50},
    "one pass": {"trusted": False},
    "neighbours only": FILTER,
    "neighbours only, k 10": {**FILTER, "k": 10},
    "neighbours only, k 20": {**FILTER, "k": 20},
    "neighbours only, k 50": {**FILTER, "k": 50},
    "neighbours only, euclidean": {**FILTER, "metric": "euclidean"},
    "neighbours only, bandwidth 1": {**FILTER, "bandwidth": 1.0},
    "neighbours only, unweighted": {**FILTER, "bandwidth": None},
    "neighbours only, random walk": {**FILTER, "shift": "random_walk"},
    "neighbours only, 2 hops": {**FILTER, "hops": 2},
    "neighbours only, above": {**FILTER, "sided": "above"},
    "neighbours only, below": {**FILTER, "sided": "below"},
    "neighbours only, one pass": PLAIN,
    "neighbours only, one pass, random walk": {**PLAIN, "shift": "random_walk"},
    "paper": {"paper": True},
}


class Ours:
    """LabelNoise on one data set; labels do not change the graph, which is kept."""

    def __init__(self, data: Data) -> None:
        """Nothing yet."""
        self.features, self.labels = data
        self.graphs: dict[str, Graph] = {}

    def scores(self, labels: torch.Tensor, options: dict[str, Any]) -> np.ndarray:
        """Scores with these options."""
        noise = LabelNoise.from_features(self.features, labels, **options)
        used = noise.used
        key = f"{used.k} {used.metric} {used.bandwidth}"
        if key in self.graphs:
            samples = noise._samples
            assert samples is not None
            noise._samples = samples._replace(graph=self.graphs[key])
        self.graphs[key] = noise.result().graph
        return noise.self_influence().double().numpy()


def quality(scores: np.ndarray, wrong: np.ndarray, shares: list[float]) -> list[float]:
    """Recall at the shares, then average precision."""
    order = np.argsort(-scores, kind="stable")
    found = [wrong[order[: round(s * len(wrong))]].sum() / wrong.sum() for s in shares]
    return [float(v) for v in (*found, average_precision_score(wrong, scores))]


def summary(rows: list[list[float]]) -> dict[str, list[float]]:
    """Means and standard errors of repetitions."""
    error = np.std(rows, axis=0, ddof=1) / len(rows) ** 0.5
    mean = np.mean(rows, axis=0)
    return {"mean": mean.round(4).tolist(), "standard_error": error.round(4).tolist()}


def choice(data: Data, repetitions: int) -> dict[str, Any]:
    """Quality of every deviation from the default, by noise."""
    ours = Ours(data)
    table: dict[str, Any] = {}
    for noise, rate in NOISE.items():
        values: dict[str, list[list[float]]] = {name: [] for name in CHOICE}
        for seed in range(repetitions):
            labels, wrong = flipped(data[1], noise, seed)
            for name, options in CHOICE.items():
                scores = ours.scores(labels, options)
                values[name].append(quality(scores, wrong, [rate, 1.5 * rate]))
        table[noise] = {name: summary(values[name]) for name in values}
    return table


def results(name: str, data: Data, noise: str, n: int, kept: Path) -> dict[str, Any]:
    """Quality of all methods on one data set with one kind of noise."""
    ours = Ours(data)
    stored = json.loads(kept.read_text()) if kept.exists() else {}
    others: Peers | None = None
    values: dict[str, list[list[float]]] = {}
    for seed in range(n):
        labels, wrong = flipped(data[1], noise, seed)
        rows = {
            method: quality(ours.scores(labels, options), wrong, SHARES)
            for method, options in OURS.items()
        }
        key = f"{name}, {noise}, {seed}"
        if key not in stored:
            others = others or Peers(data[0])
            penalty = f"{name}, {noise}"
            if penalty not in stored:
                stored[penalty] = others.penalty(labels)
            scores = others.scores(labels, stored[penalty], seed)
            scores["oracle"] = wrong.astype(float)
            stored[key] = {m: quality(s, wrong, SHARES) for m, s in scores.items()}
            kept.write_text(json.dumps(stored))
        for method, row in {**rows, **stored[key]}.items():
            values.setdefault(method, []).append(row)
    table: dict[str, Any] = {method: summary(values[method]) for method in values}
    for method in values:
        pairs = np.array(values["LabelNoise"]) - np.array(values[method])
        table[method]["labelnoise_minus_this"] = summary(pairs.tolist())
    return {
        "samples": len(data[0]),
        "repetitions": n,
        "penalty": stored[f"{name}, {noise}"],
        "methods": table,
        "losses": losses(table),
    }


def renewed(
    table: dict[str, Any], data: Data, noise: str, forms: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A table of the record with these of our rows made anew, on the same flips.

    The values of each repetition are not kept, so a difference between rows of two runs
    has the standard error of two independent means, which is the larger one.
    """
    ours = Ours(data)
    n = table["repetitions"]
    values: dict[str, list[list[float]]] = {method: [] for method in forms}
    for seed in range(n):
        labels, wrong = flipped(data[1], noise, seed)
        for method, options in forms.items():
            scores = ours.scores(labels, options)
            values[method].append(quality(scores, wrong, SHARES))
    methods = {**table["methods"]}
    for method, rows in values.items():
        methods[method] = {**methods.get(method, {}), **summary(rows)}
    default = methods["LabelNoise"]
    for method, row in methods.items():
        pairs = row.get("labelnoise_minus_this")
        if "LabelNoise" in forms and method in forms:
            both = np.array(values["LabelNoise"]) - np.array(values[method])
            pairs = summary(both.tolist())
        elif "LabelNoise" in forms or method in forms or pairs is None:
            mean = np.array(default["mean"]) - np.array(row["mean"])
            error = np.hypot(default["standard_error"], row["standard_error"])
            pairs = {
                "mean": mean.round(4).tolist(),
                "standard_error": error.round(4).tolist(),
            }
        methods[method] = {**row, "labelnoise_minus_this": pairs}
    return {**table, "methods": methods, "losses": losses(methods)}


def losses(table: dict[str, Any]) -> list[str]:
    """Where another method is better than LabelNoise by more than a standard error."""
    columns = [*(f"recall at {share:g}" for share in SHARES), "AP"]
    lines = []
    for method, row in table.items():
        if method == "oracle":
            continue
        pairs = row["labelnoise_minus_this"]
        for column, mean, error in zip(
            columns, pairs["mean"], pairs["standard_error"], strict=True
        ):
            if mean < -error:
                lines.append(f"{method}, {column}: {mean:.3f} ± {error:.3f}")
    return lines


def show(title: str, rows: dict[str, Any]) -> None:
    """Prints one table."""
    print(f"\n{title}")
    for name, row in rows.items():
        print(f"  {name:40}", *(f"{value:.3f}" for value in row["mean"]), flush=True)


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="see above")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--small-repetitions", type=int, default=10)
    parser.add_argument("--choice-repetitions", type=int, default=2)
    parser.add_argument(
        "--ours",
        nargs="*",
        choices=[*OURS],
        metavar="ROW",
        help="make only our rows of the record anew, all or those named",
    )
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=[*RESULT_SETS],
        default=[*RESULT_SETS],
        help="of these data only; with --ours the record keeps the others",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    start = time.time()
    kept = args.cache / "label_noise_peers.json"
    again = args.ours is not None
    forms = {name: OURS[name] for name in args.ours or OURS}
    record = json.loads(args.out.read_text()) if again else {}
    tables: dict[str, Any] = {**record.get("results", {})}
    peers_run = record.get("peers_run") or {
        name: record[name] for name in ("versions", "seconds") if name in record
    }
    for name in args.sets:
        noises, small = RESULT_SETS[name]
        data = load(name, root, args.cache)
        n = args.small_repetitions if small else args.repetitions
        for noise in noises:
            if again:
                old = record["results"][f"{name}, {noise}"]
                table = renewed(old, data, noise, forms)
            else:
                table = results(name, data, noise, n, kept)
            tables[f"{name}, {noise}"] = table
            title = f"{name}, N = {len(data[0])}, {noise}: recall at {SHARES}, AP"
            show(title, table["methods"])
            print(
                "  better than LabelNoise:", *(table["losses"] or ["none"]), sep="\n  "
            )
    chosen: dict[str, Any] = {}
    for name in CHOICE_SETS if args.choice_repetitions else ():
        chosen[name] = choice(load(name, root, args.cache), args.choice_repetitions)
        for noise, rows in chosen[name].items():
            show(f"choice, {name}, {noise}: at the rate, 1.5 times it, AP", rows)
    packages = ["torch", "torchvision", "numpy", "scikit-learn", "cleanlab"]
    module = "tests.benchmarks.label_noise.bench"
    ran = {
        "versions": {
            "python": platform.python_version(),
            "captum_margin": captum_margin.__version__,
            **{package: version(package) for package in packages},
        },
        "machine": machine(),
        "seconds": round(time.time() - start),
    }
    if args.ours:  # some rows, the others are of another run
        rows_run = {"rows": args.ours, "sets": args.sets, **ran}
        record = {**record, "rows_run": rows_run, "results": tables}
    else:
        record = {
            "command": f"python -m {module} --cache DIR",
            # Where our rows are of a later run than the peers': what theirs was.
            **({"peers_run": peers_run} if again else {}),
            "settings": {
                "seeds": "0, 1, .. for each repetition",
                "choice_repetitions": args.choice_repetitions,
                "samples_usps_mnist": SAMPLES,
                "default": str(LabelNoise.settings),
                "columns": [*(f"recall at {share:g}" for share in SHARES), "AP"],
                "columns_choice": ["recall at rate", "recall at 1.5 rate", "AP"],
            },
            **ran,
            "results": tables,
            "choice": chosen,
        }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {args.out} after {ran['seconds']} s")


if __name__ == "__main__":
    main()
