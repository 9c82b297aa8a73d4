"""A user leaves linears unquantized by patterns of their names.

A name is a linear's full name, ``model.layers.1.mlp.up_proj``, with the expert's number behind it
in a mixture, ``model.layers.1.mlp.experts.up_proj.3``. A pattern is one of two things:

- without wildcards it is whole parts of a name, one after the other, anywhere in it: ``up_proj``,
  ``layers.1`` and ``mlp.up_proj`` match these, but neither ``gate_up_proj`` nor ``layers.10``;
- with wildcards (``*``, ``?``, ``[...]``; ``*`` goes across dots) it is the full name, from the
  first letter to the last: ``model.layers.0.*``, ``*.up_proj``, ``*gate_up*``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from quantcore.errors import refused
from quantcore.structure import Block, Matrix

VERSION = 2
"""Of the rule above; by the first a pattern matched any piece of a name."""


def without(blocks: Sequence[Block], patterns: Sequence[str]) -> tuple[list[Block], list[str]]:
    """Give blocks with fewer linears to quantize, and what the parameters left out are called.

    Who reads what stays as it is: linears left out are rescaled when scales are folded.

    Raises:
        InputError: a pattern matches nothing, or nothing is left.
    """
    linears = {
        f"{block.name}.{name}": (block, block.matrices[name])
        for block in blocks
        for group in block.groups
        for name in group.linears
    }
    left_out: dict[str, str] = {}
    for pattern in patterns:
        matched = [name for name in linears if matches(name, pattern)]
        if not matched:
            kinds = _kinds(linears.values())
            rule = (
                f"matches no linear; {_nearly(linears, pattern)}this model has {', '.join(kinds)}"
            )
            raise refused("exclude", pattern, rule, allowed=kinds)
        for name in matched:
            block, matrix = linears[name]
            slot = "" if matrix.expert is None else f"[{matrix.expert}]"
            left_out[name] = f"{block.name}.{matrix.parameter}{slot}"
    if len(left_out) == len(linears):
        rule = "leaves no linear to quantize; exclude fewer"
        raise refused("exclude", ", ".join(patterns), rule)
    kept = [
        replace(
            block,
            groups=tuple(
                replace(
                    group,
                    linears=tuple(n for n in group.linears if f"{block.name}.{n}" not in left_out),
                )
                for group in block.groups
            ),
        )
        for block in blocks
    ]
    return kept, list(left_out.values())


def matches(name: str, pattern: str) -> bool:
    """Say whether a pattern is for the linear of that full name."""
    if _has_wildcards(pattern):
        return fnmatchcase(name, pattern)
    return f".{pattern}." in f".{name}."


def _has_wildcards(pattern: str) -> bool:
    return any(wildcard in pattern for wildcard in "*?[")


def _nearly(names: Iterable[str], pattern: str) -> str:
    """Tell the rule, where a pattern is only a piece of names, and the pattern that would match."""
    piece = pattern.strip("*")
    wider = f"*{piece}*"
    found = [name for name in names if fnmatchcase(name, wider)]
    if not piece or not found:
        return ""
    rule = (
        "a pattern with wildcards is the full name"
        if _has_wildcards(pattern)
        else "a pattern without wildcards is whole parts of a name"
    )
    return f"{rule}; '{wider}' would match {len(found)}, first {found[0]}; "


def _kinds(linears: Iterable[tuple[Block, Matrix]]) -> list[str]:
    """Name linears, each once for all blocks and experts."""
    return sorted(
        {
            f"{block.name.rpartition('.')[0]}.*.{matrix.parameter.removesuffix('.weight')}"
            + ("" if matrix.expert is None else ".*")
            for block, matrix in linears
        }
    )
