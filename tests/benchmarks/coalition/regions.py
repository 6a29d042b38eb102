"""Coalitions of features against regions that are known: do they agree?

Two kinds of pictures. Those of ``localisation/shapes.py``, of two problems: a T or an
L, or both, in correlated noise, with the networks trained on them; and photographs,
shrunk and four to a grid, with SqueezeNet. Known are the shapes, and the quarters.
Coalitions are those of the default form (16 at most) and of the paper's (16 at least);
beside them the same of an untrained network and of the picture's own colours, about 16
superpixels (SLIC), and random parts: the pixels nearest to random points, as many as
the default has coalitions.

- adjusted Rand: of the parts with the known regions (the ground is one, too), 1 the
  same, 0 by chance. A region that is cut into many counts against the parts.
- best part: intersection over union of each known region, but the ground, with the part
  that fits it best.
- best union: the same with all parts that lie in the region by more than half: what a
  map that has one value a part could show at best. Many parts have it easier.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.coalition.regions --cache DIR

DIR holds the networks of the shapes, trained where they are missing: a minute each.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_margin.attr import feature_coalitions, slic_segments
from tests.benchmarks.localisation.shapes import (
    PROBLEMS,
    L,
    Problem,
    T,
    made,
    place,
    probabilities,
    trained,
)
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.networks.trained import (
    CountedNetwork,
    architecture,
    counted,
    counted_network,
    picture,
    pictures,
)
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.bench import mean_and_error

N_PICTURES = {"linear": 40, "xor": 40, "photographs": 12}
N_PARTS = 16
MEASURES = ("adjusted_rand", "best_part", "best_union", "n_parts")
#: The features of a picture that are its colours, for the same clustering.
COLOURS = nn.Identity()
Known = tuple[Tensor, list[Tensor]]  # a picture (1, 3, H, W), its regions (H, W), bool


def of_shapes(problem: Problem, net: CountedNetwork, count: int) -> Iterator[Known]:
    """The first pictures that the network gets right, and the shapes in them."""
    drawn = made(problem, "evaluation")
    right = probabilities(net, drawn.images).argmax(dim=1) == drawn.classes
    both = [place(T), place(L)]
    for i in right.nonzero()[:count, 0].tolist():
        shapes = both if problem == "xor" else [both[int(drawn.classes[i])]]
        yield drawn.images[i : i + 1], shapes


def of_grids(count: int) -> Iterator[Known]:
    """Grids of four photographs each of those of the reports, and their quarters."""
    names = pictures("squeezenet", "report", 4 * count)
    half = torch.arange(224) >= 112
    quarters = [
        (half[:, None] == below) & (half == right)
        for below in (False, True)
        for right in (False, True)
    ]
    for first in range(0, 4 * count, 4):
        shown = [picture("squeezenet", n).image for n in names[first : first + 4]]
        small = [
            F.interpolate(x, (112, 112), mode="bilinear", antialias=True) for x in shown
        ]
        rows = [torch.cat(small[i : i + 2], dim=3) for i in (0, 2)]
        yield torch.cat(rows, dim=2), quarters


def parts(
    net: CountedNetwork, untrained: CountedNetwork
) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """By name: what divides a picture (1, 3, H, W), with a seed, into parts (H, W)."""
    default = partial(coalitions, net)
    # Where the trunk of the paper's form is found: that of the shapes is run in parts.
    whole = net.modules_of_network if net.dtype == torch.float32 else net
    return {
        "default": default,
        "paper": partial(coalitions, whole, paper=True),
        "untrained": partial(coalitions, untrained),
        "colours": partial(coalitions, COLOURS, layer=COLOURS),
        "SLIC": lambda x, seed: slic_segments(x[0], n_segments=N_PARTS)[0],
        "random": lambda x, seed: nearest_points(
            int(default(x, seed).max()) + 1, x.shape[2], seed
        ),
    }


def coalitions(model: nn.Module, x: Tensor, seed: int, **options: Any) -> Tensor:
    return feature_coalitions(model, x, n_coalitions=N_PARTS, seed=seed, **options)[0]


def nearest_points(count: int, side: int, seed: int) -> Tensor:
    """To which of so many random points each pixel is nearest, (side, side)."""
    generator = torch.Generator().manual_seed(seed)
    points = side * torch.rand(count, 2, generator=generator)
    steps = torch.arange(side) + 0.5
    pixels = torch.cartesian_prod(steps, steps)
    return torch.cdist(pixels, points).argmin(dim=1).view(side, side)


def scores(found: Tensor, known: list[Tensor]) -> dict[str, float]:
    """How well parts (H, W) agree with known regions; what is in none is the ground."""
    from sklearn.metrics import adjusted_rand_score

    truth = torch.zeros_like(found)
    for number, region in enumerate(known, start=1):
        truth[region] = number
    every = [found == number for number in found.unique()]
    best, unions = [], []
    for region in known:
        best.append(max(overlap(part, region) for part in every))
        union = torch.zeros_like(region)
        for part in every:
            if 2 * int((part & region).sum()) > int(part.sum()):
                union |= part
        unions.append(overlap(union, region))
    return {
        "adjusted_rand": float(adjusted_rand_score(truth.flatten(), found.flatten())),
        "best_part": sum(best) / len(known),
        "best_union": sum(unions) / len(known),
        "n_parts": len(every),
    }


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union."""
    return int((one & other).sum()) / int((one | other).sum())


def run(
    shown: list[Known], net: CountedNetwork, untrained: CountedNetwork
) -> dict[str, Any]:
    """Means of all measures of all parts."""
    found = {}
    for name, make in parts(net, untrained).items():
        rows = [scores(make(x, seed), known) for seed, (x, known) in enumerate(shown)]
        found[name] = {
            key: mean_and_error([row[key] for row in rows]) for key in MEASURES
        }
        print(
            name, {k: round(v["mean"], 3) for k, v in found[name].items()}, flush=True
        )
    return {"pictures": len(shown), "parts": found}


def untrained_like(net: CountedNetwork) -> CountedNetwork:
    """The network of some shapes with the weights of no training."""
    other = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for module in other.modules_of_network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return other


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "coalition_regions.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    found = {}
    for problem in PROBLEMS:
        net = trained(problem, arguments.cache)
        shown = list(of_shapes(problem, net, N_PICTURES[problem]))
        found[problem] = run(shown, net, untrained_like(net))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        untrained = counted("squeezenet", architecture("squeezenet").eval())
    shown = list(of_grids(N_PICTURES["photographs"]))
    found["photographs"] = run(shown, counted_network("squeezenet"), untrained)
    settings = {
        "command": "python -m tests.benchmarks.coalition.regions --cache DIR",
        "seed": 0,
        "seeds": "of each picture its number: of the first map, and of random points; "
        "of untrained networks 1",
        "n_coalitions": N_PARTS,
        "versions": versions(),
        "machine": machine(),
    }
    record = {"settings": settings, "pictures": found}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
