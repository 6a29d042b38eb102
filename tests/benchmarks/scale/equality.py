"""The same audit in memory, from disk, by engines, and killed and resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_margin import scale
from captum_margin.influence import LabelNoise
from captum_margin.scale._folder import remove_folder
from captum_margin.signal import HighPass, label_disagreement
from tests.benchmarks.scale import embeddings
from tests.helpers.shards import contents

N, K = 6000, 10

CHILD = """
import os, signal, sys
import captum_margin.scale._folder as folder
from tests.benchmarks.scale.equality import on_disk
left, replace = [int(sys.argv[3])], os.replace
def dying(source, target):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
folder.os.replace = dying
on_disk(sys.argv[1], sys.argv[2])
"""


def on_disk(
    data: str | Path, path: str | Path, executor: Any = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, disagreement and the filtered features."""
    features, labels = Path(data) / "features.npy", np.load(Path(data) / "labels.npy")
    found = scale.label_noise(
        features, labels, path, k=K, recall=1.0, block_size=1000, executor=executor
    )
    x = torch.from_numpy(np.load(features))
    return (
        found.scores,
        scale.label_disagreement(
            found.edges, torch.from_numpy(labels), executor=executor
        ),
        scale.high_pass(found.edges, x, "symmetric", 2, executor=executor),
    )


def equality(cache: Path) -> None:
    """The table of largest differences to the serial run from disk."""
    data = cache / "data" / str(N)
    embeddings.make(data, N)
    runs = cache / "equality"
    remove_folder(runs)
    table: dict[str, Any] = {"samples": N, "k": K}
    begin = time.time()
    serial = on_disk(data, runs / "serial")
    files = contents(runs / "serial")
    seconds = {"serial": time.time() - begin}

    def note(name: str, found: Any, path: Path | None = None) -> None:
        names = ("label_noise", "label_disagreement", "symmetric filter, 2 hops")
        pairs = zip(names, found, serial, strict=True)
        table[name] = {n: float((a - b).abs().max()) for n, a, b in pairs}
        if path is not None:
            table[name]["files identical"] = contents(path) == files
        table[name]["seconds"] = round(seconds.get(name, 0), 1)
        print(name, table[name], flush=True)

    note("serial", serial, runs / "serial")
    x = torch.from_numpy(np.load(data / "features.npy"))
    y = torch.from_numpy(np.load(data / "labels.npy"))
    edges = scale.EdgeShards(runs / "serial" / "edges")
    begin = time.time()
    noise = LabelNoise.from_features(x, y, k=K)
    exact = noise.result().graph
    same = edges.gaussian(0.5).to_graph()
    noise = LabelNoise.from_features(x, y, k=K)
    assert noise._samples is not None
    noise._samples = noise._samples._replace(graph=same)
    memory = (
        noise.self_influence(),
        label_disagreement(y, same.edge_index),
        HighPass("symmetric", 2)(x, same.edge_index, same.edge_weight),
    )
    seconds["in memory, same graph"] = time.time() - begin
    note("in memory, same graph", memory)
    found, wanted = (
        set(map(tuple, graph.edge_index.T.tolist())) for graph in (same, exact)
    )
    table["edges of the exact graph"] = len(wanted)
    table["of these not found"] = len(wanted - found)
    context = multiprocessing.get_context("spawn")
    begin = time.time()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        results = on_disk(data, runs / "processes", pool)
    seconds["2 processes"] = time.time() - begin
    note("2 processes", results, runs / "processes")
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        table["Dask"] = "not installed"
    else:
        begin = time.time()
        with (
            LocalCluster(n_workers=2, threads_per_worker=1) as cluster,
            Client(cluster) as client,
        ):
            results = on_disk(data, runs / "dask", client)
        seconds["Dask, 2 workers"] = time.time() - begin
        note("Dask, 2 workers", results, runs / "dask")
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for left in (30, 25):
        command = [sys.executable, "-c", CHILD, data, runs / "killed", left]
        done = subprocess.run([str(part) for part in command], env=environment)
        assert done.returncode == -signal.SIGKILL
    note("killed twice and resumed", on_disk(data, runs / "killed"), runs / "killed")
    remove_folder(runs)
    (cache / "equality.json").write_text(json.dumps(table, indent=1))
