"""Neighbours, shift and weights of the paper's saliency, on pictures of the tuning set.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.saliency.region_forms

Every region is taken away once; each form is made of these scores. "weights, Gaussian"
falls off with the difference of saliency, relative to the median; "weights, difference"
are these differences themselves, as the paper prints them for its edges. "dense" is the
map S before the filter.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_margin.attr import MarginSaliency
from captum_margin.signal import Graph, knn_graph_1d, margin
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.networks.trained import counted_network, picture, pictures
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.agreement import measures
from tests.benchmarks.saliency.bench import MAIN, make_record, mean_and_error
from tests.benchmarks.saliency.methods import CHUNK, Photograph, grad_cam

FORMS: dict[str, dict[str, Any]] = {
    "k = 30, symmetric (`paper=True`)": {},
    "k = 10": {"k": 10},
    "k = 20": {"k": 20},
    "k = 40": {"k": 40},
    "k = 10, random walk (before)": {"k": 10, "shift": "random_walk"},
    "k = 30, random walk": {"shift": "random_walk"},
    "k = 30, weights, Gaussian": {"weights": "gaussian"},
    "k = 30, weights, difference": {"weights": "difference"},
}
PAPER, DENSE = next(iter(FORMS)), "dense"


def influence(
    saliency: Tensor,
    sizes: Tensor,
    k: int = 30,
    shift: Any = "symmetric",
    weights: str = "none",
) -> Tensor:
    """What the size of each region stands out by, (R,)."""
    edges, weight = knn_graph_1d(
        saliency, k, weight="gaussian" if weights == "gaussian" else "none"
    )
    if weights == "difference":
        weight = (saliency[edges[0]] - saliency[edges[1]]).abs()
        edges, weight = edges[:, weight > 0], weight[weight > 0]
    graph = Graph(edges, weight, len(sizes))
    return margin(graph, sizes / sizes.max(), shift=shift).influence


def maps(photo: Photograph) -> dict[str, Tensor]:
    """The map of each form, (H, W)."""
    own, details = MarginSaliency(photo.model).attribute(
        photo.image,
        target=photo.target,
        perturbations_per_eval=CHUNK,
        paper=True,
        return_details=True,
    )
    stage = details.stages[0][0]
    saliency = (details.scores[0] - stage.scores).float().abs()
    dense = stage.domain.paint(saliency)[0]
    found = {DENSE: dense}
    for name, options in FORMS.items():
        of_form = influence(saliency, stage.domain.sizes, **options)
        found[name] = dense * stage.domain.paint(of_form)[0]
    torch.testing.assert_close(found[PAPER].squeeze(), own[0, 0], rtol=1e-3, atol=1e-9)
    return {name: value.squeeze() for name, value in found.items()}


def main() -> None:
    """Measures all forms and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=6)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "saliency_region_forms.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = counted_network("squeezenet")
    names = pictures("squeezenet", "tuning", arguments.photographs)
    rows: dict[str, list[dict[str, float]]] = {}
    for number, name in enumerate(names):
        image = picture("squeezenet", name).image
        with torch.no_grad():
            target = int(model(image).argmax())
        photo = Photograph(model, image, target, torch.empty(0), seed=0)
        beside = grad_cam(photo).numpy()
        for form, values in maps(photo).items():
            record = make_record(photo, values)
            told = {MAIN: record["insertion"] - record["deletion"]}
            told |= {"drop_keep20": record["drop_keep20"]}
            told |= measures(values.numpy(), beside)
            rows.setdefault(form, []).append(told)
        print(number, name, flush=True)
    forms = {}
    for form, of in rows.items():
        forms[form] = {key: mean_and_error([row[key] for row in of]) for key in of[0]}
        forms[form]["less_paper"] = mean_and_error(
            [row[MAIN] - own[MAIN] for row, own in zip(of, rows[PAPER], strict=True)]
        )
        print(form, {k: f"{v['mean']:.3f}" for k, v in forms[form].items()})
    record = {
        "command": "python -m tests.benchmarks.saliency.region_forms",
        "versions": versions(),
        "machine": machine(),
        "settings": {"seed": 0, "network": "squeezenet", "purpose": "tuning"},
        "photographs": names,
        "forms": forms,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
