"""From a PIL image to what a network takes: torchvision's way, or the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_margin.cli.lookup import look_up, raised, takes_nothing, takes_one
from captum_margin.cli.output import CommandError, WrongUsage

_SIDE = 256  # of the pictures that a preprocessing is tried on
_LEVELS = (0, 102, 255)  # of 255: black, a grey, white
_CLOSE = 0.01  # of the step from black to white


class UsersPreprocessing:
    """A callable of the user's, whose faults are told in words.

    Args:
        function (Callable): From a PIL image to a tensor (C, H, W).
        reference (str): Where it comes from.
    """

    def __init__(self, function: Callable[[Any], Any], reference: str) -> None:
        self.function, self.reference = function, reference

    def __call__(self, image: Any) -> Tensor:
        """The image as the network takes it.

        Raises:
            ValueError: If the callable fails, or returns something else.
        """
        try:
            made = self.function(image)
        except Exception as error:  # whatever it does
            width, height = image.size
            raise ValueError(
                f"--preprocess {self.reference} fails on a picture of {width} x "
                f"{height}: {raised(error, self.reference)}"
            ) from None
        problem = _problem(made)
        if problem is not None:
            raise ValueError(
                "expected a floating-point tensor (C, H, W) from --preprocess "
                f"{self.reference} (got {problem}"
            )
        found: Tensor = made.detach()
        return found


def find_preprocessing(reference: str) -> Callable[[Any], Tensor]:
    """The preprocessing that a user names, tried on a picture.

    It is what the name stands for, if that can be called with a picture; a function
    without arguments is called, and returns it.

    Raises:
        WrongUsage: If there is no such callable, or it makes something else.
    """
    option = "--preprocess"
    found: Any = look_up(reference, option)
    if callable(found) and not takes_one(found) and takes_nothing(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise WrongUsage(
                f"{option} {reference} fails: {raised(error, reference)}"
            ) from None
    if not callable(found) or isinstance(found, type):
        what = "the class " if isinstance(found, type) else "a "
        name = found.__name__ if isinstance(found, type) else type(found).__name__
        raise WrongUsage(
            f"expected {option} {reference} to be a function of a picture, or an "
            f"object such as a torchvision.transforms.Compose (got {what}{name})"
        )
    if isinstance(found, type(imagenet_preset())):  # of some weights of torchvision
        preset: Callable[[Any], Tensor] = found
        return preset
    preprocess = UsersPreprocessing(found, reference)
    try:
        preprocess(trial_picture())
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    return preprocess


def imagenet_preset() -> Any:
    """Torchvision's way with pictures for most of its networks."""
    from torchvision.models import ResNet18_Weights

    return ResNet18_Weights.IMAGENET1K_V1.transforms()


def trial_picture(width: int = _SIDE) -> Any:
    """A picture from black to white, PIL's; of one colour some divide by zero."""
    from PIL import Image

    return Image.linear_gradient("L").convert("RGB").resize((width, _SIDE))


def check_one_size(preprocess: Callable[[Any], Tensor]) -> None:
    """Raises unless pictures of all forms become tensors of one size.

    Raises:
        CommandError: If they do not, so that they cannot go through in batches.
    """
    square, wide = (
        tuple(preprocess(trial_picture(width)).shape)
        for width in (_SIDE, 3 * _SIDE // 2)
    )
    if square != wide:
        raise CommandError(
            f"expected one size for all pictures (got {square} for a square one, "
            f"{wide} for a wide one); let --preprocess crop them, or resize both "
            "sides, as torchvision.transforms.Resize((224, 224)) does"
        )


def normalisation(
    preprocess: Callable[[Any], Tensor],
) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation of the normalisation, a channel each.

    They follow from what black and white become, in whatever way it is done.

    Returns:
        tuple: None and None, if a grey is not in between where it should be, or a
        plain picture cannot be prepared.
    """
    from PIL import Image

    mean, std = getattr(preprocess, "mean", None), getattr(preprocess, "std", None)
    if mean is not None and std is not None:  # torchvision's presets tell
        return list(mean), list(std)
    plain = (Image.new("RGB", (_SIDE, _SIDE), (level,) * 3) for level in _LEVELS)
    try:
        black, grey, white = (
            made[:, made.shape[1] // 2, made.shape[2] // 2].double().cpu()
            for made in map(preprocess, plain)
        )
    except ValueError:
        return None, None
    step = white - black
    expected = black + step * _LEVELS[1] / _LEVELS[2]
    if not bool(((grey - expected).abs() < _CLOSE * step.abs()).all()):
        return None, None
    return (-black / step).tolist(), (1 / step).tolist()


def _problem(made: Any) -> str | None:
    """What is wrong with it, and the end of the advice; None if nothing is."""
    if not isinstance(made, Tensor) and callable(made):
        return (
            f"a {type(made).__name__}); name the object that it returns, or a function "
            "without arguments that returns it"
        )
    if not isinstance(made, Tensor):
        return (
            f"a {type(made).__name__}); end it with torchvision.transforms.ToTensor(), "
            "or take the tensor out"
        )
    shape = tuple(made.shape)
    if made.dim() == 4:
        return f"shape {shape}); leave the dimension of the batch out"
    if made.dim() != 3 or made.numel() == 0:
        return f"shape {shape})"
    if shape[2] in (1, 3) and shape[0] not in (1, 3):
        return f"shape {shape}); put the channels first, with .permute(2, 0, 1)"
    if not made.is_floating_point():
        return f"{made.dtype}); scale it to [0, 1]"
    if not bool(torch.isfinite(made).all()):
        return "NaN or infinity)"
    return None
