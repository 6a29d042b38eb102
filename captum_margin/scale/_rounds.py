"""Steps of several rounds over all blocks, each block of each step kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_margin.scale._folder import BlockFolder, remove_folder, write_array
from captum_margin.scale.executor import map_blocks

__all__ = ["Rounds", "Run"]

Run = Callable[[str, Callable[[int], Any]], list[Any]]
"""Results of a named step for each block, in the order of the blocks."""


class Rounds:
    """Runs steps, and reads what an earlier run with the same request has finished.

    Args:
        path (Path): Folder of the results. One of another request is deleted.
        request (Mapping): All that the results depend on, fit for JSON.
        starts (np.ndarray): First row of each block, and N.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
    """

    def __init__(
        self, path: Path, request: Mapping[str, Any], starts: np.ndarray, executor: Any
    ) -> None:
        """Makes the folder."""
        self.path, self.executor, self.starts = path, executor, starts.tolist()
        whole = {"form": "rounds", **request, "starts": self.starts}
        try:
            BlockFolder.start(path, whole)
        except ValueError:  # of other labels, or other options
            remove_folder(path)
            BlockFolder.start(path, whole)

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What is made in a single step."""
        file = self.path / f"{name}.npy"
        if not file.exists():
            write_array(file, make().numpy())
        return torch.from_numpy(np.load(file))

    def __call__(self, name: str, task: Callable[[int], Any]) -> list[Any]:
        """A tensor, or a tuple of tensors, of each block."""
        folder = self.path / name
        BlockFolder.start(folder, {"form": name, "starts": self.starts})
        step = BlockFolder(folder)
        for _ in map_blocks(partial(_keep, step, task), step.unfinished, self.executor):
            pass
        return [_kept(step, b) for b in range(step.num_blocks)]


def _keep(step: BlockFolder, task: Callable[[int], Any], b: int) -> None:
    found = task(b)
    parts = found if isinstance(found, tuple) else (found,)
    step.write(
        b,
        {"single": not isinstance(found, tuple)},
        **{str(at): part.numpy() for at, part in enumerate(parts)},
    )


def _kept(step: BlockFolder, b: int) -> Any:
    mark = step.mark(b)
    parts: list[Tensor] = [
        torch.from_numpy(np.array(step.read(b, name))) for name in mark["files"]
    ]
    return parts[0] if mark["single"] else tuple(parts)
