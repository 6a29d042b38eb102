"""A classifier, torchvision's or the user's, with preprocessing and class names."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin._model.outputs import are_probabilities
from captum_margin.cli.checkpoint import fit_names, misfit, read_state
from captum_margin.cli.lookup import is_reference, look_up, raised, takes_nothing
from captum_margin.cli.output import (
    CommandError,
    WrongUsage,
    did_you_mean,
    one_line,
    printable,
)
from captum_margin.cli.preprocessing import (
    find_preprocessing,
    imagenet_preset,
    normalisation,
    trial_picture,
)

_IMAGENET = "imagenet"
_AS_RETURNED = "DEFAULT"  # weights, of a network that a function returns
_INCEPTIONS = ("googlenet", "inception_v3")
# Heads that only training uses never run here. A state dict does not tell whether the
# input is scaled once more: torchvision's own wants it, and what was trained from it.
_OF_INCEPTIONS = {"aux_logits": False, "init_weights": False, "transform_input": True}


@dataclass(frozen=True)
class Classifier:
    """A model ready to classify, and what its inputs and outputs mean.

    Attributes:
        model (Module): The model in evaluation mode, on its device.
        preprocess (Callable): From a PIL image to a normalised tensor (C, H, W).
        mean (list[float], optional): Means of that normalisation, one per channel;
            None if it is not known.
        std (list[float], optional): Standard deviations of that normalisation.
        categories (list[str]): Names of the classes, in the order of the outputs;
            empty if the network was loaded without a need of them.
        weights (str, optional): The file, or the name of torchvision's weights; None if
            the network came with its own.
        notes (tuple[str, ...]): What the user should know, a line each.
    """

    model: nn.Module
    preprocess: Callable[[Any], Tensor]
    mean: list[float] | None
    std: list[float] | None
    categories: list[str]
    weights: str | None
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return device_of(self.model)

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
    """Raises unless there is something of this name: torchvision's, or the user's.

    Raises:
        CommandError: If there is not.
    """
    from torchvision import models

    if is_reference(name):
        look_up(name, "--model")
        return
    names = models.list_models(module=models)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = did_you_mean(close) or (f"; torchvision has {', '.join(names[:3])}, ...")
        raise CommandError(
            f"no torchvision classifier is named {name!r}{hint}; a network of your own "
            "is --model package.module:function"
        )


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are; the CPU if it has none."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")


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


def load(
    name: str,
    weights: str,
    device: torch.device,
    preprocess: str | None = None,
    class_names: str | None = None,
    needs_head: bool = True,
) -> Classifier:
    """Loads a classifier.

    Args:
        name (str): Its name in torchvision, or ``package.module:function``, a function
            without arguments that returns the network.
        weights (str): The name of torchvision's weights, such as ``"DEFAULT"``, which
            are downloaded if they are not in torch's cache, or the path of a file with
            a state dict. For a function ``"DEFAULT"`` is what it returns.
        device (device): Where the model runs.
        preprocess (str, optional): ``package.module:function``, from a PIL image to a
            tensor (C, H, W). Default: None, torchvision's for these weights, or for
            ImageNet.
        class_names (str, optional): A file with the names of the classes, or
            ``"imagenet"``. Default: None, torchvision's if there are as many, else
            numbers.
        needs_head (bool, optional): Whether the layer that classifies is needed. If
            not, weights may have another one, or none; it is then filled with NaN.

    Raises:
        CommandError: If the weights cannot be downloaded or read, or do not fit, or the
            names are not as many as the outputs.
        WrongUsage: If what the user names is not there, or of the wrong kind.

    Cost: of a network or a preprocessing of the user's also one forward pass, to know
    that they go together.
    """
    users = is_reference(name)
    prepare = None if preprocess is None else find_preprocessing(preprocess)
    find = _from_function if users else _from_torchvision
    model, preset, known, source, notes = find(name, weights, needs_head)
    model = model.eval().to(device)
    if users and prepare is None:
        notes += (
            "pictures are prepared as torchvision does for ImageNet (256 pixels, of "
            "these the middle 224, normalised); name another way with --preprocess",
        )
    prepare = prepare or preset
    categories: list[str] = []
    if needs_head:
        tried = users or preprocess is not None
        n_classes = _try_out(model, prepare, name) if tried else len(known)
        if n_classes == 1:
            raise CommandError(
                f"expected a network with an output for each class (got one from "
                f"{name}); let --model package.module:function return two: "
                "torch.cat([torch.zeros_like(s), s], dim=1), where s is the logit"
            )
        categories = _names(class_names, n_classes)
        if not categories:
            categories = known or [f"class {i}" for i in range(n_classes)]
    mean, std = normalisation(prepare)
    return Classifier(model, prepare, mean, std, categories, source, notes)


_Found = tuple[
    nn.Module, Callable[[Any], Tensor], list[str], str | None, tuple[str, ...]
]
"""Model, preprocessing, names of its classes, weights and notes."""


def _from_torchvision(name: str, weights: str, needs_head: bool) -> _Found:
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
        categories = list(entry.meta["categories"])
        return model, entry.transforms(), categories, str(entry), ()
    # Several entries may exist for other image sizes; the smallest is the size
    # that the architecture has by itself.
    entry = min(known, key=lambda option: option.transforms().crop_size[0])
    path = _weights_file(weights, list(known.__members__))
    state = read_state(path)
    extra = _OF_INCEPTIONS if name in _INCEPTIONS else {}
    model = models.get_model(name, weights=None, **extra)
    state, beside = fit_names(state, model, path)
    if extra:
        heads = ("aux1.", "aux2.", "AuxLogits.")
        state = {key: state[key] for key in state if not key.startswith(heads)}
    head = _head_of(model)
    n_classes = _resize(model, head, state)
    if not needs_head:
        state = _without_misfit(state, model, head)
    advice = (
        "give with --model the architecture that they were saved from, or a function "
        "that returns the network, --model package.module:function"
    )
    _load_state(model, state, path, name, advice)
    categories = list(entry.meta["categories"])
    if n_classes != len(categories):
        categories = [f"class {i}" for i in range(n_classes)]
    notes = _notes(beside, path)
    if extra:
        notes += (
            f"{name} is taken to scale its input as torchvision's trained one does "
            "(transform_input=True)",
        )
    return model, entry.transforms(), categories, str(path), notes


def _from_function(reference: str, weights: str, needs_head: bool) -> _Found:
    model, preset = _build(reference), imagenet_preset()
    if weights == _AS_RETURNED:
        return model, preset, [], None, ()
    path = _weights_file(weights, [])
    state, beside = fit_names(read_state(path), model, path)
    advice = "let the function return the network that they were saved from"
    _load_state(model, state, path, reference, advice)
    return model, preset, [], str(path), _notes(beside, path)


def _build(reference: str) -> nn.Module:
    """The network that a function returns, without what runs it in parallel."""
    option = f"--model {reference}"
    made = look_up(reference, "--model")
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise WrongUsage(
                f"expected {option} to be a function that returns the network (got a "
                f"{type(made).__name__})"
            )
        if not takes_nothing(made):
            raise WrongUsage(
                f"{option} needs arguments; name a function that needs none, such as "
                "one that calls it with those it needs"
            )
        try:
            made = made()
        except (Exception, SystemExit) as error:  # whatever it does
            raise WrongUsage(f"{option} fails: {raised(error, reference)}") from None
    if not isinstance(made, nn.Module):
        raise WrongUsage(
            f"expected {option} to return a torch.nn.Module (got a "
            f"{type(made).__name__})"
        )
    if isinstance(made, nn.DataParallel):
        made = made.module
    # Of torch.compile, whose layers could not be looked into.
    inner: nn.Module = getattr(made, "_orig_mod", made)
    return inner


def _weights_file(weights: str, known: list[str]) -> Path:
    path = Path(weights)
    if not path.exists():
        names = f" (names that can be downloaded: {', '.join(known)})" if known else ""
        raise CommandError(f"no such weights file: {path}{names}")
    return path


def _head_of(model: nn.Module) -> str:
    """The layer that classifies: in all of torchvision's networks the last."""
    layers = (nn.Linear, nn.Conv2d)
    names = [key for key, m in model.named_modules() if isinstance(m, layers)]
    return str(names[-1])


