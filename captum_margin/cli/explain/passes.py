"""Counts what a method costs."""

from __future__ import annotations

from torch import Tensor, nn


class Passes:
    """Counts the images that go through a model, in ``n``."""

    def __init__(self, model: nn.Module) -> None:
        self.n = 0
        self._model = model

    def __enter__(self) -> Passes:
        self._handle = self._model.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def _count(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.n += len(inputs[0])
