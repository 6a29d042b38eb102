"""Photographs from files, one by one or a folder of references."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from captum_margin.cli.output import CommandError, one_line

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""How the names of references end, in small or capital letters."""


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
            return ImageOps.exif_transpose(file).convert("RGB")
    except UnidentifiedImageError:
        raise CommandError(f"cannot read {path}: not an image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CommandError(f"cannot read {path}: {one_line(error)}") from None


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
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name for name in folders if Path(parent, name).resolve() != left_out
        ]
        found += [
            Path(parent, name)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


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
        )
    readable: list[Path] = []
    left_out: list[CommandError] = []
    for path in tqdm(found, desc="checking references", disable=not show_progress):
        try:
            read_image(path, side=1)
            readable.append(path)
        except CommandError as error:
            left_out.append(error)
    for problem in left_out:  # not before, for the progress bar is in the same place
        print(f"captum-margin: reference left out: {problem}", file=sys.stderr)
    if not readable:
        raise CommandError(f"none of the {len(found)} images in {folder} can be read")
    return ReferenceFolder(readable, preprocess)
