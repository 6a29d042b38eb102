"""Class probabilities from a file, in the order of the samples and of the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.audit.delimited import NoRows, read_table
from captum_margin.cli.audit.npz import NamedArrays, open_npz
from captum_margin.cli.output import CommandError, one_line
from captum_margin.influence._probabilities import as_probabilities

_NAME_COLUMNS = ("name", "file", "path", "id", "index", "")
_ARRAY, _NAMES, _CLASSES = "pred_probs", "names", "classes"


@dataclass(frozen=True)
class Probabilities:
    """What a file says.

    Attributes:
        path (Path): The file.
        values (ndarray): Shape (rows, columns), float64.
        names (list[str], optional): Of the rows; None: they are in the order of the
            samples.
        classes (list[str], optional): Of the columns; None: in that of the classes.
    """

    path: Path
    values: NDArray[np.float64]
    names: list[str] | None
    classes: list[str] | None

    def of(self, data: AuditData) -> Tensor:
        """Probabilities (N, C) of the samples, checked.

        Raises:
            CommandError: If rows or columns do not fit, or they are no probabilities.
        """
        if data.labels is None or not data.has_classes:
            raise CommandError(
                f"--pred-probs needs labels of two classes or more: {data.title}"
            )
        values = self.values[:, self._columns(data)][self._rows(data)]
        try:
            return as_probabilities(values, data.labels, data.classes)
        except (TypeError, ValueError) as error:
            raise CommandError(f"{self.path}: {one_line(error)}") from None

    def _columns(self, data: AuditData) -> list[int]:
        """The column of each class."""
        wanted = list(data.classes)
        if self.classes is None:
            if self.values.shape[1] != len(wanted):
                raise CommandError(
                    f"expected {len(wanted)} columns of probabilities in {self.path}, "
                    f"one for each class (got {self.values.shape[1]})"
                )
            return list(range(len(wanted)))
        _refuse_twice(self.classes, f"columns of {self.path}")
        lacking = _but(wanted, self.classes)
        unknown = _but(self.classes, wanted)
        if lacking or unknown:
            parts = [f"none for {_few(lacking)}"] if lacking else []
            parts += (
                [f"{_few(unknown)}, which no sample is labelled"] if unknown else []
            )
            raise CommandError(
                f"expected a column of {self.path} for each class, named like it (got "
                f"{' and '.join(parts)})"
            )
        return [self.classes.index(name) for name in wanted]

    def _rows(self, data: AuditData) -> list[int]:
        """The row of each sample."""
        n = len(data.names)
        if self.names is None or self.names == data.names or self._only_counts(data):
            if len(self.values) != n:
                left_out = len(data.unreadable)
                hint = f", of which {left_out} cannot be read" if left_out else ""
                raise CommandError(
                    f"expected {n} rows of probabilities in {self.path}, one for each "
                    f"sample (got {len(self.values)}{hint}); name them, or leave out "
                    "those of other samples"
                )
            return list(range(n))
        _refuse_twice(self.names, f"rows of {self.path}")
        _refuse_twice(data.names, f"samples of {data.title}, which rows name")
        lacking = _but(data.names, self.names)
        if lacking:
            raise CommandError(
                f"{self.path} has no row for {len(lacking):,} of {n:,} samples: "
                f"{_few(lacking)}"
            )
        place = {name: row for row, name in enumerate(self.names)}
        return [place[name] for name in data.names]

    def _only_counts(self, data: AuditData) -> bool:
        """Whether the names number the rows, as pandas does, and name no sample."""
        assert self.names is not None  # _rows
        counted = [str(i) for i in range(len(self.names))]
        return self.names == counted and not {*counted} & {*data.names}


def read_probabilities(path: Path) -> Probabilities:
    """Reads class probabilities of the samples.

    A CSV has a header with the names of the classes and perhaps a column that names the
    samples; an NPZ an array ``pred_probs``, or one array alone, and perhaps ``names``
    and ``classes``.

    Raises:
        CommandError: If the file cannot be read.
    """
    if not path.is_file():
        raise CommandError(f"no such file: {path} (--pred-probs)")
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npz"):
        raise CommandError(f"expected a .csv or a .npz (got --pred-probs {path})")
    try:
        return _of_table(path) if suffix == ".csv" else _of_arrays(path)
    except (OSError, EOFError) as error:
        raise CommandError(f"cannot read {path}: {one_line(error)}") from None


def _of_table(path: Path) -> Probabilities:
    nothing = (
        f"expected a header with the names of the classes, and rows (got none): {path}"
    )
    try:
        table = read_table(path, lambda header: {*_name_columns(header)}, header=True)
    except NoRows:
        raise CommandError(nothing) from None
    name = next(iter(_name_columns(table.header)), None)
    columns = [
        i
        for i, column in enumerate(table.columns)
        if i != name and (table.header[i] or column.texts)
    ]
    if not columns:
        raise CommandError(nothing)
    values = np.empty((len(table.lines), len(columns)))
    for place, i in enumerate(columns):
        texts = table.columns[i].texts
        found = table.numbers(i)
        if found is None or np.isnan(found).any():
            gaps = [] if found is None else np.isnan(found).nonzero()[0].tolist()
            row = [*texts, *gaps, 0][0]
            raise CommandError(
                f"expected probabilities in line {table.lines[row]} of {path} (got "
                f"{texts.get(row, 'none')[:60]} in column {table.name(i)})"
            )
        values[:, place] = found
    return Probabilities(
        path,
        values,
        None if name is None else table.kept[name],
        [table.header[i] for i in columns],
    )


def _name_columns(header: list[str]) -> list[int]:
    """The column that names the samples, if there is one."""
    named = [i for i, x in enumerate(header) if x.lower() in _NAME_COLUMNS]
    return [i for i in named if header[i] or i == 0][:1]


def _of_arrays(path: Path) -> Probabilities:
    with open_npz(path) as file:
        others = [name for name in file.names if name not in (_NAMES, _CLASSES)]
        name = _ARRAY if _ARRAY in others else others[0] if len(others) == 1 else ""
        values = file.take(name)
        if values is None:
            raise CommandError(
                f"expected an array {_ARRAY} in {path} (got "
                f"{', '.join(file.names) or 'none'})"
            )
        names, classes = (_texts(file, part) for part in (_NAMES, _CLASSES))
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        raise CommandError(
            f"expected numbers of shape (N, C) as {name} in {path} (got {values.dtype} "
            f"of shape {values.shape})"
        )
    rows, columns = values.shape
    lengths = ("names", names, rows), ("classes", classes, columns)
    for what, part, length in lengths:
        if part is not None and len(part) != length:
            raise CommandError(
                f"expected {length} {what} in {path}, for {name} is of shape "
                f"{values.shape} (got {len(part)})"
            )
    return Probabilities(path, values.astype(np.float64), names, classes)


def _texts(file: NamedArrays, name: str) -> list[str] | None:
    array = file.take(name)
    if array is None:
        return None
    if array.ndim != 1:
        raise CommandError(
            f"expected {name} of one dimension in {file.path} (got {array.shape})"
        )
    return [str(x) for x in array.tolist()]


def _refuse_twice(names: Sequence[str], what: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise CommandError(
            f"expected each name once among the {what} (got {_few(twice)} "
            "more than once)"
        )


def _but(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those of the names that are not among the others."""
    known = {*others}
    return [name for name in names if name not in known]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
