"""A folder of arrays, block by block, that survives a kill at any moment.

Every file is written under another name, forced to the disk and renamed; the mark of a
block is written after its arrays. So a block with a mark is finished, and one without
is as good as not begun. Blocks have files of their own: any number of processes or
machines that share the folder may write different blocks, or even the same one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

_FORMAT = 1
# Each holds a file open, of which a process may have 1,024, or 256 on macOS.
_KEPT_MAPS = 128


class BlockFolder:
    """Named arrays of each of B blocks of rows, and a manifest of what they are.

    Args:
        path (str or Path): The folder.

    Raises:
        FileNotFoundError: If there is no manifest.
        ValueError: If the manifest is of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a folder."""
        self.path = Path(path)
        file = self.path / "manifest.json"
        if not file.exists():
            raise FileNotFoundError(
                f"expected a manifest {file} (got none); build the shards first, or "
                "check the path"
            )
        self.manifest: dict[str, Any] = json.loads(file.read_text())
        if self.manifest.get("format") != _FORMAT:
            raise ValueError(
                f"expected format {_FORMAT} in {file} (got "
                f"{self.manifest.get('format')!r}); rebuild the folder"
            )
        self.starts = np.asarray(self.manifest["starts"], dtype=np.int64)  # (B + 1,)
        self._marks: dict[int, dict[str, Any]] = {}
        self._maps: dict[Path, tuple[tuple[int, ...], np.ndarray]] = {}

    @classmethod
    def start(
        cls, path: Path, request: Mapping[str, Any], **arrays: np.ndarray
    ) -> None:
        """Makes the folder, or checks that the one there is of the same request.

        ``request`` are the fields of the manifest, with ``starts``, the first row of
        each block and N; ``arrays`` belong to the folder as a whole.
        """
        wanted = json.loads(json.dumps({"format": _FORMAT, **request}))
        file = path / "manifest.json"
        if file.exists():
            found = json.loads(file.read_text())
            differ = [
                f"{name}: wanted {_short(wanted.get(name))}, found "
                f"{_short(found.get(name))}"
                for name in sorted(wanted.keys() | found.keys())
                if name != "versions" and wanted.get(name) != found.get(name)
            ]
            if differ:
                raise ValueError(
                    f"expected {path} to hold the blocks of this request (got another "
                    f"one; {'; '.join(differ)}); pass another path, or delete this "
                    "folder to build it anew"
                )
            return
        path.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            write_array(path / f"{name}.npy", array)
        write_text(file, json.dumps(wanted, indent=1) + "\n")

    @property
    def num_blocks(self) -> int:
        """B."""
        return len(self.starts) - 1

    @property
    def num_rows(self) -> int:
        """N."""
        return int(self.starts[-1])

    @property
    def finished(self) -> list[int]:
        """The blocks that are finished."""
        return [b for b in range(self.num_blocks) if self._mark_path(b).exists()]

    @property
    def unfinished(self) -> list[int]:
        """The blocks that are not."""
        return [b for b in range(self.num_blocks) if not self._mark_path(b).exists()]

    def rows(self, b: int) -> slice:
        """The rows of a block."""
        if not 0 <= b < self.num_blocks:
            raise ValueError(f"expected a block in [0, {self.num_blocks}) (got {b})")
        return slice(int(self.starts[b]), int(self.starts[b + 1]))

    def write(self, b: int, note: Mapping[str, Any], **arrays: np.ndarray) -> None:
        """Writes a block; ``note`` goes into its mark."""
        self.rows(b)
        files = {}
        for name, array in arrays.items():
            write_array(self._file(b, name), array)
            check = zlib.crc32(np.ascontiguousarray(array).data)
            files[name] = [str(array.dtype), list(array.shape), check]
        write_text(self._mark_path(b), json.dumps({**note, "files": files}) + "\n")

    def mark(self, b: int) -> dict[str, Any]:
        """What is noted of a finished block."""
        if b not in self._marks:
            self.rows(b)
            if not self._mark_path(b).exists():
                raise ValueError(
                    f"expected block {b} of {self.path} to be finished (got one that "
                    "is not); run what writes the folder again: it goes on from here"
                )
            self._marks[b] = json.loads(self._mark_path(b).read_text())
        return self._marks[b]

    def read(self, b: int, name: str) -> np.ndarray:
        """One array of a finished block, as a memory map."""
        dtype, shape, _ = self.mark(b)["files"][name]
        file = self._file(b, name)
        try:
            # Copy on write: torch warns of arrays that cannot be written to.
            array: np.ndarray = (
                np.load(file, mmap_mode="c")
                if all(shape)
                else np.load(file)  # nothing cannot be mapped
            )
        except (OSError, ValueError, EOFError) as error:
            raise self._broken(b, file, str(error)) from error
        if str(array.dtype) != dtype or list(array.shape) != shape:
            got = f"{array.dtype} {array.shape} instead of {dtype} {tuple(shape)}"
            raise self._broken(b, file, got)
        return array

    def mapped(self, b: int, name: str) -> np.ndarray:
        """The array of :meth:`read`, not to be written to, from a map that is kept.

        To map a file and fault its pages in takes a third of the time of a product
        with what it holds. The first few files stay mapped, while they are the same.
        """
        self.mark(b)
        file = self._file(b, name)
        try:
            stat = os.stat(file)
        except OSError as error:
            raise self._broken(b, file, str(error)) from error
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if file in self._maps and self._maps[file][0] == state:
            return self._maps[file][1]
        self._maps.pop(file, None)
        array = self.read(b, name)
        if len(self._maps) < _KEPT_MAPS:
            self._maps[file] = (state, array)
        return array

    def will_need(self, b: int) -> None:
        """Asks the system to read a block ahead, while something else is done."""
        if not hasattr(os, "posix_fadvise"):  # macOS, Windows
            return
        for name in self.mark(b)["files"]:
            with contextlib.suppress(OSError), open(self._file(b, name), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def verify(self) -> None:
        """Reads all that is finished and compares its checksums.

        Raises:
            ValueError: Of the first block whose files are missing or changed.
        """
        for b in self.finished:
            for name, (_, _, check) in self.mark(b)["files"].items():
                array = np.ascontiguousarray(self.read(b, name))
                if zlib.crc32(array.data) != check:
                    raise self._broken(b, self._file(b, name), "another checksum")

    def discard(self, b: int) -> None:
        """Forgets that a block is finished, so that it is written anew."""
        self.rows(b)
        self._mark_path(b).unlink(missing_ok=True)
        self._marks.pop(b, None)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without what was read."""
        return {**self.__dict__, "_marks": {}, "_maps": {}}

    def _file(self, b: int, name: str) -> Path:
        return self.path / f"{b:06d}.{name}.npy"

    def _mark_path(self, b: int) -> Path:
        return self.path / f"{b:06d}.json"

    def _broken(self, b: int, file: Path, why: str) -> ValueError:
        return ValueError(
            f"expected block {b} as it was written in {file} (got {why}); restore the "
            f"file, or call .discard({b}) and run what writes the folder again"
        )


def write_array(file: Path, array: np.ndarray) -> None:
    """Writes an array so that the file is whole or not there."""
    with _replacing(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)
        stream.flush()
        os.fsync(stream.fileno())


def write_text(file: Path, text: str) -> None:
    """Writes a text in the same way."""
    with _replacing(file) as temporary, open(temporary, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def remove_folder(path: Path) -> None:
    """Deletes a folder; it is gone or whole for who looks at its name."""
    if path.exists():
        gone = path.with_name(f"{path.name}.{uuid4().hex}.gone")
        os.replace(path, gone)
        shutil.rmtree(gone)


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    temporary = file.with_name(f"{file.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
