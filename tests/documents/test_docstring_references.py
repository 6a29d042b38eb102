"""Every cross-reference of a docstring leads to something that is there."""

import ast
import importlib
import inspect
import re

import pytest

from tests.helpers.modules import module_names

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`~?([\w.]+)`")


def references(source):
    """Name of the class around it, if any, and what a role of a docstring names."""

    def visit(node, owner):
        if isinstance(node, ast.ClassDef):
            owner = node.name
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for name in ROLE.findall(ast.get_docstring(node) or ""):
                yield owner, name
        for child in ast.iter_child_nodes(node):
            yield from visit(child, owner)

    return list(visit(ast.parse(source), None))


def leads_from(start, name):
    """Whether a dotted name is an attribute of what it starts from, or a module."""
    for part in name.split("."):
        fields = getattr(start, "__annotations__", {}) if inspect.isclass(start) else {}
        if hasattr(start, part):
            start = getattr(start, part)
        elif part in fields:
            return True
        else:
            try:
                start = importlib.import_module(f"{start.__name__}.{part}")
            except (AttributeError, ImportError):
                return False
    return True


def is_there(module, owner, name):
    """As a name of the module, of its class, of its package, or a dotted path."""
    package = importlib.import_module(".".join(module.__name__.split(".")[:2]))
    starts = [module, package, *([getattr(module, owner)] if owner else [])]
    if any(leads_from(start, name) for start in starts):
        return True
    first, _, rest = name.partition(".")
    try:
        return bool(rest) and leads_from(importlib.import_module(first), rest)
    except ImportError:
        return False


@pytest.mark.parametrize("module", module_names())
def test_references_lead_somewhere(module):
    module = importlib.import_module(module)
    found = references(inspect.getsource(module))
    assert [name for owner, name in found if not is_there(module, owner, name)] == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("captum.attr.FeatureAblation", True),
        ("captum.attr.FeatureOblation", False),
        ("captum_margin.signal.HighPass.forward", True),
        ("HighPass", True),
        ("HighPass.backwards", False),
        ("edge_index", True),  # an annotated field of the class around it
        ("nodes", False),
        ("no_such_package.name", False),
    ],
)
def test_what_counts_as_there(name, there):
    from captum_margin.signal import protocol

    assert is_there(protocol, "Graph", name) is there


def test_references_are_found_with_their_class():
    source = '":func:`a`"\nclass B:\n    def c(self):\n        ":meth:`~d.e`"\n'
    assert references(source) == [(None, "a"), ("B", "d.e")]
