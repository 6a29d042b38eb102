"""How many planted wrong labels are found by checking a share of the data.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.bench_label_noise

USPS and MNIST (5,000 samples each, pixels) with 10% and 40% symmetric and 30% pairwise
flips are what the default of LabelNoise was chosen on: the "choice" table. Enron (80%
of Enron1, tf-idf, SVD to 128, 10% flips of each class) verifies it once. "at p" is the
share of the flips among the p of the samples ranked highest, AP the average precision;
means over the seeds, with standard errors in the JSON. The oracle is the score 1 for
wrong labels and 0 for all others.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import shlex
import sys
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict

import captum_margin
from captum_margin.influence import LabelNoise
from captum_margin.signal import Graph, knn_graph, label_disagreement

RESULT = Path(__file__).parent / "results" / "label_noise.json"
NOISE = {"10% symmetric": 0.1, "40% symmetric": 0.4, "30% pairwise": 0.3}
EUCLIDEAN = {"metric": "euclidean"}
PLAIN = {"trusted": False}
# Deviations from the default, one or two at a time.
CHOICE = {
    "default": {},
    "k 10": {"k": 10},
    "k 20": {"k": 20},
    "k 50": {"k": 50},
    "euclidean": EUCLIDEAN,
    "bandwidth 1": {"bandwidth": 1.0},
    "bandwidth 0.35": {"bandwidth": 0.35},
    "unweighted": {"bandwidth": None},
    "random walk": {"shift": "random_walk"},
    "2 hops": {"hops": 2},
    "above": {"sided": "above"},
    "below": {"sided": "below"},
    "one pass": PLAIN,
    "one pass, random walk": {**PLAIN, "shift": "random_walk"},
    "one pass, random walk, bandwidth 1": {
        **PLAIN,
        "shift": "random_walk",
        "bandwidth": 1.0,
    },
    "one pass, 2 hops": {**PLAIN, "hops": 2},
    "one pass, below": {**PLAIN, "sided": "below"},
    "one pass, euclidean": {**PLAIN, **EUCLIDEAN},
    "one pass, unweighted": {**PLAIN, "bandwidth": None},
}


def digits(root: Path, name: str, n: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed subset of a training set: pixels in [0, 1] and labels."""
    data = np.load(root / f"{name}_train.npz")
    x = data["images"].reshape(len(data["images"]), -1).astype(np.float32)
    x = (x - x.min()) / (x.max() - x.min())
    kept = np.random.default_rng(0).permutation(len(x))[:n]
    return torch.from_numpy(x[kept]), torch.from_numpy(data["labels"][kept]).long()


