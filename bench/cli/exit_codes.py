"""Exit codes are the numbers that a command ends with, each with a meaning of its own."""

from __future__ import annotations

DONE, GATE_FAILED, BAD_INPUT, NO_VERDICT, CELL_FAILED = 0, 1, 2, 3, 4
INTERNAL_ERROR, INTERRUPTED = 70, 130

OF_A_COMPARISON = (DONE, BAD_INPUT, CELL_FAILED, INTERNAL_ERROR, INTERRUPTED)
"""A command that measures cells ends with one of these."""

_MEANINGS = {
    DONE: "done",
    GATE_FAILED: "a gate failed: a change is beyond its tolerance",
    BAD_INPUT: "bad usage or input; the error names the value, the rule and the fix",
    NO_VERDICT: "a gate came to no verdict; the table says what would give one",
    CELL_FAILED: "a cell or a suite failed; the others are kept, and so is why it failed",
    INTERNAL_ERROR: "internal error; please report it",
    INTERRUPTED: "interrupted (143: by SIGTERM, 129: by SIGHUP); it says what is kept",
}


def listed(*codes: int) -> str:
    """List, for the help, the codes that a command can end with; all if none is named."""
    lines = [f"  {code:<4} {_MEANINGS[code]}" for code in codes or _MEANINGS]
    return "\n".join(["\nexit codes:", *lines])
