"""What the commands share: the error a user sees, and files in the output folder."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from captum_margin._version import versions

_ERROR_LENGTH = 300
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ESCAPE_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b.?")


class CommandError(Exception):
    """Something the user can mend; its message is shown as one line.

    Attributes:
        status (int): What the program exits with.
    """

    status = 1


class WrongUsage(CommandError):
    """An option that names nothing that is there, or nothing of the right kind."""

    status = 2


@contextmanager
def any_terminal() -> Iterator[None]:
    """Within it, output that the terminal's encoding lacks is written as its code."""
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            _or_nowhere(stream, stream.flush)
            stream.reconfigure(errors=errors)


def say(text: object, *, error: bool = False) -> None:
    """Prints a text, without codes that a terminal would obey.

    If nobody reads any more (``| head``) it is lost, and the work goes on.

    Args:
        text: What is printed; lines stay lines.
        error (bool, optional): On the error stream, after the program's name.
            Default: False.
    """
    stream = sys.stderr if error else sys.stdout
    lines = _ESCAPE_CODE.sub("", f"captum-margin: {text}" if error else str(text))
    shown = "".join(c if _is_shown(c) else " " for c in lines)
    # Through tqdm, for there may be a bar below.
    _or_nowhere(stream, lambda: (tqdm.write(shown, file=stream), stream.flush()))


def _is_shown(character: str) -> bool:
    """Also what stands for a byte of a file's name, which becomes its code."""
    return (
        character.isprintable() or character in "\n" or "\ud800" <= character < "\ue000"
    )


def _or_nowhere(stream: Any, write: Callable[[], object]) -> None:
    """Writes, or gives what follows to nobody, as nobody reads it."""
    if stream is None:
        return
    try:
        write()
    except BrokenPipeError:
        to_nobody(stream)


def to_nobody(stream: Any) -> None:
    """Gives what follows on a stream to nobody, for nobody reads it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def spreadsheet_cell(value: object) -> object:
    """A cell of a table that no spreadsheet takes for a formula.

    Text that begins as one, with = + - or @, has an apostrophe before it, which a
    spreadsheet does not show; numbers stay as they are.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def printable(text: str) -> str:
    """Returns the text without codes that a terminal would obey."""
    text = _ESCAPE_CODE.sub("", text)
    return "".join(c if c.isprintable() else " " for c in text)


def one_line(error: BaseException) -> str:
    """Returns the error's message as one line of bounded length."""
    message = " ".join(printable(str(error)).split())
    if not message or isinstance(error, LookupError):  # which is but a key
        message = f"{type(error).__name__}: {message}".removesuffix(": ")
    if len(message) > _ERROR_LENGTH:
        message = message[: _ERROR_LENGTH - 3] + "..."
    return message


def did_you_mean(close: Sequence[str]) -> str:
    """Returns the end of an error's line that suggests names, if there are any."""
    return f"; did you mean {' or '.join(close)}?" if close else ""


def count(text: str) -> int:
    """Reads an option that is a number of things, for ``argparse``.

    Raises:
        ArgumentTypeError: If it is not 1 or more.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more (got {text})")
    return int(text)


def shows_progress(args: argparse.Namespace) -> bool:
    """Whether each image has a bar of its own: where someone sees it, and one only."""
    return sys.stderr.isatty() and not getattr(args, "many", False)


def make_folder(path: Path) -> Path:
    """Creates the output folder and makes sure, before any work, that it takes files.

    Raises:
        CommandError: If it cannot be created or written to.
    """
    probe = path / ".captum-margin"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise CommandError(
            f"cannot write to the folder {path}: {reason}; choose another with --out"
        ) from None
    return path


def package_versions() -> dict[str, str]:
    """Returns the versions an explanation depends on."""
    return versions("captum", "torch", "torchvision", "torch-geometric", "scikit-image")
