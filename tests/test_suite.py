"""The suite itself: workers and threads within the machine, and skips counted."""

import os
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import skips, workers


@pytest.mark.parametrize(
    ("n_workers", "asked", "cores", "threads"),
    [
        (None, None, 8, 8),  # one process has the machine
        ("2", None, 8, 4),
        ("4", None, 2, 1),  # more workers than cores
        ("2", "3", 8, 3),  # less than its share was asked for
        ("2", "6", 8, 4),  # more was
        ("2", "", 8, 4),
        ("2", "4,2", 8, 4),  # OpenMP's list of nested levels
        ("2", "0", 8, 4),
    ],
)
def test_threads_of_a_worker(n_workers, asked, cores, threads):
    environment = {"PYTEST_XDIST_WORKER_COUNT": n_workers, "OMP_NUM_THREADS": asked}
    environment = {name: value for name, value in environment.items() if value}
    assert workers.thread_share(environment, cores) == threads


def test_workers_do_not_take_more_threads_than_cores():
    n_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = max(1, workers.usable_cores() // n_workers)
    assert int(os.environ["OMP_NUM_THREADS"]) <= share
    assert torch.get_num_threads() <= share


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (4, 4), (64, 4)])
def test_one_worker_a_core_and_at_most_four(cores, expected, monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    assert workers.most_workers() == expected


def test_workers_start_for_folders_only(tmp_path):
    file = tmp_path / "test_one.py"
    file.touch()
    assert workers.worth_workers([str(tmp_path)])
    assert not workers.worth_workers([str(file)])
    assert not workers.worth_workers([str(tmp_path), f"{file}::test_a"])


@pytest.fixture
def conftest(request):
    return next(
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None)
        == __file__.replace("test_suite", "conftest")
    )


@pytest.mark.parametrize(
    ("options", "numprocesses", "dist"),
    [
        ({"numprocesses": None, "dist": "no"}, "auto", "worksteal"),
        ({"numprocesses": 0, "dist": "no"}, 0, "no"),
        ({"numprocesses": 3, "dist": "no"}, 3, "worksteal"),
        ({"numprocesses": 3, "dist": "loadfile"}, 3, "loadfile"),
        ({}, None, None),  # -p no:xdist
    ],
)
def test_a_plain_run_is_parallel(conftest, options, numprocesses, dist, tmp_path):
    config = SimpleNamespace(option=SimpleNamespace(**options), args=[tmp_path])
    conftest.pytest_cmdline_main(config)
    assert getattr(config.option, "numprocesses", None) == numprocesses
    assert getattr(config.option, "dist", None) == dist


def test_a_worker_starts_no_workers(conftest, tmp_path):
    option = SimpleNamespace(numprocesses=None, dist="no")
    conftest.pytest_cmdline_main(
        SimpleNamespace(option=option, args=[tmp_path], workerinput={})
    )
    assert option == SimpleNamespace(numprocesses=None, dist="no")


def test_long_tests_come_first_and_all_else_stays_in_order(conftest):
    names = ["a", "long", "b", "longer", "c"]
    items = [
        SimpleNamespace(
            name=name,
            get_closest_marker=lambda mark, name=name: "long" in name or None,
        )
        for name in names
    ]
    conftest.pytest_collection_modifyitems(items)
    assert [item.name for item in items] == ["long", "longer", "a", "b", "c"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Skipped: needs CUDA", "GPU"),
        ("Skipped: needs a CUDA device", "GPU"),
        ("Skipped: no GPU", "GPU"),
        ("Skipped: needs torch-sparse", "compiled extra"),
        ("Skipped: needs pyg-lib or torch-sparse", "compiled extra"),
        ("Skipped: needs pynndescent", "missing package"),
        ("Skipped: needs a C++ compiler", "missing package"),
        ("Skipped: set CAPTUM_MARGIN_DATA", "test data"),
        ("Skipped: could not import 'ray': No module named 'ray'", "missing package"),
        ("Skipped: no Chromium", "missing package"),
        ("Skipped: too many features for all their unions", "other"),
    ],
)
def test_kinds_of_skips(reason, kind):
    assert skips.kind_of(reason) == kind


def test_summary_counts_each_kind():
    reasons = ["needs CUDA", "no GPU", "could not import 'ray'", "no Chromium", "else"]
    assert skips.summary(reasons) == (
        "5 skipped: GPU 2, compiled extra 0, test data 0, missing package 2, other 1"
    )
