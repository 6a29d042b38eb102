"""Whoever runs the tasks, and whoever dies, the result is the same to the byte."""

import multiprocessing
import os
import signal as signals
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from captum_margin import scale
from captum_margin.scale import build_shards, map_blocks, undirected
from captum_margin.scale.executor import share
from tests.helpers.shards import clusters, contents

ROOT = Path(__file__).resolve().parents[2]


def square(b):
    return b * b


def dies_once(mark, b):
    """Kills the worker the first time that it meets task 2."""
    if b == 2 and not mark.exists():
        mark.touch()
        os._exit(1)
    return b * b


def everything(path, features, labels, executor=None):
    """All steps on disk; what they say, as one list of tensors."""
    rows = build_shards(features, path / "rows", 5, block_size=60, executor=executor)
    edges = undirected(rows, path / "edges", executor=executor).gaussian(0.5)
    x = torch.from_numpy(np.load(features)[:, :2])
    return [
        scale.high_pass(edges, x, "symmetric", 2, executor=executor),
        scale.label_disagreement(edges, labels, executor=executor),
        scale.label_votes(edges, labels, executor=executor),
        scale.leave_neighborhood_out_mmd(
            edges, features, n_features=16, executor=executor
        ),
        scale.kernel_density(features, features, executor=executor),
        scale.label_noise(
            features, labels, path / "noise", k=5, block_size=60, executor=executor
        ).scores,
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("executor")
    x, y = clusters(300)
    np.save(path / "x.npy", x.numpy())
    return path / "x.npy", y


@pytest.fixture(scope="module")
def serial(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("serial")
    return everything(path, *data), contents(path)


@pytest.fixture(scope="module")
def processes():
    # A forked copy of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        yield pool


def check(found, path, serial):
    expected, files = serial
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert contents(path) == files


def test_threads_change_nothing(tmp_path, data, serial):
    with ThreadPoolExecutor(3) as pool:
        check(everything(tmp_path, *data, pool), tmp_path, serial)


@pytest.mark.slow
def test_processes_change_nothing(tmp_path, data, serial, processes):
    check(everything(tmp_path, *data, processes), tmp_path, serial)
    assert not list(tmp_path.rglob("shared-*"))


@pytest.mark.slow
def test_arrays_go_to_processes_through_a_file(tmp_path, data, processes):
    x = np.load(data[0])
    found = build_shards(x, tmp_path / "a", 3, block_size=100, executor=processes)
    expected = build_shards(x, tmp_path / "b", 3, block_size=100)
    assert contents(found.path) == contents(expected.path)
    array = np.arange(3.0)
    with share(array, tmp_path, processes) as shared:
        assert isinstance(shared.source, Path)
        np.testing.assert_array_equal(shared.get(), array)
    assert not shared.source.exists()
    with share(array, tmp_path) as shared:
        assert shared.get() is array


@pytest.mark.slow
def test_a_dead_process_is_reported_and_a_new_pool_goes_on(tmp_path):
    context = multiprocessing.get_context("spawn")
    task = partial(dies_once, tmp_path / "mark")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with pytest.raises(RuntimeError, match="a new pool"):
            list(map_blocks(task, range(4), pool))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert list(map_blocks(task, range(4), pool)) == [0, 1, 4, 9]


@pytest.mark.slow
def test_dask_survives_a_dead_worker(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        task = partial(dies_once, tmp_path / "mark")
        assert list(map_blocks(task, range(4), client)) == [0, 1, 4, 9]
        assert (tmp_path / "mark").exists()


def test_dask_in_this_process_changes_nothing(tmp_path, data, serial):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        path = tmp_path / "shards"
        check(everything(path, *data, client), path, serial)


@pytest.mark.slow
def test_a_pool_of_ray_changes_nothing(tmp_path, data):
    ray = pytest.importorskip("ray")
    from ray.util.multiprocessing import Pool

    here = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}}
    ray.init(num_cpus=1, include_dashboard=False, runtime_env=here)
    try:
        pool = Pool(1)
        assert list(map_blocks(square, range(4), pool)) == [0, 1, 4, 9]
        found = build_shards(data[0], tmp_path / "a", 5, block_size=60, executor=pool)
    finally:
        ray.shutdown()
    expected = build_shards(data[0], tmp_path / "b", 5, block_size=60)
    assert contents(found.path) == contents(expected.path)


CHILD = """
import os, signal, sys
from pathlib import Path
import captum_margin.scale._folder as folder
from captum_margin.scale import build_shards, undirected
path, features, left = Path(sys.argv[1]), sys.argv[2], [int(sys.argv[3])]
replace = os.replace
def dying(source, target):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
folder.os.replace = dying
rows = build_shards(features, path / "rows", 5, block_size=60)
undirected(rows, path / "edges")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signals, "SIGKILL"), reason="no SIGKILL here")
def test_killed_twice_and_resumed_changes_nothing(tmp_path, data, serial):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for left in (37, 11):  # in the middle of the rows, then further on
        command = [sys.executable, "-c", CHILD, tmp_path, data[0], left]
        run = subprocess.run([str(part) for part in command], env=environment)
        assert run.returncode == -signals.SIGKILL
        assert list(tmp_path.rglob("*.tmp"))  # what it was writing
    check(everything(tmp_path, *data), tmp_path, serial)


def test_pools_with_imap(tmp_path):
    class Pool:
        def imap(self, function, tasks):
            return (function(task) for task in tasks)

    assert list(map_blocks(square, [3, 1], Pool())) == [9, 1]


def test_no_engine_is_imported_and_others_are_refused():
    code = (
        "import captum_margin.scale, sys; "
        "print({'dask', 'distributed', 'ray', 'faiss'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "set()"
    with pytest.raises(TypeError, match="a Dask client or a pool"):
        list(map_blocks(square, [1], executor=4))
