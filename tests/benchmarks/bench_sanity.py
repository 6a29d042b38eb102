"""Whether maps depend on what the network learnt (Adebayo et al., NeurIPS 2018).

Parameters: SqueezeNet's layers are initialised anew, from the top down, and the map of
the same image and class is compared with that of the trained network. The last stage
is the whole network. Photographs take turns with two draws of the weights.

Labels: a small net is trained on MNIST with its labels, and one with its labels
permuted, until it knows them by heart; their maps of test digits are compared.

High similarity means a map that shows the image and not the network. It is read beside
two baselines: maps of the same network, image and class with another seed of the
method (how high it can be), and maps of two different images (how high it is between
maps that have nothing in common but the method's habits). For the labels, a second net
trained with true labels is a third.

Resumable: maps are kept in ``--cache`` as soon as they are made. What is there in the
end is gathered into the JSON and printed; ``--report`` does this alone.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.bench_sanity --cache DIR

Photographs are numbers 2, 27, 52, ... of ``imagenet_sample`` in the order of their
names, of those that ``bench_saliency.py`` reports; references of
RepresentativeInterpretation are others, numbers 0, 10, 20, ....
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bench_saliency import RESULTS, load_image, mean_and_error, versions
from .machine import machine
from .sanity_methods import (
    DRAWING,
    METHODS,
    STAGES,
    Case,
    accuracy_of,
    digit_net,
    own_boundary,
    randomised,
    similarity,
    squeezenet,
)

SIMILARITIES = ("absolute", "signed", "ssim")
N_DIGITS, N_TRAIN = 40, 3000
N_DRAWS = 2  # of random weights
REPRESENTATIVE = "RepresentativeInterpretation"


def run_parameters(data: Path, cache: Path, count: int) -> None:
    """Makes the maps of the photographs that are missing."""
    trained = squeezenet(str(data / "models" / "squeezenet1_0_imagenet.pt"))
    names = sorted((data / "imagenet_sample").glob("*.jpg"))
    references = torch.cat([load_image(path) for path in names[::10]])
    fitted: dict[str, dict[int, object]] = {}  # of every network
    for number, path in enumerate(names[2::25][:count]):
        image = load_image(path)
        with torch.no_grad():
            target = int(trained(image).argmax())
        for state in ("trained", "other seed", *STAGES):
            kept = cache / f"photograph.{path.stem}.{state}.npz"
            if kept.exists():
                continue
            own = state in ("trained", "other seed")
            draw = number % N_DRAWS
            model = trained if own else randomised(trained, state, seed=draw)
            seed = 1 if state == "other seed" else 0
            shared = fitted.setdefault("trained" if own else f"{state} {draw}", {})
            case = Case(model, image, [target], seed, references, 48, shared)
            make_maps(case, kept, DRAWING if state == "other seed" else METHODS)
        print(path.stem, flush=True)


def run_labels(data: Path, cache: Path) -> None:
    """Trains the nets and makes the maps of the digits."""
    if (cache / "digits.all.other seed.npz").exists():
        return
    train, test = (np.load(data / f"mnist_{part}.npz") for part in ("train", "test"))
    images = as_images(train["images"][:N_TRAIN])
    labels = torch.from_numpy(train["labels"][:N_TRAIN]).long()
    tests = as_images(test["images"][:1000])
    truth = torch.from_numpy(test["labels"][:1000]).long()
    permuted = labels[
        torch.randperm(N_TRAIN, generator=torch.Generator().manual_seed(0))
    ]
    nets: dict[str, Any] = {}
    facts: dict[str, dict[str, float]] = {}
    for state, taught, seed in (
        ("trained", labels, 0),
        ("other net", labels, 1),
        ("permuted", permuted, 0),
    ):
        nets[state], accuracy, epochs = digit_net(images, taught, seed)
        facts[state] = {
            "train_accuracy": accuracy,
            "epochs": epochs,
            "test_accuracy": accuracy_of(nets[state], tests, truth),
        }
    print(facts, flush=True)
    (cache / "digit_nets.json").write_text(json.dumps(facts))
    nets["other seed"] = nets["trained"]
    with torch.no_grad():
        targets = nets["trained"](tests[:N_DIGITS]).argmax(dim=1).tolist()
    for state, net in nets.items():
        kept = cache / f"digits.all.{state}.npz"
        if not kept.exists():
            seed = 1 if state == "other seed" else 0
            case = Case(net, tests[:N_DIGITS], targets, seed, images[:1000], 6, {})
            make_maps(case, kept, DRAWING if state == "other seed" else METHODS)


def as_images(values: np.ndarray) -> Tensor:
    """Grey pixels (N, H, W) as (N, 1, H, W) in [0, 1]."""
    return torch.from_numpy(values).float()[:, None] / 255


def make_maps(case: Case, kept: Path, names: Any) -> None:
    """Writes every method's maps of a case to one file."""
    maps = {name: METHODS[name](case).numpy() for name in names}
    np.savez_compressed(kept, **maps, own_boundary=own_boundary(case))


