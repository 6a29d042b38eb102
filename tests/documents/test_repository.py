"""What a visitor of the repository reads: changelog, contributing, public checks."""

import re
from pathlib import Path

import pytest

import captum_margin

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
CONTRIBUTING = (GITHUB / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOW = (GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_the_newest_entry_of_the_changelog_is_this_version():
    text = (GITHUB / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert headings[0] == captum_margin.__version__
    numbers = [tuple(map(int, heading.split("."))) for heading in headings]
    assert numbers == sorted(set(numbers), reverse=True)


@pytest.mark.parametrize("heading", re.findall(r"^## .*", CONTRIBUTING, re.M))
def test_every_path_that_contributors_are_sent_to_is_there(heading):
    section = CONTRIBUTING.partition(heading)[2].partition("\n## ")[0]
    paths = re.findall(r"`((?:captum_margin|tests|\.ci|\.github)/[^`<]*)`", section)
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert missing == set()


@pytest.mark.parametrize("name", ["attribution method", "question about a data set"])
def test_what_is_to_be_added_takes_ten_lines(name):
    section = re.split(rf"^## Add an? {name}\n", CONTRIBUTING, flags=re.M)[1]
    steps = re.findall(r"^(\d+)\. ", section.partition("\n## ")[0], re.M)
    assert steps == [str(number) for number in range(1, 11)]


def test_readers_find_a_line_in_thirty_seconds():
    table = CONTRIBUTING.partition("## Where does a line belong?")[2]
    for words, path in {
        "a node of `MarginSaliency`": "captum_margin/attr/margin/domains/",
        "greedy choice of bound": "captum_margin/attr/representative/polytope.py",
        "the page that": "captum_margin/cli/audit/page.html.j2",
        "Captum's private helpers": "captum_margin/_model/captum.py",
    }.items():
        (row,) = re.findall(rf"^\| .*{re.escape(words)}.*", table, re.M)
        assert f"`{path}`" in row


def test_the_public_checks_call_the_scripts_of_the_repository():
    runs = re.findall(r"^ +- run: (.*)", WORKFLOW, re.M)
    assert runs == [".ci/run", 'pip install ".[test]" && pytest', "bash .ci/floors"]
    assert '["3.10", "3.13"]' in WORKFLOW
    assert re.search(r"^permissions:\n  contents: read\n\n", WORKFLOW, re.M)
    assert "cancel-in-progress: true" in WORKFLOW
    assert "CAPTUM_MARGIN_DATA" not in WORKFLOW


def test_the_extra_of_the_api_reference_is_what_the_tests_build_it_with():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extra = re.search(r'^docs = \["(.*)"\]', text, re.M)[1]
    assert f'    "{extra}",' in text
