"""How well adversarial statistics tell attacked images, without and with the graph.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.adversarial.bench --cache DIR

Case study V of the MARGIN paper: 2,000 random MNIST test images, those among them that
a small net takes for another digit as well, of which 1,000 are attacked (``images``);
which 1,000 is drawn anew in each repetition. Values are areas under the ROC curve
(AUROC): the chance that an attacked image scores above one that is not, 0.5 for a coin;
means of the repetitions.
The interval of 95% is a bootstrap over images, and so is that of the difference, paired
on the same images, of a filtered statistic to its own f.

f is taken from the last hidden layer; the mean squared distance sets the kernel width.
For "kde" (high is suspicious) the references are 10,000 training images; the filter
takes off the mean of all references of the predicted class (the default), or of the 30
that are nearest by feature maps after the convolutions, by pixels, or by the last
hidden layer itself. For "mmd" all rows read low as suspicious but the one that says so.
The layer of the neighbours and the side of the MMD were chosen on 600 other test images
(of those that the net gets right) and their attacks. So were 16 hops, which failed on
2,000 others; 64 were chosen then, on 2,000 more under FGSM.

"paper" rows are the published forms of the filter (``paper=``) on the graph of the
samples, with each number of neighbours; their score is read high, as the paper reads
it. Their MMD is the paper's, between all samples and those without a neighbourhood.
``overlap`` tests what it says of the images whose scores overlap.
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

import captum
import numpy as np
import torch
from torch import Tensor

import captum_margin
from captum_margin.influence import AdversarialStatistics
from tests.benchmarks.adversarial.areas import auroc
from tests.benchmarks.adversarial.images import (
    ATTACKS,
    CW_OPTIONS,
    Attacked,
    predicted,
    prepare,
)
from tests.benchmarks.adversarial.overlap import FALSE_ALARMS, criticisms, overlap
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "adversarial.json"
REFERENCES = 10_000
NEIGHBORS = (30, 10, 20, 40)  # of the paper's forms; the first is the default
FORMS = ("algorithm", "arxiv", "journal")
WHOLE = "mmd: the paper's f, high is suspicious"
# Scores whose overlap is looked into.
OVERLAPPING = ("kde: f", "kde: paper, algorithm", WHOLE, "mmd: paper, algorithm")


def layers(data: Attacked, x: Tensor) -> dict[str, Tensor]:
    """Rows of pixels, feature maps, last hidden units, and decisions."""
    net, parts = data.model, x.split(250)
    maps = torch.cat([net.maps(part) for part in parts])
    hidden = net.hidden(net.first(maps))
    decided = net.logits(hidden).argmax(dim=1)
    return {"pixels": x.flatten(1), "maps": maps, "hidden": hidden, "class": decided}


def scores(x: dict[str, Tensor], known: dict[str, Tensor]) -> dict[str, Tensor]:
    """All statistics of one set of samples, high for suspects."""
    start = AdversarialStatistics.from_features
    options = {
        "statistic": "kde",
        "references": known["hidden"],
        "reference_classes": known["class"],
        "predicted": x["class"],
    }
    values = {}
    result = start(x["hidden"], **options).result()
    values["kde: f"] = result.function
    values["kde: filtered, class"] = result.filtered
    for name in ("maps", "pixels", "hidden"):
        by = {"graph_features": x[name], "graph_references": known[name]}
        result = start(x["hidden"], **options, **by).result()
        values[f"kde: filtered, neighbours by {name}"] = result.filtered
    f = values["kde: f"]
    own = start(x["hidden"], function=f).result()
    values["kde: filtered among the samples"] = own.filtered
    for hops in (64, 16, 1):
        result = start(x["hidden"], sided="below", hops=hops).result()
        values["mmd: f"] = -result.function
        values["mmd: f, high is suspicious"] = result.function
        values[f"mmd: filtered, {hops} hops"] = -result.filtered
    return values | published(x["hidden"], f)


def published(hidden: Tensor, density: Tensor) -> dict[str, Tensor]:
    """Both functions of the paper, filtered in all three forms."""
    start = AdversarialStatistics.from_features
    values = {}
    for k in NEIGHBORS:
        told = "" if k == NEIGHBORS[0] else f", k = {k}"
        of_set = start(hidden, k=k, paper=True, statistic="mmd").result().function
        values[WHOLE + told] = of_set
        for form in FORMS:
            for name, f in (("kde", density), ("mmd", of_set)):
                asked = start(hidden, function=f, k=k, paper=form)
                values[f"{name}: paper, {form}{told}"] = asked.self_influence()
    low = "mmd: the paper's f, low is suspicious"
    return values | {low: -values[WHOLE]}


def unfiltered(name: str) -> str:
    """The f that a filtered statistic is compared to."""
    if name.startswith("mmd: paper"):
        told = name.split(", k")[1:]
        return WHOLE + "".join(f", k{k}" for k in told)
    return f"{name[:3]}: f"


def summary(values, masks, resamples: int):
    """Mean AUROC of each statistic over the repetitions, with bootstrap intervals.

    ``values[name]`` (R, N) and ``masks`` (R, N): one row per repetition.
    """
    rng = np.random.default_rng(0)
    n = masks.shape[1]
    draws = [np.arange(n), *(rng.integers(0, n, n) for _ in range(resamples))]
    table = {
        name: np.array(
            [
                np.mean([auroc(m[i], v[i]) for m, v in zip(masks, rows, strict=True)])
                for i in draws
            ]
        )
        for name, rows in values.items()
    }
    record = {}
    for name, row in table.items():
        entry = {"auroc": row[0], "interval": np.percentile(row[1:], [2.5, 97.5])}
        if "filtered" in name or ": paper," in name:
            gain = row - table[unfiltered(name)]
            entry["gain"] = gain[0]
            entry["gain_interval"] = np.percentile(gain[1:], [2.5, 97.5])
        record[name] = {k: np.round(v, 4).tolist() for k, v in entry.items()}
    return record


def run(data: Attacked, repetitions: int, resamples: int, figure: Path | None):
    """The table of every attack."""
    known = layers(data, data.train[0][:REFERENCES])
    known["class"] = data.train[1][:REFERENCES]
    clean = layers(data, data.images)
    rare = criticisms(clean)
    tables = {}
    for name in ATTACKS:
        changed = layers(data, data.attacked[name])
        masks, rows = [], {}
        for seed in range(repetitions):
            n = len(data.images)
            mask = np.zeros(n, bool)
            mask[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
            chosen = torch.from_numpy(mask)
            x = {
                k: torch.where(chosen[:, None] if v.dim() > 1 else chosen, v, clean[k])
                for k, v in changed.items()
            }
            for key, value in scores(x, known).items():
                rows.setdefault(key, []).append(value.double().numpy())
            masks.append(mask)
            if figure is not None and seed == 0 and name == ATTACKS[-1]:
                AdversarialStatistics.from_features(
                    x["hidden"],
                    statistic="kde",
                    references=known["hidden"],
                    reference_classes=known["class"],
                    predicted=x["class"],
                    graph_features=x["maps"],
                    graph_references=known["maps"],
                ).plot_histograms(mask).savefig(figure, dpi=120)
        values = {key: np.stack(value) for key, value in rows.items()}
        fooled = predicted(data.model, data.attacked[name]) != data.labels
        tables[name] = {
            "fooled": round(float(fooled.double().mean()), 4),
            "mean_l2": round(
                float(
                    (data.attacked[name] - data.images).flatten(1).norm(dim=1).mean()
                ),
                3,
            ),
            "seconds_to_attack": data.seconds[name],
            "statistics": summary(values, np.stack(masks), resamples),
            "overlap": {
                key: overlap(values[key], np.stack(masks), rare) for key in OVERLAPPING
            },
        }
        show(name, tables[name])
    return tables


def show(name: str, table) -> None:
    """Prints the table of one attack."""
    print(f"\n{name}: {table['fooled']:.1%} fooled, L2 {table['mean_l2']}")
    for key, row in table["statistics"].items():
        low, high = row["interval"]
        text = f"  {key:40} {row['auroc']:.3f} [{low:.3f}, {high:.3f}]"
        if "gain" in row:
            low, high = row["gain_interval"]
            text += f"  gain {row['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"
        print(text, flush=True)
    for key, row in table["overlap"].items():
        print(f"  overlap of {key}: {row}", flush=True)


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--figure", action="store_true", help="histograms as PNG")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    data = prepare(root, args.cache, 0, 2000)
    print(f"test accuracy {data.accuracy:.4f}")
    figure = args.out.with_suffix(".png") if args.figure else None
    tables = run(data, args.repetitions, args.resamples, figure)
    import foolbox

    arguments = [a for a in sys.argv[1:] if a != str(args.cache)]
    record = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.adversarial.bench"])
        + "".join(f" {a} DIR" if a == "--cache" else f" {a}" for a in arguments),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "captum": captum.__version__,
            "foolbox": foolbox.__version__,
            "captum_margin": captum_margin.__version__,
        },
        "machine": machine(),
        "settings": {
            "images": len(data.images),
            "repetitions": args.repetitions,
            "resamples": args.resamples,
            "references": REFERENCES,
            "test_accuracy": round(data.accuracy, 4),
            "carlini_wagner": CW_OPTIONS,
            "seeds": "halves: 0, 1, ...; net, images, bootstrap: 0",
            "default": str(AdversarialStatistics.settings),
            "paper": str(AdversarialStatistics.paper_settings),
            "overlap": f"threshold of {FALSE_ALARMS:.0%} false alarms",
        },
        "seconds": round(time.time() - start),
        "tables": tables,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {args.out} after {record['seconds']} s")


if __name__ == "__main__":
    main()
