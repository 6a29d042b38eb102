"""CoalitionPerturbation without each of its parts, and in the form of the paper.

Beside its peers it is in ``saliency/bench.py``. Resumable: every record is kept in
``--cache``, in a folder a network, and not made again. Several processes may work at
once on different ``--methods`` or a ``--part`` of the pictures; ``--report`` gathers
what is there.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.coalition.bench --cache DIR --photographs 8
    python -m tests.benchmarks.coalition.bench --cache DIR --report --out FILE

Networks and pictures are those of ``tests/benchmarks/networks/trained.py`` (the
transformer's weights are where VIT_WEIGHTS says). Defaults were chosen on the tuning
pictures of SqueezeNet and EfficientNet-Lite0; what is reported are the first of the
pictures that chose nothing, and the class is the one that the network predicts. Average
drop and increase are those of Grad-CAM++: the map, scaled to [0, 1], multiplies the
normalised image, so that what is left out takes the mean colour of the network's
training pictures. They reward large masks: the mean of the mask is beside them.
CoalitionPerturbation minimises nearly that; insertion, deletion and the 20% kept are
other questions. ``paper`` is our reading of the published setting, up to 500 steps of
16 noises (an image stops when its loss does), and coalitions at full resolution, whose
passes are not counted; EfficientNet and the transformer have no such trunk, and their
coalitions are the paper's in the feature maps of all sizes. ``short paper`` is the same
in up to 60 steps of 2 noises, for what would take too long otherwise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tests.benchmarks.machine import machine, quick_dtype, versions
from tests.benchmarks.networks.trained import (
    NETWORKS,
    TITLES,
    NetworkName,
    counted_network,
    picture,
    pictures,
)
from tests.benchmarks.saliency.bench import (
    MAIN,
    N_STEPS,
    make_record,
    mean_and_error,
    show,
)
from tests.benchmarks.saliency.methods import (
    Photograph,
    margin_saliency,
    superpixels,
)
from tests.benchmarks.saliency.rows import ROWS

Purpose = Literal["report", "tuning"]
#: What sweeps and ablations of the paper's form can afford.
SHORT: dict[str, Any] = {"paper": True, "n_steps": 60, "n_samples": 2}
#: Each of one other option or two, and all without deletion, which came after them.
FORMS: dict[str, dict[str, Any]] = {
    "without evidence": {"evidence_weight": 0.0},
    "evidence alone": {"evidence_weight": 1.0},
    "without L_c": {"coalition_weight": 0.0},
    "evenness 1": {"consistency": "evenness", "coalition_weight": 1.0},
    "evenness 10": {"consistency": "evenness", "coalition_weight": 10.0},
    "evenness 100": {"consistency": "evenness", "coalition_weight": 100.0},
    "without moving coalitions": {"move_coalitions": False},
    "without coalitions": {"coalition_weight": 0.0, "move_coalitions": False},
    "without L_conf": {"confidence_weight": 0.0},
    "without L_r": {"extent_weight": 0.0},
    "margin loss": {"confidence": "margin", "confidence_weight": 100.0},
    "without smoothing": {"smoothing": 0.0},
    "full resolution": {"resolution": "full"},
    "SLIC coalitions": {"slic": True},
    "coalitions of 0 steps": {"clustering": 0},
    "15 steps": {"n_steps": 15},
    "30 steps": {"n_steps": 30},
    "60 steps, 2 noises of 0.2": {"noise": 0.2, "n_samples": 2},
    "30 steps, 4 noises of 0.2": {"noise": 0.2, "n_samples": 4, "n_steps": 30},
    "15 steps, 8 noises of 0.2": {"noise": 0.2, "n_samples": 8, "n_steps": 15},
    "short paper": SHORT,
    "short paper, evenness": {**SHORT, "consistency": "evenness"},
    "short paper without L_c": {**SHORT, "coalition_weight": 0.0},
    "short paper without L_conf": {**SHORT, "confidence_weight": 0.0},
    "short paper without L_r": {**SHORT, "extent_weight": 0.0},
    "paper, evenness": {"paper": True, "consistency": "evenness"},
    "paper": {"paper": True},
}
OURS: dict[str, dict[str, Any]] = {
    "CoalitionPerturbation": {},
    "without deletion": {"deletion": False},
    **{name: {**options, "deletion": False} for name, options in FORMS.items()},
}
#: Options of :func:`captum_margin.attr.feature_coalitions`.
OF_COALITIONS = ("resolution", "clustering", "n_clusters", "n_coalitions")
METRICS = {
    "drop_soft": "average drop ↓",
    "increase_soft": "increase ↑",
    "top1_soft": "class kept ↑",
    "mask_mean_soft": "mean of the mask",
    MAIN: "insertion - deletion ↑",
    "insertion": "insertion ↑",
    "deletion": "deletion ↓",
    "drop_keep20": "drop, 20% kept ↓",
}


def coalition(photo: Photograph, options: dict[str, Any]) -> Tensor:
    """The map (H, W) of our method, batches of 8."""
    from captum_margin.attr import CoalitionPerturbation

    options = dict(options)
    if options.pop("slic", False):
        mask = photo.segments[:1]
    else:
        of_coalitions = {
            name: options.pop(name) for name in OF_COALITIONS if name in options
        }
        paper = options.get("paper", False)
        n_steps = of_coalitions.pop("clustering", 100)
        mask = coalitions(photo, paper=paper, n_steps=n_steps, **of_coalitions)
    maps = CoalitionPerturbation(photo.model).attribute(
        photo.image,
        target=photo.target,
        feature_mask=mask[:, None],
        internal_batch_size=8,
        **options,
    )
    return maps[0].mean(dim=0)


def coalitions(photo: Photograph, **options: Any) -> Tensor:
    """Coalitions (1, H, W), made once; later rows count the passes, too."""
    from captum_margin.attr import feature_coalitions

    kept = photo.__dict__.setdefault("coalitions", {})
    key = str(sorted(options.items()))
    before = photo.model.n_forward
    if key not in kept:
        is_trunk = hasattr(photo.model.modules_of_network, "features")
        if options["paper"] and not is_trunk:
            options["resolution"] = "pyramid"
        found = feature_coalitions(photo.model, photo.image, **options)
        kept[key] = found, photo.model.n_forward - before
    regions: Tensor
    regions, n_forward = kept[key]
    photo.model.n_forward = before + n_forward
    return regions


def integrated_gradients(photo: Photograph) -> Tensor:
    """Captum's, 50 steps from the mean colour; positive and negative added up."""
    from captum.attr import IntegratedGradients

    maps = IntegratedGradients(photo.probabilities).attribute(
        photo.image,
        baselines=photo.mean_colour,
        target=photo.target,
        n_steps=50,
        internal_batch_size=10,
    )
    return maps[0].sum(dim=0).detach()


