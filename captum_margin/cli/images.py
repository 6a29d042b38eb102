"""Photographs from files, one by one or a folder of references."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from captum_margin.cli.output import CommandError, one_line, say

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""How the names of images end, in small or capital letters."""

_DEEP = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")  # PIL's modes
_OVERSHOT = 2  # white is 1 then: on a scale of 255 all would be black
# What lies beside images and nobody takes for one.
_BESIDE = (
    ".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".rst", ".tsv", ".txt",
    ".xml", ".yaml", ".yml",
)  # fmt: skip
_N_KINDS = 5  # kinds of files that are named


def read_image(path: Path, *, side: int | None = None) -> Any:
    """Reads a photograph, upright and in colour.

    Args:
        path (Path): The file.
        side (int, optional): Height and width that suffice: all of the file is read,
            but a JPEG at a half, a quarter or an eighth of its size if that leaves as
            much, which takes half the time or less. Default: None, its own size.

    Returns:
        Image: PIL's.

    Raises:
        CommandError: If it is no image, or damaged.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.exists():
        raise CommandError(f"no such image: {path}")
    if path.is_dir():
        raise CommandError(f"expected an image (got a folder): {path}")
    try:
        with Image.open(path) as file:
            if side is not None:
                file.draft("RGB", (side, side))
            return eight_bits(ImageOps.exif_transpose(file), file.format).convert("RGB")
    except UnidentifiedImageError:
        raise CommandError(f"cannot read {path}: not an image") from None
    except MemoryError:
        raise
    except Exception as error:  # a decoder of PIL's may raise anything
        raise CommandError(f"cannot read {path}: {one_line(error)}") from None


def eight_bits(image: Any, form: str | None) -> Any:
    """A picture of more than 8 bits a channel as one of 8, by the range of its type.

    One of 32 bits or of fractions does not say what is white: 1 (of fractions up to 2,
    for resampling overshoots), 255 or 65,535, the first that no value is above, else
    its own range.

    Args:
        image (Image): PIL's.
        form (str, optional): Of the file, such as ``"PNG"``.

    Returns:
        Image: Grey, or the same if it has 8 bits already.

    Raises:
        ValueError: If it holds NaN or infinity.
    """
    from PIL import Image

    if image.mode not in _DEEP:
        return image
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    least, greatest = float(values.min()), float(values.max())
    whites: tuple[float, ...] = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    if image.mode.startswith("I;16") or form in ("PNG", "PPM"):
        whites = (65535,)
    low, white = least, greatest if greatest > least else least + 1
    if least >= 0 and greatest <= whites[-1]:
        low, white = 0.0, next(w for w in whites if greatest <= max(w, _OVERSHOT))
    scaled = ((values - low) / (white - low) * 255).round().clip(0, 255)
    return Image.fromarray(scaled.astype(np.uint8))


def depth_notes(paths: Sequence[Path], name: Callable[[Path], str]) -> list[str]:
    """What the user should know of pictures that do not say what is white.

    Cost: the heads of TIFF files are read, of no others.
    """
    from PIL import Image

    found = []
    for path in paths:
        if path.suffix.lower() in (".tif", ".tiff"):
            try:
                with Image.open(path) as file:
                    found += [path] if file.mode in ("I", "F") else []
            except Exception:  # which is told when it is read
                continue
    if not found:
        return []
    return [
        f"{len(found):,} of 32 bits, which do not say what is white, such as "
        f"{name(found[0])}: white is 1 (of fractions up to 2), 255 or 65,535, the "
        "first that no value of a picture is above, else its greatest value"
    ]


class ReferenceFolder(Dataset[Tensor]):
    """Images of a folder as a model takes them, read when they are asked for.

    Args:
        paths (list[Path]): The files.
        preprocess (Callable): From a PIL image to a tensor (C, H, W).
    """

    def __init__(self, paths: list[Path], preprocess: Callable[[Any], Tensor]) -> None:
        self.paths = paths
        self.preprocess = preprocess

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One of them, (C, H, W).

        Raises:
            CommandError: If it cannot be read, or made fit for the model.
        """
        image = read_image(self.paths[index])
        try:
            return self.preprocess(image)
        except ValueError as error:
            raise CommandError(f"{self.paths[index]}: {error}") from None


