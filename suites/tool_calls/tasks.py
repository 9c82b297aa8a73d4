"""The YAML files beside call these functions: items for lm-eval, and metrics of one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from suites.items import Item, Part
from suites.tool_calls import bfcl, scoring
from suites.tool_calls.items import TEMPLATES

COUNTS: dict[Part, int] = {"seen": 160, "reserved": 80}
"""Evaluation items of each part."""

EXAMPLES = ("forecast", "other_thing", "status_of_several", "which_deed", "limited_list")
"""Templates of the worked examples, in order: the first two are a call and the empty list."""


def dataset(*, part: Part, **_: Any) -> dict[str, Dataset]:
    """Give the embedded items of one part, and worked examples of the training stock."""
    items = TEMPLATES.items(split="evaluation", part=part, count=COUNTS[part])
    return {"test": Dataset.from_list(items), "fewshot": Dataset.from_list(examples())}


def standard_dataset(
    *, category: str, bfcl_data: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """Give BFCL's items of one category; no worked example is shown unless asked for.

    Raises:
        InputError: BFCL's data is not here.
    """
    items = bfcl.load(category, bfcl.data_folder(bfcl_data))
    return {"test": Dataset.from_list(items), "fewshot": Dataset.from_list(examples())}


def examples() -> list[Item]:
    """Draw one item of each of `EXAMPLES`."""
    items = TEMPLATES.items(split="train", part="seen", count=len(TEMPLATES.of("seen")))
    by_template = {item["template"]: item for item in items}
    return [by_template[name] for name in EXAMPLES]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Give the metrics of one answer to an embedded item."""
    return scoring.judge_item(doc, results[0]).metrics()


def process_standard_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Give the metrics of one answer to an item of BFCL."""
    return bfcl.judge_item(doc, results[0]).metrics()
