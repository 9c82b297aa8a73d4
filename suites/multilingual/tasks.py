"""Lm-eval's task files call these functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from suites.items import Item, Part
from suites.multilingual.items import TEMPLATES, expand
from suites.multilingual.scoring import metrics

COUNTS: dict[Part, int] = {"seen": 68, "reserved": 36}
"""Sources (items of each language): four from each template."""

FEWSHOT = 4


def evaluation_items(part: Part) -> list[Item]:
    """Give the items of all languages: the languages of one source stand together."""
    sources = TEMPLATES.stream(split="evaluation", part=part, count=COUNTS[part])
    return [one for source in sources for one in expand(source)]


def dataset(*, language: str, part: Part, **_: Any) -> dict[str, Dataset]:
    """Give one language's ``test`` and ``fewshot``; row i has the same source in all languages.

    lm-eval passes the task's ``metadata``, and what its user adds to it.
    """
    examples = TEMPLATES.stream(split="train", part="seen", count=FEWSHOT)
    rows = {
        "test": evaluation_items(part),
        "fewshot": [one for source in examples for one in expand(source)],
    }
    return {
        split: Dataset.from_list([item for item in items if item["language"] == language])
        for split, items in rows.items()
    }


def process_results(doc: Item, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Judge ``results``: each option's log-likelihood, and whether greedy decoding writes it."""
    return metrics([score for score, _ in results], doc["options"], doc["gold"])
