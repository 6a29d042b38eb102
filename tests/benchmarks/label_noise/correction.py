"""How much better a classifier gets when the labels ranked highest are put right.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.label_noise.correction --cache DIR

Figure 1 of MARGIN on the mistakes of people: a ranking says which labels of CIFAR-10N a
person should look at, the first share of them get their true label, right or wrong as
they were, and a classifier learns from all labels. Measured is its accuracy on the
5,000 test photographs, whose labels are clean, and how many of the wrong labels were
among those looked at. Two classifiers: a logistic regression, which bears many wrong
labels, and the nearest neighbour, which repeats each. Rankings and classifiers see the
same features, of SqueezeNet; the rankings are made once and do not see what was
corrected.

Repetitions draw other samples from the half of the photographs on which no default of
LabelNoise was chosen. The penalty of the regression is that of the best five-fold
accuracy on the labels as given, in the first repetition of a level, the same for all.
Differences to the random ranking are of pairs. Features are kept in DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import normalize

import captum_margin
from captum_margin.influence import LabelNoise
from tests.benchmarks.forms import FORMS
from tests.benchmarks.label_noise import human_data
from tests.benchmarks.label_noise.bench import quality, summary
from tests.benchmarks.label_noise.peers import Peers, confident
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "label_correction.json"
NETWORK = "squeezenet"
HALF = "report"
LEVELS = ("random1", "worst")
SAMPLES = 4000  # of the half's 10,000, in each repetition
SHARES = (0.05, 0.1, 0.2, 0.4)
CLASSIFIERS = ("logistic regression", "nearest neighbour")
STEPS = 60  # of the regression, as those of the peers


def test_set(root: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """Features and classes of the test photographs, from the cache or made."""
    path = cache / f"cifar_test_{NETWORK}.npz"
    if not path.exists():
        with zipfile.ZipFile(root / "cifar10_test.zip") as file:
            names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
            photographs = [file.read(name) for name in names]
        _, classes = np.unique([n.split("/")[0] for n in names], return_inverse=True)
        made = human_data.features_of(photographs, NETWORK, root)
        np.savez(path, features=made, classes=classes)
    stored = np.load(path)
    return torch.from_numpy(stored["features"]), torch.from_numpy(stored["classes"])


def rankings(x: Tensor, labels: Tensor, peers: Peers, c: float, seed: int):
    """Every ranking's scores (N,), high for those to look at first."""
    y = labels.numpy()
    held_out = peers.held_out(y, c)
    forms = {"LabelNoise": {}, **{f"paper, {form}": {"paper": form} for form in FORMS}}
    return {
        **{
            name: LabelNoise.from_features(x, labels, **options)
            .self_influence()
            .double()
            .numpy()
            for name, options in forms.items()
        },
        "5-fold self-confidence": 1 - held_out[np.arange(len(y)), y],
        "cleanlab, 5-fold": confident(y, held_out),
        "random": np.random.default_rng(seed).random(len(y)),
    }


