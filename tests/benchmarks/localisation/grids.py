"""GridPG: do maps find, in a grid of four pictures, the one whose class is explained?

Resumable: every map is kept in ``--cache``, under a digest of the grid and the class,
and what is there is not made again. A method that fails is reported and left out, and
the exit status is 1. ``--report`` makes the JSON beside this folder of what is there.

    export CAPTUM_MARGIN_DATA=... VIT_WEIGHTS=...
    python -m tests.benchmarks.localisation.grids --cache DIR
    python -m tests.benchmarks.localisation.grids --cache DIR --report

Each network's grids are drawn by ``grid_pointing`` itself (seed 0) from its report
pictures, numbers 2, 7, 12, ...: those decided with a probability of .8 at least, for
the class the network predicts. One cell of every grid is explained. Nothing was chosen
on these grids; ``--purpose tuning`` draws them from numbers 0, 5, 10, .... Of the 100
pictures of a network few are decided as clearly: ``--pictures 1000`` takes all of
CIFAR-10's, so that many grids need not share them.

Pictures are shrunk, so that a grid is of the size the network was trained on: a pass
then costs a quarter, and the transformer takes no other. ``--cell-size full`` is the
published form, for who has the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from captum_margin.metrics import GridPointing, grid_pointing
from tests.benchmarks.localisation.rows import (
    OURS,
    SHOWN,
    digest,
    kept_map,
    rows_for,
    summarised,
    updated,
)
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.networks.trained import (
    NETWORKS,
    CountedNetwork,
    NetworkName,
    counted_network,
    picture,
    pictures,
)
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.methods import CHUNK, Photograph, superpixels
from tests.benchmarks.saliency.rows import ROWS

N_GRIDS = 25
N_PICTURES = 100
N_EXPLAINED = 1
MIN_SCORE = 0.8
CellSize = Literal["full", "shrunk"]
Purpose = Literal["tuning", "report"]


class Grids:
    """The grids of a network, the same for every method, scored once.

    Args:
        network: Its name.
        purpose: Of which pictures.
        n_grids: How many.
        cell_size: As in ``grid_pointing``.
        cache: Where maps are kept.
        n_pictures: How many pictures at most they are drawn from.
    """

    def __init__(
        self,
        network: NetworkName,
        purpose: Purpose,
        n_grids: int,
        cell_size: CellSize,
        cache: Path,
        n_pictures: int,
    ) -> None:
        self.network, self.n_grids, self.cell_size = network, n_grids, cell_size
        self.model: CountedNetwork = counted_network(network)
        self.names = pictures(network, purpose, n_pictures)
        self.images = torch.cat([picture(network, name).image for name in self.names])
        self.cache = cache
        self._outputs: dict[str, Tensor] = {}
        self._segments: dict[str, Tensor] = {}

    def play(self, attribute: Callable[..., Tensor]) -> GridPointing:
        """One game on all grids."""
        return grid_pointing(
            self._remembered,
            attribute,
            self.images,
            n_grids=self.n_grids,
            n_explained=N_EXPLAINED,
            cell_size=self.cell_size,
            min_score=MIN_SCORE,
            batch_size=CHUNK if self.cell_size == "shrunk" else 1,
        )

    def _remembered(self, x: Tensor) -> Tensor:
        key = digest(x)
        if key not in self._outputs:
            self._outputs[key] = self.model(x)
        return self._outputs[key]

    def map(self, name: str, grid: Tensor, target: int) -> dict[str, Any]:
        """A method's map of a grid."""
        key = digest(grid)
        if key not in self._segments:
            self._segments[key] = superpixels(grid)
        photo = Photograph(self.model, grid, target, self._segments[key], seed=0)
        return kept_map(photo, name, self.cache, f"{self.network}.{self.cell_size}")

    def measure(self, name: str) -> tuple[dict[str, Tensor], dict[str, float]]:
        """A method's scores of every grid, and what it cost a map."""
        passes: list[int] = []
        seconds: list[float] = []

        def of(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
            def attribute(grids: Tensor, target: Tensor) -> Tensor:
                maps = []
                for grid, one in zip(grids, target.tolist(), strict=True):
                    found = self.map(name, grid[None], one)
                    passes.append(found["n_forward"])
                    seconds.append(found["seconds"])
                    maps.append(change(found["map"].double()))
                return torch.stack(maps)[:, None]

            return attribute

        games = {
            "score": self.play(of(lambda a: a)),
            # A map whose values only rank has no zero of its own: its mean is one.
            "above_mean": self.play(of(lambda a: a - a.mean())),
            # The pointing game: all of the map in its highest pixel, or pixels.
            "highest": self.play(of(lambda a: (a == a.max()).double())),
        }
        measures = {key: game.scores.mean(dim=1) for key, game in games.items()}
        cost = {
            "n_forward": sum(passes) / len(passes),
            "seconds": sum(seconds) / len(seconds),
            "n_empty": games["score"].n_empty,
        }
        return measures, cost


def run(grids: Grids, names: Sequence[str]) -> tuple[dict[str, Any], int]:
    """The record of a network, and how many methods failed."""
    measures: dict[str, dict[str, Tensor]] = {}
    costs: dict[str, dict[str, float]] = {}
    n_failed = 0
    for name in rows_for(grids.network, names):
        try:
            measures[name], costs[name] = grids.measure(name)
        except Exception:  # the failures of others' code are results too
            traceback.print_exc()
            print(f"failed: {grids.network} {name}", flush=True)
            n_failed += 1
            continue
        means = {key: round(float(v.mean()), 3) for key, v in measures[name].items()}
        print(grids.network, name, means, costs[name], flush=True)
    rows = summarised(measures)
    for name, row in rows.items():
        row |= costs[name]
    game = grids.play(lambda x, target: x)
    record = {
        "settings": game.settings,
        "n_candidates": game.n_candidates,
        "grids": [[grids.names[i] for i in row] for row in game.images.tolist()],
        "cells": game.cells.flatten().tolist(),
        "probability_in_grid": {
            "median": float(game.grid_scores.gather(1, game.cells).median()),
            "mean": float(game.grid_scores.gather(1, game.cells).mean()),
        },
        "rows": _best_first(rows),
    }
    return record, n_failed


def _best_first(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    key = "score"
    return dict(sorted(rows.items(), key=lambda row: -row[1]["metrics"][key]["mean"]))


def main() -> int:
    """Parses the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--methods", nargs="*", default=SHOWN, choices=[*ROWS])
    parser.add_argument("--grids", type=int, default=N_GRIDS)
    parser.add_argument("--pictures", type=int, default=N_PICTURES)
    parser.add_argument("--purpose", default="report", choices=["tuning", "report"])
    parser.add_argument("--cell-size", default="shrunk", choices=["full", "shrunk"])
    parser.add_argument("--report", action="store_true", help="writes the JSON too")
    parser.add_argument(
        "--update", action="store_true", help="puts these rows into the JSON"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "grid_pointing.json")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Any] = {}
    n_failed = 0
    for network in arguments.networks:
        grids = Grids(
            network,
            arguments.purpose,
            arguments.grids,
            arguments.cell_size,
            arguments.cache,
            arguments.pictures,
        )
        networks[network], failed = run(grids, arguments.methods)
        n_failed += failed
    if arguments.update:
        old = json.loads(arguments.out.read_text())
        for network, found in networks.items():
            known = old["networks"][network]
            if found["grids"] != known["grids"] or found["cells"] != known["cells"]:
                raise ValueError(
                    f"expected the grids of {network} in {arguments.out} (got others); "
                    "give the options of its command, or use --report"
                )
            known["rows"] = _best_first(updated(known["rows"], found["rows"]))
        old["settings"].setdefault("later", []).append(
            {
                "command": f"{old['settings']['command']}, then with --update "
                f"--methods {' '.join(arguments.methods)} "
                f"--networks {' '.join(arguments.networks)}",
                "differences": "to rows of another run have the error of two "
                "independent means",
                "versions": versions(),
                "machine": machine(),
            }
        )
        arguments.out.write_text(json.dumps(old, indent=1))
    elif arguments.report:
        command = "python -m tests.benchmarks.localisation.grids --cache DIR --report"
        for option, value, default in (
            ("--purpose", arguments.purpose, "report"),
            ("--grids", arguments.grids, N_GRIDS),
            ("--pictures", arguments.pictures, N_PICTURES),
            ("--cell-size", arguments.cell_size, "shrunk"),
        ):
            if value != default:
                command += f" {option} {value}"
        if [*arguments.networks] != [*NETWORKS]:
            command += f" --networks {' '.join(arguments.networks)}"
        if [*arguments.methods] != [*SHOWN]:
            command += f" --methods {' '.join(arguments.methods)}"
        settings = {
            "command": command,
            "seed": 0,
            "purpose": arguments.purpose,
            "score": "share of the positive part of the map in the right cell",
            "above_mean": "the same of what is above the map's own mean",
            "highest": "whether the highest pixel is in the right cell; ties by share",
            "ours_minus_it": f"{OURS} minus the row, grid by grid",
            "it_minus_control": "the row minus the best of the rows without a model",
            "seconds": "wall clock on a shared machine under changing load: not "
            "comparable",
            "versions": versions(),
            "machine": machine(),
        }
        record = {"settings": settings, "networks": networks}
        arguments.out.write_text(json.dumps(record, indent=1))
    return int(n_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
