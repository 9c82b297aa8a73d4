"""The committed tables are of the shipped model, and say what the findings say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import Record, read_record
from bench.reference import MODEL_FOLDER
from lab.reference.items import SUITES
from quantcore.checkpoint import sha256_of, weight_files

RESULTS = Path(__file__).parents[3] / "results" / "reference"
TASKS = RESULTS / "tasks"
METHODS = ("rtn", "gptq-actorder", "awq", "awq+clip")
SCHEMES = ("int4-g128", "int4-g32", "int3-g128", "int2-g64")


def records_of(folder: Path) -> list[Record]:
    cells = json.loads((folder / "comparison.json").read_text("utf-8"))["cells"]
    return [read_record(folder / name) for name in cells]


@pytest.fixture(scope="module")
def tasks() -> Mapping[tuple[str | None, str | None], Record]:
    return {(one.cell.method, one.cell.scheme): one for one in records_of(TASKS)}


def right(record: Record, suite: str, **facets: str) -> float:
    """Share of right answers among the items of these facets."""
    columns = record.answers[suite].columns
    chosen = [
        value
        for place, value in enumerate(columns.value)
        if all(columns.facet(name)[place] == want for name, want in facets.items())
    ]
    return sum(chosen) / len(chosen)


@pytest.mark.parametrize("folder", sorted(path.name for path in RESULTS.iterdir()))
def test_every_committed_table_is_of_the_shipped_weights(folder: str) -> None:
    shipped = sha256_of(weight_files(MODEL_FOLDER))
    for record in records_of(RESULTS / folder):
        assert record.cell.model == shipped
        assert record.status == "done"


def test_the_table_of_tasks_has_every_cell(tasks: Mapping[Any, Record]) -> None:
    assert set(tasks) == {(None, None), *((m, s) for m in METHODS for s in SCHEMES)}
    for record in tasks.values():
        for suite in SUITES:
            found = record.answers[suite]
            assert found.items == found.of_items


def test_the_unquantized_model_can_do_what_it_is_asked(tasks: Mapping[Any, Record]) -> None:
    model = tasks[None, None]
    for suite, least in (("json", 0.8), ("tool_calls", 0.8), ("code", 0.6), ("long_prompt", 0.6)):
        assert right(model, suite, part="seen") > least, suite
    for language in sorted(set(model.answers["multilingual"].columns.facet("language"))):
        assert right(model, "multilingual", part="seen", language=language) > 0.8, language


@pytest.mark.parametrize("suite", SUITES)
def test_fewer_bits_lose_more(tasks: Mapping[Any, Record], suite: str) -> None:
    # Of seen templates: of reserved ones the model answers little, or guesses among four answers.
    for method in METHODS:
        at = [right(tasks[method, scheme], suite, part="seen") for scheme in SCHEMES[1:]]
        assert at[2] < at[1] - 0.03, (method, at)
        assert at[1] <= at[0] + 0.01, (method, at)
    unquantized = right(tasks[None, None], suite, part="seen")
    assert right(tasks["rtn", "int3-g128"], suite, part="seen") < unquantized - 0.03


def test_the_findings_quote_the_tables() -> None:
    findings = (TASKS / "findings.md").read_text("utf-8")
    tables = "".join((TASKS / name).read_text("utf-8") for name in ("table.md", "tasks.md"))
    known = set(re.findall(r"\d+\.\d+", tables))
    quoted = re.findall(r"\d+\.\d+", findings)
    assert len(quoted) > 20
    assert [number for number in quoted if number not in known] == []
