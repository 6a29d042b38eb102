"""From a model and its data to features, labels and scores, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
)
from tqdm.auto import tqdm

from captum_margin._whole_numbers import whole_number

__all__ = [
    "as_dataset",
    "as_loader",
    "as_module",
    "evaluating",
    "extract",
    "images_of",
    "outputs_of",
    "pooled",
]


def as_loader(data: Any, batch_size: int) -> DataLoader[Any]:
    """A loader that goes through all samples in data order.

    Raises:
        TypeError: If ``data`` is neither a Dataset nor a DataLoader.
        ValueError: If its order is not that of the data, or samples are left out.
    """
    dataset = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "expected a Dataset with indices (got an IterableDataset); scores could "
            "not be told which sample they belong to"
        )
    if not isinstance(data, DataLoader):
        if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise TypeError(
                f"expected a Dataset or DataLoader (got {type(data).__name__})"
            )
        batch_size = whole_number(batch_size, "batch_size", 1)
        # A generator of its own: the global random state stays as it is.
        return DataLoader(data, batch_size, generator=torch.Generator())
    batches = data.batch_sampler
    in_order = isinstance(data.sampler, SequentialSampler) and (
        batches is None
        or (
            type(batches) is BatchSampler
            and isinstance(batches.sampler, SequentialSampler)
        )
    )
    if not in_order:
        raise ValueError(
            "expected a DataLoader in data order (got a shuffling or custom sampler); "
            "build it with shuffle=False"
        )
    if data.drop_last:
        raise ValueError("expected every sample of the data (got drop_last=True)")
    return data


def as_module(model: nn.Module, layer: nn.Module | str | None) -> nn.Module:
    """The layer whose output is wanted; the model itself without one.

    Raises:
        TypeError: If the model is no Module.
        ValueError: If it has no such layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module (got {type(model).__name__})")
    if layer is None:
        return model
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if isinstance(layer, str):
        if layer not in modules:
            raise ValueError(
                f"expected the name of a layer of the model (got {layer!r})"
            )
        return modules[layer]
    if not any(layer is module for module in modules.values()):
        raise ValueError("expected a layer of the model (got another module)")
    return layer


def extract(
    model: nn.Module,
    loader: DataLoader[Any],
    layer: nn.Module,
    pooling: str,
    show_progress: bool,
    name: str,
) -> tuple[Tensor, list[Any], Tensor]:
    """Features (N, F), labels of each batch joined to a list (N,), scores (N, ...)."""
    device = _device(model)
    features: list[Tensor] = []
    scores: list[Tensor] = []
    labels: list[Any] = []
    with evaluating(model), outputs_of(layer) as captured:
        for batch in tqdm(loader, desc=name, disable=not show_progress):
            if not isinstance(batch, (tuple, list)) or len(batch) < 2:
                raise TypeError(
                    "expected items (x, ..., label) "
                    f"(got batches of {type(batch).__name__})"
                )
            inputs = [x.to(device) if isinstance(x, Tensor) else x for x in batch[:-1]]
            captured.clear()
            output = model(*inputs)
            if len(captured) != 1 or not isinstance(captured[0], Tensor):
                raise ValueError(
                    "expected a layer that runs once and returns one tensor (got "
                    f"{[type(value).__name__ for value in captured]}); choose another"
                )
            features.append(pooled(captured[0], pooling))
            scores.append(output)
            given = batch[-1]
            labels.extend(given.tolist() if isinstance(given, Tensor) else given)
            if (
                not len(features[-1])
                == len(output)
                == len(labels) - sum(len(score) for score in scores[:-1])
            ):
                raise ValueError("expected one row of features and scores per label")
    if not features:
        raise ValueError("expected at least one sample (got an empty data set)")
    return torch.cat(features), labels, torch.cat(scores)


def pooled(values: Tensor, pooling: str) -> Tensor:
    """One row per sample: means over positions of feature maps, else flattened."""
    if pooling == "mean" and values.dim() >= 4:
        return values.flatten(2).mean(dim=2)
    return values.flatten(1) if values.dim() > 1 else values[:, None]


def _device(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def outputs_of(layer: nn.Module) -> Iterator[list[Any]]:
    """A list to which each run of the layer adds its output."""
    captured: list[Any] = []
    handle = layer.register_forward_hook(lambda _m, _i, out: captured.append(out))
    try:
        yield captured
    finally:
        handle.remove()


def as_dataset(inputs: Any) -> Dataset[Any] | DataLoader[Any]:
    """A batch ``(x, ..., labels)`` as a data set; data sets and loaders as they are."""
    if not isinstance(inputs, tuple):
        data: Dataset[Any] | DataLoader[Any] = inputs
        return data
    return _Batch(inputs)


class _Batch(Dataset[Any]):
    """A tuple of columns, the last one labels, as items."""

    def __init__(self, columns: tuple[Any, ...]) -> None:
        if len({len(column) for column in columns}) != 1:
            raise ValueError("expected inputs (x, ..., labels) of one length")
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(column[index] for column in self.columns)


def images_of(dataset: Any) -> Any:
    """The data set, if its samples look like images; else None."""
    shape = tuple(getattr(dataset[0][0], "shape", ()))
    return dataset if len(shape) == 3 and shape[0] in (1, 3) else None
