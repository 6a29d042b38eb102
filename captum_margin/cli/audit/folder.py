"""A folder of photographs, a folder for each class, as a network sees them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.audit.seen import SeenImages
from captum_margin.cli.audit.splits import are_splits, split_notes
from captum_margin.cli.classifier import Classifier
from captum_margin.cli.images import (
    SUFFIXES,
    as_text,
    depth_notes,
    is_hidden,
    is_image,
    passed_over,
    read_image,
    walk,
)
from captum_margin.cli.output import CommandError, one_line
from captum_margin.cli.preprocessing import check_one_size, trial_picture
from captum_margin.influence._extraction import as_module, extract

_UNREADABLE = -1
_MAX_WORKERS = 8
_N_NAMED = 5  # folders left out that are named

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder.

    Attributes:
        root (Path): The folder.
        paths (list[Path]): Class by class, in the order of their names.
        labels (list[str]): Of each the folder of its class; empty if there is none.
        splits (list[str]): Of each the folder of its split; empty if there is none.
        notes (list[str]): What the user should know, a line each.
    """

    root: Path
    paths: list[Path]
    labels: list[str]
    splits: list[str]
    notes: list[str]

    def name(self, path: Path) -> str:
        """The path within the folder, as text that every encoding can hold."""
        return as_text(path.relative_to(self.root).as_posix())


def find_images(root: Path) -> FoundImages:
    """Finds ``class/.../image``, or ``split/class/.../image``.

    What splits are, :func:`are_splits` says. Images beside class folders have no label
    and are left out, as are hidden folders, which is noted; hidden files and other
    files are passed over. Without class folders all images are taken, without labels.

    Raises:
        CommandError: If there is no image.
    """
    found, hidden = _walk(root)
    notes = [*_hidden_notes(hidden), *passed_over(root)]
    if not found:
        raise CommandError(
            f"no images in {root} or below; looked for "
            + ", ".join(SUFFIXES)
            + "".join(f"; {note}" for note in notes)
        )
    depth = 1 if are_splits(found) else 0  # of the class folders
    in_class = [path for path in found if len(path.parts) > depth + 1]
    if not in_class:
        notes.append("no class folders, so no question about labels")
        return FoundImages(root, [root / path for path in found], [], [], notes)
    labels = [path.parts[depth] for path in in_class]
    splits = [path.parts[0] for path in in_class] if depth else []
    if depth:
        notes += split_notes([*map(as_text, splits)], [*map(as_text, labels)])
    if len({*labels}) == 1:
        notes.append(
            f"one class only ({as_text(labels[0])}), so no question about labels; "
            "give the folder that holds the folders of the classes"
        )
    notes += _empty_notes(root, found, depth)
    loose = [path for path in found if len(path.parts) <= depth + 1]
    if loose:
        notes.append(
            f"{len(loose):,} beside the class folders left out, such as "
            + as_text(loose[0].as_posix())
        )
    return FoundImages(root, [root / path for path in in_class], labels, splits, notes)


def _empty_notes(root: Path, found: list[Path], depth: int) -> list[str]:
    """A line on the folders, where those of classes are, that hold no image."""
    full = {Path(*path.parts[: depth + 1]) for path in found}
    empty = []
    for parent, folders, _ in walk(root):
        inner = parent.relative_to(root)
        folders[:] = [name for name in folders if not is_hidden(name)]
        if len(inner.parts) == depth:
            empty += [inner / name for name in folders if inner / name not in full]
            folders.clear()
    if not empty:
        return []
    listed = ", ".join(as_text(path.as_posix()) for path in empty[:_N_NAMED])
    more = ", ..." if len(empty) > _N_NAMED else ""
    verb = "folder holds" if len(empty) == 1 else "folders hold"
    return [f"{len(empty):,} {verb} no images, so no class: {listed}{more}"]


def _walk(root: Path) -> tuple[list[Path], dict[str, int]]:
    """Images, relative to the root, and how many each hidden folder holds."""
    found: list[Path] = []
    hidden: dict[str, int] = {}
    for parent, folders, names in walk(root):
        inner = parent.relative_to(root)
        for folder in filter(is_hidden, folders):
            below = walk(parent / folder)
            count = sum(is_image(name) for *_, files in below for name in files)
            if count:
                hidden[as_text((inner / folder).as_posix())] = count
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [inner / name for name in names if is_image(name)]
    return found, hidden


def _hidden_notes(hidden: dict[str, int]) -> list[str]:
    """A line on the hidden folders that hold images."""
    if not hidden:
        return []
    first = list(hidden.items())[:_N_NAMED]
    listed = ", ".join(f"{name} ({count:,})" for name, count in first)
    more = f" and {len(hidden) - len(first):,} more" if len(hidden) > len(first) else ""
    return [
        "folders of images left out, for their names begin with . or __: "
        f"{listed}{more}; rename those that are classes"
    ]


