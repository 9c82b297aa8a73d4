"""An answer is judged here: find the code in it, run it in the sandbox, compare.

Code is found in a Markdown fence (with prose around it or not), in the bare text (from the first
line of code on), or as the body alone. Whether it is Python is for the sandbox to say.

An answer that was cut off by the token limit is *cut off* unless it is right. Where the model's
adapter does not say so (plain lm-eval), it counts as cut off if its code ends inside a bracket or a
string, or on a line that wants another one (after a colon, a comma, an operator or a backslash).
"""

from __future__ import annotations

import io
import json
import re
import textwrap
import tokenize
from dataclasses import dataclass

from suites.code import sandbox
from suites.code.sandbox import Job, ProgramRun

VERSION = 1
"""Changes whenever the same answers could come out with another number."""

OUTCOMES = (
    "right",
    "cut_off",
    "no_code",
    "syntax_error",
    "wrong_result",
    "raised",
    "timed_out",
    "out_of_limits",
)
"""What becomes of an answer; each is in exactly one."""

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_CODE_LINE = re.compile(
    r"(?:async\s+)?def\s+\w+|class\s+\w+\s*[:(]|import\s+\w|from\s+[\w.]+\s+import\b|@\w"
)
_BODY_LINE = re.compile(
    r"return\b.*|(?:if|for|while|with)\b.*:.*|try:.*|[a-z_]\w*\s*(?:[-+*/|&%]|//|\*\*)?=[^=].*"
)
_WANTS_MORE = re.compile(r"(?:[:,\\(\[{=+\-*/%<>.]|\b(?:and|or|not|in|is|if|else|for|return))$")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A `Question` says what was asked."""

    head: str
    """The code that the answer continues or replaces; it stays before the answer's, so that what
    it imports or defines is there."""
    entry_point: str
    calls: tuple[str, ...] = ()
    """Lists of arguments, each as JSON."""
    expected: tuple[str, ...] = ()
    """What the calls must return, each as JSON."""
    tests: str | None = None
    """Python with assertions, instead of calls."""


def find_code(answer: str, entry_point: str) -> tuple[str, bool] | None:
    """Find an answer's code, and whether it is a function's body alone; None if there is none."""
    blocks = [match.group(1) for match in _FENCE.finditer(answer)]
    defines = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.M)
    named = [block for block in blocks if defines.search(block)]
    text = (named or blocks or [answer])[0]
    lines = textwrap.dedent(text).splitlines() if defines.search(text) else text.splitlines()
    for index, line in enumerate(lines):
        if _CODE_LINE.match(line):
            return _until_prose(lines[index:]), False
    while lines and not lines[0].strip():
        del lines[0]
    if not lines:
        return None
    if lines[0][0] in " \t":
        return _until_prose(lines), True
    if _BODY_LINE.fullmatch(lines[0]):
        return textwrap.indent("\n".join(lines), "    "), True
    return None


def _until_prose(lines: list[str]) -> str:
    """Keep the lines up to the first that is unindented and begins no definition or statement."""
    kept: list[str] = []
    for line in lines:
        begins = _CODE_LINE.match(line) or _BODY_LINE.fullmatch(line)
        if line and line[0] not in " \t#)]}\"'" and not begins:
            break
        kept.append(line)
    return "\n".join(kept)


def ends_open(code: str) -> bool:
    """Say whether code stops in the middle: in a bracket, a string, or before a further line."""
    stripped = code.rstrip()
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(stripped + "\n").readline):
            # A string without an end is an error's token up to 3.11, an error from 3.12 on.
            if token.type == tokenize.ERRORTOKEN and token.string in ("'", '"'):
                return True
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
                if depth < 0:  # closed more than it opened: wrong, not unfinished
                    return False
    except tokenize.TokenError:
        return True
    except SyntaxError:  # indentation that fits nowhere: wrong, not unfinished
        return False
    return bool(_WANTS_MORE.search(stripped.splitlines()[-1])) if stripped else False


def job_of(question: Question, answer: str) -> Job | None:
    """Make the job that the sandbox is to run for an answer; None if the answer has no code."""
    found = find_code(answer, question.entry_point)
    if found is None:
        return None
    code, body_only = found
    return Job(
        source=f"{question.head}{'' if body_only else chr(10) * 2}{code}\n",
        entry_point=question.entry_point,
        calls=question.calls,
        tests=question.tests,
    )


def judge(question: Question, answer: str, program: ProgramRun | None) -> str:
    """Give the outcome of an answer, by what the sandbox said of its job (None: it had no code).

    Returns:
        One of `OUTCOMES`.
    """
    outcome = "no_code" if program is None else _outcome(question, program)
    if outcome == "right":
        return outcome
    cut_off = getattr(answer, "cut_off", None)
    if cut_off is None:
        found = find_code(answer, question.entry_point)
        cut_off = outcome == "syntax_error" and found is not None and ends_open(found[0])
    return "cut_off" if cut_off else outcome


def _outcome(question: Question, program: ProgramRun) -> str:
    if program.kind == "failed":
        return "wrong_result"
    if program.kind != "finished":
        return program.kind
    right = question.tests is not None or all(
        sandbox.matches(value, json.loads(expected))
        for value, expected in zip(program.values, question.expected, strict=True)
    )
    return "right" if right else "wrong_result"


def scores(outcome: str) -> dict[str, float]:
    """Give the metrics of one answer: ``acc``, and one flag for each outcome."""
    flags = {f"is_{name}": float(name == outcome) for name in OUTCOMES}
    return {"acc": flags["is_right"]} | flags
