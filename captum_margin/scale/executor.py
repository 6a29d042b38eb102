"""Who runs the tasks: this process, or an engine that the caller brings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from captum_margin.scale._folder import write_array

__all__ = ["Shared", "map_blocks", "share"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_blocks(
    function: Callable[[Task], Result], tasks: Iterable[Task], executor: Any = None
) -> Iterator[Result]:
    """Results of a function for each task, in the order of the tasks.

    Args:
        function (Callable): Of one task. For other processes it must be picklable: a
            function of a module, or a ``functools.partial`` of one.
        tasks (Iterable): Block numbers, as a rule.
        executor (optional): None: one after the other, here. A
            ``concurrent.futures.Executor``; a Dask ``distributed.Client``; a pool with
            ``imap``, as those of ``multiprocessing`` and ``ray.util.multiprocessing``
            have. Workers must see the same files under the same paths. Default: None.

    Yields:
        The results, one after the other.

    Raises:
        TypeError: If ``executor`` is none of these.
        RuntimeError: If a worker of a process pool died. Dask runs the tasks of a dead
            worker elsewhere by itself.

    Cost: that of the tasks; results are handed on, not kept.

    >>> list(map_blocks(abs, [-2, 3]))
    [2, 3]
    """
    if hasattr(executor, "get_executor"):  # a Dask client
        executor = executor.get_executor(pure=False)
    if executor is None:
        results: Iterator[Result] = map(function, tasks)
    elif isinstance(executor, Executor):
        results = executor.map(function, tasks)
    elif hasattr(executor, "imap"):
        results = iter(executor.imap(function, tasks))
    else:
        raise TypeError(
            "expected executor=None, a concurrent.futures.Executor, a Dask client or a "
            f"pool with imap (got {type(executor).__name__})"
        )
    try:
        yield from results
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died (out of memory?); finished blocks are kept: call "
            "again with a new pool, with fewer workers if memory was short"
        ) from error


@dataclass(frozen=True)
class Shared:
    """An array that all tasks read: the array itself, or the file that holds it."""

    source: np.ndarray | Path

    def get(self) -> np.ndarray:
        """The array, memory-mapped if it is in a file."""
        if isinstance(self.source, Path):
            array: np.ndarray = np.load(self.source, mmap_mode="c")
            return array
        return self.source


@contextmanager
def share(array: np.ndarray, folder: Path, executor: Any = None) -> Iterator[Shared]:
    """Hands an array to all tasks: as it is within a process, else through a file."""
    if executor is None or isinstance(executor, ThreadPoolExecutor) or not array.size:
        yield Shared(array)
        return
    file = folder / f"shared-{os.getpid()}-{uuid4().hex}.npy"
    write_array(file, array)
    try:
        yield Shared(file)
    finally:
        file.unlink(missing_ok=True)