def _resize(model: nn.Module, name: str, state: dict[str, Tensor]) -> int:
    """Gives a head as many outputs as the weights have, if that is all that differs.

    Returns:
        int: How many outputs it has.
    """
    head: Any = model.get_submodule(name)
    given = state.get(f"{name}.weight")
    n_classes: int = head.weight.shape[0]
    if isinstance(given, Tensor) and given.dim() == head.weight.dim():
        if given.shape[1:] == head.weight.shape[1:] and len(given) != n_classes:
            n_classes = len(given)
            head.weight = nn.Parameter(torch.empty(given.shape))
            if head.bias is not None:
                head.bias = nn.Parameter(torch.empty(n_classes))
            size = "out_features" if isinstance(head, nn.Linear) else "out_channels"
            setattr(head, size, n_classes)
    return n_classes


def _without_misfit(
    state: dict[str, Tensor], model: nn.Module, head: str
) -> dict[str, Tensor]:
    """The weights with a head of NaN in the place of another, or none."""
    own = {f"{head}.{key}": value for key, value in _state_of(model, head).items()}
    shapes = {key: getattr(state.get(key), "shape", None) for key in own}
    if all(shapes[key] == value.shape for key, value in own.items()):
        return state
    # A new head has other names within the old one, fc.1.weight, or in its place.
    place = f"{head.partition('.')[0]}."
    expected = model.state_dict()
    kept = {
        key: value
        for key, value in state.items()
        if key not in own and (key in expected or not key.startswith(place))
    }
    unknown = {key: torch.full_like(value, torch.nan) for key, value in own.items()}
    return kept | unknown


