"""Lm-eval's configurations of the suite ``json`` call these functions.

The standard set is JSONSchemaBench (Geng et al. 2025, arXiv:2501.10868): schemas from the world
without expected values, so whatever a schema allows is right there.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any

import datasets

from quantcore.errors import InputError
from suites.items import Item, Part
from suites.json_output.items import TEMPLATES
from suites.json_output.scoring import OUTCOMES, VALIDATION, Answer, judge, parse

_LOG = logging.getLogger(__name__)

COUNTS: dict[Part, int] = {"seen": 162, "reserved": 80}
"""Evaluation items: 9 of every seen template, 10 of every reserved one."""

STANDARD_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome != "wrong_values")
"""No values are expected there."""


def dataset(part: Part, **_: Any) -> dict[str, datasets.Dataset]:
    """Give the embedded items of one part, with worked examples from the training stock.

    The first example shows a string that needs escapes.
    """
    items = TEMPLATES.items(split="evaluation", part=part, count=COUNTS[part])
    examples = TEMPLATES.items(split="train", part="seen", count=4)
    return {
        "test": datasets.Dataset.from_list(items),
        "fewshot": datasets.Dataset.from_list(examples),
    }


def process_results(doc: Item, results: list[str]) -> dict[str, float]:
    """Give the metrics of one embedded item."""
    answer = judge(results[0], schema_json=doc["schema_json"], expected_json=doc["expected_json"])
    return _metrics(answer, OUTCOMES) | {"acc": float(answer.right), "values": answer.values}


def standard_results(doc: Item, results: list[str]) -> dict[str, float]:
    """Give the metrics of a schema of the standard set, with the rung ``schema_valid`` on top."""
    answer = judge(results[0], schema_json=doc["schema_json"], expected_json=None)
    return _metrics(answer, STANDARD_OUTCOMES) | {"acc": float(answer.right)}


def _metrics(answer: Answer, outcomes: tuple[str, ...]) -> dict[str, float]:
    return {
        "strict": float(answer.strict),
        "parses": float(answer.parses),
        "schema_valid": float(answer.schema_valid),
        **{f"is_{outcome}": float(outcome == answer.outcome) for outcome in outcomes},
    }


@cache  # lm-eval asks for the documents of a task again and again
def why_left_out(schema_json: str) -> str | None:
    """Say why a schema of a standard set is not asked about, or None."""
    try:
        parse(schema_json)
    except ValueError as error:
        return f"not JSON: {error}"
    return VALIDATION.why_unusable(schema_json)


def standard_prompt(schema_json: str) -> str:
    """Ask for any value that the schema allows, with no needless spaces in the schema."""
    compact = json.dumps(json.loads(schema_json), ensure_ascii=False, separators=(",", ":"))
    return (
        "### Task\nWrite one JSON value that the schema allows. Answer with the JSON only.\n"
        f"### Schema\n{compact}\n### Answer\n"
    )


def standard_examples() -> list[Item]:
    """Give worked examples for the standard set, which has no values to take them from."""
    return [
        {"prompt": standard_prompt(schema), "target": target}
        for schema, target in (
            (
                '{"type":"object","properties":{"kind":{"enum":["well","spring"]},"depth_m":'
                '{"type":"number","minimum":0},"open":{"type":"boolean"},"names":{"type":"array",'
                '"items":{"type":"string"},"minItems":1}},"required":["kind","names"]}',
                '{"kind": "well", "depth_m": 12.5, "open": true, "names": ["Old Well"]}',
            ),
            (
                '{"type":"object","properties":{"route":{"$ref":"#/definitions/route"}},'
                '"required":["route"],"definitions":{"route":{"type":"object","properties":'
                '{"from":{"type":"string"},"stops":{"type":"integer"}},"required":["from"]}}}',
                '{"route": {"from": "North Gate", "stops": 3}}',
            ),
        )
    ]


def standard_docs(rows: datasets.Dataset) -> datasets.Dataset:
    """Keep the schemas that can be used; rows tell in ``left_out`` how many of how many cannot.

    Args:
        rows: with ``json_schema`` (JSON text) and ``unique_id``.

    Raises:
        InputError: not one can be used.
    """
    reasons = [why_left_out(text) for text in rows["json_schema"]]
    kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    left_out = len(rows) - len(kept)
    _LOG.info("%d of %d schemas cannot be used and are left out", left_out, len(rows))
    if not kept:
        raise InputError(
            f"none of the {len(rows)} schemas can be used, the first because: {reasons[0]}; "
            "the column json_schema must hold JSON schemas as text"
        )
    return datasets.Dataset.from_list(
        [
            {
                "id": row["unique_id"],
                "template": "standard",
                "part": "standard",
                "source": row["unique_id"],
                "prompt": standard_prompt(row["json_schema"]),
                "target": "",
                "schema_json": row["json_schema"],
                "left_out": left_out,
                "left_out_of": len(rows),
            }
            for row in kept
        ]
    )
