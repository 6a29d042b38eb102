"""What the documents print is what happens: docstrings, README and tutorials."""

import ast
import doctest
import functools
import importlib
import os
import re
from pathlib import Path

import pytest

from tests.helpers.modules import module_names

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GUIDE = ROOT / "tutorials" / "guide.md"
TROUBLESHOOTING = ROOT / "tutorials" / "troubleshooting.md"
COMMANDS = ("pip install . && captum-margin demo", 'pip install ".[test]" && pytest')
NOTEBOOK_SECONDS = 110


@pytest.mark.parametrize("name", module_names())
def test_examples_of_docstrings(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0


@pytest.mark.parametrize(
    "path", [README, GUIDE, TROUBLESHOOTING], ids=lambda path: path.name
)
def test_code_runs_as_printed(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        # Blank lines before the code, so that a traceback names the document's line.
        offset = text.count("\n", 0, block.start(1))
        code = compile("\n" * offset + block[1], str(path), "exec")
        exec(code, namespace)
    assert "__name__" in namespace


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_prints_the_two_commands(command):
    blocks = re.findall(
        r"^```(?:bash|sh|shell|console)\n(.*?)^```",
        README.read_text(encoding="utf-8"),
        re.M | re.S,
    )
    assert any(command in block for block in blocks)


def test_ci_runs_the_readmes_commands():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = [line.removeprefix("step ") for line in script.splitlines()]
    steps = [step.replace("--quiet ", "") for step in steps]
    for command in COMMANDS:
        install, then = command.split(" && ")
        assert install in steps
        assert any(step.startswith(then) for step in steps)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@functools.cache
def said_by_the_package():
    """The strings of the source but for docstrings, "…" for what is filled in."""
    said = []
    for path in (ROOT / "captum_margin").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        documents = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", "") for part in node.values)
                said.append("".join(p if isinstance(p, str) else "…" for p in parts))
            elif isinstance(node, ast.Constant) and id(node) not in documents:
                said.append(str(node.value))
    return said


def troubles():
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    return re.findall(r"^- `([^`]+)`$", text, re.M)


def test_troubleshooting_has_a_message_and_advice_each():
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    entries = re.findall(r"^- `[^`]+`\n  \S", text, re.M)
    assert len(entries) == len(re.findall(r"^- ", text, re.M)) >= 25
    assert len(set(troubles())) == len(entries)


@pytest.mark.parametrize("message", troubles())
def test_troubleshooting_quotes_messages_of_the_package(message):
    # Whatever is quoted as "…" may be filled in, or stand in the source as it is.
    pattern = re.compile(".*".join(map(re.escape, message.split("…"))))
    assert any(pattern.search(said) for said in said_by_the_package()), (
        "no such message in the source any more: mend tutorials/troubleshooting.md"
    )


@pytest.mark.parametrize(
    "path",
    [README, *(ROOT / "tutorials").glob("*.md"), *(ROOT / ".github").glob("*.md")],
    ids=lambda path: path.name,
)
def test_links_within_the_documents(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}
            assert anchor in slugs, link


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted((ROOT / "tutorials").glob("*.ipynb")), ids=lambda path: path.name
)
def test_tutorial_runs(path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    saved = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert any(output.output_type != "error" for output in saved), "outputs not saved"
    assert not any(output.output_type == "error" for output in saved)

    data = "CAPTUM_MARGIN_DATA"
    if any(data in cell.source for cell in notebook.cells) and data not in os.environ:
        pytest.skip(f"needs weights: set {data}, see tutorials/README.md")

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = nbclient.NotebookClient(
        notebook,
        timeout=NOTEBOOK_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    assert all(cell.execution_count for cell in notebook.cells if is_run(cell))


def is_run(cell):
    return cell.cell_type == "code" and cell.source.strip()
