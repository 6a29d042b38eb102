"""Folders that are parts of a data set, ``train/`` and ``val/``, and not classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

SPLIT_NAMES = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
)
"""What splits are called, in small or capital letters."""

_FOLDER_IN_SPLIT = 3  # parts of the shortest path split/class/image


def are_splits(found: Sequence[Path]) -> bool:
    """Whether the top folders of images are splits, by their names and what they hold.

    They are if all of them have the names of splits and one holds folders of images. A
    class that is named ``test`` stands beside other classes, so it stays one; so do
    folders ``train`` and ``test`` that hold images and no folders.

    Args:
        found (Sequence[Path]): The images, relative to the folder of the data.
    """
    inner = [path.parts for path in found if len(path.parts) > 1]
    named = all(parts[0].lower() in SPLIT_NAMES for parts in inner)
    return named and any(len(parts) >= _FOLDER_IN_SPLIT for parts in inner)


def split_notes(splits: Sequence[str], labels: Sequence[str]) -> list[str]:
    """What the user should know of splits, a line each.

    Args:
        splits (Sequence[str]): Of each sample.
        labels (Sequence[str]): Their classes.
    """
    sizes = Counter(splits)
    listed = ", ".join(f"{name} ({size:,})" for name, size in sorted(sizes.items()))
    notes = [f"read as splits, not as classes: {listed}"]
    held: dict[str, set[str]] = {}
    for split, label in zip(splits, labels, strict=True):
        held.setdefault(label, set()).add(split)
    partly = sorted(label for label, within in held.items() if len(within) < len(sizes))
    if partly:
        where = ", ".join(sorted(held[partly[0]]))
        verb = "class is" if len(partly) == 1 else "classes are"
        notes.append(
            f"{len(partly):,} {verb} not in every split, such as {partly[0]} (only in "
            f"{where})"
        )
    return notes
