"""``captum-margin audit``: which samples of a data set deserve a look."""

from captum_margin.cli.audit.command import add_command

__all__ = ["add_command"]