def read_folder(
    images: FoundImages,
    classifier: Classifier,
    layer: str | None,
    batch_size: int,
    show_progress: bool,
) -> AuditData:
    """Runs all images through the network, a batch at a time, and keeps the features.

    Args:
        images (FoundImages): The images.
        classifier (Classifier): The network. Without a layer it loses its last one.
        layer (str, optional): Name of the layer whose output, averaged over its
            positions, are the features. Default: None, what the classifying layer
            takes in.
        batch_size (int): Images in memory at once.
        show_progress (bool): A bar over the batches.

    Raises:
        CommandError: If no image can be read, or the network or layer fails.

    Cost: one forward pass and one decoding per image; O(N · F) memory.
    """
    model = classifier.model
    device = classifier.device
    check_one_size(classifier.preprocess)
    dataset = _Images(images.paths, classifier.preprocess)
    # A CPU that computes the features is busy; beside a GPU it should decode ahead.
    alone = device.type == "cpu" or not _can_be_sent(dataset)
    workers = 0 if alone else min(_MAX_WORKERS, os.cpu_count() or 1)
    loader = DataLoader(
        dataset, batch_size, num_workers=workers, generator=torch.Generator()
    )
    try:
        if layer is None:
            last = drop_classifier(model, dataset.blank[None].to(device))
            layer = f"input of {last}"
            module = model.get_submodule(last)
        else:
            module = as_module(model, layer)
        features, found, _ = extract(
            model, loader, module, "mean", show_progress, "features"
        )
    except Exception as error:  # a network of the user's may raise anything
        raise CommandError(f"cannot compute features: {one_line(error)}") from None
    kept = [i for i in found if i != _UNREADABLE]
    left_out = sorted({*range(len(dataset))} - {*kept})
    unreadable = [
        (images.name(p), dataset.fault(p)) for p in _at(images.paths, left_out)
    ]
    if not kept:
        raise CommandError(
            f"none of the {len(dataset)} images in {images.root} can be read; "
            f"{unreadable[0][0]}: {unreadable[0][1]}"
        )
    features = features[torch.tensor([i != _UNREADABLE for i in found])].cpu().float()
    if not bool(features.isfinite().all()):
        bad = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise CommandError(
            "expected finite features (got NaN or infinity for "
            f"{images.name(images.paths[kept[bad]])}); check the weights"
        )
    paths = _at(images.paths, kept)
    labels, classes = _labels(_at(images.labels, kept))
    return AuditData(
        title=images.root.resolve().name,
        names=[images.name(path) for path in paths],
        features=features,
        origin=f"what the network sees in them ({features.shape[1]:,} numbers)",
        labels=labels,
        classes=classes,
        splits=[as_text(name) for name in _at(images.splits, kept)],
        seen=SeenImages(model, module, classifier.preprocess, paths),
        picture=lambda index, side: read_image(paths[index], side=side),
        unreadable=unreadable,
        notes=[
            *classifier.notes,
            *images.notes,
            *depth_notes(paths, images.name),
        ],
        record={"layer": layer, "weights": classifier.weights, "device": str(device)},
    )


def _can_be_sent(dataset: Dataset[Any]) -> bool:
    """Whether other processes can have it; a lambda of the user's they cannot."""
    try:
        pickle.dumps(dataset)
    except Exception:  # each object has its own
        return False
    return True


def drop_classifier(model: nn.Module, image: Tensor) -> str:
    """Makes the classifying layer of the network return what it takes in.

    That layer is the last linear or convolutional one that runs (heads for training
    alone, as Inception has, do not). What may come after it still runs: pooling and
    flattening do to its input what they did to its output.

    Args:
        model (Module): The network, which is changed.
        image (Tensor): What is put in to see which layer is last, (1, C, H, W).

    Returns:
        str: Name of the layer that now does nothing.

    Raises:
        ValueError: If no such layer runs, or the last one runs more than once.

    Cost: one forward pass.
    """
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise ValueError(
            "the network has no linear or convolutional layer to take the input of; "
            "name a layer with --layer"
        )
    if ran.count(ran[-1]) > 1:
        raise ValueError(
            f"the last layer of the network, {ran[-1]}, runs more than once; name a "
            "layer with --layer"
        )
    parent, _, name = ran[-1].rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())
    return ran[-1]


class _Images(Dataset[tuple[Tensor, int]]):
    """Images as the model takes them and their index; a blank and -1 if unreadable.

    The index says so, and not an attribute, for workers are processes of their own.
    """

    def __init__(self, paths: list[Path], preprocess: Callable[[Any], Tensor]) -> None:
        self.paths = paths
        self.preprocess = preprocess
        self.blank = torch.zeros_like(preprocess(trial_picture()))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            return self._read(self.paths[index]), index
        except (CommandError, MemoryError, OSError, RuntimeError, ValueError):
            return self.blank, _UNREADABLE

    def fault(self, path: Path) -> str:
        """Why an image cannot be read, without its name."""
        try:
            self._read(path)
        except (CommandError, MemoryError, OSError, RuntimeError, ValueError) as error:
            return one_line(error).replace(f"cannot read {path}: ", "")
        return "could not be read at first"

    def _read(self, path: Path) -> Tensor:
        return self.preprocess(read_image(path))


def _at(values: list[_Value], indices: list[int]) -> list[_Value]:
    """Some of the values; none of an empty list."""
    return [values[i] for i in indices] if values else []


def _labels(labels: list[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Class numbers and names."""
    if not labels:
        return None, ()
    classes = sorted({*labels})
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[x] for x in labels]), tuple(map(as_text, classes))
