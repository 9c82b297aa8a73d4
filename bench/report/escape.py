"""What comes from outside takes a form that each output shows and none obeys.

Names of models, files and tasks, and texts of errors, may hold anything. They are kept as they are,
and escaped where they leave: once, by the function of the output they leave by.
"""

from __future__ import annotations

import re

from rich.text import Text

_BREAK = re.compile(r"\r\n|[\t\n\v\f\r\x85\u2028\u2029]")
# Controls, marks that turn the direction of writing, halves of surrogate pairs (bytes of a file's
# name that are no UTF-8), and what is no character.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
# Only what Markdown would read as its own: `tool_calls` and `[2.40, 3.02]` stay as they are, and
# `bench.report.grid.MARK` where it stands alone and where a note explains it.
_MARKDOWN = re.compile(
    r"""
      [\\`|~$]
    | < (?=[A-Za-z/!?])                     # a tag, a comment, an address
    | & (?=\#?\w+;)                         # an entity
    | \] (?=[(:])                           # a link, an image, a definition of one
    | (?<!\S) \#                            # a heading, and the end of one
    | (?<![^\W_]) _ | _ (?![^\W_])          # emphasis, which no underscore within a word is
    | (?<=\S) \* | \* (?! \s | $ | :\ more\ than\ chance )
    | ^ > | ^ [-+*] (?=[-+*\ ]) | ^ [+*] $  # a quotation, a list, a rule
    | ^ \[ (?=[xX\ ]\])                     # a box to tick
    """,
    re.VERBOSE,
)
_NUMBERED = re.compile(r"^(\d+)(?=[.)](\s|$))")


def line(text: str) -> str:
    r"""Put the text on one line: breaks and tabs become spaces, what cannot be seen its code.

    A code is Python's, such as ``\x1b`` of the escape character.
    """
    return _UNSEEN.sub(_code, _BREAK.sub(" ", text))


def terminal(text: str, *, style: str = "") -> Text:
    """Write a line for a rich console, in which neither controls nor markup nor emoji codes act.

    Args:
        text: what to show.
        style: of the whole line, as rich names it.
    """
    return Text(line(text), style=style)


def markdown(text: str) -> str:
    """Write a line of Markdown that shows the text: a cell, a heading, an item of a list.

    CommonMark with GitHub's tables and formulas is meant.
    """
    shown = _MARKDOWN.sub(r"\\\g<0>", line(text).strip())
    return _NUMBERED.sub(r"\1\\", shown)


def markdown_code(text: str) -> str:
    """Write inline code of Markdown, for outside of tables."""
    shown = line(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    fence = "`" * (longest + 1)
    return f"{fence}{room}{shown}{room}{fence}"


def xml(text: str) -> str:
    """Show by their codes the characters that XML 1.0 forbids.

    The writer of the document still has to escape ``<`` and the like.
    """
    return _NOT_XML.sub(_code, text)


def csv(value: object) -> object:
    """Write a cell of CSV on one line, quoted where a spreadsheet would take it for a formula.

    Anything but a text stays as it is, negative numbers too.
    """
    if not isinstance(value, str):
        return value
    shown = line(value)
    return f"'{shown}" if _FORMULA.match(shown) else shown


def chart(text: str) -> str:
    """Write a line for matplotlib, which reads formulas between two dollar signs."""
    return line(text).replace("$", r"\$")


def _code(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
