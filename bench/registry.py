"""Methods are known by name: a new method is one file and one line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, cast

from quantcore.errors import InputError, nearest
from quantcore.method import Method


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """A method entry is a line of the registry: its class is imported when it is used."""

    target: str
    """``module:Class``."""
    settings: dict[str, Any] = field(default_factory=dict)
    label: str
    """As tables and charts write it."""
    about: str


METHODS = {
    "rtn": MethodEntry(
        target="baselines.rtn:RTN",
        label="RTN",
        about="round to nearest; no calibration",
    ),
    "gptq": MethodEntry(
        target="baselines.gptq:GPTQ",
        label="GPTQ",
        about="second-order error compensation on the original model's inputs, the most active "
        "columns first; groups are consecutive inputs with grids fitted before",
    ),
    "gptq+seq": MethodEntry(
        target="baselines.gptq:GPTQ",
        settings={"sequential": True},
        label="GPTQ + seq",
        about="the same, on the quantized prefix's inputs as published (a pass of its own)",
    ),
    "gptq-group": MethodEntry(
        target="baselines.gptq:GPTQ",
        settings={"order": "group"},
        label="GPTQ, group",
        about="gptq group after group, the most active first (group-aware reordering)",
    ),
    "gptq-off": MethodEntry(
        target="baselines.gptq:GPTQ",
        settings={"order": "off"},
        label="GPTQ, no order",
        about="gptq with columns from left to right",
    ),
    "gptq-actorder": MethodEntry(
        target="baselines.gptq:GPTQ",
        settings={"order": "on"},
        label="GPTQ, act-order",
        about="gptq with groups formed in activation order, and a group index for every input "
        "(desc_act), which vLLM 0.33 refuses",
    ),
    "awq": MethodEntry(
        target="awq_impl.method:AWQ",
        label="AWQ",
        about="activation-aware scales, searched on the exact output error and folded",
    ),
    "awq+clip": MethodEntry(
        target="awq_impl.method:AWQ",
        settings={"clip": True},
        label="AWQ + clip",
        about="AWQ's scales, then weight ranges clipped per group (the paper's full method)",
    ),
    "awq-article": MethodEntry(
        target="awq_impl.article:ArticleAWQ",
        label="AWQ (article)",
        about="scales of every weight group from E[x^2], kept beside the weights (no folding)",
    ),
}


def method(name: str) -> Method:
    """Make the method of that name.

    Raises:
        InputError: unknown; names the nearest.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].target.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    return cast(Method, factory(**METHODS[name].settings))
