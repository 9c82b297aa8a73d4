"""Every command's parser, and the look of its help, are made here."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import NoReturn, TypeAlias

from bench.report import escape

_WIDTH = 78


class Help(argparse.RawDescriptionHelpFormatter):
    """Help has at most 80 columns on any terminal: longer lines are hard to read."""

    def __init__(self, prog: str) -> None:
        width = min(_WIDTH, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=26, width=width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Wrap text so that names with hyphens stay whole, to be searched for and copied."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """A parser escapes what was typed where its errors repeat it."""

    def error(self, message: str) -> NoReturn:
        """Print usage and the error, and exit with 2."""
        super().error(escape.line(message))


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""Commands are added to it."""


def add_command(
    commands: Commands,
    name: str,
    *,
    usage: str,
    about: str,
    description: str,
    epilog: str,
) -> Parser:
    """Add a command without options.

    Args:
        commands: the program's commands.
        name: the command's.
        usage: one line that shows how it is called.
        about: its line in the program's help.
        description: what it does, on top of its own help.
        epilog: examples, what comes out and the exit codes, below the options.
    """
    return commands.add_parser(
        name,
        usage=usage,
        help=about,
        description=filled(description),
        epilog=epilog,
        formatter_class=Help,
    )


def filled(text: str) -> str:
    """Break a paragraph into lines as long as the help's."""
    return textwrap.fill(text, _WIDTH)