def enron(root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """80% of Enron1 as 128 features of its tf-idf, and spam or not."""
    texts, labels = [], []
    with lzma.open(root / "enron1.tar.xz") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            folder = Path(member.name).parent.name
            if member.isfile() and folder in ("ham", "spam"):
                stream = tar.extractfile(member)
                assert stream is not None
                texts.append(stream.read().decode("latin-1"))
                labels.append(folder == "spam")
    kept = np.random.default_rng(0).permutation(len(texts))[: int(0.8 * len(texts))]
    tf_idf = TfidfVectorizer(min_df=3, sublinear_tf=True).fit_transform(
        [texts[i] for i in kept]
    )
    x = TruncatedSVD(128, random_state=0).fit_transform(tf_idf).astype(np.float32)
    return torch.from_numpy(x), torch.tensor(labels).long()[torch.from_numpy(kept)]


def flipped(labels: torch.Tensor, rate: float, pairwise: bool, seed: int):
    """Labels of which a share of each class is wrong, and which are."""
    rng = np.random.default_rng(seed)
    old, classes = labels.numpy(), int(labels.max()) + 1
    new, wrong = old.copy(), np.zeros(len(old), bool)
    for c in range(classes):
        members = np.flatnonzero(old == c)
        bad = rng.choice(members, round(rate * len(members)), replace=False)
        step = 1 if pairwise else rng.integers(1, classes, len(bad))
        new[bad], wrong[bad] = (old[bad] + step) % classes, True
    return torch.from_numpy(new), wrong


def peers(x, labels, wrong, neighbors: torch.Tensor, graph: Graph, seed: int):
    """Scores of the other methods, high for suspects."""
    model = LogisticRegression(max_iter=60, C=1.0 if x.size(1) > 200 else 10.0)
    features, y = x.numpy(), labels.numpy()
    rows = np.arange(len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged, which costs it nothing here
        held_out = cross_val_predict(model, features, y, cv=5, method="predict_proba")
        fitted = model.fit(features, y).predict_proba(features)
    # k-NN Shapley truncated at k telescopes: each sample that has j among its k = 10
    # neighbours gives it 1/k if the labels agree.
    near = neighbors[:, :10]
    agree = (labels[near] == labels[:, None]).double().flatten()
    shapley = torch.zeros(len(y), dtype=torch.float64)
    shapley.index_add_(0, near.flatten(), agree)
    return {
        "label disagreement, k = 20": label_disagreement(labels, graph.edge_index),
        "5-fold self-confidence": 1 - held_out[rows, y],
        "training loss": -np.log(fitted[rows, y] + 1e-12),
        "k-NN Shapley, k = 10": -shapley,
        "random": np.random.default_rng(seed).random(len(y)),
        "oracle": wrong.astype(float),
    }


def quality(scores, wrong: np.ndarray, shares: list[float]) -> list[float]:
    """Recall at the shares, then average precision."""
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    found = [wrong[order[: round(s * len(wrong))]].sum() / wrong.sum() for s in shares]
    return [float(v) for v in (*found, average_precision_score(wrong, scores))]


def run(x, y, noises, variants, shares, seeds, with_peers=True):
    """Mean and standard error of every method's quality, by noise."""
    unit = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    similarity = (unit @ unit.T).fill_diagonal_(-2)
    neighbors = similarity.topk(20, dim=1).indices
    del similarity
    plain = Graph(*knn_graph(unit, 20), len(x))
    graphs = {}
    table = {}
    for noise, rate in noises.items():
        values: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            labels, wrong = flipped(y, rate, "pairwise" in noise, seed)
            scores = {}
            for name, options in variants.items():
                if name not in graphs:  # the labels do not change the graph
                    noise_free = LabelNoise.from_features(x, y, **options)
                    graphs[name] = noise_free.result().graph
                own = LabelNoise.from_graph(graphs[name], labels, **options)
                scores[name] = own.self_influence()
            if with_peers:
                scores |= peers(x, labels, wrong, neighbors, plain, seed)
            for name, score in scores.items():
                at = shares or [rate, 1.5 * rate]
                values.setdefault(name, []).append(quality(score, wrong, at))
        table[noise] = {
            name: {
                "mean": np.mean(rows, axis=0).round(4).tolist(),
                "standard_error": (np.std(rows, axis=0, ddof=1) / len(rows) ** 0.5)
                .round(4)
                .tolist(),
            }
            for name, rows in values.items()
        }
    return table


def show(title: str, table) -> None:
    """Prints one table."""
    print(f"\n{title}")
    for noise, rows in table.items():
        print(f"  {noise}")
        for name, row in rows.items():
            print(f"    {name:38}", *(f"{value:.3f}" for value in row["mean"]))


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--enron-seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    start = time.time()
    paper = {"paper": True}
    tables = {}
    for name in ("usps", "mnist"):
        x, y = digits(root, name)
        variants = {**CHOICE, "paper": paper}
        tables[name] = run(x, y, NOISE, variants, [], args.seeds)
        show(f"{name}: at the noise rate, at 1.5 times it, AP", tables[name])
    x, y = enron(root)
    shares = [0.05, 0.1, 0.15, 0.2, 0.3]
    variants = {n: CHOICE[n] for n in ("default", "k 20", "one pass")}
    variants = {**variants, "paper": paper}
    tables["enron"] = run(
        x, y, {"10% symmetric": 0.1}, variants, shares, args.enron_seeds
    )
    show(f"enron, N = {len(x)}: at {shares}, AP", tables["enron"])
    record = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.bench_label_noise"])
        + "".join(f" {argument}" for argument in sys.argv[1:]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "captum_margin": captum_margin.__version__,
        },
        "settings": {
            "seeds": args.seeds,
            "enron_seeds": args.enron_seeds,
            "samples": 5000,
            "default": str(LabelNoise.settings),
            "columns_usps_mnist": ["recall at rate", "recall at 1.5 rate", "AP"],
            "columns_enron": [*(f"recall at {s:g}" for s in shares), "AP"],
        },
        "seconds": round(time.time() - start),
        "tables": tables,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {args.out} after {record['seconds']} s")


if __name__ == "__main__":
    main()
