"""Every public name says what it takes, gives, raises and costs, and shows it."""

import ast
import doctest
import functools
import importlib
import inspect
import re

import pytest

from tests.helpers.docstring_rules import (
    complaints,
    documentation,
    is_documented_kind,
    is_public,
)
from tests.helpers.modules import module_names

PACKAGES = ["", ".attr", ".influence", ".metrics", ".neighbors", ".scale", ".signal"]
PACKAGES += [".viz"]

#: What is right although it breaks a rule, and why.
EXCEPTIONS = {
    "signal.HighPass.message": "a step of PyG's propagate, described there",
    "signal.HighPass.message_and_aggregate": "a step of PyG's propagate",
}

#: The classes and functions that stand for a publication; the rest are tools.
FROM_PAPERS = {
    "attr.CoalitionPerturbation",
    "attr.MarginSaliency",
    "attr.RepresentativeInterpretation",
    "attr.feature_coalitions",
    "influence.ActiveLearning",
    "influence.AdversarialStatistics",
    "influence.AttackDetector",
    "influence.DecisionBoundary",
    "influence.LabelNoise",
    "influence.Prototypes",
    "influence.embed_nodes",
    "influence.select_nodes",
    "metrics.average_drop",
    "metrics.grid_pointing",
    "metrics.insertion_deletion",
    "metrics.localization",
    "signal.HighPass",
    "signal.influence",
    "signal.kernel_density",
    "signal.label_disagreement",
    "signal.leave_neighborhood_out_mmd",
    "signal.margin",
    "signal.select_criticisms",
    "signal.select_prototypes",
}

PUBLICATION = re.compile(r"arxiv\.org|doi\.org|\b(19|20)\d\d\b")
PLACE = re.compile(r"\.\. math::|:math:|equation|section|case stud|algorithm", re.I)


@functools.cache
def public_names():
    """By name: what the packages export, and the public methods of the classes."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"captum_margin{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{package[1:]}.{name}".lstrip(".")] = value
    for name, value in list(found.items()):
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                if is_public(attribute) and is_documented_kind(member):
                    found[f"{name}.{attribute}"] = member
    return found


@pytest.mark.parametrize("name", public_names())
def test_docstring(name):
    value = public_names()[name]
    found = complaints(value)
    if name in FROM_PAPERS:
        text = documentation(value)
        if not (PUBLICATION.search(text) and PLACE.search(text)):
            found.append("no publication, or no place in it")
    assert bool(found) == (name in EXCEPTIONS), found


def good(x, n: int = 3, *, kind="a", **options) -> int:
    """Counts.

    Args:
        x (Tensor): Shape (N,).
        n (int, optional): How many. Default: 3.
        kind (str, optional): Of count. Default: ``"a"``
        **options: Others.

    Returns:
        int: The count.

    Raises:
        ValueError: If ``n`` is negative.

    Cost: O(N).

    >>> good([1])
    1
    """
    if n < 0:
        raise ValueError("expected n >= 0")
    return len(x)


GOOD = good.__doc__


def test_rules_let_a_good_docstring_pass():
    assert complaints(good) == []


@pytest.mark.parametrize(
    ("change", "to", "complaint"),
    [
        (GOOD, "", "no docstring"),
        ("x (Tensor): Shape (N,).", "", "x is not documented"),
        ("x (Tensor):", "x:", "x has no type"),
        ("n (int, optional): How", "n (int): How", "n is optional, or it is not"),
        ("n (int, optional): How", "n (float, optional): How", "n is int, not float"),
        ("(N,).", "(N,). Default: 1", "x has no default"),
        ("x (Tensor):", "x (Tensor, optional):", "x is optional, or it is not"),
        ("Default: 3.", "Default: 30.", "n has another default than 3, or does not"),
        ("Default: 3.", "", "n has another default than 3, or does not"),
        ('``"a"``', '``"ab"``', "kind has another default than 'a', or"),
        ("**options: Others.", "m (int): None.", "m is documented and does not exist"),
        ("Returns:", "Gives:", "no Returns"),
        ("ValueError: If", "TypeError: If", "ValueError is raised and not documented"),
        ("ValueError: If", "ValueErrors: If", "ValueErrors is no error"),
        ("Cost: O(N).", "", "no cost"),
        (">>> good", "good", "no example"),
    ],
)
def test_rules_find_what_is_wrong(monkeypatch, change, to, complaint):
    assert GOOD.count(change) == 1
    monkeypatch.setattr(good, "__doc__", GOOD.replace(change, to))
    monkeypatch.setattr(good, "__module__", "captum_margin.of_a_test")
    assert any(said.startswith(complaint) for said in complaints(good))


def test_doctest_sees_every_example():
    """It passes over what it cannot trace to a module, such as some wrapped functions.

    tests/documents/test_docs.py runs what it sees.
    """
    parser = doctest.DocTestParser()
    for module in walk_modules():
        tree = ast.parse(inspect.getsource(module))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        texts = [ast.get_docstring(node) or "" for node in nodes]
        written = sum(len(parser.get_examples(text)) for text in texts)
        seen = sum(len(one.examples) for one in doctest.DocTestFinder().find(module))
        assert seen == written, module.__name__


def walk_modules():
    return map(importlib.import_module, module_names())