METHODS: dict[str, Callable[[Photograph], Tensor]] = {
    **{
        name: lambda photo, options=options: coalition(photo, options)
        for name, options in OURS.items()
    },
    **{
        name: ROWS[name].make
        for name in ("LayerGradCam", "ScoreCAM", "Occlusion-400", "centre", "random")
    },
    "IntegratedGradients-50": integrated_gradients,
    "MarginSaliency-400": lambda photo: margin_saliency(
        photo, n_evaluations=400, deletion=False
    ),
}
DEFAULT = [
    "CoalitionPerturbation",
    "without deletion",
    "without evidence",
    "without coalitions",
    "LayerGradCam",
]


def record_of(photo: Photograph, attribution: Tensor) -> dict[str, float]:
    """Scores of one map (H, W)."""
    record = make_record(photo, attribution)
    record[MAIN] = record["insertion"] - record["deletion"]
    return record


def folder(cache: Path, network: NetworkName, purpose: Purpose = "report") -> Path:
    """Where the records of a network are kept."""
    return cache / (network if purpose == "report" else f"{network}-{purpose}")


def run(
    network: NetworkName,
    cache: Path,
    names: list[str],
    part: str,
    limit: int,
    purpose: Purpose = "report",
) -> None:
    """Makes the records that are missing."""
    which, parts = (int(number) for number in part.split("/"))
    model = counted_network(network)
    kept = folder(cache, network, purpose)
    kept.mkdir(parents=True, exist_ok=True)
    for stem in pictures(network, purpose, limit)[which::parts]:
        shown = picture(network, stem)
        with torch.no_grad():
            target = int(model(shown.image).argmax())
        segments = superpixels(shown.image)
        photo = Photograph(model, shown.image, target, segments, seed=0)
        for name in names:
            record_path = kept / f"{shown.name}.{name}.json"
            if record_path.exists():
                continue
            model.n_forward = 0
            start = time.perf_counter()
            attribution = METHODS[name](photo)
            seconds, n_forward = time.perf_counter() - start, model.n_forward
            record = record_of(photo, attribution.float())
            record |= {"seconds": seconds, "n_forward": n_forward}
            record_path.write_text(json.dumps(record))
        print(shown.name, flush=True)


