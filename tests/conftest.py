"""A whole run shares the cores among its workers and says what it could not test."""

import os

import pytest

from tests.helpers.skips import summary
from tests.helpers.workers import limit_threads, most_workers, worth_workers

limit_threads(os.environ)  # before torch is imported, by any test


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    options = config.option
    if not hasattr(options, "numprocesses") or hasattr(config, "workerinput"):
        return  # without xdist (`-p no:xdist`), or a worker itself
    if options.numprocesses is None and worth_workers(config.args):
        options.numprocesses = "auto"  # xdist makes it 0 under --pdb
    if options.numprocesses and options.dist == "no":
        options.dist = "worksteal"  # a worker that is done takes from the others


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    # What `-n auto` means; `-n 0` is one process.
    return most_workers()


def pytest_collection_modifyitems(items):
    # The longest first, so that none is left running alone at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    outcome = yield  # first all else that pytest sums up
    skipped = terminalreporter.stats.get("skipped", [])
    # A skip is reported as file, line and reason.
    reasons = [report.longrepr[2] for report in skipped]
    if reasons:
        terminalreporter.write_line(summary(reasons))
    return outcome
