"""Faithfulness of saliency maps on three networks, ours and the peers', in one run.

Resumable: every map and every record is kept in ``--cache`` as soon as it is made, as
``NETWORK.PICTURE.METHOD``, and what is there is not made again. All methods of a
picture come before the next picture, and the networks take turns, so that a run that is
stopped leaves equal sets. Several processes may share the pictures (``--part 0/2`` and
``--part 1/2``). A method that fails is reported and left out; the run goes on, and its
exit status is 1. ``--report`` gathers the records into the JSON beside this file and
prints the tables. ``--methods`` and ``--networks`` make some rows only; then
``--update`` replaces these in the JSON, and ``--replace`` networks whole, and the JSON
says that they are of a later run.

    export CAPTUM_MARGIN_DATA=... VIT_WEIGHTS=...
    python -m tests.benchmarks.saliency.bench --cache DIR
    python -m tests.benchmarks.saliency.bench --cache DIR --report

Each network's pictures are numbers 2, 7, 12, ... of ``networks/trained.py``; constants
were chosen on numbers 0, 5, 10, ... (``--purpose tuning``, never reported). That early
versions did badly with 200 passes showed on the first of the photographs, and led to
other trials on those (the last on 50 of them at 128 x 128 pixels: a first round of
windows below 400 passes).
The class explained is the one the network predicts. With glibc, set
MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ high: half of the time goes to page faults
otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from captum_margin._version import versions as of_packages
from captum_margin.metrics import average_drop, insertion_deletion
from tests.benchmarks.machine import machine, quick_dtype, versions
from tests.benchmarks.networks.trained import (
    NETWORKS,
    TITLES,
    NetworkName,
    counted_network,
    picture,
    pictures,
)
from tests.benchmarks.networks.vit import record_name
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.methods import CHUNK, Photograph, superpixels
from tests.benchmarks.saliency.rows import MAIN_ROW, ROWS

N_STEPS = 20
# Rows whose code no trial touches: made again, they show whether a machine agrees.
UNCHANGED = ("LayerGradCam", "centre")
MAIN = "insertion_minus_deletion"
PAIRED = (MAIN, "drop_keep20")
MODELS: dict[NetworkName, str] = {
    "squeezenet": "squeezenet1_0, ImageNet weights, {} forward passes",
    "efficientnet": "efficientnet-lite0, ImageNet weights, {} forward passes",
    "vit": f"vision transformer of results/{record_name()}.json, float32",
}
Records = dict[str, dict[str, dict[str, float]]]  # of methods, pictures and measures


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
    black = photo.model.black.expand_as(photo.image)
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
    record["top1_soft"] = class_kept(photo, attribution)
    return record


def class_kept(photo: Photograph, attribution: Tensor) -> float:
    """Whether the softly masked picture is still of the class."""
    low, high = attribution.min(), attribution.max()
    mask = (attribution - low) / (high - low) if high > low else attribution * 0 + 1
    with torch.no_grad():
        return float(photo.model(photo.image * mask).argmax() == photo.target)


def run(
    networks: Sequence[NetworkName],
    names: Sequence[str],
    cache: Path,
    part: str,
    limit: int,
    purpose: Literal["tuning", "report"],
) -> int:
    """Makes the maps and records that are missing; how many methods failed."""
    which, parts = (int(number) for number in part.split("/"))
    cache.mkdir(parents=True, exist_ok=True)
    models = {network: counted_network(network) for network in networks}
    shown = {network: pictures(network, purpose, limit) for network in networks}
    n_failed = 0
    for number in range(which, max(map(len, shown.values())), parts):
        for network in networks:
            if number >= len(shown[network]):
                continue
            of = picture(network, shown[network][number])
            rows = [name for name in names if network in ROWS[name].networks]
            begin = f"{network}.{of.name}"
            missing = [n for n in rows if not (cache / f"{begin}.{n}.json").exists()]
            start = time.perf_counter()
            if missing:
                model = models[network]
                with torch.no_grad():
                    target = int(model(of.image).argmax())
                segments = superpixels(of.image)
                photo = Photograph(model, of.image, target, segments, seed=0)
            for name in missing:
                try:
                    make(photo, name, cache / f"{begin}.{name}")
                except Exception:  # the failures of others' code are results too
                    traceback.print_exc()
                    print(f"failed: {begin}.{name}", flush=True)
                    n_failed += 1
            seconds = time.perf_counter() - start
            print(f"{number} {begin}: {len(missing)} rows, {seconds:.0f} s", flush=True)
    return n_failed


def make(photo: Photograph, name: str, path: Path) -> None:
    """Writes a method's map of a photograph, and then its scores."""
    map_path = Path(f"{path}.npz")
    if not map_path.exists():
        photo.model.n_forward = photo.model.n_backward = 0
        start, cpu = time.perf_counter(), time.process_time()
        attribution = ROWS[name].make(photo)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        np.savez_compressed(
            map_path,
            map=attribution.numpy(),
            seconds=seconds,
            cpu_seconds=cpu,
            n_forward=photo.model.n_forward,
            n_backward=photo.model.n_backward,
        )
    saved = np.load(map_path)
    record = make_record(photo, torch.from_numpy(saved["map"]))
    for cost in ("seconds", "cpu_seconds", "n_forward", "n_backward"):
        record[cost] = saved[cost].item()
    Path(f"{path}.json").write_text(json.dumps(record))


