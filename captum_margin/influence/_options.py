"""Options in the signatures and docstrings of what takes them.

A question's options are written once: names, types, defaults and texts in its
:class:`~captum_margin.influence.Settings`, and once more, names and types alone, as the
``TypedDict`` that type checkers and editors read in ``**options: Unpack[...]``. What
``help()`` and :func:`inspect.signature` show is made of the settings here.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import fields
from typing import Any, get_type_hints

from captum_margin.influence.settings import Settings

__all__ = ["arguments_of", "document_options", "name_options"]

_ENTRY = re.compile(r"^(\w+) \(([^)]*)\): (.*(?:\n +.*)*)", re.M)
_PLACEHOLDER = re.compile(r"^( *)\*\*options:.*(?:\n\1 +.*)*", re.M)


def name_options(function: Any, settings: Settings) -> None:
    """Puts each option with its default into a signature, in place of ``**options``."""
    signature = inspect.signature(function)
    named = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    types = get_type_hints(type(settings))  # not strings: pages are made of them
    options = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(settings, option.name),
            annotation=types[option.name],
        )
        for option in fields(settings)
    ]
    function.__signature__ = signature.replace(parameters=[*named, *options])


def document_options(
    text: str | None, settings: Settings, paper_settings: Settings
) -> str | None:
    """A docstring with an entry for each option in place of that of ``**options``."""
    if text is None or not (entries := _entries(settings, paper_settings)):
        return text  # python -OO

    def indented(placeholder: re.Match[str]) -> str:
        return textwrap.indent("\n".join(entries), placeholder[1])

    return _PLACEHOLDER.sub(indented, text)


def arguments_of(text: str | None) -> str:
    """The section of the arguments alone, dedented; "" under ``python -OO``."""
    cleaned = inspect.cleandoc(text or "") + "\n"
    found = re.search(r"^Args:\n(?: +.*\n)+", cleaned, re.M)
    return found[0] if found else ""


def _entries(settings: Settings, paper_settings: Settings) -> list[str]:
    """What the settings say of each option, with its default."""
    said: dict[str, tuple[str, str]] = {}
    kinds = [kind for kind in type(settings).__mro__ if issubclass(kind, Settings)]
    for kind in reversed(kinds):
        section = textwrap.dedent(arguments_of(kind.__doc__)[len("Args:\n") :])
        said |= {name: (of, text) for name, of, text in _ENTRY.findall(section)}
    return [
        _entry(
            option.name,
            *said[option.name],
            getattr(settings, option.name),
            getattr(paper_settings, option.name),
        )
        for option in fields(settings)
        if option.name in said
    ]


def _entry(name: str, kind: str, text: str, default: object, paper: object) -> str:
    kind = kind if "optional" in kind else f"{kind}, optional"
    if "Default:" not in text:
        text += f" Default: {_literal(default)}"
        text += "." if paper == default else f" (paper: {_literal(paper)})."
    return textwrap.fill(
        f"{name} ({kind}): {' '.join(text.split())}",
        width=76,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _literal(value: object) -> str:
    return f'``"{value}"``' if isinstance(value, str) else repr(value)
