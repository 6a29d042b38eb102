"""Tables as people and spreadsheets write them; one answer in every type of file."""

import csv
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.cli import main
from captum_margin.cli.audit.probabilities import read_probabilities
from captum_margin.cli.audit.table import read_csv
from captum_margin.cli.output import CommandError
from captum_margin.influence import LabelNoise


def samples():
    """Forty samples of two classes in four columns, of which three are numbers."""
    rng = np.random.default_rng(3)
    kind = np.repeat([0, 1], 20)
    values = rng.normal(size=(40, 3)).round(3) + 5 * kind[:, None] + 0.001
    values[5, 1] = 1.34567  # of no three digits
    labels = np.array(["oak", "elm"])[kind]
    labels[[3, 30]] = "elm", "oak"
    names = [f"t{i}" for i in range(40)]
    return names, values.round(5), labels.tolist()


HEADER = ["id", "a", "b", "c", "label"]


def rows():
    names, values, labels = samples()
    return [
        [name, *map(repr, map(float, row)), label]
        for name, row, label in zip(names, values, labels, strict=True)
    ]


def text(lines, delimiter=",", **options):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n", **options).writerows(
        lines
    )
    return file.getvalue()


def decimal_commas(lines):
    return [[x, *(v.replace(".", ",") for v in numbers), y] for x, *numbers, y in lines]


def grouped(lines):
    """1,234.5 for 1.2345 thousands, in quotes."""
    return [
        [x, *(f"{1000 * float(v):,.3f}" for v in numbers), y]
        for x, *numbers, y in lines
    ]


CLEAN = [HEADER, *rows()]
COMMENT = "# measured in spring, by hand, with care, and more\n"
TWINS = {
    "semicolons": text(CLEAN, ";"),
    "tabs": text(CLEAN, "\t"),
    "decimal commas": text([HEADER, *decimal_commas(rows())], ";"),
    "decimal commas, tabs": text([HEADER, *decimal_commas(rows())], "\t"),
    "decimal commas, quoted": text([HEADER, *decimal_commas(rows())]),
    "commas at the end": text([[*row, ""] for row in CLEAN]),
    "commas at the end of rows": text([HEADER, *([*row, ""] for row in rows())]),
    "a comma at the end of the header": text([[*HEADER, ""], *rows()]),
    "comments": COMMENT + text(CLEAN[:9]) + "# half\n" + text(CLEAN[9:]),
    "a header that is marked": "#" + text(CLEAN),
    "the delimiter named": "sep=;\n" + text(CLEAN, ";"),
    "rows without content": text(CLEAN) + ",,,,\n\n,,,,\n",
    "windows": text(CLEAN).replace("\n", "\r\n"),
    "spaces": text([[f" {cell} " for cell in row] for row in CLEAN]),
    "quotes": text(CLEAN, quoting=csv.QUOTE_ALL),
    "a long cell": text(
        [[*HEADER, "text"], *([*row, "x" * 200_000] for row in rows())]
    ),
    "semicolons in text": text([[*HEADER, "t"], *([*row, "x;y"] for row in rows())]),
    "an index": text([["", *HEADER[1:]], *rows()]),
    "an index, again": text([["Unnamed: 0", *HEADER[1:]], *rows()]),
    "an empty column": text([[*HEADER, "d"], *([*row, ""] for row in rows())]),
    "flags of text": text([[*HEADER, "flag"], *([*row, "yes"] for row in rows())]),
    "tickets": text(
        [[*HEADER, "ticket"]]
        + [[*row, f"A/{i}" if i % 4 == 0 else i] for i, row in enumerate(rows())]
    ),
}


