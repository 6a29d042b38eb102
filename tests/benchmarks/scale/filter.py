"""One hop of the filter on disk beside a product in memory, and beside reading."""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_margin import scale
from captum_margin.scale import RowShards
from captum_margin.scale._folder import write_text

K, NEAR = 15, 50_000
Calls = dict[str, Callable[[], Any]]


def make_rows(path: Path, n: int, near: int | None, half: bool) -> RowShards:
    """Neighbours at random, within ``near`` rows or anywhere, with weights."""
    shards = RowShards.create(path, n, K, values="weight")
    for b in shards.folder.unfinished:
        rows = shards.rows(b)
        rng = np.random.default_rng([n, b])
        shape = (rows.stop - rows.start, K)
        if near is None:
            indices = rng.integers(0, n, shape, dtype=np.int32)
        else:
            indices = rng.integers(-near, near, shape, dtype=np.int32)
            indices += np.arange(rows.start, rows.stop, dtype=np.int32)[:, None]
            np.clip(indices, 0, n - 1, out=indices)
        weights = rng.random(shape, dtype=np.float32)
        shards.write_block(b, indices, weights.astype(np.float16 if half else "f4"))
    return shards


def whole_matrix(shards: RowShards) -> torch.Tensor:
    """The weights as one sparse CSR tensor with 32-bit indices."""
    blocks = [shards.sparse_rows(b) for b in range(shards.num_blocks)]
    n = shards.num_nodes
    return torch.sparse_csr_tensor(
        torch.arange(0, n * K + 1, K, dtype=torch.int32),
        torch.cat([block.indices for block in blocks]),
        torch.cat([w for w in (block.weights for block in blocks) if w is not None]),
        size=(n, n),
        check_invariants=False,
    )


def drop_pages(path: Path) -> None:
    """Asks the system to forget the files, so that they are read from the disk."""
    for file in path.glob("*.npy"):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(path: Path) -> None:
    """Reads the files, 16 MiB at a time."""
    for file in sorted(path.glob("*.npy")):
        with open(file, "rb", buffering=0) as stream:
            while stream.read(2**24):
                pass


def by_turns(
    calls: Calls, rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, dict[str, Any]]:
    """Median wall and CPU seconds of each call, and their ratios to the first."""
    walls: dict[str, list[float]] = {name: [] for name in calls}
    cpus: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            before()
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    first = next(iter(calls))
    table = {}
    for name in calls:
        wall, cpu = statistics.median(walls[name]), statistics.median(cpus[name])
        table[name] = {
            "wall": round(wall, 3),
            "cpu": round(cpu, 3),
            "wall_ratio": round(wall / statistics.median(walls[first]), 2),
            "cpu_ratio": round(cpu / statistics.median(cpus[first]), 2),
            "rounds": rounds,
        }
    return table


def in_memory(shards: RowShards, rounds: int) -> dict[str, Any]:
    """The shifts against the product of the same matrix."""
    n = shards.num_nodes
    f = torch.randn(n, generator=torch.Generator().manual_seed(0))
    plain, gaussian = copy.copy(shards), copy.copy(shards)
    plain.values = "none"
    gaussian.values, gaussian.width = "distance", 0.5
    whole = whole_matrix(shards)
    expected = f - torch.mv(whole, f)
    error = (scale.high_pass(shards, f, "adjacency") - expected).abs().max()
    table: dict[str, Any] = by_turns(
        {
            "torch CSR @ f": lambda: torch.mv(whole, f),
            "f - W f": lambda: scale.high_pass(shards, f, "adjacency"),
            "random walk": lambda: scale.high_pass(shards, f),
            "random walk, no weights": lambda: scale.high_pass(plain, f),
            "symmetric": lambda: scale.high_pass(shards, f, "symmetric"),
            "random walk, Gaussian of distances": lambda: scale.high_pass(gaussian, f),
        },
        rounds,
    )
    table["largest_difference"] = float(error)
    return table


def from_disk(shards: RowShards, rounds: int) -> dict[str, Any]:
    """One hop against reading the files, from the disk and from the page cache."""
    path, n = shards.path, shards.num_nodes
    f = torch.randn(n, generator=torch.Generator().manual_seed(0))
    calls: Calls = {
        "read the files": lambda: read_all(path),
        "random walk": lambda: scale.high_pass(shards, f),
        "f - W f": lambda: scale.high_pass(shards, f, "adjacency"),
    }
    size = sum(file.stat().st_size for file in path.glob("*.npy"))
    table: dict[str, Any] = {"gib": round(size / 2**30, 3)}
    table["disk"] = by_turns(calls, rounds, lambda: drop_pages(path))
    table["page cache"] = by_turns(calls, rounds)
    return table


def filter_times(cache: Path) -> None:
    """All of it, into ``filter.json``; what is there is not measured again."""
    file = cache / "filter.json"
    table: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for millions, order in ((10, "cell"), (10, "random"), (50, "cell")):
        name = f"{millions}M x {K}, in {order} order"
        if name in table:
            continue
        path = cache / "filter" / name.replace(" ", "-")
        near, n = NEAR if order == "cell" else None, millions * 10**6
        shards = make_rows(path, n, near, half=millions == 50)
        table[name] = in_memory(shards, 5) if millions == 10 else from_disk(shards, 3)
        write_text(file, json.dumps(table, indent=1))
        print(name, json.dumps(table[name], indent=1), flush=True)
