"""Records that no run wrote: every field damaged in every way, figures that samples do not give."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.comparison.compare import compare
from bench.comparison.request import Request
from bench.records import schema as record_schema
from bench.records.document import DIGEST, sealed
from bench.records.record import Record, read_record, record_of
from bench.report import breakdowns, perplexity
from bench.report import tasks as task_tables
from bench.report import throughput as throughput_tables
from bench.report.grid import markdown
from bench.report.scores import scores
from quantcore.errors import InputError

SCHEMA = jsonschema.Draft202012Validator(record_schema.schema())
SHORT = (None, -1, {}, "gone", "half")
LONG = (*SHORT, True, "x", "", 0.5, 1e300, 10**18, [], [None], {"x": 1}, "twice")
"""What stands in a field's place; or it is gone, twice as long, or half of it."""


@pytest.fixture(scope="module")
def whole(request_for: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two records with every kind of metric."""
    request = request_for.but(
        methods=("rtn",),
        schemes=("int4-g32",),
        suites=("perplexity", "divergence", "json", "throughput"),
        limit=2,
        batch_sizes=(1,),
        prompt_lengths=(8,),
        new_tokens=3,
        rounds=2,
    )
    return compare(request, out=tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture
def document(whole: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((whole / "records/rtn_int4-g32.json").read_text("utf-8"))
    return found


def fields(value: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """The way to every field; of a list to its first two entries."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields(inner, *path, key)
    if isinstance(value, list):
        for number, inner in enumerate(value[:2]):
            yield from fields(inner, *path, number)


def damaged(
    document: dict[str, Any], path: tuple[str | int, ...], ways: tuple[Any, ...]
) -> Iterator[dict[str, Any]]:
    for damage in ways:
        changed = copy.deepcopy(document)
        place: Any = changed
        for step in path[:-1]:
            place = place[step]
        was = place[path[-1]]
        if damage == "gone":
            del place[path[-1]]
        elif damage in ("twice", "half"):
            if not isinstance(was, list | str):
                continue
            place[path[-1]] = was + was if damage == "twice" else was[: len(was) // 2]
        else:
            place[path[-1]] = damage
        if changed != document:
            yield changed


def read(document: dict[str, Any]) -> Record | str:
    """A record, or why it is none."""
    try:
        return record_of(document, where="record.json", fix="remove it")
    except InputError as error:
        return str(error)


def shown(records: list[Record]) -> None:
    """All that is drawn from records, in words."""
    rows = perplexity.rows(records)
    found = scores(records)
    speeds = throughput_tables.speeds(records)
    grids = [perplexity.grid(rows), *task_tables.grids(records, found)]
    grids += breakdowns.grids(records, found)
    grids += [throughput_tables.grid(speeds, 2.0)] if speeds else []
    for grid in grids:
        markdown(grid)


@pytest.mark.parametrize(
    "ways", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_every_field_damaged_in_every_way_is_refused_by_name_or_harmless(
    whole: Path, document: dict[str, Any], ways: tuple[Any, ...]
) -> None:
    """Without its digest, so that it is no digest that finds it."""
    base = read_record(whole / "records/unquantized.json")
    tried = refused = drawn = elsewhere = 0
    del document[DIGEST]
    for way in fields(document):
        for changed in damaged(document, way, ways):
            tried += 1
            found = read(changed)
            if isinstance(found, Record):
                assert SCHEMA.is_valid(changed), way
                drawn += 1
                if ways is LONG or drawn % 10 == 1:  # intervals take most of the time
                    shown([base, found])
                continue
            refused += 1
            assert "record.json" in found
            steps = [str(step) for step in way if isinstance(step, str)]
            if not any(step in found for step in steps) and "match its id" not in found:
                elsewhere += 1  # a field that no longer fits the damaged one is named
    assert tried > 180 * len(ways)
    assert refused > 0.8 * tried
    assert drawn
    assert elsewhere < 0.01 * tried


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "null", '{"schema_version": 1}', "[" * 9999]
)
def test_what_is_no_record_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=r"record\.json is not a record .*remove it"):
        read_record(path)


def test_an_edited_number_is_refused_by_the_digest(
    document: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    document["seconds"]["evaluate"] += 1.0
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(InputError, match="does not match its own sha256: it was edited"):
        read_record(path)
    del document[DIGEST]
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(InputError, match="does not match its own sha256"):
        read_record(path)


@pytest.mark.parametrize(
    ("number", "said"),
    [("NaN", "NaN"), ("1e999", "1e999"), ("9" * 5000, "5000 digits"), ("-Infinity", "-Infinity")],
)
def test_numbers_that_nothing_counts_are_refused(
    document: dict[str, Any], tmp_path: Path, number: str, said: str
) -> None:
    path = tmp_path / "record.json"
    document["seconds"]["evaluate"] = 12345
    path.write_text(json.dumps(document).replace("12345", number), "utf-8")
    with pytest.raises(InputError, match=f"it holds .*{said}"):
        read_record(path)


def set_nll(metrics: dict[str, Any], value: float) -> None:
    metric = metrics["evaluation_ppl_32"]
    metric["window_nll"] = [value] * len(metric["window_nll"])
    metric["value"] = math.exp(value)


def better(metrics: dict[str, Any]) -> None:
    metrics["evaluation_ppl_32"]["value"] /= 2


def shorter(metrics: dict[str, Any]) -> None:
    metrics["evaluation_kl_32"]["window_kl"].pop()


def right(metrics: dict[str, Any]) -> None:
    metrics["json_acc@4"]["value"] = 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda metrics: set_nll(metrics, -5.0), r"window_nll: -5\.0 nats, below 0"),
        (better, r"value: .*, where its samples give "),
        (shorter, r"window_kl: 35 samples, of 36 windows"),
        (right, r"json_acc@4\.value: 1\.0, where its samples give "),
        (lambda metrics: metrics.pop("json_acc@4"), "json_acc@4 is not there, and no failure"),
        (
            lambda metrics: metrics.update({"a_ppl_9": metrics["evaluation_ppl_32"]}),
            "a_ppl_9: none",
        ),
    ],
)
def test_figures_that_samples_do_not_give_are_refused(
    document: dict[str, Any], tmp_path: Path, change: Callable[[Any], object], said: str
) -> None:
    metrics = document["metrics"]
    assert set(metrics) >= {"evaluation_ppl_32", "evaluation_kl_32", "json_acc@4"}, set(metrics)
    change(metrics)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(sealed(document)), "utf-8")
    with pytest.raises(InputError, match=said):
        read_record(path)
