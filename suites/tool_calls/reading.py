"""Calls are read from a model's answer, in every form that instruct models give them.

Python is read as a syntax tree in which only calls with keyword arguments and literals are
allowed: nothing is ever evaluated. So a variable, a sum or a call within a call is not readable.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_FENCED = re.compile(r"```\w*[ \t]*\n(.*?)(?:```|$)", re.DOTALL)
_CLOSES = {"]": "[", "}": "{", ")": "("}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A `Call` is one call of a tool."""

    name: str
    """Dotted if it was: ``math.factorial``."""
    arguments: dict[str, Any]
    """Literals. A Python answer may hold tuples, sets, bytes and complex numbers too."""


def read_calls(answer: str) -> list[Call] | None:
    """Read an answer's calls, ``[]`` where it says so, or None where it has no readable ones.

    Python calls (alone, one a line, or in a list) are read, and JSON calls
    ``{"name": ..., "arguments": {...}}`` (alone, one after another, or in a list; the key
    ``parameters`` is taken too, and a JSON text in place of the arguments' object), with nothing
    around them. Within ``<tool_call>`` tags (all of them count) or a Markdown fence (the first
    counts) words around them do not matter, and the last closing mark may lack.
    """
    tagged = _TAGGED.findall(answer)
    if tagged:
        calls: list[Call] = []
        for body in tagged:
            read = _read(body)
            if read is None:
                return None
            calls += read
        return calls
    fenced = _FENCED.search(answer)
    return _read(fenced.group(1) if fenced else answer)


def ends_inside(text: str) -> bool:
    """Say whether the text stops within a bracket or a string in it: a call never finished."""
    open_brackets: list[str] = []
    quote = ""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "[{(":
            open_brackets.append(char)
        elif char in _CLOSES and open_brackets and open_brackets[-1] == _CLOSES[char]:
            open_brackets.pop()
        elif char in "\"'" and open_brackets:  # outside brackets it is an apostrophe
            quote = char
    return bool(open_brackets)


def is_words_only(answer: str, tool_names: Sequence[str]) -> bool:
    """Say whether the answer is text, but no attempt at a call.

    An attempt begins with a bracket, or holds a fence, a tag, a JSON call's ``"name":`` or the
    opening of a call of an offered tool.
    """
    text = answer.strip()
    if not text or text[0] in "[{" or re.search(r"```|<tool_call>|\"name\"\s*:", text):
        return False
    return not any(re.search(rf"{re.escape(name)}\s*\(", text) for name in tool_names)


def _read(body: str) -> list[Call] | None:
    """Read calls in JSON or else in Python."""
    body = body.strip()
    if not body:
        return None
    values = _json_values(body)
    return _python_calls(body) if values is None else _json_calls(values)


def _json_values(body: str) -> list[Any] | None:
    """Read JSON values one after another."""
    decoder = json.JSONDecoder(object_pairs_hook=_unrepeated, parse_constant=_refuse)
    values, position = [], 0
    try:
        while position < len(body):
            value, end = decoder.raw_decode(body, position)
            values.append(value)
            position = end + len(body[end:]) - len(body[end:].lstrip())
    except (ValueError, RecursionError):
        return None
    return values


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _json_calls(values: list[Any]) -> list[Call] | None:
    calls = []
    for value in values:
        for given in value if isinstance(value, list) else [value]:
            call = _json_call(given)
            if call is None:
                return None
            calls.append(call)
    return calls


def _json_call(given: Any) -> Call | None:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return None
    arguments = given.get("arguments", given.get("parameters"))
    if isinstance(arguments, str):
        unpacked = _json_values(arguments.strip())
        arguments = unpacked[0] if unpacked and len(unpacked) == 1 else None
    return Call(name=given["name"], arguments=arguments) if isinstance(arguments, dict) else None


def _python_calls(body: str) -> list[Call] | None:
    calls = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes in the model's strings
            statements = ast.parse(body).body
        for statement in statements:
            if not isinstance(statement, ast.Expr):
                return None
            value = statement.value
            for node in value.elts if isinstance(value, ast.List | ast.Tuple) else [value]:
                calls.append(_python_call(node))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return calls


def _python_call(node: ast.expr) -> Call:
    """Read a call, or raise ValueError: only keyword arguments that are literals will do."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call with keyword arguments alone")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise ValueError("an argument is unnamed or given twice")
        arguments[keyword.arg] = ast.literal_eval(keyword.value)
    return Call(name=_dotted_name(node.func), arguments=arguments)


def _dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError("what is called is no name")
