"""``captum-margin demo``: scans of digits explained, with nothing downloaded."""

from captum_margin.cli.demo.command import add_command

__all__ = ["add_command"]
