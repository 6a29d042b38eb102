"""The documents' tables are those of the benchmarks' records."""

import json
import re
from pathlib import Path

import pytest

from tests.benchmarks import tables
from tests.benchmarks.cells import Cell, markdown, number, percent
from tests.benchmarks.coalition import table as coalition
from tests.benchmarks.networks.trained import TITLES
from tests.benchmarks.records import RESULTS, load

ROOT = Path(__file__).resolve().parents[2]
NAMES = tables.results()
# Recorded before tests/benchmarks/machine.py was there; a new run tells its machine.
OF_UNKNOWN_MACHINE = {
    "coalition_cost",
    "coalition_parts",
    "decision_boundary",
    "influence_cost",
    "label_noise",
    "prototypes",
    "representative",
    "representative_cost",
}
OF_UNKNOWN_SEED = {"coalition_cost", "influence_cost"}  # both are 0 in the code


@pytest.mark.parametrize("path", tables.DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_records(path):
    text = path.read_text(encoding="utf-8")
    assert tables.render(text) == text, "run: python -m tests.benchmarks.tables"


def test_every_table_is_shown():
    texts = [path.read_text(encoding="utf-8") for path in tables.DOCUMENTS]
    shown = {match[2] for text in texts for match in tables.MARKED.finditer(text)}
    assert shown == set(tables.TABLES)
    evidence = texts[1]  # no table of it is written by hand
    assert len(re.findall(r"^\|---", evidence, re.M)) == evidence.count("<!-- table:")


def test_best_of_a_column_is_bold_before_rounding():
    rows = [["a", number(0.1234, 2), number(2, 0)], ["b", number(0.1233, 2), Cell("")]]
    rows.append(["c", number(-0.5, 2, 0.125), number(1, 0)])
    assert markdown(["name", "x ↑", "y ↓"], rows).splitlines() == [
        "| name | x ↑ | y ↓ |",
        "|---|---|---|",
        "| a | **0.12** | 2 |",
        "| b | 0.12 |  |",
        "| c | \N{MINUS SIGN}0.50 ± 0.12 | **1** |",
    ]


def test_best_of_a_row_and_ties():
    rows = [["a", number(1, 0), number(2, 0)], ["b", percent(0.5), percent(0.5)]]
    lines = markdown(["name", "x", "y"], rows, best="row max").splitlines()
    assert lines[2:] == ["| a | 1 | **2** |", "| b | **50%** | **50%** |"]
    assert "*" not in markdown(["name", "x", "y"], rows)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="expected rows of 2 cells"):
        markdown(["name", "x"], [["a"]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: none -->\n<!-- /table -->", "no table is named 'none'"),
        ("<!-- table: saliency -->\n| a |\n", "closed by"),
    ],
)
def test_bad_markers_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        tables.render(text)


def test_a_changed_number_is_put_right():
    text = tables.DOCUMENTS[1].read_text(encoding="utf-8")
    changed = text.replace("0.662 ± 0.063", "0.663 ± 0.063", 1)
    assert changed != text
    assert tables.render(changed) == text


@pytest.mark.parametrize("name", NAMES)
def test_record_tells_how_it_was_made(name):
    record = load(name)
    told = {**record, **record.get("settings", {})}
    assert told["command"].removeprefix("OMP_NUM_THREADS=1 ").startswith("python -m ")
    assert {"python", "torch"} <= set(told["versions"])
    assert {"seed", "seeds"} & set(told) or name in OF_UNKNOWN_SEED
    assert (
        name in OF_UNKNOWN_MACHINE
        or '"machine": {' in json.dumps(record)
        or (
            name == "high_pass"  # its record names the architecture
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_those_of_the_record(name):
    record = load(name)
    recorded = record.get("command") or record["settings"]["command"]
    module = re.compile(r"python -m tests\.benchmarks\.(\w+\.\w+)")
    for command in tables.commands(name):
        assert module.search(command)[1] == module.search(recorded)[1]
        script = module.search(command)[1].replace(".", "/")
        assert (RESULTS.parent / f"{script}.py").exists()


def test_run_fills_in_the_cache(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(
        tables.subprocess, "run", lambda call, **options: calls.append((call, options))
    )
    tables.run(["saliency", "coalition_cost"], tmp_path)
    (made, _), (reported, _), (cost, options) = calls
    assert made[1:] == [
        "-m",
        "tests.benchmarks.saliency.bench",
        "--cache",
        f"{tmp_path}/saliency",
    ]
    assert reported == [*made, "--report"]
    assert cost[1:] == ["-m", "tests.benchmarks.coalition.cost"]
    assert options["env"]["OMP_NUM_THREADS"] == "1"
    assert f"saliency: python {' '.join(made[1:])}\n" in capsys.readouterr().out


def test_coalitions_have_a_block_a_network():
    """The best of each column is that of its block."""
    networks = load("coalition")["networks"]
    lines = coalition.coalition().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    rows = len(coalition.COALITION)
    titles = lines[2 :: rows + 1]
    assert [title.split("*")[1] for title in titles] == list(TITLES.values())
    for start, network in zip(
        range(3, len(lines), rows + 1), networks.values(), strict=True
    ):
        block = [line.split(" | ") for line in lines[start : start + rows]]
        found = [network["methods"][name] for name in coalition.COALITION]
        same = [row["photographs"] == found[0]["photographs"] for row in found]
        drops = [
            row["metrics"]["drop_soft"]["mean"] if alike else 1.0
            for row, alike in zip(found, same, strict=True)
        ]
        best = drops.index(min(drops))
        assert ["**" in row[3] for row in block] == [i == best for i in range(rows)]
        # Means of fewer pictures are not shown beside those of all.
        assert [bool(row[3]) for row in block] == same
        assert all(row[8] for row in block[1:])
        assert "CoalitionPerturbation" in block[0][0] and not block[0][8]
