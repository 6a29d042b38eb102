"""Named arrays from an NPZ, and in our words what is wrong with one."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captum_margin.cli.output import CommandError, one_line

__all__ = ["NamedArrays", "open_npz"]

# What NumPy, zipfile and the decoders raise of a file that is none of theirs.
_DAMAGED = (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


class NamedArrays:
    """The arrays of an NPZ, each read when it is asked for.

    Attributes:
        path (Path): The file.
        names (list[str]): Of the arrays.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self.names: list[str] = list(file.files)
        self._file = file

    def take(self, name: str | None) -> NDArray[Any] | None:
        """An array, text in Unicode; None if there is none of the name.

        Raises:
            CommandError: If there is something else than an array.
        """
        if name not in self.names:
            return None
        array = self._file[name]
        if not isinstance(array, np.ndarray):
            raise CommandError(
                f"expected an array as {name} (got other data): {self.path}"
            )
        if array.dtype.kind == "S":
            return np.char.decode(array, "utf-8", "backslashreplace")
        return array


@contextmanager
def open_npz(path: Path) -> Iterator[NamedArrays]:
    """Opens an NPZ; within it whatever is wrong with the file is told.

    Raises:
        CommandError: If it cannot be read, or holds objects.
    """
    try:
        with path.open("rb") as file:
            is_single = file.read(6) == np.lib.format.MAGIC_PREFIX
        if is_single:
            raise CommandError(f"expected named arrays (got a single one): {path}")
        if not zipfile.is_zipfile(path):
            raise CommandError(
                f"cannot read {path}: expected an NPZ, as numpy.savez writes it (got "
                "a damaged one or another file)"
            )
        with np.load(path, allow_pickle=False) as arrays:
            yield NamedArrays(path, arrays)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise CommandError(f"cannot read {path}: {reason}") from None
    except MemoryError:
        raise CommandError(
            f"cannot read {path}: an array is larger than the memory"
        ) from None
    except _DAMAGED as error:
        has_objects = "allow_pickle" in str(error)
        reason = (
            "it holds objects; save it without objects, text as dtype=str"
            if has_objects
            else "the file is damaged, or packed in an unknown way"
        )
        raise CommandError(f"cannot read {path}: {reason}") from None
