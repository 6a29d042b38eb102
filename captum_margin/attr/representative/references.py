"""Reference images as users have them: tensors, data sets and loaders, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from captum_margin._whole_numbers import is_whole

__all__ = ["ReferenceSource", "References", "to_device"]

#: What `fit` takes.
ReferenceSource = Tensor | tuple[Tensor, ...] | Dataset[Any] | DataLoader[Any]


class References:
    """M references, read in batches and by index; nothing is kept in memory.

    Args:
        source (Tensor, tuple[Tensor, ...], Dataset or DataLoader): Tensors of M rows,
            one an input of the model; or items x, or (x, ..., label), whose last entry
            is not used, as in :mod:`captum.influence`.
        batch_size (int): Of tensors and data sets; a loader has its own.

    Raises:
        TypeError: If the source is none of these.
        ValueError: If it is empty, cannot be indexed, or its loader shuffles or drops
            items, so that an index would mean nothing.
    """

    def __init__(self, source: ReferenceSource, batch_size: int = 32) -> None:
        if not is_whole(batch_size) or batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1 (got {batch_size})")
        given: Any = source
        # Slices of a tensor cost nothing; a loader would collate them one by one.
        self.tensors: tuple[Tensor, ...] | None = None
        self.labelled = not isinstance(source, Tensor | tuple)
        if isinstance(source, Tensor | tuple):
            tensors = given if isinstance(given, tuple) else (given,)
            if not tensors or not all(isinstance(t, Tensor) for t in tensors):
                raise TypeError("expected references as tensors, one an input")
            if len({len(tensor) for tensor in tensors}) > 1:
                raise ValueError(
                    "expected reference tensors of the same length (got "
                    f"{[len(tensor) for tensor in tensors]})"
                )
            self.tensors = tensors
            given = TensorDataset(*tensors)
        if isinstance(given, DataLoader):
            _check_loader(given)
            self.loader = given
        elif isinstance(given, Dataset) or hasattr(given, "__getitem__"):
            if isinstance(given, IterableDataset) or not hasattr(given, "__len__"):
                raise ValueError(_NEEDS_INDICES.format(type(given).__name__))
            self.loader = DataLoader(given, batch_size=batch_size)
        else:
            raise TypeError(
                "expected references as a tensor, a tuple of tensors, a Dataset or a "
                f"DataLoader (got {type(source).__name__})"
            )
        self.dataset: Any = self.loader.dataset
        if len(self) == 0:
            raise ValueError("expected at least one reference (got none)")

    def __len__(self) -> int:
        """M."""
        return len(self.dataset)

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """All references in their order: the model's inputs, a batch at a time."""
        if self.tensors is not None:
            size = self.loader.batch_size or 1
            yield from zip(*(t.split(size) for t in self.tensors), strict=True)
            return
        state = torch.get_rng_state()
        iterator = iter(self.loader)  # draws a seed for workers, needed or not
        torch.set_rng_state(state)
        for batch in iterator:
            yield self._inputs(batch)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """The model's inputs of some references."""
        if self.tensors is not None:
            return tuple(tensor[list(indices)] for tensor in self.tensors)
        return self._inputs(
            self.loader.collate_fn([self.dataset[index] for index in indices])
        )

    def _inputs(self, batch: Any) -> tuple[Tensor, ...]:
        if isinstance(batch, Tensor):
            return (batch,)
        if isinstance(batch, list | tuple):
            if self.labelled and len(batch) > 1:
                batch = batch[:-1]
            if all(isinstance(entry, Tensor) for entry in batch):
                return tuple(batch)
        raise TypeError(
            "expected batches of a tensor, or of tensors with the labels last (got "
            f"{type(batch).__name__}); give the loader a collate_fn that makes them"
        )


_NEEDS_INDICES = (
    "expected references with len() and indices, for interpretations name what they "
    "cover by index (got {}); collect them in a list or a map-style Dataset first"
)


def _check_loader(loader: DataLoader[Any]) -> None:
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError(_NEEDS_INDICES.format(type(loader.dataset).__name__))
    in_batches, sampler = loader.batch_sampler, loader.sampler
    if type(in_batches) is BatchSampler:
        sampler = in_batches.sampler
    elif in_batches is not None:
        sampler = in_batches
    if not isinstance(sampler, SequentialSampler):
        raise ValueError(
            "expected a loader that reads its data set in order (got one with "
            f"{type(sampler).__name__}); make it with shuffle=False and no sampler"
        )
    size = loader.batch_size
    if loader.drop_last and size is not None and len(loader.dataset) % size:  # type: ignore[arg-type]
        raise ValueError("expected a loader of the whole data set: drop_last=False")


def to_device(inputs: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The same tensors where the model is."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in inputs)
