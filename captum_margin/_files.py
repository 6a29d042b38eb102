"""Files that are either whole or not there, and tensors in them without pickle."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_record", "replacing", "write_record"]

_HEAD = "record.json"
_TENSOR, _TUPLE, _FLOAT = "$tensor", "$tuple", "$float"
# What reading a file that is no longer what was written can raise.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,  # a ZIP with encryption or an unknown compression
    RuntimeError,
    TypeError,
    ValueError,
)
# Types that NumPy does not have are written as whole numbers of their size.
_STAND_INS = {1: torch.uint8, 2: torch.int16}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file to write beside ``path``, which takes its place at the end.

    Whatever happens within, Ctrl-C too, ``path`` is what it was or what it shall be,
    and nothing else is left.

    Raises:
        OSError: If its folder is missing, or it is a folder itself.
    """
    if not path.parent.is_dir():
        missing = "no such folder; create it first, with mkdir(parents=True)"
        raise FileNotFoundError(errno.ENOENT, missing, str(path.parent))
    if path.is_dir():
        folder = "expected a file (got a folder); name one in it"
        raise IsADirectoryError(errno.EISDIR, folder, str(path))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_record(
    path: Path, kind: str, version: int, contents: Mapping[str, Any]
) -> None:
    """Writes None, numbers, strings, lists, tuples, dicts and tensors, nested.

    The file is a ZIP of one JSON text, which names the tensors, and of NumPy's own
    format for each of these: ``numpy.load`` opens it too.

    Raises:
        TypeError: If there is anything else in the contents.
        ValueError: If a tensor is sparse.
    """
    arrays: dict[str, Tensor] = {}
    head = {
        "kind": kind,
        "version": version,
        "contents": _encode(dict(contents), "", arrays),
    }
    text = json.dumps(head, indent=1, allow_nan=False)
    with (
        replacing(path) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(_HEAD, text)
        for name, tensor in arrays.items():
            with archive.open(name, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _array(tensor), allow_pickle=False)


def read_record(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Reads what :func:`write_record` wrote; tensors are on the CPU.

    Nothing in the file is executed, whatever it holds.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no such file, of another kind or version, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = json.loads(archive.read(_HEAD))
            if not isinstance(head, dict) or head.get("kind") != kind:
                raise ValueError(f"it holds no {kind}")
            if head.get("version") != version:
                raise ValueError(
                    f"it is of version {head.get('version')!r} and this release reads "
                    f"version {version}; read it with the release that wrote it"
                )
            contents = _decode(head["contents"], archive)
    except _DAMAGE as error:
        message = " ".join(str(error).split())
        raise ValueError(f"cannot read {path}: {message}") from None
    if not isinstance(contents, dict):
        raise ValueError(f"cannot read {path}: it holds no {kind}")
    return contents


def _encode(value: Any, name: str, arrays: dict[str, Tensor]) -> Any:
    """A value as JSON has it; the tensors in it, by the name of their file."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, Tensor):
        file = f"{name}.npy"
        arrays[file] = value
        return {_TENSOR: file, "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        parts = [_encode(part, f"{name}.{i}", arrays) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {_TUPLE: parts}
    if isinstance(value, dict) and all(
        isinstance(key, str) and not key.startswith("$") for key in value
    ):
        return {
            key: _encode(part, f"{name}.{key}" if name else key, arrays)
            for key, part in value.items()
        }
    raise TypeError(
        "expected None, numbers, strings, tensors, and lists, tuples and dicts of "
        f"these (got {type(value).__name__} in {name}); leave it out or describe it"
    )


def _decode(value: Any, archive: zipfile.ZipFile) -> Any:
    if isinstance(value, list):
        return [_decode(part, archive) for part in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return _tensor(archive.read(value[_TENSOR]), value["dtype"])
    if _TUPLE in value:
        return tuple(_decode(part, archive) for part in value[_TUPLE])
    if _FLOAT in value:
        return float(value[_FLOAT])
    return {key: _decode(part, archive) for key, part in value.items()}


def _array(tensor: Tensor) -> Any:
    if tensor.layout != torch.strided:
        raise ValueError(
            f"expected a dense tensor (got {tensor.layout}); call .to_dense() first"
        )
    dense = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    return dense.view(_stored_as(dense.dtype)).numpy()


def _tensor(contents: bytes, dtype_name: str) -> Tensor:
    dtype = getattr(torch, dtype_name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no tensor has the type {dtype_name!r}")
    array = np.lib.format.read_array(io.BytesIO(contents), allow_pickle=False)
    stored = torch.from_numpy(array)
    if stored.dtype != _stored_as(dtype):
        raise ValueError(f"expected {dtype_name} (got an array of {array.dtype})")
    return stored.view(dtype)


def _stored_as(dtype: torch.dtype) -> torch.dtype:
    try:
        torch.empty(0, dtype=dtype).numpy()
    except TypeError:
        return _STAND_INS[dtype.itemsize]
    return dtype
