"""How many processes run the tests, and how many threads each may take.

Imports nothing heavy: it is read before torch, which fixes its threads when it starts.
"""

import os
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

MOST_WORKERS = 4  # enough for the suite, and no flood on a large machine


def usable_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worth_workers(arguments: Iterable[str]) -> bool:
    """Whether pytest was given folders: workers take seconds to start.

    For named files or tests that is not worth it.
    """
    return all(Path(argument).is_dir() for argument in arguments)


def most_workers() -> int:
    """Workers of a whole run: one a core, within the bound."""
    return min(usable_cores(), MOST_WORKERS)


def thread_share(environment: Mapping[str, str], cores: int) -> int:
    """Threads of one worker: its share of the cores, or fewer if so asked for."""
    workers = int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = max(1, cores // workers)
    asked = environment.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Writes the share where torch, NumPy and programs started by tests read it."""
    share = str(thread_share(environment, usable_cores()))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = share
