"""The API reference: a page for each public module, from the docstrings, by pdoc.

    pip install ".[docs]"
    python -m tests.documents.api_reference api

writes the pages to the folder ``api``; open ``api/index.html``. Formulas are drawn by
MathJax, which the pages load when they are read.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import types
import typing
import warnings
from pathlib import Path

import jinja2
import pdoc.doc
import pdoc.render
from pdoc.render_helpers import to_markdown_with_context

import captum_margin

#: A formula in a line, and one on lines of its own.
INLINE = re.compile(r":math:`([^`]+)`")
DISPLAY = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +\S.*| *$))*)", re.M)
#: An indented block of code after two colons.
LITERAL = re.compile(r"^( *)(.*\w)::\n\n((?:\1 +\S.*\n|\n)+)", re.M)
#: A reference with a tilde, by which Sphinx shortens the name.
SHORTENED = re.compile(r"(:(?:mod|func|class|meth|attr):`)~")
#: What Markdown would take for its own.
SPECIAL = re.compile(r"([\\`*_{}\[\]()>#+\-.!])")


def public_modules() -> list[str]:
    """The package and those below it, but for the command line's."""
    below = (found.name for found in pkgutil.iter_modules(captum_margin.__path__))
    halls = [name for name in below if not name.startswith("_") and name != "cli"]
    packages = [
        f"captum_margin.{name}"
        for name in halls
        if hasattr(importlib.import_module(f"captum_margin.{name}"), "__path__")
    ]
    return ["captum_margin", *packages]


def prepared(docstring: str) -> str:
    r"""A docstring whose formulas Markdown leaves alone, its names in full.

    pdoc hands formulas on to Markdown as they are, which takes the backslash from a
    ``\|`` and the stars from a product, and it reads none that goes over two lines.
    """
    docstring = SHORTENED.sub(r"\1", docstring)
    docstring = LITERAL.sub(_unindented, docstring + "\n")
    docstring = INLINE.sub(lambda found: rf"\\({_literal(found[1])}\\)", docstring)
    return DISPLAY.sub(
        lambda found: f"{found[1]}$${_literal(found[2])}$$\n\n", docstring
    )


def _unindented(found: re.Match[str]) -> str:
    indent, head, code = found.groups()
    return f"{indent}{head}:\n\n{textwrap.indent(textwrap.dedent(code), indent)}"


def _literal(formula: str) -> str:
    return SPECIAL.sub(r"\\\1", " ".join(formula.split()))


@jinja2.pass_context
def _to_markdown(context: jinja2.runtime.Context, docstring: str) -> str:
    return to_markdown_with_context(context, prepared(docstring))


def stand_in_for_optional_types() -> None:
    """Lets pdoc look up types of the peers extra where it is not installed."""
    try:
        import pytorch_ood.api  # noqa: F401
    except ImportError:
        api = types.ModuleType("pytorch_ood.api")
        vars(api)["Detector"] = type("Detector", (), {"__module__": api.__name__})
        sys.modules["pytorch_ood"] = types.ModuleType("pytorch_ood")
        sys.modules[api.__name__] = api


def describe_records() -> None:
    """Mends what Python says by itself of the fields of a public named tuple.

    Its constructor belongs to no module in which pdoc could look up the types, and
    "Alias for field number 0" tells nobody anything: the class describes its fields.
    """
    for module in map(importlib.import_module, public_modules()):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and hasattr(value, "_fields"):
                value.__new__.__annotations__ = typing.get_type_hints(value)
                value.__new__.__doc__ = ""
                for field in value._fields:
                    getattr(value, field).__doc__ = ""


def describe_methods(module: pdoc.doc.Module) -> None:
    """Gives methods their own docstrings back.

    Captum declares ``attribute`` as a variable with a description below it, which pdoc
    prefers to the docstring of the method that a class puts in its place.
    """
    for member in module.classes:
        for method in member.methods:
            method.docstring = inspect.getdoc(method.obj) or method.docstring


def build(folder: Path) -> None:
    """Writes the pages; what pdoc only warns of is an error here."""
    stand_in_for_optional_types()
    describe_records()
    pdoc.render.configure(
        docformat="google",
        math=True,
        show_source=False,
        footer_text=f"captum_margin {captum_margin.__version__}",
    )
    pdoc.render.env.filters["to_markdown"] = _to_markdown
    modules = {name: pdoc.doc.Module.from_name(name) for name in public_modules()}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"pdoc\b")
        for name, module in modules.items():
            describe_methods(module)
            page = folder.joinpath(*name.split(".")).with_suffix(".html")
            page.parent.mkdir(parents=True, exist_ok=True)
            made = pdoc.render.html_module(module, modules)
            page.write_text(made, encoding="utf-8")
    index = pdoc.render.html_index(modules)
    (folder / "index.html").write_text(index, encoding="utf-8")
    search = pdoc.render.search_index(modules)
    (folder / "search.js").write_text(search, encoding="utf-8")


def main() -> int:
    """Parses the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pages go")
    build(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