def report(cache: Path, out: Path, ours: str = MAIN_ROW) -> None:
    """Means, standard errors, and paired differences to a row of ours.

    Every method is averaged over the pictures it has finished (``photographs``); the
    difference is over those that our row has finished too.
    """
    networks = {}
    command = "python -m tests.benchmarks.saliency.bench --cache DIR"
    found = load_records(cache)
    made = {name for records in found.values() for name in records}
    if made != set(ROWS):
        command += " --methods " + " ".join(name for name in ROWS if name in made)
    for network, records in found.items():
        rows = best_first(rows_of(records, ours))
        networks[network] = {
            "model": MODELS[network].format(quick_dtype()),
            "photographs": sorted(records[ours]),
            "methods": rows,
        }
        print_table(network, rows)
    out.parent.mkdir(exist_ok=True)
    settings = {
        "command": command,
        "seed": 0,
        "seconds": "wall clock on a shared machine under changing load: not comparable",
        "cpu_seconds": "of all threads; less shaken by what else runs",
        "n_backward": "images whose scores were derived, beside the forward passes",
        "paired": f"{ours} minus the method, on the same pictures",
        "metrics": {
            "insertion": "softmax; from a blurred image; the metric's defaults",
            "deletion": "softmax; to the image's mean colour; the metric's defaults",
            "n_steps": N_STEPS,
            "keep20": "20% of the pixels kept, black elsewhere",
            "soft": "map scaled to [0, 1] times the image, elsewhere the mean colour "
            "of what the network was trained on",
        },
        "versions": {**versions(), **of_packages("shap", "shapiq")},
        "machine": machine(),
    }
    out.write_text(json.dumps({"settings": settings, "networks": networks}, indent=1))


def rows_of(records: Records, ours: str = MAIN_ROW) -> dict[str, dict[str, Any]]:
    """Each method's means, beside those of a row of ours on the same pictures."""
    rows = {}
    for name, of in records.items():
        both = sorted(set(of) & set(records[ours]))
        paired = {
            key: mean_and_error([records[ours][s][key] - of[s][key] for s in both])
            for key in PAIRED
        }
        rows[name] = {**averages(of), "paired": paired}
    return rows


