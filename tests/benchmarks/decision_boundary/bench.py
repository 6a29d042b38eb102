r"""How many of the samples ranked highest are misclassified, or near the boundary.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.decision_boundary.bench \
        --cache DIR

Case study IV of the MARGIN paper. MNIST 0/6: a small net trained on 20, 100 or 2,000
images ranks 3,000 that it has not seen, the 1,938 test images among them. Cats and
dogs: a logistic regression on the penultimate features of SqueezeNet, trained on one
half of 3,000 photographs, ranks the other. DecisionBoundary sees the latents named and
the decisions, or the labels given; "hidden" and "features" are the layer that the
decision is linear in, "conv" are the feature maps before it. The paper's form is
measured as Algorithm 1 and as each listing.

Among the 1% and 5% ranked highest: the share that is misclassified, the share that is
within the 1% and 5% of the smallest margins (differences of the two scores), the share
that is either, and for MNIST the share within the 1% and 5% that are nearest to the
decision boundary in the input (Newton steps to the point where both scores are equal).
With two classes entropy, margin and least confidence are one ranking, and all of its
top has the smallest margins by definition. Means of the repetitions, with standard
errors; other digits (4/9) were looked at first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import captum_margin
from captum_margin.influence import DecisionBoundary
from tests.benchmarks.forms import FORMS
from tests.benchmarks.label_noise.data import load
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "decision_boundary.json"
TRAINED_ON = (20, 100, 2000)
RANKED = 3000
SHARES = (0.01, 0.05)


class PairNet(nn.Module):
    """(B, 1, 28, 28) -> (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(nn.Linear(512, 64), nn.ReLU())
        self.scores = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.hidden(self.conv(x)))  # type: ignore[no-any-return]


def pair(root: Path, first: int, second: int, trained_on: int, seed: int):
    """Training images and classes, then those to rank: the test set and unseen ones."""
    rng = np.random.default_rng(seed)
    parts = []
    for name in ("train", "test"):
        data = np.load(root / f"mnist_{name}.npz")
        kept = np.flatnonzero(np.isin(data["labels"], (first, second)))
        kept = rng.permutation(kept) if name == "train" else kept
        images = torch.from_numpy(data["images"][kept]).float().div(255)[:, None]
        parts.append((images, torch.from_numpy(data["labels"][kept] == second).long()))
    (x, y), (test_x, test_y) = parts
    more = slice(trained_on, trained_on + RANKED - len(test_x))
    ranked = torch.cat([test_x, x[more]]), torch.cat([test_y, y[more]])
    return x[:trained_on], y[:trained_on], *ranked


def fit(x: Tensor, y: Tensor, seed: int) -> PairNet:
    """The net after three epochs, or 100 steps if these are more."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PairNet()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        size = min(50, len(x))
        for _ in range(max(100, 3 * len(x) // size)):
            batch = torch.randint(len(x), (size,))
            loss = cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def distance(model: nn.Module, x: Tensor, steps: int = 5) -> Tensor:
    """How far each input is from where the two scores are equal, by Newton steps."""
    parts = []
    for part in x.split(500):
        point = part.clone()
        for _ in range(steps):
            point.requires_grad_()
            score = model(point)
            gap = score[:, 1] - score[:, 0]
            (slope,) = torch.autograd.grad(gap.sum(), point)
            size = slope.flatten(1).square().sum(dim=1).clamp(min=1e-12)
            point = (point - (gap / size)[:, None, None, None] * slope).detach()
        parts.append((point - part).flatten(1).norm(dim=1))
    return torch.cat(parts)


def methods(
    scores: Tensor, given: Tensor, latents: dict[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """What each ranks by, high first."""
    log = scores.double().log_softmax(dim=1)
    decided = scores.argmax(dim=1)
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, x in latents.items():
        for form in ("default", *FORMS):
            paper = form if form in FORMS else False
            for labels, source in ((decided, ""), (given, ", given labels")):
                audit = DecisionBoundary.from_features(x, labels, paper=paper)
                row = f"DecisionBoundary, {name}, {form}{source}"
                values[row] = audit.self_influence()
    return values | {
        "entropy": -(log.exp() * log).sum(dim=1),
        "margin": -(scores[:, 1] - scores[:, 0]).abs(),
        "least confidence": -log.amax(dim=1),
        "random": torch.rand(len(scores), generator=generator),
    }


def quality(values, wrong: Tensor, small: Tensor, near: Tensor | None):
    """Shares of the top that are misclassified, smallest-margin, either, near."""
    rows = {}
    for name, value in values.items():
        order = value.argsort(descending=True, stable=True)
        row = []
        for share in SHARES:
            n = round(share * len(order))
            top = order[:n]
            smallest = torch.zeros_like(wrong)
            smallest[small.argsort(stable=True)[:n]] = True
            found = [wrong[top], smallest[top], (wrong | smallest)[top]]
            if near is not None:
                nearest = torch.zeros_like(wrong)
                nearest[near.argsort(stable=True)[:n]] = True
                found.append(nearest[top])
            row += [float(v.double().mean()) for v in found]
        rows[name] = row
    return rows


def latents_of_digits(root: Path, digit: tuple[int, int], trained_on: int, seed: int):
    """A net trained on a pair of digits, what it has not seen, and its latents."""
    x, y, images, labels = pair(root, *digit, trained_on, seed)
    model = fit(x, y, seed)
    conv = torch.cat([model.conv(part) for part in images.split(500)])
    hidden = model.hidden(conv)
    scores = model.scores(hidden)
    return model, images, labels, scores, {"hidden": hidden, "conv": conv}


def digits(root: Path, digit: tuple[int, int], trained_on: int, seed: int):
    """One repetition on a pair of digits: share of errors and the table."""
    found = latents_of_digits(root, digit, trained_on, seed)
    model, images, labels, scores, latents = found
    wrong = scores.argmax(dim=1) != labels
    values = methods(scores, labels, latents, seed)
    small = (scores[:, 1] - scores[:, 0]).abs()
    return wrong, quality(values, wrong, small, distance(model, images))


def latents_of_photographs(x: Tensor, y: Tensor, seed: int):
    """Features and classes of one half, and the scores of a fit to the other."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    trained, ranked = order.chunk(2)
    spread = x[trained].std(dim=0).clamp(min=1e-6)
    scaled = ((x - x[trained].mean(dim=0)) / spread).numpy()
    model = LogisticRegression(C=0.01, max_iter=300)
    model.fit(scaled[trained], y[trained])
    gap = torch.from_numpy(model.decision_function(scaled[ranked])).float()
    return x[ranked], y[ranked], torch.stack([-gap / 2, gap / 2], dim=1)


