"""What a user names on the command line: ``package.module:name``, ``file.py:name``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from captum_margin.cli.output import WrongUsage, did_you_mean, one_line, printable

_FORM = "package.module:function or path/to/file.py:function"


def is_reference(name: str) -> bool:
    """Whether it names something of the user's, not something of torchvision's."""
    return ":" in name


def look_up(reference: str, option: str) -> Any:
    """Imports the module and returns what the name after the colon stands for.

    Modules are looked for in the current directory first, as ``python -m`` does; those
    that a file imports beside it before, as ``python file.py`` does. Importing runs the
    module.

    Args:
        reference (str): ``package.module:name`` or ``path/to/file.py:name``; the name
            may have dots.
        option (str): The option that it was given with, for messages.

    Raises:
        WrongUsage: If there is no such module or name, or the import fails.
    """
    place, _, name = reference.rpartition(":")
    if not place or not all(part.isidentifier() for part in name.split(".")):
        raise WrongUsage(f"expected {option} {_FORM} (got {printable(reference)})")
    try:
        module = _import_file(place) if place.endswith(".py") else _import(place)
    except (Exception, SystemExit) as error:  # whatever the module does
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and (place == missing or place.startswith(f"{missing}.")):
            raise WrongUsage(
                f"{option}: there is no module {printable(place)} in {Path.cwd()} or "
                f"among the installed packages; expected {_FORM}"
            ) from None
        if isinstance(error, FileNotFoundError) and error.filename == place:
            raise WrongUsage(f"{option}: no such file: {printable(place)}") from None
        raise WrongUsage(
            f"{option}: cannot import {printable(place)}: {raised(error, reference)}"
        ) from None
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), n=3)
            raise WrongUsage(
                f"{option}: {printable(place)} has no {printable(name)}"
                + did_you_mean(close)
            ) from None
    return found


def source_of(reference: str) -> Path | None:
    """The file of the module, if it is known."""
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place)
    try:
        spec = importlib.util.find_spec(place)
    except Exception:  # a package above it may raise anything
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def takes_nothing(function: Any) -> bool:
    """Whether it can be called without arguments, as far as is known."""
    return _takes(function)


def takes_one(function: Any) -> bool:
    """Whether it can be called with one argument, as far as is known."""
    return _takes(function, None)


def _takes(function: Any, *arguments: None) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a function written in C may tell nothing
        return True
    return True


def raised(error: BaseException, reference: str) -> str:
    """What went wrong in code of the user's, and in which line of its file."""
    message, kind = one_line(error), type(error).__name__
    if not message.startswith(kind):
        message = f"{kind}: {message}"
    source = source_of(reference) if is_reference(reference) else None
    if source is None:
        return message
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == source.resolve()
    ]
    return f"{message} ({source.name}, line {frames[-1].lineno})" if frames else message


def _import(name: str) -> ModuleType:
    if name.startswith(".") or "/" in name or os.sep in name:
        raise ModuleNotFoundError(name=name)
    _look_first_in(os.getcwd())
    return importlib.import_module(name)


def _import_file(place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", place)
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    _look_first_in(os.getcwd())
    _look_first_in(str(path.parent))
    # Under its own name, so that what it defines can be sent to other processes;
    # unless a module of this name is there already, such as one of a library.
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names
    name = f"{path.stem}_of_{path.parent.name}" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it is a .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_first_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
