"""The same samples in files of every dialect: the API's answer, or words and status 1.

What is written is what spreadsheets, pandas, R and people write. The shell's scores of
the labels are compared with LabelNoise on the plain arrays.
"""

import contextlib
import csv
import functools
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captum_margin.cli import main
from tests.any_input.oracle import examples

N, WIDTH = 40, 3


def samples(seed):
    """Two groups with one wrong label; values with a fraction."""
    generator = np.random.default_rng(seed)
    labels = np.arange(N) % 2
    x = generator.normal(size=(N, WIDTH)).round(3) + 6.0 * labels[:, None]
    labels[4] = 1
    return x.round(3), np.array(["ant", "bee"])[labels]


def as_text(x, labels, dialect):
    """A table as text; ``dialect`` is the set of its habits."""
    comma = "decimal comma" in dialect
    delimiter = (
        "\t" if "tabs" in dialect else ";" if comma or "semicolons" in dialect else ","
    )
    rows = [
        [*(str(v).replace(".", ",") if comma else str(v) for v in row), str(label)]
        for row, label in zip(x.tolist(), labels, strict=True)
    ]
    header = ["a", "b", "c", "label"]
    if "named rows" in dialect:
        header = ["id", *header]
        rows = [[f"s{n}", *row] for n, row in enumerate(rows)]
    if "a column of notes" in dialect:
        header.append("note")
        for n, row in enumerate(rows):
            row.append("" if n % 3 else f"seen, twice ({n})")
    if "an empty column" in dialect:
        header.append("blank")
        for row in rows:
            row.append("")
    if "a constant text" in dialect:
        header.append("site")
        for row in rows:
            row.append("north")
    if "padded" in dialect:
        rows = [[f" {cell} " for cell in row] for row in rows]
    buffer = io.StringIO()
    writer = csv.writer(
        buffer,
        delimiter=delimiter,
        quoting=csv.QUOTE_ALL if "quoted" in dialect else csv.QUOTE_MINIMAL,
        lineterminator="\r\n" if "windows" in dialect else "\n",
    )
    writer.writerow(header)
    writer.writerows(rows)
    lines = buffer.getvalue().splitlines(keepends=True)
    if "trailing delimiter" in dialect:
        lines = [line.rstrip("\r\n") + delimiter + "\n" for line in lines]
    if "blank lines" in dialect:
        lines = [part for line in lines for part in (line, "\n")]
    if "blank at the end" in dialect:
        lines += ["\n", "\n"]
    if "a comment" in dialect:
        lines.insert(0, "# measured in May\n")
    if "no newline at the end" in dialect:
        lines[-1] = lines[-1].rstrip("\r\n")
    return "".join(lines)


HABITS = (
    "decimal comma", "semicolons", "tabs", "named rows", "a column of notes",
    "an empty column", "a constant text", "padded", "quoted", "windows",
    "trailing delimiter", "blank lines", "blank at the end", "a comment",
    "no newline at the end",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin-1")


def suspects(path):
    """An audit's first suspects as (number of the sample, score), or what it said."""
    out, said = path.parent / "out", io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(["audit", str(path), "--out", str(out), "--top", "5"])
    if status:
        return None, said.getvalue()
    with (out / "suspects.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = [
        int(row["name"][1:]) if row["name"][0] == "s" else int(row["name"][4:]) - 1
        for row in rows
    ]
    record = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    scores = [float(row["influence"]) for row in rows]
    return (numbers, scores, record["n_suspects"]), said.getvalue()


@functools.cache
def plainly(seed, folder):
    x, labels = samples(seed)
    path = folder / f"plain{seed}.csv"
    path.write_text(as_text(x, labels, frozenset()), encoding="utf-8")
    found, said = suspects(path)
    assert found is not None and found[0][0] == 4, said
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.mark.filterwarnings("ignore")
@given(
    dialect=st.frozensets(st.sampled_from(HABITS), max_size=4),
    encoding=st.sampled_from(ENCODINGS),
    seed=st.integers(0, 2),
)
@examples(15)
def test_a_table_of_any_dialect(folder, dialect, encoding, seed):
    check_dialect(folder, dialect, encoding, seed)


def check_dialect(folder, dialect, encoding, seed):
    x, labels = samples(seed)
    path = folder / "table.csv"
    path.write_text(as_text(x, labels, dialect), encoding=encoding, newline="")
    found, said = suspects(path)
    if found is None:
        # Refused: the file is named, and what there is about it.
        assert "table.csv" in said and "Traceback" not in said, said
        assert encoding == "utf-16" or dialect, f"refused a plain table: {said}"
        return
    plain = plainly(seed, folder)
    assert found[0] == plain[0] and found[2] == plain[2], (found, plain, said)
    np.testing.assert_allclose(found[1], plain[1], rtol=1e-4)
