"""The house rules, read from the imports and the files themselves."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import captum_margin

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "captum_margin"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, module: str) -> set[str]:
    """Every dotted name an import statement mentions, wherever it stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level]
                base = ".".join([*parent, *([base] if base else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports_of(subpackage: str) -> dict[str, set[str]]:
    """By module of a subpackage: the names it imports."""
    return {
        module_name(path): imported_names(path.read_text(), module_name(path))
        for path in MODULES
        if path.is_relative_to(PACKAGE / subpackage)
    }


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def violations(subpackage: str, *forbidden: str) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in imports_of(subpackage).items()
        for name in sorted(names)
        if any(within(name, package) for package in forbidden)
    ]


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import a.b as c\nfrom d import e\nfrom . import f\nfrom ..g import h\n"
        "def lazy():\n    from captum._utils import common\n"
    )
    expected = {"a.b", "d", "d.e", "top.sub", "top.sub.f", "top.g", "top.g.h"}
    expected |= {"captum._utils", "captum._utils.common"}
    assert imported_names(source, "top.sub.module") == expected


def test_signal_knows_only_tensors_and_graphs():
    outside = ("attr", "influence", "metrics", "viz", "cli")
    forbidden = ("captum", *(f"captum_margin.{name}" for name in outside))
    assert violations("signal", *forbidden) == []
    allowed = {"torch", "torch_geometric", "numpy", "scipy", "captum_margin"}
    allowed |= {"sklearn", *sys.stdlib_module_names}  # k-means of sparse features
    for module, names in imports_of("signal").items():
        assert {name.split(".")[0] for name in names} <= allowed, module


def test_neighbors_search_and_know_nothing_else():
    outside = ("attr", "influence", "metrics", "viz", "cli", "scale", "explanation")
    forbidden = ("captum", *(f"captum_margin.{name}" for name in outside))
    assert violations("neighbors", *forbidden) == []
    assert violations("signal", "captum_margin.neighbors") == []


def test_scale_is_signal_and_neighbors_on_disk():
    outside = ("attr", "influence", "metrics", "viz", "cli")
    forbidden = ("captum", *(f"captum_margin.{name}" for name in outside))
    assert violations("scale", *forbidden) == []
    # An engine is the caller's: it is never imported, tqdm only to show progress.
    allowed = {"torch", "numpy", "tqdm", "captum_margin", *sys.stdlib_module_names}
    for module, names in imports_of("scale").items():
        assert {name.split(".")[0] for name in names} <= allowed, module
    for below in ("signal", "neighbors"):
        assert violations(below, "captum_margin.scale") == []


def test_attr_and_influence_never_import_each_other():
    above = tuple(
        f"captum_margin.{n}" for n in ("metrics", "viz", "cli", "explanation")
    )
    assert violations("attr", "captum_margin.influence", *above) == []
    assert violations("influence", "captum_margin.attr", *above) == []


def test_metrics_use_nothing_of_attr_but_the_door_to_captum():
    for module, names in imports_of("metrics").items():
        own = {name for name in names if within(name, "captum_margin")}
        allowed = ("captum_margin.metrics", "captum_margin.attr._captum")
        foreign = {n for n in own if not any(within(n, package) for package in allowed)}
        # `from captum_margin.attr import _captum` also mentions the package.
        assert foreign <= {"captum_margin", "captum_margin.attr"}, module
        assert "captum_margin.attr" not in foreign or any(
            within(name, "captum_margin.attr._captum") for name in own
        ), module


def test_one_file_touches_captums_private_names():
    private = {
        module
        for path in MODULES
        for module in [module_name(path)]
        for name in imported_names(path.read_text(), module)
        if within(name, "captum") and any(p.startswith("_") for p in name.split("."))
    }
    assert private == {"captum_margin.attr._captum"}


def test_no_file_is_too_long():
    files = [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in files}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name.split(".")[0] for name in json.loads(output.splitlines()[-1])}


def test_import_is_light():
    public = [
        f"captum_margin.{path.parent.name}"
        for path in sorted(PACKAGE.glob("*/__init__.py"))
        if path.parent.name != "cli"
    ]
    before = loaded_by("import captum, torch_geometric")
    after = loaded_by("import " + ", ".join(["captum_margin", *public]))
    heavy = {"skimage", "sklearn", "torchvision", "faiss", "pandas", "PIL"}
    assert (after - before) & heavy == set()
    third_party = after - before - set(sys.stdlib_module_names) - {"captum_margin"}
    assert {name for name in third_party if not name.startswith("_")} <= {"scipy"}


def test_types_are_shipped():
    assert (Path(captum_margin.__file__).parent / "py.typed").is_file()


def test_an_installed_copy_is_this_checkout():
    """The tests import the checkout; what a user gets must be the same."""
    try:
        installed = importlib.metadata.distribution("captum-margin")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("captum-margin is not installed here")
    assert installed.version == captum_margin.__version__
    names = [str(file) for file in installed.files or []]
    shipped = {
        name: Path(str(installed.locate_file(name))).read_bytes()
        for name in names
        if name.startswith("captum_margin/") and not name.endswith(".pyc")
    }
    if not shipped:
        pytest.skip("captum-margin is installed in editable form")
    checkout = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in [*MODULES, PACKAGE / "py.typed", *PACKAGE.rglob("*.j2")]
    }
    stale = {n for n in shipped | checkout if shipped.get(n) != checkout.get(n)}
    assert stale == set(), "the installed copy is another one: pip install again"
