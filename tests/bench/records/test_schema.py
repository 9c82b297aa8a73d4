"""The record's JSON Schema agrees with the program, and refuses what is damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.comparison import compare
from bench.comparison.cells import PlannedCell
from bench.comparison.request import Request
from bench.comparison.workbench import Workbench
from bench.records import schema as record_schema
from bench.records.record import SCHEMA_VERSION, record_of
from bench.report import labels
from quantcore.errors import InputError

SCHEMA = json.loads(record_schema.FILE.read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RESULTS = Path(__file__).parents[3] / "results"


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def record() -> Any:
    return read(RESULTS / "reference" / "wikitext2" / "records" / "awq+clip_int4-g128.json")


def test_it_is_a_schema_of_this_version() -> None:
    VALIDATOR.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert SCHEMA["$id"].endswith(f":{SCHEMA_VERSION}")
    assert SCHEMA["title"].endswith(f"version {SCHEMA_VERSION}")


@pytest.mark.parametrize(
    "folder",
    sorted({p.parent for p in RESULTS.rglob("records/*.json")}),
    ids=lambda f: f.parent.name,
)
def test_committed_records_are_valid(folder: Path) -> None:
    for path in folder.glob("*.json"):
        VALIDATOR.validate(read(path))


def test_fresh_records_are_valid(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of every kind: unquantized, with no, shared and own calibration, and failed."""
    methods = ("rtn", "gptq+seq", "awq+clip")
    measure = Workbench._measure

    def fails_once(bench: Workbench, planned: PlannedCell) -> Any:
        if "AWQ" in labels.of_stage(planned.cell):
            raise ArithmeticError("planted")
        return measure(bench, planned)

    one = request_for.but(methods=methods, schemes=("int4-g32",))
    whole = compare.compare(one, out=tmp_path / "whole").folder
    monkeypatch.setattr(Workbench, "_measure", fails_once)
    partly = compare.compare(one, out=tmp_path / "partly").folder
    written = [read(path) for path in [*whole.rglob("records/*"), *partly.rglob("records/*")]]
    assert [r["status"] for r in written].count("failed") == 1
    assert len(written) == 8
    for document in written:
        VALIDATOR.validate(document)


def test_it_is_what_the_models_say() -> None:
    """`python -m bench.records.schema` writes it anew."""
    assert json.loads(json.dumps(record_schema.schema())) == SCHEMA


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of the schema that names properties, without its conditions."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for key, value in schema.items():
            if key not in ("allOf", "if", "then", "else"):
                yield from objects(value)


def test_every_property_is_described_and_every_object_closed() -> None:
    found = list(objects(SCHEMA))
    assert len(found) > 8
    for part in found:
        # Columns of items are the one object with keys of its own, whose type is said.
        assert part["additionalProperties"] is False or "items" in part["additionalProperties"]
        for name, entry in part["properties"].items():
            assert entry["description"].endswith("."), name


def _without(*path: str) -> Callable[[Any], None]:
    def damage(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return damage


def _with(value: Any, *path: str) -> Callable[[Any], None]:
    def damage(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return damage


METRIC = ("metrics", "wikitext2_ppl_1024")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_without("cell"), id="no cell"),
        pytest.param(_without("cell_id"), id="no id"),
        pytest.param(_without("cell", "seed"), id="no seed"),
        pytest.param(_without("schema_version"), id="no version"),
        pytest.param(_with(SCHEMA_VERSION + 1, "schema_version"), id="another version"),
        pytest.param(_with(str(SCHEMA_VERSION), "schema_version"), id="version as text"),
        pytest.param(_with("NaN", *METRIC, "value"), id="NaN as text"),
        pytest.param(_with(None, *METRIC, "value"), id="null value"),
        pytest.param(_with([1.0, "NaN"], *METRIC, "window_nll"), id="NaN in the windows"),
        pytest.param(_with([], *METRIC, "window_nll"), id="no windows"),
        pytest.param(_with({}, "metrics"), id="done without a metric"),
        pytest.param(_with({"value": 3.0}, "metrics", "speed"), id="unknown metric"),
        pytest.param(_with("out of memory", "error"), id="done with an error"),
        pytest.param(_with("failed", "status"), id="failed without an error"),
        pytest.param(_with("skipped", "status"), id="unknown status"),
        pytest.param(_with(None, "cell", "method"), id="a scheme without a method"),
        pytest.param(_with(None, "cell", "scheme"), id="a method without a scheme"),
        pytest.param(_with("int9-g128", "cell", "scheme"), id="impossible scheme"),
        pytest.param(_with("ABC", "cell", "model"), id="no hash"),
        pytest.param(_with({}, "quantization"), id="quantized without a report"),
        pytest.param(_with(-1.0, "seconds", "evaluate"), id="negative seconds"),
        pytest.param(_with(1.0, "second"), id="unknown field"),
        pytest.param(_with(1.0, "cell", "sede"), id="unknown field of the cell"),
    ],
)
def test_damaged_records_are_refused(record: Any, damage: Callable[[Any], None]) -> None:
    assert VALIDATOR.is_valid(record)
    damaged = copy.deepcopy(record)
    del damaged["sha256"]
    record_of(damaged, where="record.json", fix="remove it")
    damage(damaged)
    assert not VALIDATOR.is_valid(damaged)
    with pytest.raises(InputError):
        record_of(damaged, where="record.json", fix="remove it")