def images_in(folder: Path, *, but: Path | None = None) -> list[Path]:
    """The images of a folder and those below, by name, but not of one folder."""
    left_out = None if but is None else but.resolve()
    found = []
    for parent, folders, names in walk(folder):
        folders[:] = [name for name in folders if (parent / name).resolve() != left_out]
        found += [parent / name for name in names if is_image(name)]
    return sorted(found)


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As ``os.walk``, by name, through links but not back by them to where they are."""
    for parent, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not _leads_back(Path(parent, name))
        )
        yield Path(parent), folders, sorted(names)


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder that the way to it comes through or is in."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    way = (step.resolve() for step in folder.absolute().parents)
    return any(target == step or target in step.parents for step in way)


def is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its name; hidden ones are not."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def passed_over(root: Path, *, but: Path | None = None) -> list[str]:
    """What the user should know of files that are taken for no images.

    Hidden ones and texts (.txt, .csv, .json, ...) are not mentioned.

    Args:
        root (Path): The folder.
        but (Path, optional): A folder below it that is left out. Default: None.

    Returns:
        list[str]: A line, or none.
    """
    left_out = None if but is None else but.resolve()
    kinds: Counter[str] = Counter()
    first = ""
    for parent, folders, names in walk(root):
        folders[:] = [
            name
            for name in folders
            if not is_hidden(name) and (parent / name).resolve() != left_out
        ]
        for name in names:
            beside = name.startswith(".") or name.lower().endswith(_BESIDE)
            if beside or is_image(name) or not (parent / name).is_file():
                continue
            kinds[Path(name).suffix.lower() or "without an ending"] += 1
            first = first or (parent / name).relative_to(root).as_posix()
    if not kinds:
        return []
    listed = ", ".join(f"{kind} ({n:,})" for kind, n in kinds.most_common(_N_KINDS))
    more = "" if len(kinds) <= _N_KINDS else ", ..."
    return [
        f"{kinds.total():,} files passed over, for their names do not end as those of "
        f"images do: {listed}{more}, such as {as_text(first)}"
    ]


def is_hidden(folder: str) -> bool:
    """Whether a folder is hidden, or of Python or another program."""
    return folder.startswith((".", "__"))


def as_text(path: str) -> str:
    """A path as text that every encoding can hold."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_references(
    folder: Path, preprocess: Callable[[Any], Tensor], show_progress: bool
) -> ReferenceFolder:
    """Finds the images in a folder and the folders below, in the order of their names.

    Images that cannot be read are listed on the error stream and left out. All files
    are decoded once to know: an index must mean the same image throughout, and
    ``PIL.Image.verify`` takes a JPEG that breaks off for a whole one.

    Raises:
        CommandError: If the folder does not exist or holds no image that can be read.
    """
    if not folder.is_dir():
        what = "expected a folder (got a file)" if folder.exists() else "no folder"
        raise CommandError(f"{what}: --references {folder}")
    found = images_in(folder)
    if not found:
        raise CommandError(
            f"no images in --references {folder} or below; looked for "
            + ", ".join(SUFFIXES)
            + "".join(f"; {note}" for note in passed_over(folder))
        )
    for note in passed_over(folder) + depth_notes(found, str):
        say(f"--references: {note}", error=True)
    readable: list[Path] = []
    left_out: list[CommandError] = []
    for path in tqdm(found, desc="checking references", disable=not show_progress):
        try:
            read_image(path, side=1)
            readable.append(path)
        except CommandError as error:
            left_out.append(error)
    for problem in left_out:  # not before, for the progress bar is in the same place
        say(f"reference left out: {problem}", error=True)
    if not readable:
        raise CommandError(f"none of the {len(found)} images in {folder} can be read")
    return ReferenceFolder(readable, preprocess)