def load_maps(cache: Path, kind: str) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Maps by image, state and method."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for path in sorted(cache.glob(f"{kind}.*.npz")):
        _, stem, state, _ = path.name.split(".")
        with np.load(path) as maps:
            arrays = dict(maps)
        for row in range(len(arrays["own_boundary"])):
            maps_of = {name: values[row] for name, values in arrays.items()}
            found.setdefault(f"{stem} {row:03d}", {})[state] = maps_of
    return found


def compare(
    found: dict[str, dict[str, dict[str, np.ndarray]]], states: list[str]
) -> dict[str, Any]:
    """Mean similarities to the trained network's map, method by method."""
    rows: dict[str, Any] = {}
    complete = [of for of in found.values() if set(states) <= set(of)]
    shifted = complete[1:] + complete[:1]  # each image's other image: the next one
    for name in METHODS:
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
            "other image": [
                (one["trained"][name], other["trained"][name])
                for one, other in zip(complete, shifted, strict=True)
            ]
        }
        for state in states:
            if state != "trained" and name in complete[0][state]:
                pairs[state] = [
                    (of["trained"][name], of[state][name]) for of in complete
                ]
        rows[name] = {}
        for against, maps in pairs.items():
            values = [similarity(*pair) for pair in maps]
            cells: dict[str, Any] = {
                key: mean_and_error([value[key] for value in values])
                for key in SIMILARITIES
            }
            cells["constant_maps"] = int(sum(value["constant"] for value in values))
            if name == REPRESENTATIVE and against != "other image":
                cells["own_boundary"] = int(
                    sum(bool(of[against]["own_boundary"]) for of in complete)
                )
            rows[name][against] = cells
    return {"images": len(complete), "methods": rows}


def report(cache: Path, out: Path) -> None:
    """Writes the JSON and prints the tables."""
    parameters = compare(
        load_maps(cache, "photograph"), ["trained", "other seed", *STAGES]
    )
    labels = compare(
        load_maps(cache, "digits"), ["trained", "other seed", "other net", "permuted"]
    )
    labels["nets"] = json.loads((cache / "digit_nets.json").read_text())
    settings = {
        "command": "python -m tests.benchmarks.bench_sanity --cache DIR "
        f"--photographs {parameters['images']}",
        "seed": 0,
        "model": "squeezenet1_0, ImageNet weights: trunk bfloat16, classifier float32",
        "randomised": "torchvision's initialisation, from the top of the network down",
        "stages": STAGES,
        "target": "the class that the trained network predicts, for all networks",
        "MarginSaliency": "n_evaluations=200",
        "RepresentativeInterpretation": "fitted anew to each network: 50 photographs, "
        "1000 training digits; own_boundary counts maps without a shared polytope; as "
        "all 50 photographs are boundaries, the seed changes nothing there",
        "constant_maps": "maps without ranks (dead units, saturated softmax): counted "
        "as similar to nothing, 0",
        "IntegratedGradients": "25 steps from 0, summed over channels",
        "Occlusion": "windows of 48 (digits: 6) pixels, half a window a step",
        "absolute": "Spearman correlation of absolute maps",
        "signed": "Spearman correlation of maps",
        "ssim": "of absolute maps scaled to [0, 1]",
        "digits": f"{N_TRAIN} training images, {N_DIGITS} test images explained",
        "versions": versions(),
        "machine": machine(),
    }
    record = {"settings": settings, "parameters": parameters, "labels": labels}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1))
    for title, table in (("photographs", parameters), ("digits", labels)):
        for key in SIMILARITIES:
            print(f"\n{table['images']} {title}, {key}\n")
            print_table(table["methods"], key)


def print_table(rows: dict[str, Any], key: str) -> None:
    """One similarity, a row for each method."""
    columns = list(rows[REPRESENTATIVE])
    print("| method | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, row in rows.items():
        # A method without a seed has the same map again.
        cells = [
            f"{row[c][key]['mean']:.2f} ± {row[c][key]['standard_error']:.2f}"
            if c in row
            else "1 (no seed)"
            for c in columns
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=10)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "sanity.json")
    arguments = parser.parse_args()
    if not arguments.report:
        arguments.cache.mkdir(parents=True, exist_ok=True)
        data = Path(os.environ["CAPTUM_MARGIN_DATA"])
        run_labels(data, arguments.cache)
        run_parameters(data, arguments.cache, arguments.photographs)
    report(arguments.cache, arguments.out)


if __name__ == "__main__":
    main()