def report(
    network: NetworkName, cache: Path, out: Path, purpose: Purpose = "report"
) -> None:
    """Means and standard errors, and differences to ours on the same photographs."""
    records: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(folder(cache, network, purpose).glob("*.json")):
        stem, name = path.name.removesuffix(".json").split(".", 1)
        records.setdefault(name, {})[stem] = json.loads(path.read_text())
    # Parts are compared with the form that they are parts of.
    base = next(name for name in OURS if name in records)
    ours = records[base]
    rows = {}
    for name in METHODS:
        of = records.get(name)
        if of is None or len(of) < 2:
            continue
        shared = [stem for stem in of if stem in ours]
        rows[name] = {
            "photographs": len(of),
            "metrics": {
                key: mean_and_error([record[key] for record in of.values()])
                for key in (*METRICS, "seconds", "n_forward")
            },
            "ours_minus_it": {
                key: mean_and_error([ours[s][key] - of[s][key] for s in shared])
                for key in METRICS
            },
        }
    columns = [*METRICS.values(), "ours minus it: ins - del", "drop"]
    print("| method | passes | " + " | ".join(columns) + " | photographs |")
    print("|---|" + "---|" * (len(columns) + 2))
    for name, row in rows.items():
        cells = [f"{row['metrics']['n_forward']['mean']:.0f}"]
        cells += [show(row["metrics"][key]) for key in METRICS]
        cells += [show(row["ours_minus_it"][key]) for key in (MAIN, "drop_soft")]
        print(f"| {name} | " + " | ".join([*cells, str(row["photographs"])]) + " |")
    settings = {
        "command": "python -m tests.benchmarks.coalition.bench --cache DIR "
        f"--network {network}" + (" --purpose tuning" if purpose == "tuning" else ""),
        "seed": 0,
        "photographs": sorted(ours),
        "ours": base,
        "network": network,
        "model": f"{TITLES[network]}, trained weights; {quick_dtype()} passes of the "
        "networks of ImageNet",
        "masking": "map scaled to [0, 1] times the normalised image",
        "n_steps_of_curves": N_STEPS,
        "passes": "forward passes of one image; each of ours has a backward pass too",
        "seconds": "wall clock on a shared machine under changing load: not comparable",
        "options": {name: str(options) for name, options in OURS.items()},
        "versions": versions(),
        "machine": machine(),
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"settings": settings, "methods": rows}, indent=1) + "\n")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--network", choices=NETWORKS, default="squeezenet")
    parser.add_argument("--methods", nargs="*", default=DEFAULT, choices=[*METHODS])
    parser.add_argument("--part", default="0/1", help="this process' share, as 0/2")
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--purpose", choices=("report", "tuning"), default="report")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=Path, help="of the report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network: NetworkName = arguments.network
    if arguments.report:
        if arguments.out is None:
            parser.error("--report needs --out")
        report(network, arguments.cache, arguments.out, arguments.purpose)
    else:
        run(
            network,
            arguments.cache,
            arguments.methods,
            arguments.part,
            arguments.photographs,
            arguments.purpose,
        )


if __name__ == "__main__":
    main()