def _state_of(model: nn.Module, name: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.get_submodule(name).state_dict()
    return state


def _load_state(
    model: nn.Module, state: dict[str, Tensor], path: Path, name: str, advice: str
) -> None:
    problem = misfit(state, model)
    if problem is None:
        try:
            model.load_state_dict(state)
        except Exception as error:  # a network may have a way of its own
            problem = one_line(error)
    if problem is not None:
        raise CommandError(f"the weights {path} do not fit {name}: {problem}; {advice}")


def _notes(beside: list[str], path: Path) -> tuple[str, ...]:
    if not beside:
        return ()
    more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
    return (f"not of the network, so left out of {path}: {printable(beside[0])}{more}",)


def _try_out(model: nn.Module, prepare: Callable[[Any], Tensor], name: str) -> int:
    """How many classes there are, by a picture.

    Raises:
        WrongUsage: If the network fails, or does not return a row of logits.
    """
    image = prepare(trial_picture())[None].to(device_of(model))
    shape = tuple(image.shape)
    try:
        with torch.no_grad():
            scores = model(image)
    except Exception as error:  # whatever it does
        raise WrongUsage(
            f"--model {name} fails on a picture of shape {shape}: "
            f"{raised(error, name)}; see whether --preprocess is what it was "
            "trained with"
        ) from None
    wanted = f"expected --model {name} to return logits, (1, classes), for one picture"
    if not isinstance(scores, Tensor):
        raise WrongUsage(
            f"{wanted} (got a {type(scores).__name__}); let the network return the "
            "tensor of the classes alone"
        )
    if scores.dim() != 2 or len(scores) != 1 or not scores.is_floating_point():
        raise WrongUsage(f"{wanted} (got {tuple(scores.shape)} of {scores.dtype})")
    if scores.shape[1] > 1 and are_probabilities(scores):
        raise WrongUsage(
            f"{wanted} (got probabilities); leave the last softmax out, or return "
            "their logarithm"
        )
    return scores.shape[1]


def _names(given: str | None, n_classes: int) -> list[str]:
    """The names of the classes, from a file; none if none is given.

    Raises:
        CommandError: If the file cannot be read, or there are not as many.
    """
    if given is None:
        return []
    if given == _IMAGENET:
        from torchvision.models import SqueezeNet1_0_Weights

        names = list(SqueezeNet1_0_Weights.DEFAULT.meta["categories"])
    else:
        names = _names_in(Path(given))
    if len(names) != n_classes:
        raise CommandError(
            f"expected {n_classes} names of classes, one for each output (got "
            f"{len(names)} from --class-names {given})"
        )
    return names


def _names_in(path: Path) -> list[str]:
    """Names from a text, one a line, or JSON: a list, or an object by index."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise CommandError(f"cannot read --class-names {path}: {reason}") from None
    if path.suffix.lower() != ".json":
        return [printable(line).strip() for line in text.rstrip().splitlines()]
    try:
        held = json.loads(text)
        if isinstance(held, dict):
            held = [held[str(i)] for i in range(len(held))]
        if all(isinstance(name, str) for name in held):
            return [printable(name) for name in held]
    except (KeyError, TypeError, ValueError):
        pass
    raise CommandError(
        f"expected --class-names {path} to hold a list of names, or an object with the "
        'names by index, {"0": "cat", "1": "dog"}'
    )
