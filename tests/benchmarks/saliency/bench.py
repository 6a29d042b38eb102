"""Faithfulness of saliency maps on 100 photographs, ours and the peers', in one run.

Resumable: every map and every record is kept in ``--cache`` as soon as it is made, and
what is there is not made again. Several processes may share the photographs
(``--part 0/2`` and ``--part 1/2``). ``--report`` gathers the records into the JSON
beside this file and prints the table. ``--methods`` makes some rows only; then
``--update`` replaces these in the JSON, which says that they are of a later run.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.saliency.bench --cache DIR
    python -m tests.benchmarks.saliency.bench --cache DIR --report

The photographs are numbers 2, 7, 12, ... of ``imagenet_sample`` in the order of their
names; constants were chosen on numbers 0, 5, 10, .... That early versions did badly
with 200 passes showed on the first of these, and led to other trials on those (the last
on 50 of them at 128 x 128 pixels: a first round of windows below 400 passes). The
class explained is the one the network predicts. With glibc, set MALLOC_TRIM_THRESHOLD_
and MALLOC_TOP_PAD_ high: half of the time goes to page faults otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_margin.metrics import average_drop, insertion_deletion
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.photographs import MEAN, STD, load_image
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.methods import (
    CHUNK,
    PEERS,
    SEGMENTS,
    CountedSqueezeNet,
    Photograph,
    margin_saliency,
)

N_STEPS = 20
OURS = {
    "MarginSaliency": {},
    "MarginSaliency-400": {"n_evaluations": 400},
    "MarginSaliency-200": {"n_evaluations": 200},
    "MarginSaliency-paper": {"paper": True},
}
# Rows whose code no trial touches: made again, they show whether a machine agrees.
UNCHANGED = ("LayerGradCam", "centre")
MAIN = "insertion_minus_deletion"


def superpixels(image: Tensor) -> Tensor:
    from captum_margin.attr import slic_segments

    return slic_segments(image[0], n_segments=SEGMENTS)


def make_record(photo: Photograph, attribution: Tensor) -> dict[str, float]:
    """Scores of one map; the settings are those of the report's ``metrics`` entry."""
    curves = insertion_deletion(
        photo.model,
        photo.image,
        attribution[None, None],
        photo.target,
        n_steps=N_STEPS,
        perturbations_per_eval=CHUNK,
    )
    black = ((0 - MEAN) / STD).expand_as(photo.image)
    record = {
        "insertion": float(curves.insertion_auc[0]),
        "deletion": float(curves.deletion_auc[0]),
    }
    for name, options in {
        "soft": {"keep": None, "baseline": 0.0},
        "keep20": {"keep": 0.2, "baseline": black},
    }.items():
        drop = average_drop(
            photo.model, photo.image, attribution[None, None], photo.target, **options
        )
        record[f"drop_{name}"] = float(drop.drop[0])
        record[f"increase_{name}"] = float(drop.increase[0])
        record[f"mask_mean_{name}"] = float(drop.mask_mean[0])
    return record


def run(data: Path, cache: Path, names: list[str], part: str, limit: int) -> None:
    """Makes the maps and records that are missing."""
    which, parts = (int(number) for number in part.split("/"))
    model = CountedSqueezeNet(str(data / "models" / "squeezenet1_0_imagenet.pt"))
    paths = sorted((data / "imagenet_sample").glob("*.jpg"))[2::5][:limit]
    cache.mkdir(parents=True, exist_ok=True)
    for path in paths[which::parts]:
        image = load_image(path)
        with torch.no_grad():
            target = int(model(image).argmax())
        photo = Photograph(model, image, target, superpixels(image), seed=0)
        for name in names:
            record_path = cache / f"{path.stem}.{name}.json"
            if record_path.exists():
                continue
            map_path = cache / f"{path.stem}.{name}.npz"
            if not map_path.exists():
                model.n_forward = 0
                start = time.perf_counter()
                if name in OURS:
                    attribution = margin_saliency(photo, **OURS[name])
                else:
                    attribution = PEERS[name](photo)
                seconds = time.perf_counter() - start
                np.savez_compressed(
                    map_path,
                    map=attribution.numpy(),
                    seconds=seconds,
                    n_forward=model.n_forward,
                )
            saved = np.load(map_path)
            record = make_record(photo, torch.from_numpy(saved["map"]))
            record["seconds"] = float(saved["seconds"])
            record["n_forward"] = int(saved["n_forward"])
            record_path.write_text(json.dumps(record))
        print(path.stem, flush=True)


