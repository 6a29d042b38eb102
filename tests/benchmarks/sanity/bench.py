"""Whether maps depend on what the network learnt (Adebayo et al., NeurIPS 2018).

Parameters: the layers of each network are initialised anew, the classifier or all, and
the map of the same image and class is compared with that of the trained network.
Photographs take turns with two draws of the weights. A random network has no reason to
see that class, and CoalitionPerturbation keeps nothing of an image for a class whose
score is no lower without it; "own class" are its maps of the class that the random
network predicts itself, compared with the trained network's map of its own class.

Labels: a small net is trained on MNIST with its labels, and one with its labels
permuted, until it knows them by heart; their maps of test digits are compared.

High similarity means a map that shows the image and not the network. It is read beside
two baselines: maps of the same network, image and class with another seed of the
method (how high it can be), and maps of two different images (how high it is between
maps that have nothing in common but the method's habits). For the labels, a second net
trained with true labels is a third, and correlations are also taken on the ink alone:
maps that are zero off it, such as an input times its gradient, agree there anyway.

Resumable: maps are kept in ``--cache`` as soon as they are made. What is there in the
end is gathered into the JSON and printed; ``--report`` does this alone.

    export CAPTUM_MARGIN_DATA=... VIT_WEIGHTS=...
    python -m tests.benchmarks.sanity.bench --cache DIR --networks squeezenet

Photographs are every fifth of those that ``saliency/bench.py`` reports of a network
(numbers 2, 27, 52, ...); references of RepresentativeInterpretation are others, numbers
0, 10, 20, ....
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

from tests.benchmarks.machine import machine, quick_dtype, versions
from tests.benchmarks.networks.trained import (
    NETWORKS,
    NetworkName,
    picture,
    pictures,
    plain_network,
)
from tests.benchmarks.networks.vit import record_name
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.bench import mean_and_error
from tests.benchmarks.sanity.methods import (
    DRAWING,
    METHODS,
    STAGES,
    Case,
    Layered,
    accuracy_of,
    digit_net,
    layered,
    own_boundary,
    randomised,
    similarity,
)

SIMILARITIES = ("absolute", "signed", "ssim")
N_DIGITS, N_TRAIN = 40, 3000
N_DRAWS = 2  # of random weights
N_OTHERS = 11  # images that each image's map is compared with
REPRESENTATIVE, COALITION = "RepresentativeInterpretation", "CoalitionPerturbation"
OWN_CLASS = "all, own class"
SHORT = {"other seed": DRAWING, OWN_CLASS: (COALITION,)}  # other states: all methods
STATES = ("trained", "other seed", *STAGES, OWN_CLASS)


def run_parameters(network: NetworkName, cache: Path, count: int) -> None:
    """Makes the maps of a network's photographs that are missing."""
    trained = layered(network, plain_network(network))
    names = pictures(network, "report", 10**6)[::5][:count]
    references = torch.cat(
        [picture(network, n).image for n in pictures(network, "tuning", 10**6)[::2]]
    )
    window = round(references.shape[-1] * 48 / 224)
    models: dict[tuple[str, int], Layered] = {}
    fitted: dict[str, dict[int, object]] = {}  # of every network
    for number, name in enumerate(names):
        of = picture(network, name)
        for state in STATES:
            kept = cache / f"{network}.{of.name}.{state}.npz"
            if kept.exists():
                continue
            learnt, draw = state in ("trained", "other seed"), number % N_DRAWS
            stage = "all" if state == OWN_CLASS else state
            if not learnt and (stage, draw) not in models:
                anew = randomised(network, stage, draw, references)
                models[stage, draw] = layered(network, anew)
            model = trained if learnt else models[stage, draw]
            with torch.no_grad():
                sees = model if state == OWN_CLASS else trained
                target = int(sees(of.image).argmax())
            seed = 1 if state == "other seed" else 0
            shared = fitted.setdefault("trained" if learnt else f"{stage} {draw}", {})
            case = Case(model, of.image, [target], seed, references, window, shared)
            make_maps(case, kept, SHORT.get(state, tuple(METHODS)))
        print(network, of.name, flush=True)


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
            make_maps(case, kept, SHORT.get(state, tuple(METHODS)))


def as_images(values: np.ndarray) -> Tensor:
    """Grey pixels (N, H, W) as (N, 1, H, W) in [0, 1]."""
    return torch.from_numpy(values).float()[:, None] / 255


def make_maps(case: Case, kept: Path, names: tuple[str, ...]) -> None:
    """Writes the methods' maps of a case to one file."""
    arrays: dict[str, Any] = {name: METHODS[name](case).numpy() for name in names}
    if REPRESENTATIVE in names:
        arrays["own_boundary"] = own_boundary(case)
    np.savez_compressed(kept, **arrays)


def load_maps(cache: Path, kind: str) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Maps by image, state and method."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for path in sorted(cache.glob(f"{kind}.*.npz")):
        _, stem, state, _ = path.name.split(".")
        with np.load(path) as maps:
            arrays = dict(maps)
        for row in range(len(next(iter(arrays.values())))):
            maps_of = {name: values[row] for name, values in arrays.items()}
            found.setdefault(f"{stem} {row:03d}", {})[state] = maps_of
    return found


