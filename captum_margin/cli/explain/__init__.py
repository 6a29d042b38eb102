"""``captum-margin explain``: why a network said what it said about a picture."""

from captum_margin.cli.explain.command import add_command

__all__ = ["add_command"]