def report(cache: Path, out: Path) -> None:
    """Means, standard errors, and paired differences to MarginSaliency.

    Every method is averaged over the photographs it has finished (``photographs``);
    the difference is over those that MarginSaliency has finished too.
    """
    records = load_records(cache)
    ours = records["MarginSaliency"]
    rows = {}
    for name, of in records.items():
        rows[name] = {
            **averages(of),
            "paired": {
                key: mean_and_error(
                    [ours[s][key] - of[s][key] for s in of if s in ours]
                )
                for key in (MAIN, "drop_keep20")
            },
        }
    rows = best_first(rows)
    print_table(rows)
    out.parent.mkdir(exist_ok=True)
    settings = {
        "command": "python -m tests.benchmarks.saliency.bench --cache DIR",
        "seed": 0,
        "photographs": sorted(ours),
        "model": "squeezenet1_0, ImageNet weights, bfloat16 forward passes",
        "seconds": "wall clock on a shared machine under changing load: not comparable",
        "paired": "MarginSaliency minus the method, on the same photographs",
        "metrics": {
            "insertion": "softmax; from a blurred image; the metric's defaults",
            "deletion": "softmax; to the image's mean colour; the metric's defaults",
            "n_steps": N_STEPS,
            "keep20": "20% of the pixels kept, black elsewhere",
            "soft": "map scaled to [0, 1] times the image, ImageNet mean elsewhere",
        },
        "versions": versions(),
        "machine": machine(),
    }
    out.write_text(json.dumps({"settings": settings, "methods": rows}, indent=1))


def update(cache: Path, out: Path) -> None:
    """Replaces the rows that the cache holds by those of this later run.

    The other rows stay, and so must the photographs. A method whose code has not
    changed shows what else has: its difference to the row it had is kept as
    ``"unchanged"``. MarginSaliency's own scores of each photograph are not in the
    record, so that differences to it have the error of two independent means.
    """
    record = json.loads(out.read_text())
    settings, rows = record["settings"], record["methods"]
    later = settings.setdefault("later_rows", {})
    for name, of in load_records(cache).items():
        if sorted(of) != settings["photographs"]:
            raise ValueError(
                f"expected {name} on the {len(settings['photographs'])} photographs of "
                f"{out} (got {len(of)}); finish the run, or use --report"
            )
        row = averages(of)
        if name in UNCHANGED:
            metrics = rows[name]["metrics"]
            difference = row["metrics"][MAIN]["mean"] - metrics[MAIN]["mean"]
            later.setdefault("unchanged", {})[name] = difference
            continue
        ours = rows["MarginSaliency"]["metrics"]
        row["paired"] = {
            key: difference_of_means(ours[key], row["metrics"][key])
            for key in (MAIN, "drop_keep20")
        }
        rows[name] = row
        later[name] = {
            "command": "python -m tests.benchmarks.saliency.bench --cache DIR "
            f"--methods {name}, then --update",
            "paired": "the standard error is that of two independent means",
            "versions": versions(),
            "machine": machine(),
        }
    record["methods"] = best_first(rows)
    print_table(record["methods"])
    out.write_text(json.dumps(record, indent=1))


def load_records(cache: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Each method's record of each photograph."""
    records: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(cache.glob("*.json")):
        stem, name, _ = path.name.split(".")
        record = json.loads(path.read_text())
        record[MAIN] = record["insertion"] - record["deletion"]
        records.setdefault(name, {})[stem] = record
    return records


def averages(of: dict[str, dict[str, float]]) -> dict[str, Any]:
    """A method's means over its photographs."""
    keys = next(iter(of.values()))
    metrics = {key: mean_and_error([r[key] for r in of.values()]) for key in keys}
    return {"photographs": len(of), "metrics": metrics}


def best_first(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows in the order of the main metric."""
    return dict(sorted(rows.items(), key=lambda row: -row[1]["metrics"][MAIN]["mean"]))


def difference_of_means(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """What is known of a - b where the pairs are not."""
    error = (a["standard_error"] ** 2 + b["standard_error"] ** 2) ** 0.5
    return {"mean": a["mean"] - b["mean"], "standard_error": error}


def mean_and_error(values: list[float]) -> dict[str, float]:
    """The mean of some values and its standard error."""
    array = np.array(values)
    error = array.std(ddof=1) / len(array) ** 0.5
    return {"mean": float(array.mean()), "standard_error": float(error)}


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Prints the README's table."""
    columns = {
        MAIN: "insertion - deletion ↑",
        "insertion": "insertion ↑",
        "deletion": "deletion ↓",
        "drop_keep20": "drop, 20% kept ↓",
        "drop_soft": "drop, soft mask ↓",
        "mask_mean_soft": "mean of the mask",
    }
    print("| method | passes | " + " | ".join(columns.values()), end="")
    print(" | ours minus it, paired | photographs |")
    print("|---|" + "---|" * (len(columns) + 3))
    for name, row in rows.items():
        cells = [f"{row['metrics']['n_forward']['mean']:.0f}"]
        cells += [show(row["metrics"][column]) for column in columns]
        cells += [show(row["paired"][MAIN]), str(row["photographs"])]
        print(f"| {name} | " + " | ".join(cells) + " |")


def show(cell: dict[str, float]) -> str:
    """A mean and its standard error in print."""
    return f"{cell['mean']:.3f} ± {cell['standard_error']:.3f}"


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=[*OURS, *PEERS])
    parser.add_argument("--part", default="0/1", help="this process' share, as 0/2")
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "saliency.json")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.cache, arguments.out)
    elif arguments.update:
        update(arguments.cache, arguments.out)
    else:
        run(
            Path(os.environ["CAPTUM_MARGIN_DATA"]),
            arguments.cache,
            arguments.methods,
            arguments.part,
            arguments.photographs,
        )


if __name__ == "__main__":
    main()
