"""The house rules, read from the imports and the files themselves."""

import ast
import graphlib
import importlib
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


MODULE_NAMES = {module_name(path) for path in MODULES}
IMPORTS = {
    module_name(path): imported_names(path.read_text(), module_name(path))
    for path in MODULES
}


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


ABOVE_THE_WINGS = ("metrics", "viz", "cli", "explanation", "_explain")


def of_package(*names: str) -> tuple[str, ...]:
    return tuple(f"captum_margin.{name}" for name in names)


def test_the_floor_of_models_knows_nothing_above_it():
    above = of_package("attr", "influence", "neighbors", "scale", *ABOVE_THE_WINGS)
    assert violations("_model", *above) == []


def test_attr_and_influence_never_import_each_other():
    above = of_package(*ABOVE_THE_WINGS)
    assert violations("attr", *of_package("influence"), *above) == []
    assert violations("influence", *of_package("attr"), *above) == []


@pytest.mark.parametrize("wing", ["margin", "representative", "coalition"])
def test_a_wing_of_attr_stands_on_models_and_signal_alone(wing):
    allowed = of_package("_model", "signal", "_keywords", "_whole_numbers", "_notebook")
    allowed += of_package(f"attr.{wing}")
    for module, names in imports_of(f"attr/{wing}").items():
        own = {name for name in names if within(name, "captum_margin")}
        assert {n for n in own if not any(within(n, a) for a in allowed)} == set(), (
            module
        )


def test_metrics_use_the_door_to_captum_and_nothing_else_of_models():
    allowed = of_package("metrics", "_model.captum", "_version", "_whole_numbers")
    for module, names in imports_of("metrics").items():
        own = {name for name in names if within(name, "captum_margin")}
        assert {n for n in own if not any(within(n, a) for a in allowed)} == set(), (
            module
        )


WINGS = [f"attr.{wing}" for wing in ("margin", "representative", "coalition")]
WINGS += [f"cli.{wing}" for wing in ("explain", "audit", "demo")]


@pytest.mark.parametrize("wing", WINGS)
def test_nobody_outside_a_wing_imports_its_inner_files(wing):
    door = f"captum_margin.{wing}"
    inner = {name for name in MODULE_NAMES if within(name, door) and name != door}
    assert inner, "the wing is elsewhere"
    trespass = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if not within(module, door)
        for name in names
        if any(within(name, file) for file in inner)
    }
    assert trespass == set()


@pytest.mark.parametrize(
    ("hall", "shared"),
    [
        ("attr", set()),
        (
            "cli",
            {
                *("output.py", "images.py", "classifier.py"),
                *("lookup.py", "checkpoint.py", "preprocessing.py"),
            },
        ),
    ],
)
def test_no_file_lies_flat_beside_the_wings(hall, shared):
    flat = {path.name for path in (PACKAGE / hall).iterdir() if path.is_file()}
    assert flat == {"__init__.py"} | shared


def graph_of_imports() -> dict[str, set[str]]:
    """By module: the modules of this package it imports, at once or later."""
    graph = {}
    for module, names in IMPORTS.items():
        # ``from package import name`` of a submodule mentions both; only the
        # submodule is asked for.
        known = {name if name in MODULE_NAMES else parent(name) for name in names}
        found = known & MODULE_NAMES
        deepest = {n for n in found if not any(m != n and within(m, n) for m in found)}
        graph[module] = deepest - {module}
    return graph


def parent(name: str) -> str:
    return name.rpartition(".")[0]


def test_no_import_circle_deferred_ones_included():
    graph = graph_of_imports()
    assert graph["captum_margin.attr"] >= {"captum_margin.attr.margin"}
    sorter = graphlib.TopologicalSorter(graph)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_one_file_touches_captums_private_names():
    private = {
        module
        for module, names in IMPORTS.items()
        for name in names
        if within(name, "captum") and any(p.startswith("_") for p in name.split("."))
    }
    assert private == {"captum_margin._model.captum"}


def test_the_public_names_are_those_on_record():
    """A name that goes, or comes, is a decision: say it in CHANGELOG and here."""
    record = (ROOT / "tests" / "public_names.txt").read_text().split()
    halls = ("", ".attr", ".influence", ".metrics", ".neighbors", ".scale")
    found = []
    for hall in (*halls, ".signal", ".viz"):
        module = importlib.import_module("captum_margin" + hall)
        assert all(hasattr(module, name) for name in module.__all__), hall
        found += [f"{module.__name__}.{name}" for name in module.__all__]
    assert sorted(found) == record


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