def compare(
    found: dict[str, dict[str, dict[str, np.ndarray]]],
    states: tuple[str, ...],
    inks: list[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Mean similarities to the trained network's map, method by method."""
    rows: dict[str, Any] = {}
    complete = [of for of in found.values() if set(states) <= set(of)]
    twice = complete + complete
    where: list[np.ndarray | None] = list(inks) if inks else [None] * len(complete)
    others = [twice[n + 1 : n + 1 + N_OTHERS] for n in range(len(complete))]
    for name in METHODS:
        of_trained = [of["trained"][name] for of in complete]
        # What each image's map is compared with, one map or several.
        against: dict[str, list[list[np.ndarray]]] = {
            "other image": [[of["trained"][name] for of in among] for among in others]
        }
        for state in states:
            if state != "trained" and name in complete[0][state]:
                against[state] = [[of[state][name]] for of in complete]
        if OWN_CLASS in against:
            against[f"{OWN_CLASS}, other image"] = [
                [of[OWN_CLASS][name] for of in among] for among in others
            ]
        rows[name] = {}
        for state, maps in against.items():
            values = [
                mean_similarity(one, many, ink)
                for one, many, ink in zip(of_trained, maps, where, strict=True)
            ]
            cells: dict[str, Any] = {
                key: mean_and_error([value[key] for value in values])
                for key in values[0]
                if key != "constant"
            }
            cells["constant_maps"] = sum(value["constant"] > 0 for value in values)
            if name == REPRESENTATIVE and state in states:
                cells["own_boundary"] = int(
                    sum(bool(of[state]["own_boundary"]) for of in complete)
                )
            rows[name][state] = cells
    return {"images": len(complete), "methods": rows}


def mean_similarity(
    one: np.ndarray, many: list[np.ndarray], ink: np.ndarray | None
) -> dict[str, float]:
    """Of a map with several."""
    found = [similarity(one, other, ink) for other in many]
    return {key: float(np.mean([f[key] for f in found])) for key in found[0]}


def report(cache: Path, out: Path) -> None:
    """Writes the JSON and prints the tables."""
    parameters = {
        network: compare(maps, STATES)
        for network in NETWORKS
        if (maps := load_maps(cache, network))
    }
    digits = np.load(Path(os.environ["CAPTUM_MARGIN_DATA"]) / "mnist_test.npz")
    labels = compare(
        load_maps(cache, "digits"),
        ("trained", "other seed", "other net", "permuted"),
        [image > 0 for image in digits["images"][:N_DIGITS]],
    )
    labels["nets"] = json.loads((cache / "digit_nets.json").read_text())
    settings = {
        "command": "python -m tests.benchmarks.sanity.bench --cache DIR --networks "
        + " ".join(parameters),
        "seed": 0,
        "models": "squeezenet1_0 and efficientnet-lite0, ImageNet weights: trunk "
        f"{quick_dtype()}, classifier float32; the vision transformer of "
        f"results/{record_name()}.json",
        "randomised": "the initialisation before training; batch norm, where there is, "
        "with the statistics of the references",
        "stages": STAGES,
        "target": "the class that the trained network predicts, for all networks",
        OWN_CLASS: "all weights random, the class that this network predicts",
        "MarginSaliency": "n_evaluations=200",
        "RepresentativeInterpretation": "fitted anew to each network: 50 photographs, "
        "1000 training digits; own_boundary counts maps without a shared polytope; as "
        "all 50 photographs are boundaries, the seed changes nothing there",
        "other image": f"mean over {N_OTHERS} other images",
        "constant_maps": "maps without ranks (dead units, saturated softmax, nothing "
        "that has to be kept): counted as similar to nothing, 0",
        "IntegratedGradients": "25 steps from 0, summed over channels",
        "Occlusion": "windows of 48 of 224 pixels (digits: 6 of 28), half a window a "
        "step",
        "absolute": "Spearman correlation of absolute maps",
        "signed": "Spearman correlation of maps",
        "ssim": "of absolute maps scaled to [0, 1]",
        "on_ink": "as absolute, at pixels above 0 (of two digits: of the first)",
        "digits": f"{N_TRAIN} training images, {N_DIGITS} test images explained",
        "versions": versions(),
        "machine": machine(),
    }
    record = {"settings": settings, "parameters": parameters, "labels": labels}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1))
    for title, table in (*parameters.items(), ("digits", labels)):
        for key in (*SIMILARITIES, *(["on_ink"] if table is labels else [])):
            print(f"\n{title}, {table['images']} images, {key}\n")
            print_table(table["methods"], key)


def print_table(rows: dict[str, Any], key: str) -> None:
    """One similarity, a row for each method."""
    columns = list(rows[COALITION])
    print("| method | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, row in rows.items():
        # A method without a seed has the same map again.
        cells = [
            f"{row[c][key]['mean']:.2f} ± {row[c][key]['standard_error']:.2f}"
            if c in row
            else ("1 (no seed)" if c == "other seed" else "")
            for c in columns
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--photographs", type=int, default=12)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "sanity.json")
    arguments = parser.parse_args()
    if not arguments.report:
        arguments.cache.mkdir(parents=True, exist_ok=True)
        run_labels(Path(os.environ["CAPTUM_MARGIN_DATA"]), arguments.cache)
        for network in arguments.networks:
            run_parameters(network, arguments.cache, arguments.photographs)
    report(arguments.cache, arguments.out)


if __name__ == "__main__":
    main()
