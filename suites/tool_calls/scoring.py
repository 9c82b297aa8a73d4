"""An answer is judged here: were the right tools called with the right arguments?

Calls are matched as values, never as text. Where several calls are wanted, given and wanted calls
are paired so that the fewest faults remain (a linear assignment), so their order does not matter.

When several things are wrong, the first of these decides:

1. ``cut_off``: not readable, and the token limit ended the answer. The language model says so with
   the attribute ``cut_off``; of a plain string it is inferred: it stops within an open bracket.
2. ``no_call``: a call is wanted; the answer is empty, ``[]`` or words without an attempt at one.
3. ``unparsable``: neither calls nor ``[]`` can be read from it.
4. ``called_when_none_fits``: ``[]`` is wanted, and there is a call.
5. ``wrong_count``: more calls or fewer than wanted.
6. ``wrong_tool``: a call that is left after pairing names another tool than the wanted one.
7. ``missing_argument``: one that the tool requires or the request gives.
8. ``unknown_argument``: one that the tool does not have.
9. ``wrong_type``: the value is not of the parameter's type.
10. ``wrong_value``: another value, or one for an optional argument that the request does not give.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from suites.tool_calls.reading import Call, ends_inside, is_words_only, read_calls

OUTCOMES = (
    "right",
    "cut_off",
    "no_call",
    "unparsable",
    "called_when_none_fits",
    "wrong_count",
    "wrong_tool",
    "missing_argument",
    "unknown_argument",
    "wrong_type",
    "wrong_value",
)
"""Every class of answer, ``right`` first, then in the order in which they decide."""

ArgumentFault = Literal["wrong_type", "wrong_value"]
Spec = Mapping[str, Any]
"""What a tool says of one parameter: ``type``, and maybe ``enum``, ``items``, ``properties``,
``default``."""
CheckArgument = Callable[[Spec, Sequence[Any], Any], ArgumentFault | None]
"""From a parameter's spec, its allowed values and the value given: what is wrong with it."""

_OTHER_TOOL = 1_000
"""Cost of pairing calls of different tools: above any number of faulty arguments."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A `Tool` is one that the prompt offers."""

    name: str
    parameters: Mapping[str, Spec]
    required: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A `Wanted` is a call that the request asks for."""

    name: str
    arguments: Mapping[str, Sequence[Any]]
    """The values allowed for each."""
    optional: frozenset[str] = frozenset()
    """Those of ``arguments`` that may be left out."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An `Answer` says what a judged answer is worth."""

    outcome: str
    """One of `OUTCOMES`."""
    calls_right: float
    """Right calls, out of those wanted or given, whichever are more; 1 only if ``right``."""

    def metrics(self) -> dict[str, float]:
        """Give ``acc``, ``calls_right`` and one flag ``is_<outcome>`` for each of `OUTCOMES`."""
        flags = {f"is_{outcome}": float(outcome == self.outcome) for outcome in OUTCOMES}
        return {"acc": flags["is_right"], "calls_right": self.calls_right} | flags


def judge_item(item: Mapping[str, Any], answer: str) -> Answer:
    """Judge the answer to an embedded item, by its ``tools_json`` and ``calls_json``."""
    tools = [
        Tool(
            name=tool["name"],
            parameters=tool["parameters"],
            required=frozenset(tool["required"]),
        )
        for tool in json.loads(item["tools_json"])
    ]
    by_name = {tool.name: tool for tool in tools}
    wanted = [_wanted(call, by_name[call["name"]]) for call in json.loads(item["calls_json"])]
    return judge(answer, tools=tools, wanted=wanted)


def judge(
    answer: str,
    *,
    tools: Sequence[Tool],
    wanted: Sequence[Wanted],
    check: CheckArgument | None = None,
    words_decline: bool = False,
) -> Answer:
    """Judge an answer by the rules above.

    Args:
        answer: what the model wrote; may carry ``cut_off`` (see the module).
        tools: those offered; every wanted one is among them.
        wanted: nothing, where no tool fits.
        check: judges one argument; `check_argument` unless given.
        words_decline: words without an attempt at a call are as good as ``[]``.
    """
    calls = read_calls(answer)
    if calls is None:
        return _unread(answer, tools=tools, wanted=wanted, words_decline=words_decline)
    if not wanted:
        return _whole("called_when_none_fits" if calls else "right")
    if not calls:
        return _whole("no_call")
    by_name = {tool.name: tool for tool in tools}
    faults = [
        [_faults(call, want, by_name[want.name], check or check_argument) for want in wanted]
        for call in calls
    ]
    costs = np.array(
        [[_OTHER_TOOL if "wrong_tool" in pair else len(pair) for pair in row] for row in faults]
    )
    pairs = [faults[given][want] for given, want in zip(*linear_sum_assignment(costs), strict=True)]
    calls_right = sum(not pair for pair in pairs) / max(len(calls), len(wanted))
    if len(calls) != len(wanted):
        return Answer(outcome="wrong_count", calls_right=calls_right)
    found = {fault for pair in pairs for fault in pair}
    outcome = next((name for name in OUTCOMES if name in found), "right")
    return Answer(outcome=outcome, calls_right=calls_right)


def check_argument(spec: Spec, allowed: Sequence[Any], value: Any) -> ArgumentFault | None:
    """Judge by the embedded items' rule: the type at every depth, then a value, exactly."""
    if not _has_type(spec, value):
        return "wrong_type"
    return None if value in allowed else "wrong_value"


def _has_type(spec: Spec, value: Any) -> bool:
    match spec["type"]:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list) and all(_has_type(spec["items"], one) for one in value)
        case "object":
            parts = spec["properties"]
            return isinstance(value, dict) and all(
                _has_type(parts[key], part) for key, part in value.items() if key in parts
            )
        case other:
            raise ValueError(f"{other} is no type of a parameter")


def _wanted(call: Mapping[str, Any], tool: Tool) -> Wanted:
    """Let an argument be left out or given where its value is the declared default."""
    defaults = {
        name: spec["default"]
        for name, spec in tool.parameters.items()
        if "default" in spec and call["arguments"].get(name, spec["default"]) == spec["default"]
    }
    return Wanted(
        name=call["name"],
        arguments={name: [value] for name, value in (defaults | call["arguments"]).items()},
        optional=frozenset(defaults),
    )


def _faults(call: Call, want: Wanted, tool: Tool, check: CheckArgument) -> list[str]:
    """Name a fault for each argument at fault."""
    if call.name != want.name:
        return ["wrong_tool"]
    needed = tool.required | (want.arguments.keys() - want.optional)
    faults = ["missing_argument" for _ in needed - call.arguments.keys()]
    for name, value in call.arguments.items():
        if name not in tool.parameters:
            faults.append("unknown_argument")
        elif name not in want.arguments:
            faults.append("wrong_value")
        elif fault := check(tool.parameters[name], want.arguments[name], value):
            faults.append(fault)
    return faults


def _unread(
    answer: str, *, tools: Sequence[Tool], wanted: Sequence[Wanted], words_decline: bool
) -> Answer:
    """Judge what is neither calls nor ``[]``."""
    cut_off = getattr(answer, "cut_off", None)
    if ends_inside(answer) if cut_off is None else cut_off:
        return _whole("cut_off")
    words_only = is_words_only(answer, [tool.name for tool in tools])
    if wanted:
        return _whole("no_call" if words_only or not answer.strip() else "unparsable")
    return _whole("right" if words_only and words_decline else "unparsable")


def _whole(outcome: str) -> Answer:
    """Make an answer without right calls beside wrong ones."""
    return Answer(outcome=outcome, calls_right=float(outcome == "right"))
