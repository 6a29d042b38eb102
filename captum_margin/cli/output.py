"""What the commands share: the error a user sees, and files in the output folder."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from captum_margin._version import versions

_ERROR_LENGTH = 300
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
