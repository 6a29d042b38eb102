"""Weights from a file: whatever a training run wrote around them, and nothing run."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin.cli.output import CommandError, one_line, printable

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module"})
"""What DataParallel, torch.compile and FSDP put into the names of weights."""

_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""Where checkpoints keep the weights, the first that is there."""

_PREFIXES = ("", "model.")
"""Taken without asking where a file holds the same network more than once."""

_N_NAMED = 3  # weights that a message names


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the weights of a network, by name.

    Plain state dicts, checkpoints that hold one (of Lightning, and under the usual
    names) and safetensors files are read. Nothing in a file is ever run.

    Raises:
        CommandError: If there are none, or the file holds more than tensors.
    """
    if path.is_dir():
        raise CommandError(f"expected a file of weights (got a folder): {path}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise CommandError(f"cannot read the weights {path}: {reason}") from None
    other = _what_else(start)
    if other is not None:
        raise CommandError(f"cannot read the weights {path}: {other}")
    named = path.suffix.lower() == ".safetensors"
    contents = _safetensors(path) if named or start[8:9] == b"{" else _pickled(path)
    state = _state_in(contents, path)
    if not state:
        held = type(contents).__name__
        if isinstance(contents, Mapping):
            names = [printable(str(key)) for key in contents]
            held += f" of {_some(names)}" if names else " of nothing"
        raise CommandError(
            f"expected a state dict in the weights {path} (got a {held}); save it with "
            "torch.save(model.state_dict(), ...)"
        )
    return state


def fit_names(
    state: Mapping[str, Tensor], model: nn.Module, path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Gives the weights the names that they have in the model.

    What wrappers put into names is passed over, and any prefix, such as ``model.`` of a
    LightningModule; what stands beside the prefix is left out.

    Args:
        state (Mapping[str, Tensor]): Weights by name.
        model (Module): The network they are meant for.
        path (Path): Their file, for messages.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The weights, and the names left out.

    Raises:
        CommandError: If the file holds the network more than once.
    """
    inner = {_plain(name): name for name in model.state_dict()}
    given = {_plain(name): value for name, value in state.items()}
    if len(given) < len(state):  # two names became one: they are no wrappers' names
        inner, given = {name: name for name in inner.values()}, dict(state)
    prefix = _prefix(given, inner, path)
    beside = [name for name in given if not name.startswith(prefix)]
    if "n_averaged" in given:  # the counter of torch's AveragedModel
        del given["n_averaged"]
        beside = [name for name in beside if name != "n_averaged"]
    found = {
        name[len(prefix) :]: value
        for name, value in given.items()
        if name.startswith(prefix)
    }
    return {inner.get(name, name): value for name, value in found.items()}, beside


def misfit(state: Mapping[str, Any], model: nn.Module) -> str | None:
    """What does not fit, in words; None if all does."""
    expected = model.state_dict()
    parts = []
    missing = [name for name in expected if name not in state]
    if missing:
        parts.append(f"{len(missing)} of {len(expected)} are missing: {_some(missing)}")
    unknown = [printable(name) for name in state if name not in expected]
    if unknown:
        parts.append(f"{len(unknown)} are not the network's: {_some(unknown)}")
    sizes = [
        f"{name} is {_size(state[name])} in place of {_size(value)}"
        for name, value in expected.items()
        if name in state and _size(state[name]) != _size(value)
    ]
    if sizes:
        parts.append(f"{len(sizes)} have another size: {_some(sizes)}")
    return "; ".join(parts) or None


def _what_else(start: bytes) -> str | None:
    """What a file is that does not hold weights, by its first bytes."""
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself; run git lfs pull"
    if start.lstrip()[:1] == b"<":
        return "it is a web page, not the file itself; download it anew"
    return None


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CommandError(
            f"cannot read the weights {path}: it is a safetensors file; install the "
            "package that reads them, pip install safetensors, or save the weights "
            "with torch.save(model.state_dict(), ...)"
        ) from None
    try:
        return load_file(path)
    except Exception:  # of its own kind, in its own words
        raise CommandError(
            f"cannot read the weights {path}: a damaged safetensors file; get it anew"
        ) from None


def _pickled(path: Path) -> Any:
    if _is_torchscript(path):
        raise CommandError(
            f"cannot read the weights {path}: it is a TorchScript program; save the "
            "state dict, torch.save(model.state_dict(), ...)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which are read
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of unknown contents can raise anything
        # Never torch's own words, which advise to load it all the same.
        other = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and other:
            reason = (
                f"it holds more than tensors ({other[1]}), as a model saved whole "
                "does, and to load such a file is to run it; where it was saved, save "
                "torch.save(model.state_dict(), ...) instead"
            )
        elif isinstance(error, OSError) and error.errno != errno.EINVAL:  # cut off
            reason = error.strerror or one_line(error)
        elif isinstance(error, MemoryError):
            reason = "there is not enough memory"
        else:
            reason = "it is not a file of torch.save, or damaged"
    raise CommandError(f"cannot read the weights {path}: {reason}")


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return False


def _state_in(contents: Any, path: Path) -> dict[str, Tensor]:
    """The state dict that a checkpoint is or holds; empty if there is none."""
    if not isinstance(contents, Mapping) or "param_groups" in contents:
        return {}  # the latter is an optimizer's
    inside = {
        str(key): state
        for key, value in contents.items()
        if isinstance(value, Mapping) and (state := _state_in(value, path))
    }
    if not inside:
        named = all(isinstance(key, str) for key in contents)
        tensors = any(isinstance(value, Tensor) for value in contents.values())
        return dict(contents) if named and tensors else {}
    if len(inside) == 1:
        return next(iter(inside.values()))
    for entry in _ENTRIES:
        if entry in inside:
            return inside[entry]
    raise CommandError(
        f"the weights {path} hold several state dicts: "
        f"{_some([printable(key) for key in inside])}; save the one that is meant"
    )


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefix(given: Collection[str], inner: Collection[str], path: Path) -> str:
    """What comes before the network's own names in most of those given."""
    votes: Counter[str] = Counter()
    for name in given:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in inner:
                votes["".join(f"{part}." for part in parts[:i])] += 1
    if not votes:
        return ""
    most = max(votes.values())
    best = [prefix for prefix, count in votes.items() if count == most]
    for known in _PREFIXES:
        if known in best:
            return known
    if len(best) > 1:
        raise CommandError(
            f"the weights {path} hold the network {len(best)} times: "
            f"{_some([printable(prefix) for prefix in best])}; save the one that is "
            "meant"
        )
    return best[0]


def _size(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return " x ".join(map(str, value.shape)) or "one number"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(names[:_N_NAMED]) + more
