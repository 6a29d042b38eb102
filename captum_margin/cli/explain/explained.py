"""What a method of ``--method`` is to the command line, and what it returns."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from captum_margin.cli.classifier import Classifier
from captum_margin.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Explained:
    """An explanation and what the command line says of it.

    Attributes:
        explanation (Explanation): With a map of the image's shape, forward passes, and
            settings that are fit for JSON.
        record (dict): Further entries of the record, fit for JSON.
        lines (Sequence[str]): What to print besides, a line each.
        pictures (Mapping[str, Callable]): By the ending of the file's name: functions
            that draw a further picture. They are called when the time is taken.
    """

    explanation: Explanation
    record: dict[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()
    pictures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)


Explainer = Callable[[Tensor, int], Explained]
"""From an image as the model takes it, (1, C, H, W), and a class."""


@dataclass(frozen=True)
class Method:
    """One of the methods that ``--method`` can name.

    Attributes:
        title (str): Its name in pictures.
        prepare (Callable): Does once, from the parsed arguments and the classifier,
            what serves all images of a run, and returns the function that explains one.
        options (tuple[str, ...]): The options that not every method has, of those this
            one has.
        required (tuple[str, ...]): Which of them must be given.
        pictures (tuple[str, ...]): The endings of its further pictures.
    """

    title: str
    prepare: Callable[[argparse.Namespace, Classifier], Explainer]
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
