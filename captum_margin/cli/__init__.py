"""The command line ``captum-margin``: a folder a command, joined here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from captum_margin._version import __version__
from captum_margin.cli import audit, demo, explain
from captum_margin.cli.output import CommandError, any_terminal, say, to_nobody

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv (Sequence[str], optional): Arguments after the program's name.
            Default: None, those of the process

    Returns:
        int: Exit status: 0 if all was done, 1 if something was not (said in one line
        on the error stream), 2 if what ``--model`` or ``--preprocess`` names is not
        there or of the wrong kind, 130 if interrupted. Other wrong usage exits with 2;
        without a command the help is printed first.

    Example:
        >>> from captum_margin.cli import main
        >>> main(["explain", "cat.jpg", "--model", "squeezenet"])
        1
    """
    with any_terminal():
        try:
            return _run(argv)
        except BrokenPipeError:  # of the help, which nobody reads to its end
            to_nobody(sys.stdout)
            return 0


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if "run" not in args:
        parser.print_help(sys.stderr)
        parser.exit(2)
    try:
        status: int = args.run(args)
    except CommandError as error:
        say(f"error: {error}", error=True)
        status = error.status
    except KeyboardInterrupt:
        say("interrupted", error=True)
        status = 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-margin",
        description="See where an image classifier finds its evidence, and which "
        "samples of a data set are mislabelled, typical, odd or between classes.",
        epilog="`captum-margin COMMAND --help` lists the options of a command.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    demo.add_command(commands)
    explain.add_command(commands)
    audit.add_command(commands)
    return parser
