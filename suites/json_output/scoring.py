r"""An answer of the suite ``json`` is judged here: by a ladder, and by one outcome.

The rungs are told apart:

- ``strict``: the whole answer is JSON and nothing else, as RFC 8259 writes it. ``NaN``,
  ``Infinity`` and numbers too large to hold are refused, and so are objects with a key twice: which
  of its values counts is left to the reader (RFC 8259, section 4), so such an answer says nothing
  definite, and an answer that repeats itself must not pass as sound.
- ``parses``: the same after taking the answer out of its Markdown fence, if it has one.
- ``schema_valid``: what parses fits the schema.
- ``right``: it fits, and every value is the expected one. Numbers count by value (3.0 is 3), true
  and false are no numbers, strings count exactly, arrays in order, objects in any order of keys.

A fence costs the rung ``strict`` and no other: most programs that read models' answers take it off.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suites.json_output.validation import UnjudgedError, Validation

OUTCOMES = (
    "right",
    "right_in_fence",
    "cut_off",
    "unparsable",
    "schema_invalid",
    "wrong_values",
    "unjudged",
)
"""``right_in_fence``: right once the Markdown fence is off. ``cut_off``: does not parse and was
stopped by the token limit. ``unjudged``: the schema's validator broke down or ran past its limit on
this answer."""

VALIDATION = Validation()

_FENCE = re.compile(r"```(?:json)?(.*?)(?:\n[ \t]*```|```\s*\Z|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An `Answer` says what a judged answer is worth."""

    outcome: str
    """One of `OUTCOMES`."""
    strict: bool
    parses: bool
    schema_valid: bool
    values: float
    """Share of leaf values right, 0 to 1, as `share_right`; 0 where nothing parses or is expected.
    """

    @property
    def right(self) -> bool:
        """Say whether all is right, fence or not."""
        return self.outcome in ("right", "right_in_fence")


def judge(
    answer: str,
    *,
    schema_json: str,
    expected_json: str | None,
    validation: Validation = VALIDATION,
) -> Answer:
    """Judge one answer.

    An answer that parses is judged by what it says even if the token limit stopped it right after
    (or in chatter behind a closed fence); one that does not parse and was stopped is ``cut_off``.

    Args:
        answer: as generated. If it has the attribute ``cut_off``, that says whether the token limit
            stopped it; else an answer that ends inside a bracket or a string is taken to be cut
            off, which cannot be told from one that a model broke off by itself.
        schema_json: a schema that `Validation.why_unusable` has nothing against.
        expected_json: the right answer; None: whatever the schema allows is right.
        validation: what holds answers against schemas.
    """
    strict, text = True, answer
    try:
        value = parse(answer)
    except ValueError:
        strict, text = False, without_fence(answer)
        try:
            value = parse(text)
        except ValueError:
            stopped = getattr(answer, "cut_off", None)
            stopped = ends_open(text) if stopped is None else stopped
            return Answer(
                outcome="cut_off" if stopped else "unparsable",
                strict=False,
                parses=False,
                schema_valid=False,
                values=0.0,
            )
    share = 0.0 if expected_json is None else share_right(value, parse(expected_json))
    try:
        valid = validation.why_refused(schema_json, text) is None
    except UnjudgedError:
        outcome, valid = "unjudged", False
    else:
        if not valid:
            outcome = "schema_invalid"
        elif expected_json is not None and share < 1:
            outcome = "wrong_values"
        else:
            outcome = "right" if strict else "right_in_fence"
    return Answer(outcome=outcome, strict=strict, parses=True, schema_valid=valid, values=share)


def parse(text: str) -> Any:
    """Read the value of strict JSON; whitespace around it is part of JSON.

    Raises:
        ValueError: it is not JSON, or has a key twice, a number beyond all bounds, or brackets
            nested deeper than can be read.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"{number} is too large")
    return value


def without_fence(answer: str) -> str:
    """Give what stands in the first Markdown fence, or the answer itself if it has none.

    The fence may be marked ``json`` and may follow prose; one that is never closed reaches to the
    end, as in Markdown.
    """
    found = _FENCE.search(answer)
    return found[1] if found else answer


def ends_open(text: str) -> bool:
    """Say whether a JSON text breaks off inside a bracket or a string; prose before is skipped."""
    depth, in_string, escaped = 0, False, False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char in "{[":
            depth += 1
        elif depth and char in "}]":
            depth -= 1
        elif depth and char == '"':
            in_string = True
    return depth > 0


def leaves(value: Any) -> dict[tuple[str | int, ...], Any]:
    """Find the values that hold no others (scalars, empty objects, empty arrays), by path.

    Two JSON values are equal if and only if their leaves are. There is no recursion, as a model may
    nest deeper than Python calls may.
    """
    found: dict[tuple[str | int, ...], Any] = {}
    rest: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while rest:
        path, value = rest.pop()
        if isinstance(value, dict) and value:
            rest += [((*path, key), part) for key, part in value.items()]
        elif isinstance(value, list) and value:
            rest += [((*path, index), part) for index, part in enumerate(value)]
        else:
            found[path] = value
    return found


def share_right(value: Any, expected: Any) -> float:
    """Give the share of the leaves of either that both have alike: 1 if all is right."""
    found, wanted = leaves(value), leaves(expected)
    return _alike(found, wanted) / len(found.keys() | wanted.keys())


def _alike(
    found: Mapping[tuple[str | int, ...], Any], wanted: Mapping[tuple[str | int, ...], Any]
) -> int:
    return sum(
        _kind(found[path]) == _kind(wanted[path]) and found[path] == wanted[path]
        for path in found.keys() & wanted.keys()
    )


def _kind(value: Any) -> type:
    """Name JSON's type: all numbers are one, and true and false are not among them."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)
