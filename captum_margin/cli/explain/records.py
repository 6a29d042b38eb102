"""What ``explain`` has written: found again, kept, and listed in an index."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captum_margin._files import replacing
from captum_margin._version import __version__
from captum_margin.cli.images import images_in, passed_over
from captum_margin.cli.lookup import is_reference, source_of
from captum_margin.cli.output import CommandError, say, spreadsheet_cell

INDEX = "index.csv"
COLUMNS = (
    "image", "status", "record", "picture", "method", "target", "name", "probability",
    "forward_passes", "seconds", "insertion_auc", "deletion_auc", "error",
)  # fmt: skip


class Found(NamedTuple):
    """An image to explain.

    Args:
        path (Path): The file.
        below (Path): Folder of its record, within that of all records.
        in_folder (bool): Whether it was found in a folder, not named itself.
    """

    path: Path
    below: Path
    in_folder: bool


def find_images(given: Sequence[Path], out: Path) -> list[Found]:
    """The images named, and those in the folders named.

    Raises:
        CommandError: If there is no image in a folder.
    """
    found = []
    for path in given:
        if not path.is_dir():
            found.append(Found(path, Path(), False))
            continue
        within = images_in(path, but=out)
        if not within:
            raise CommandError(
                f"no images in the folder {path} or below"
                + "".join(f"; {note}" for note in passed_over(path, but=out))
            )
        for note in passed_over(path, but=out):
            say(f"{path}: {note}")
        found += [Found(one, one.relative_to(path).parent, True) for one in within]
    return found


class Records:
    """The records in a folder, by the image that they are of.

    Args:
        folder (Path): Where ``explain`` writes.
        request (dict): All that a record depends on but the image; plain values.
        endings (Sequence[str]): Endings of the pictures of an image.
        look (bool): Whether to look for records of earlier runs.
    """

    def __init__(
        self, folder: Path, request: dict[str, Any], endings: Sequence[str], look: bool
    ) -> None:
        self.folder, self.endings = folder, endings
        self.request = json.loads(json.dumps(request))
        self._earlier: dict[str, tuple[Path, dict[str, Any]]] = {}
        self._taken: set[Path] = set()
        for path in sorted(folder.rglob("*.json")) if look else ():
            record = _read(path)
            if record is not None:
                stem = path.with_name(path.name.removesuffix(".json"))
                self._earlier[str(record["image"])] = stem, record
                self._take(stem)

    def kept(self, image: Path) -> tuple[Path, dict[str, Any]] | None:
        """The record of an image, if it is whole and of this very request."""
        stem, record = self._earlier.get(str(image), (self.folder, {}))
        if record.get("request") != self.request:
            return None
        names = [record.get("picture"), *record.get("further_pictures", ())]
        names.append(record.get("maps"))
        whole = all(stem.with_name(name).is_file() for name in names if name)
        if not whole or record.get("image_sha256") != digest(image):
            return None
        return stem, record

    def stem(self, found: Found) -> Path:
        """Where to write of an image: over its own earlier record, over no other's."""
        earlier = self._earlier.get(str(found.path))
        if earlier is not None:
            return earlier[0]
        parent = self.folder / found.below
        name, copy = found.path.stem, 2
        while self._taken & self._names(parent / name):
            name, copy = f"{found.path.stem}-{copy}", copy + 1
        self._take(parent / name)
        return parent / name

    def _names(self, stem: Path) -> set[Path]:
        return {stem.with_name(stem.name + ending) for ending in self.endings}

    def _take(self, stem: Path) -> None:
        self._taken |= self._names(stem)


def digest(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        found = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(2**20):
                found.update(part)
        return found.hexdigest()
    except OSError:
        return None


def folder_digest(folder: Path) -> str:
    """A digest of the names, sizes and times of the images in a folder."""
    lines = [
        f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in images_in(folder)
        if path.exists()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def request_of(args: argparse.Namespace) -> dict[str, Any]:
    """All that a record depends on but the image."""
    named = {"weights": args.weights, "class_names": args.class_names or ""}
    files = {name: Path(given) for name, given in named.items()}
    for name in ("model", "preprocess"):
        given = getattr(args, name)
        if given is not None and is_reference(given):
            files[name] = source_of(given) or Path()
    options = ("n_evaluations", "prior", "layer", "n_boundaries", "n_coalitions")
    request = {
        name: getattr(args, name)
        for name in ("model", "weights", "target", "method", "seed", "curves", "maps")
    }
    references = args.references
    known = references is not None and references.is_dir()
    return {
        **request,
        "options": {name: getattr(args, name) for name in options},
        "preprocess": args.preprocess,
        "class_names": args.class_names,
        **{
            f"{name}_sha256": digest(path) if path.is_file() else None
            for name, path in files.items()
        },
        "references_sha256": folder_digest(references) if known else None,
        "captum_margin": __version__,
    }


def write_json(path: Path, contents: dict[str, Any]) -> None:
    """Writes a record, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def index_row(
    image: Path, status: str, stem: Path | None, record: dict[str, Any], error: str = ""
) -> dict[str, Any]:
    """An image's row of the index."""
    target, curves = record.get("target", {}), record.get("curves", {})
    return {
        "image": image,
        "status": status,
        "record": "" if stem is None else f"{stem}.json",
        "picture": "" if stem is None else stem.with_name(record["picture"]),
        "method": record.get("method", ""),
        "target": target.get("index", ""),
        "name": target.get("name", ""),
        "probability": target.get("probability", ""),
        "forward_passes": record.get("forward_passes", ""),
        "seconds": record.get("seconds", ""),
        "insertion_auc": curves.get("insertion_auc", ""),
        "deletion_auc": curves.get("deletion_auc", ""),
        "error": error,
    }


def write_index(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes the index, whole or not at all."""
    path = folder / INDEX
    with (
        replacing(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            cells = {**row, "image": str(row["image"])}
            writer.writerow({k: spreadsheet_cell(cell) for k, cell in cells.items()})
    return path


def _read(path: Path) -> dict[str, Any] | None:
    """A record of this command, or None for any other file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and {"image", "picture", "request"} <= set(record)
    return record if ours else None
