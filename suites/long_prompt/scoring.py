"""An answer is judged here that names values from a long text.

An answer is read as its first line that holds anything: what a model says below it does not count.
The line is a list, separated by commas, semicolons or "and"; quotation marks, a full stop at the
end, articles and capitals do not matter. It is right if these are the values asked for, in order,
and no more: the prompt asks for the values only.
"""

from __future__ import annotations

import json
import re
from typing import Any

OUTCOMES = ("right", "cut_off", "empty", "distractor", "partly_right", "wrong")
"""What an answer can be; the first that fits.

- right: the values asked for, in order, and nothing else;
- cut_off: ended by the limit of tokens, in its first line;
- empty: nothing, as for prompts that do not fit the context;
- distractor: holds the value of another fact in the text (for a value that changes: an old one);
- partly_right: holds values asked for, but not all, in another order, or among other words;
- wrong: none of them.
"""


def metrics(answer: str, item: dict[str, Any]) -> dict[str, float]:
    """Give ``acc``, ``recall`` (share of the values asked for that the answer holds), and outcomes.

    Whether an answer was cut off is its own attribute ``cut_off``. One without it (of another
    harness) counts as cut off if its only line stops at a comma or a hyphen, or inside the value
    that is due.
    """
    expected: list[str] = json.loads(item["answers_json"])
    others: list[str] = json.loads(item["others_json"])
    line, ended = _first_line(answer)
    given = values_of(line)
    due = [value.casefold() for value in expected]
    recall = sum(_holds(line, value) for value in expected) / len(expected)
    cut_off = getattr(answer, "cut_off", None)
    if cut_off is None:
        cut_off = _breaks_off(line, given, due)
    if given == due:
        outcome = "right"
    elif cut_off and line and not ended:
        outcome = "cut_off"
    elif not line:
        outcome = "empty"
    elif any(_holds(line, value) for value in others):
        outcome = "distractor"
    elif recall > 0:
        outcome = "partly_right"
    else:
        outcome = "wrong"
    flags = {f"is_{one}": float(one == outcome) for one in OUTCOMES}
    return {"acc": flags["is_right"], "recall": recall, **flags}


def values_of(line: str) -> list[str]:
    """Read a list's values, in small letters: ``"The lamp, 3.47 and AB-12."`` has three."""
    pieces = re.split(r"[,;]|\band\b", line.casefold())
    bare = (re.sub(r"^(?:the|an|a)\s+", "", piece.strip(" \t\"'`*")) for piece in pieces)
    stripped = (piece.rstrip(".").strip(" \t\"'`*") for piece in bare)
    return [" ".join(piece.split()) for piece in stripped if piece]


def _first_line(answer: str) -> tuple[str, bool]:
    """Give the first line that is not blank, and whether a line break ended it."""
    text = answer.lstrip()
    line, end, _ = text.partition("\n")
    return line.strip(), bool(end)


def _holds(line: str, value: str) -> bool:
    """Say whether a line holds a value as whole words: 417 is not in 4175, 41.7 or AB-417."""
    pattern = rf"(?<![\w-])(?<!\d\.){re.escape(value)}(?![\w-])(?!\.\d)"
    return re.search(pattern, line, re.IGNORECASE) is not None


def _breaks_off(line: str, given: list[str], due: list[str]) -> bool:
    """Say whether a line looks unfinished: see `metrics`."""
    if line.endswith((",", ";", "-")):
        return True
    if not 0 < len(given) <= len(due) or given[:-1] != due[: len(given) - 1]:
        return False
    value = due[len(given) - 1]
    return given[-1] != value and value.startswith(given[-1])