class Judge:
    """Test accuracy in percent of classifiers that learn from some labels."""

    def __init__(self, x: Tensor, test: Tensor, truth: Tensor, c: float) -> None:
        scale = StandardScaler().fit(x.numpy())
        self.x, self.test = scale.transform(x.numpy()), scale.transform(test.numpy())
        self.truth, self.c = truth.numpy(), c
        unit, other = normalize(x, dim=1), normalize(test, dim=1)
        self.nearest = (other @ unit.T).argmax(dim=1).numpy()  # by cosine

    def __call__(self, labels: np.ndarray) -> list[float]:
        """In the order of CLASSIFIERS."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 60 steps are enough
            model = LogisticRegression(C=self.c, max_iter=STEPS).fit(self.x, labels)
        answers = model.predict(self.test), labels[self.nearest]
        return [100 * float((answer == self.truth).mean()) for answer in answers]


def corrected(labels: np.ndarray, true: np.ndarray, scores: np.ndarray, share: float):
    """Labels of which the first share by the scores are the true ones."""
    looked_at = np.argsort(-scores, kind="stable")[: round(share * len(labels))]
    right = labels.copy()
    right[looked_at] = true[looked_at]
    return right


def level(name: str, root: Path, cache: Path, repetitions: int) -> dict[str, Any]:
    """Test accuracy after every correction, at one level of mistakes."""
    everything = human_data.features((NETWORK,), HALF, root, cache)
    given, wrong = human_data.answers(name, HALF, root)
    true, none = human_data.answers("true", HALF, root)
    assert not none.any()
    test, truth = test_set(root, cache)
    # By ranking, repetition, share and classifier.
    values: dict[str, list[list[list[float]]]] = {}
    ends: dict[str, list[list[float]]] = {"as given": [], "all true": []}
    recall: dict[str, list[list[float]]] = {}
    c = 0.0
    for seed in range(repetitions):
        rows = np.random.default_rng(seed).permutation(len(given))[:SAMPLES]
        x, labels, right = everything[rows], given[rows], true[rows].numpy()
        peers = Peers(x)
        c = c or peers.penalty(labels)
        judge = Judge(x, test, truth, c)
        for method, scores in rankings(x, labels, peers, c, seed).items():
            accuracy = [
                judge(corrected(labels.numpy(), right, scores, share))
                for share in SHARES
            ]
            values.setdefault(method, []).append(accuracy)
            found = quality(scores, wrong[rows], list(SHARES))[:-1]
            recall.setdefault(method, []).append(found)
        ends["as given"].append(judge(labels.numpy()))
        ends["all true"].append(judge(right))
        print(f"{name}, repetition {seed}", flush=True)
    correct = {method: np.array(rows) for method, rows in values.items()}
    bounds = {end: np.array(rows) for end, rows in ends.items()}
    return {
        "wrong": round(float(wrong.mean()), 4),
        "penalty": c,
        "recall": {method: summary(rows) for method, rows in recall.items()},
        "classifiers": {
            classifier: {
                **{end: summary(rows[:, [i]].tolist()) for end, rows in bounds.items()},
                "methods": {
                    method: {
                        **summary(rows[..., i].tolist()),
                        "minus_random": summary(
                            (rows - correct["random"])[..., i].tolist()
                        ),
                    }
                    for method, rows in correct.items()
                },
            }
            for i, classifier in enumerate(CLASSIFIERS)
        },
    }


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="see above")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=LEVELS)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    args.cache.mkdir(parents=True, exist_ok=True)
    start = time.time()
    tables = {}
    for name in args.levels:
        table = tables[name] = level(name, root, args.cache, args.repetitions)
        for classifier, part in table["classifiers"].items():
            ends = {end: part[end]["mean"][0] for end in ("as given", "all true")}
            print(
                f"\n{name}, {table['wrong']:.1%} wrong, {classifier}: {ends}; {SHARES}"
            )
            for method, row in part["methods"].items():
                pairs = zip(row["mean"], row["standard_error"], strict=True)
                print(f"  {method:26}", *(f"{m:.2f}±{e:.2f}" for m, e in pairs))
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "cleanlab")
    record = {
        "command": "python -m tests.benchmarks.label_noise.correction --cache DIR",
        "versions": {
            "python": platform.python_version(),
            "captum_margin": captum_margin.__version__,
            **{package: version(package) for package in packages},
        },
        "machine": machine(),
        "settings": {
            "seeds": "0, 1, ... for each repetition",
            "repetitions": args.repetitions,
            "samples": SAMPLES,
            "shares": SHARES,
            "test": 5000,
            "features": NETWORK,
            "default": str(LabelNoise.settings),
            "paper": str(LabelNoise.paper_settings),
        },
        "seconds": round(time.time() - start),
        "levels": tables,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {args.out} after {record['seconds']} s")


if __name__ == "__main__":
    main()