def photographs(x: Tensor, y: Tensor, seed: int):
    """One repetition on cats and dogs."""
    features, labels, scores = latents_of_photographs(x, y, seed)
    wrong = scores.argmax(dim=1) != labels
    values = methods(scores, labels, {"features": features}, seed)
    small = (scores[:, 1] - scores[:, 0]).abs()
    return wrong, quality(values, wrong, small, None)


def table(runs):
    """Means and standard errors of repetitions."""
    rows = {name: np.array([row[name] for _, row in runs]) for name in runs[0][1]}
    return {
        "errors": round(
            float(np.mean([wrong.double().mean() for wrong, _ in runs])), 5
        ),
        "ranked": len(runs[0][0]),
        "methods": {
            name: {
                "mean": row.mean(axis=0).round(4).tolist(),
                "standard_error": (row.std(axis=0, ddof=1) / len(row) ** 0.5)
                .round(4)
                .tolist(),
            }
            for name, row in rows.items()
        },
    }


def show(title: str, record) -> None:
    """Prints one table."""
    print(f"\n{title}: {record['errors']:.2%} of {record['ranked']} misclassified")
    for name, row in record["methods"].items():
        pairs = zip(row["mean"], row["standard_error"], strict=True)
        print(f"  {name:36}", *(f"{m:.3f}±{s:.3f}" for m, s in pairs), flush=True)


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--pair", type=int, nargs=2, default=(0, 6))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    seeds = range(args.repetitions)
    columns = [
        f"{name} {share:.0%}"
        for share in SHARES
        for name in ("misclassified", "smallest margins", "either", "nearest in input")
    ]
    print(*columns, sep=" | ")
    tables = {}
    x, y = load("cats-dogs", root, args.cache)
    tables["cats and dogs"] = table([photographs(x, y, seed) for seed in seeds])
    show("cats and dogs (no input distances)", tables["cats and dogs"])
    for count in TRAINED_ON:
        name = f"MNIST {args.pair[0]}/{args.pair[1]}, trained on {count}"
        runs = [digits(root, tuple(args.pair), count, seed) for seed in seeds]
        tables[name] = table(runs)
        show(name, tables[name])
    arguments = [a for a in sys.argv[1:] if a != str(args.cache)]
    record = {
        "command": shlex.join(
            ["python", "-m", "tests.benchmarks.decision_boundary.bench"]
        )
        + "".join(f" {a} DIR" if a == "--cache" else f" {a}" for a in arguments),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "captum_margin": captum_margin.__version__,
        },
        "machine": machine(),
        "settings": {
            "repetitions": args.repetitions,
            "seeds": "0, 1, ...",
            "default": str(DecisionBoundary.settings),
            "paper": str(DecisionBoundary.paper_settings),
            "columns": columns,
            "columns_cats_and_dogs": [c for c in columns if "nearest" not in c],
        },
        "seconds": round(time.time() - start),
        "tables": tables,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {args.out} after {record['seconds']} s")


if __name__ == "__main__":
    main()