def write(tmp_path, contents, name="data.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(contents.encode(encoding))
    return path


@pytest.mark.parametrize("twin", TWINS)
def test_a_table_is_read_as_its_clean_twin(twin, tmp_path):
    names, values, labels = samples()
    found = read_csv(write(tmp_path, TWINS[twin]), None)
    assert np.array_equal(found.features.numpy(), values)
    assert found.names == names
    assert [found.classes[c] for c in found.labels] == labels
    assert found.record["columns"] == ["a", "b", "c"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are(encoding, tmp_path):
    found = read_csv(write(tmp_path, text(CLEAN, "\t"), encoding=encoding), None)
    assert np.array_equal(found.features.numpy(), samples()[1])


def test_thousands_are_read_as_such(tmp_path):
    lines = grouped(rows())
    lines[0][1] = "1,234,567.5"  # for certain
    found = read_csv(write(tmp_path, text([HEADER, *lines])), None)
    expected = samples()[1] * 1000
    expected[0, 0] = 1234567.5
    np.testing.assert_allclose(found.features.numpy(), expected, rtol=1e-12)


def test_what_was_left_out_is_said(tmp_path):
    def notes(twin):
        return "\n".join(read_csv(write(tmp_path, TWINS[twin]), None).notes)

    assert "2 comments, which begin with #, left out" in notes("comments")
    assert "2 rows without content left out" in notes("rows without content")
    assert "columns not used, for they are empty: d" in notes("an empty column")
    assert "text or names: ticket (30 of 40 cells are numbers, not 'A/0')" in notes(
        "tickets"
    )
    assert notes("commas at the end") == ""


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("form", [list, decimal_commas])
def test_without_a_header_the_first_sample_stays(form, delimiter, tmp_path):
    lines = [row[1:] for row in form(rows())]
    path = write(tmp_path, text(lines, delimiter))
    found = read_csv(path, "column 4")
    _, values, labels = samples()
    assert np.array_equal(found.features.numpy(), values)
    assert [found.classes[c] for c in found.labels] == labels
    assert found.names[0] == "row 1" and len(found.names) == 40
    assert any("no header" in note and "column 4" in note for note in found.notes)
    assert read_csv(path, None).labels is None
    with pytest.raises(CommandError, match="no column 'column 9'"):
        read_csv(path, "column 9")


@pytest.mark.parametrize(
    ("header", "told"),
    [("0,1,2", True), ("1990,1991,1992", True), (",0,1", False), (",0", False)],
)
def test_headers_that_count_are_headers(header, told, tmp_path):
    width = header.count(",") + 1
    lines = [",".join(["7.5"] * width), ",".join(["8.5"] * width)]
    found = read_csv(write(tmp_path, "\n".join([header, *lines])), None)
    assert len(found.names) == 2
    assert any("read as names of the columns" in note for note in found.notes) == told


@pytest.mark.parametrize("place", [0, 7, 39])
@pytest.mark.parametrize("gap", ["", "NA", "nan", "null", "#N/A"])
def test_a_gap_is_the_same_in_every_row(place, gap, tmp_path):
    lines = rows()
    lines[place][2] = gap
    with pytest.raises(CommandError, match=rf"got nan in line {place + 2}, column b"):
        read_csv(write(tmp_path, text([HEADER, *lines])), None)


@pytest.mark.parametrize("place", [0, 7, 39])
def test_a_mistake_is_the_same_in_every_row(place, tmp_path):
    lines = rows()
    lines[place][2] = "about 3"
    with pytest.raises(CommandError, match=rf"number in column b, line {place + 2} of"):
        read_csv(write(tmp_path, text([HEADER, *lines])), None)


@pytest.mark.parametrize("none", ["", "NA", "nan", "NaT", "None", "<NA>", "null"])
def test_a_label_that_says_there_is_none(none, tmp_path):
    lines = rows()
    lines[4][4] = none
    with pytest.raises(CommandError, match="no label in line 6"):
        read_csv(write(tmp_path, text([HEADER, *lines])), None)


def with_labels(labels):
    return text(
        [HEADER, *([*row[:4], y] for row, y in zip(rows(), labels, strict=True))]
    )


def test_labels_that_are_numbers(tmp_path):
    def read(labels):
        found = read_csv(write(tmp_path, with_labels(labels)), None)
        return found.classes, found.labels.tolist()

    codes = [i % 3 for i in range(40)]
    expected = ("1", "2", "10"), codes
    assert read([("1", "2", "10")[c] for c in codes]) == expected
    assert read([("1.0", "2", "10.0")[c] for c in codes]) == expected
    assert read([("007", "07", "7")[c] for c in codes]) == (("007", "07", "7"), codes)
    for fractions in ("{}.5", "{}.25e0"):
        with pytest.raises(CommandError, match=r"classes as labels .got fractions"):
            read([fractions.format(i) for i in range(40)])
    with pytest.raises(CommandError, match=r"classes as labels .got fractions"):
        read([f"{i},5" for i in range(40)])
    with pytest.raises(CommandError, match="within ±2"):
        read(["1e300"] + ["1"] * 39)


def test_commas_that_may_mean_either_are_refused(tmp_path):
    for cells, words in (
        (["1,234", "5,678"], "either way"),
        (["1,5", "1,234,567"], "both ways"),
        (["1,5", "2.5"], "has both"),
    ):
        lines = [f"{cell};{i}" for i, cell in enumerate(cells)]
        with pytest.raises(CommandError, match=rf"column a, line 2.*{words}"):
            read_csv(write(tmp_path, "\n".join(["a;b", *lines])), None)


def test_points_beside_decimal_commas_may_divide_thousands(tmp_path):
    def read(*cells):
        lines = [f"{i},5;{cell};x" for i, cell in enumerate(cells)]
        return read_csv(write(tmp_path, "\n".join(["a;b;label", *lines])), None)

    for cells in (("1.234", "2.500"), ("7", "1.234"), ("-1.234", "800")):
        with pytest.raises(CommandError, match=r"column b, line .*divide thousands"):
            read(*cells)
    assert read("0.123", "1.500").features[:, 1].tolist() == [0.123, 1.5]
    assert read("1.234", "2.5").features[:, 1].tolist() == [1.234, 2.5]
    assert read("1.234,5", "2.500,0").features[:, 1].tolist() == [1234.5, 2500.0]


@pytest.mark.parametrize("place", [0, 7, 39])
@pytest.mark.parametrize("column", [0, 4])
def test_quotes_without_an_end_take_in_no_rows(place, column, tmp_path):
    lines = [",".join(row) for row in CLEAN]
    cells = lines[place + 1].split(",")
    cells[column] = '"' + cells[column]
    lines[place + 1] = ",".join(cells)
    with pytest.raises(CommandError, match=rf"end of the quotes in line {place + 2} "):
        read_csv(write(tmp_path, "\n".join(lines)), None)


def test_lines_and_quotes_in_cells(tmp_path):
    found = read_csv(write(tmp_path, 'a,label\n1,"x\n""y"""\n2,5" tube\n'), None)
    assert found.classes == ('5" tube', 'x\n"y"')


def test_sodium_and_none_are_classes(tmp_path):
    for names in (["Na", "K"], ["none", "scratch"], ["NONE", "Null"]):
        found = read_csv(write(tmp_path, with_labels(names * 20)), None)
        assert {*found.classes} == {*names}
    with pytest.raises(CommandError, match="write it otherwise if it is a class"):
        read_csv(write(tmp_path, with_labels(["NA", "DE"] * 20)), None)


def test_one_column_only_holds_the_labels(tmp_path):
    path = write(tmp_path, "a,label,label\n1,2,0\n3,4,1\n")
    for name in (None, "label"):
        with pytest.raises(CommandError, match=r"got label, label.; rename the others"):
            read_csv(path, name)
    path = write(tmp_path, "a,Label,labels\n1,2,0\n3,4,1\n")
    with pytest.raises(CommandError, match="name one with --labels"):
        read_csv(path, None)
    assert read_csv(path, "labels").classes == ("0", "1")


def test_a_table_without_numbers_says_what_it_holds(tmp_path):
    with pytest.raises(CommandError, match=r"got '12%' in column p.$"):
        read_csv(write(tmp_path, "p,label\n12%,x\n9%,y\n"), None)
    with pytest.raises(CommandError, match="divided by a tab, a semicolon or a comma"):
        read_csv(write(tmp_path, "a|label\n1|x\n2|y\n"), None)


def test_bytes_of_another_encoding_are_told_in_our_words(tmp_path):
    with pytest.raises(CommandError, match="save it as CSV UTF-8"):
        read_csv(write(tmp_path, "a,label\n1,Öl\n", encoding="cp1252"), None)


def test_probabilities_are_read_by_the_same_rules(tmp_path):
    values = np.random.default_rng(0).dirichlet([1, 1], 6).round(4)
    lines = [[f"t{i}", *map(str, row)] for i, row in enumerate(values.tolist())]
    header = ["name", "elm", "oak"]
    commas = [[x, *(v.replace(".", ",") for v in row)] for x, *row in lines]
    twins = [
        text([header, *lines]),
        "# by a forest\n" + text([header, *lines], ";"),
        text([[*row, ""] for row in [header, *lines]]),
        text([header, *commas], ";"),
    ]
    for twin in twins:
        found = read_probabilities(write(tmp_path, twin))
        assert np.array_equal(found.values, values)
        assert found.classes == ["elm", "oak"]
        assert found.names == [f"t{i}" for i in range(6)]


# One answer in every type of file


def suspects(path, out, capsys, *options):
    assert main(["audit", str(path), "--out", str(out), *options]) == 0
    capsys.readouterr()
    with (out / "suspects.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("factor", [1.0, 8e300, 1e-200, 1e26])
def test_shell_and_api_agree_in_every_type_of_file(metric, factor, tmp_path, capsys):
    names, values, labels = samples()
    path = write(tmp_path, text(CLEAN))
    expected = suspects(path, tmp_path / "clean", capsys, "--metric", metric)
    wild = values * factor
    if metric == "euclidean":
        seen = (values - values.mean(axis=0)) / values.std(axis=0)
    else:
        seen = values
    api = LabelNoise.from_features(seen, labels, metric=metric, k=10).self_influence()
    scores = {row["name"]: float(row["influence"]) for row in expected}
    np.testing.assert_allclose(
        [scores[name] for name in names], api, rtol=1e-3, atol=1e-4
    )
    flagged = [row["name"] for row in expected if row["is_label_issue"] == "True"]
    assert {"t3", "t30"} <= {*flagged}
    lines = [
        [name, *map(repr, map(float, row)), label]
        for name, row, label in zip(names, wild, labels, strict=True)
    ]
    files = [write(tmp_path, text([HEADER, *lines], ";"), "wild.csv")]
    arrays = {"labels": np.array(labels), "names": np.array(names)}
    np.savez(tmp_path / "double.npz", features=wild, **arrays)
    np.savez(tmp_path / "objectless.npz", features=wild.astype(np.longdouble), **arrays)
    files += [tmp_path / "double.npz", tmp_path / "objectless.npz"]
    if factor in (1.0, 1e26):
        np.savez(tmp_path / "single.npz", features=wild.astype(np.float32), **arrays)
        files.append(tmp_path / "single.npz")
    for file in files:
        found = suspects(file, tmp_path / file.stem, capsys, "--metric", metric)
        assert [r["name"] for r in found][:5] == [r["name"] for r in expected][:5]
        for row in found:
            np.testing.assert_allclose(
                float(row["influence"]), scores[row["name"]], rtol=1e-3, atol=1e-4
            )
        issues = [row["name"] for row in found if row["is_label_issue"] == "True"]
        assert issues == flagged


def test_flags_are_numbers_in_every_type_of_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    _, values, labels = samples()
    frame = pandas.DataFrame(values, columns=["a", "b", "c"])
    frame["flag"] = values[:, 0] > 0
    frame.assign(label=labels).to_csv(tmp_path / "data.csv")
    found = read_csv(tmp_path / "data.csv", None)
    assert found.record["columns"] == ["a", "b", "c", "flag"]
    expected = LabelNoise.from_features(frame, labels).self_influence()
    scores = LabelNoise.from_features(found.features, found.labels).self_influence()
    assert torch.equal(scores, expected)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_table_is_read_right_or_refused(data, tmp_path_factory):
    draw = data.draw
    n, f = draw(st.integers(2, 6)), draw(st.integers(1, 4))
    number = st.integers(-(10**7), 10**7).map(lambda i: i / 10**4)
    values = [[draw(number) for _ in range(f)] for _ in range(n)]
    labels = [draw(st.sampled_from(["a b", "ö;x", "c,d", "#e"])) for _ in range(n)]
    delimiter = draw(st.sampled_from(",;\t"))
    commas, end = draw(st.booleans()), draw(st.booleans())
    gap = draw(st.sampled_from([None, None, "", "NA", "x"]))
    cells = [[str(x).replace(".", "," if commas else ".") for x in v] for v in values]
    if gap is not None:
        cells[draw(st.integers(0, n - 1))][draw(st.integers(0, f - 1))] = gap
    lines = [[y, *row] for y, row in zip(labels, cells, strict=True)]
    lines.insert(0, ["label", *(f"x{i}" for i in range(f))])
    lines = [[*line, ""] if end else line for line in lines]
    path = tmp_path_factory.mktemp("table") / "data.csv"
    path.write_text(text(lines, delimiter), encoding="utf-8")
    try:
        found = read_csv(path, None)
    except CommandError as error:
        # Thousands and fractions cannot be told apart, or a cell is no number.
        ambiguous = "commas" in str(error) and commas
        assert ambiguous or gap is not None
        return
    kept = [int(name[1:]) for name in found.record["columns"]]
    assert len(kept) == f or gap is not None
    assert found.features.tolist() == [[row[i] for i in kept] for row in values]
    assert [found.classes[c] for c in found.labels] == labels
