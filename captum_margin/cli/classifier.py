"""Any torchvision classifier by name, with its preprocessing and class names."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin.cli.output import CommandError, did_you_mean, one_line


@dataclass(frozen=True)
class Classifier:
    """A model ready to classify, and what its inputs and outputs mean.

    Attributes:
        model (Module): The model in evaluation mode, on its device.
        preprocess (Callable): From a PIL image to a normalised tensor (C, H, W).
        mean (list[float]): Means of that normalisation, one per channel.
        std (list[float]): Standard deviations of that normalisation.
        categories (list[str]): Names of the classes, in the order of the outputs.
        weights (str): The file, or the name of torchvision's weights.
    """

    model: nn.Module
    preprocess: Callable[[Any], Tensor]
    mean: list[float]
    std: list[float]
    categories: list[str]
    weights: str

    def class_index(self, name: str) -> int:
        """Returns the index of a class given by its index or name.

        Raises:
            CommandError: If there is no such class, or several have this name.
        """
        n_classes = len(self.categories)
        if name.isdecimal():
            if int(name) < n_classes:
                return int(name)
            raise CommandError(
                f"expected a class from 0 to {n_classes - 1} (got {name})"
            )
        lowered = [category.lower() for category in self.categories]
        found = [i for i, category in enumerate(lowered) if category == name.lower()]
        if len(found) == 1:
            return found[0]
        if found:
            raise CommandError(
                f"{len(found)} classes are named {name!r}; give an index: "
                + ", ".join(map(str, found))
            )
        close = difflib.get_close_matches(name.lower(), lowered, n=3)
        raise CommandError(f"no class is named {name!r}" + did_you_mean(close))


def check_name(name: str) -> None:
    """Raises unless torchvision has a classifier of this name.

    Raises:
        CommandError: If it has none.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = did_you_mean(close) or f"; torchvision has {', '.join(names[:3])}, ..."
        raise CommandError(f"no torchvision classifier is named {name!r}{hint}")


def find_device(name: str | None) -> torch.device:
    """Returns the device of this name; without one a GPU, if there is one.

    Raises:
        CommandError: If it cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CommandError(f"cannot use the device {name}: {one_line(error)}") from None
    return device


def load(name: str, weights: str, device: torch.device) -> Classifier:
    """Loads a torchvision classifier.

    Args:
        name (str): Its name in torchvision.
        weights (str): The name of torchvision's weights, such as ``"DEFAULT"``, which
            are downloaded if they are not in torch's cache, or the path of a file with
            a state dict.
        device (device): Where the model runs.

    Raises:
        CommandError: If the weights cannot be downloaded or read, or do not fit.
    """
    from torchvision import models

    known = models.get_model_weights(name)
    if weights in known.__members__:
        entry = known[weights]
        try:
            model = models.get_model(name, weights=entry)
        except (OSError, RuntimeError) as error:
            raise CommandError(
                f"cannot download the weights {weights} of {name}: {one_line(error)}; "
                "give a file with --weights FILE"
            ) from None
        weights = str(entry)
    else:
        # Several entries may exist for other image sizes; the smallest is the size
        # that the architecture has by itself.
        entry = min(known, key=lambda option: option.transforms().crop_size[0])
        model = _with_weights_file(name, Path(weights), list(known.__members__))
    preset = entry.transforms()
    return Classifier(
        model=model.eval().to(device),
        preprocess=preset,
        mean=list(preset.mean),
        std=list(preset.std),
        categories=list(entry.meta["categories"]),
        weights=weights,
    )


def _with_weights_file(name: str, path: Path, known: list[str]) -> nn.Module:
    from torchvision import models

    if not path.is_file():
        raise CommandError(
            f"no such weights file: {path} (names that can be downloaded: "
            f"{', '.join(known)})"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of unknown contents can raise anything
        raise CommandError(
            f"cannot read the weights {path}: {one_line(error)}"
        ) from None
    if not isinstance(state, dict):
        raise CommandError(
            f"expected a state dict in the weights {path} (got a "
            f"{type(state).__name__}); save it with torch.save(model.state_dict(), ...)"
        )
    with warnings.catch_warnings():
        # Of initial values, which are overwritten.
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = models.get_model(name, weights=None)
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise CommandError(
            f"the weights {path} do not fit {name}: {one_line(error)}"
        ) from None
    return model
