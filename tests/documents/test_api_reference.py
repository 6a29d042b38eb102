"""The API reference can be built, is complete, and shows what the docstrings say."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pdoc")

from pdoc.docstrings import convert
from pdoc.render_helpers import to_html

from tests.documents.api_reference import prepared, public_modules

ROOT = Path(__file__).resolve().parents[2]
PUBLIC_NAMES = (ROOT / "tests" / "public_names.txt").read_text().split()
#: Packages that are names of captum_margin, and have pages.
PACKAGES = set(public_modules())
ATTR = "captum_margin.attr"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """By module: the text of its page, built by the command of the README."""
    folder = tmp_path_factory.mktemp("api")
    made = subprocess.run(
        [sys.executable, "-m", "tests.documents.api_reference", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    found = {}
    for path in folder.rglob("*.html"):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        text = path.read_text(encoding="utf-8")
        found[name] = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    return found


def test_a_page_for_each_public_module_and_none_for_others(pages):
    of_names = {name.rpartition(".")[0] for name in PUBLIC_NAMES}
    assert set(pages) == of_names | {"index"} == PACKAGES | {"index"}


def test_pages_do_not_need_what_only_the_peers_extra_installs(pages, tmp_path):
    program = (
        "import sys; sys.modules['pytorch_ood'] = None; from pathlib import Path; "
        "from tests.documents.api_reference import build; build(Path(sys.argv[1]))"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "captum_margin" / "influence.html").read_text(encoding="utf-8")
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    assert page == pages["captum_margin.influence"]


def test_every_public_name_is_on_its_modules_page(pages):
    missing = []
    for full_name in PUBLIC_NAMES:
        module, _, name = full_name.rpartition(".")
        if full_name not in PACKAGES and f'id="{name}"' not in pages[module]:
            missing.append(full_name)
    assert missing == []


def test_a_method_that_stands_in_for_captums_has_its_own_words(pages):
    assert "Attributes the target's score to the parts of the inputs" in pages[ATTR]
    assert "Deriving classes are responsible" not in pages[ATTR]


def test_an_option_stands_with_its_type_and_default(pages):
    listed = re.findall(r"<li><strong>(.*?):</strong>(.*?)</li>", pages[ATTR], re.S)
    said = {name: " ".join(text.split()) for name, text in listed}
    assert said["n_evaluations (int, optional)"].endswith("Default: 800")


@pytest.mark.parametrize(
    "markup", [r":\w+:`", r":\w+:<code>", "::</p>", "Alias for field", "<code>~"]
)
def test_no_markup_is_left(pages, markup):
    assert [name for name, text in pages.items() if re.search(markup, text)] == []


def test_formulas_arrive_as_they_were_written(pages):
    shown = html.unescape(pages["captum_margin.influence"])
    assert r"$$I(i) = \| f(i) - (A^p f)(i) \|^2$$" in shown
    assert "mathjax" not in shown.lower()  # the script is cut out above


@pytest.mark.parametrize(
    "formula",
    [
        r"\| f - A^p f \|^2",
        r"\{j \in N_i : y_j = y_i\}",
        "p * q * r < x_i_j + [1](2)",
        r"\sum_i \, \big( z_i \Big/ |\{i\}|",
    ],
)
@pytest.mark.parametrize("form", [":math:`{}`", ".. math:: {}", ".. math::\n    {}"])
def test_markdown_leaves_formulas_alone(formula, form):
    source = f"It is so:\n\n{form.format(formula)}\n\nAnd so on."
    shown = html.unescape(str(to_html(convert(prepared(source), "google", None))))
    assert f"$${formula}$$" in shown or rf"\({formula}\)" in shown
    assert "And so on." in shown


def test_a_formula_may_go_over_two_lines():
    source = "x\n\n    .. math:: a +\n        b\n\n    then :math:`c\n    + d`."
    made = prepared(source)
    assert "    $$a \\+ b$$\n" in made
    assert r"then \\(c \+ d\\)." in made


def test_code_after_two_colons_is_code():
    source = "Counts.\n\nExample::\n\n    >>> 1 + 1\n    2\n\nAnd so on."
    assert prepared(source).splitlines()[2:7] == [
        "Example:",
        "",
        ">>> 1 + 1",
        "2",
        "",
    ]