def update(cache: Path, out: Path, through: str | None = None) -> None:
    """Replaces the rows that the cache holds by those of this later run.

    The other rows stay, and so must the pictures. A method whose code has not
    changed shows what else has: its difference to the row it had is kept as
    ``"unchanged"``. MarginSaliency's own scores of each picture are not in the
    record, so that differences to it have the error of two independent means.

    Args:
        cache: Of the later run.
        out: The record.
        through: A row of the later run that has not changed: one of the record too, or
            what its MarginSaliency was, which is called so from now on. Differences of
            MarginSaliency to rows of the record are then sums of paired ones, to that
            row and from it, with errors as if these were independent.
    """
    record = json.loads(out.read_text())
    for network, records in load_records(cache).items():
        found = record["networks"][network]
        rows = found["methods"]
        later = found.setdefault("later_rows", {})
        for name, of in records.items():
            if sorted(of) != found["photographs"]:
                raise ValueError(
                    f"expected {name} on the {len(found['photographs'])} pictures of "
                    f"{network} in {out} (got {len(of)}); finish the run, or use "
                    "--report"
                )
        made = rows_of(records) if MAIN_ROW in records else None
        if through is not None and made is not None:
            before = rows.get(through, {}).get("paired")
            if before is None:  # what the main row of the record was
                rows[through] = rows.pop(MAIN_ROW)
            for row in rows.values():
                paired = row["paired"]
                if before is not None:  # from the main row of the record to it
                    paired = {
                        key: difference_of_means(paired[key], before[key])
                        for key in PAIRED
                    }
                row["paired"] = {
                    key: sum_of(made[through]["paired"][key], paired[key])
                    for key in PAIRED
                }
            rows[through]["paired"] = made[through]["paired"]
        for name, of in records.items():
            row = averages(of) if made is None else made[name]
            if name in UNCHANGED:
                metrics = rows[name]["metrics"]
                difference = row["metrics"][MAIN]["mean"] - metrics[MAIN]["mean"]
                later.setdefault("unchanged", {})[name] = difference
                continue
            if name == through:
                continue
            if made is None:
                ours = rows[MAIN_ROW]["metrics"]
                row["paired"] = {
                    key: difference_of_means(ours[key], row["metrics"][key])
                    for key in PAIRED
                }
            rows[name] = row
            later[name] = {
                "command": "python -m tests.benchmarks.saliency.bench --cache DIR "
                f"--networks {network} --methods {' '.join(records)}, then --update"
                + (f" --through {through}" if through else ""),
                "paired": "the standard error is that of two independent means"
                if made is None
                else "picture by picture"
                + (f"; to the earlier run's rows through {through}" if through else ""),
                "versions": versions(),
                "machine": machine(),
            }
        found["methods"] = best_first(rows)
        print_table(network, found["methods"])
    out.write_text(json.dumps(record, indent=1))


def replace(cache: Path, out: Path, ours: str = MAIN_ROW) -> None:
    """Puts the networks of this later run in the place of the record's, whole."""
    record = json.loads(out.read_text())
    later = out.with_suffix(".later.json")
    report(cache, later, ours)
    made = json.loads(later.read_text())
    later.unlink()
    told = {key: made["settings"][key] for key in ("command", "versions", "machine")}
    for network, found in made["networks"].items():
        record["networks"][network] = {**found, "later_run": told}
    out.write_text(json.dumps(record, indent=1))


def load_records(cache: Path) -> dict[NetworkName, Records]:
    """Of each network, each method's record of each picture."""
    found: dict[NetworkName, Records] = {}
    for network in NETWORKS:
        for path in sorted(cache.glob(f"{network}.*.json")):
            _, stem, name, _ = path.name.split(".")
            record = json.loads(path.read_text())
            record[MAIN] = record["insertion"] - record["deletion"]
            found.setdefault(network, {}).setdefault(name, {})[stem] = record
    return found


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


def sum_of(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """What is known of a + b, taken as independent, where the pairs are not known."""
    error = (a["standard_error"] ** 2 + b["standard_error"] ** 2) ** 0.5
    return {"mean": a["mean"] + b["mean"], "standard_error": error}


def mean_and_error(values: list[float]) -> dict[str, float]:
    """The mean of some values and its standard error."""
    array = np.array(values)
    error = array.std(ddof=1) / len(array) ** 0.5
    return {"mean": float(array.mean()), "standard_error": float(error)}


def print_table(network: NetworkName, rows: dict[str, dict[str, Any]]) -> None:
    """Prints a network's rows."""
    print(f"\n{TITLES[network]}\n")
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


def main() -> int:
    """Parses the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--methods", nargs="*", default=[*ROWS], choices=[*ROWS])
    parser.add_argument("--part", default="0/1", help="this process' share, as 0/2")
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--purpose", choices=("tuning", "report"), default="report")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--ours", default=MAIN_ROW, choices=[*ROWS])
    parser.add_argument("--through", help="a row that has not changed")
    parser.add_argument("--out", type=Path, default=RESULTS / "saliency.json")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.cache, arguments.out, arguments.ours)
    elif arguments.replace:
        replace(arguments.cache, arguments.out, arguments.ours)
    elif arguments.update:
        update(arguments.cache, arguments.out, arguments.through)
    else:
        n_failed = run(
            arguments.networks,
            arguments.methods,
            arguments.cache,
            arguments.part,
            arguments.photographs,
            arguments.purpose,
        )
        return int(n_failed > 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
