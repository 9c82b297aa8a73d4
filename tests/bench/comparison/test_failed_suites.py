"""A suite that fails takes none of the others with it, and is run again by itself."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison.compare import begin, compare
from bench.comparison.request import Request
from bench.comparison.suites.suite import PartFailed, Subject, Suite
from bench.comparison.suites.tasks import TasksSuite
from bench.comparison.suites.throughput import ThroughputSuite
from bench.comparison.suites.windows import WindowsSuite
from bench.gate.changes import Change, changes
from bench.records.record import Record, read_record
from bench.report import draw, labels
from bench.report import perplexity as perplexity_table
from bench.report.pair import open_cell, pair
from quantcore.errors import Unwritable
from suites import divergence, perplexity

SCHEMA = json.loads((resources.files("bench.records") / "record.schema.json").read_text("utf-8"))


class Planted(Exception):
    """What a library of a release that nobody tried might raise."""


@pytest.fixture
def request_(request_for: Request) -> Request:
    return request_for.but(
        methods=("rtn",),
        schemes=("int4-g32",),
        suites=("perplexity", "divergence", "json"),
        limit=2,
    )


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Tasks raise on the quantized model until this is undone."""

    def fails(suite: TasksSuite, subject: Subject, *arguments: Any) -> Any:
        if "RTN" in subject.label:
            raise Planted("no such attribute")
        return measure(suite, subject, *arguments)

    measure = TasksSuite.measure
    monkeypatch.setattr(TasksSuite, "measure", fails)
    return monkeypatch


def watched(patch: pytest.MonkeyPatch, *suites: type[Suite]) -> list[str]:
    """Labels of the models that these suites are asked to measure from now on."""
    asked: list[str] = []
    for suite in suites:
        measure = suite.measure

        def seen(one: Any, subject: Subject, *arguments: Any, measure: Any = measure) -> Any:
            asked.append(subject.label)
            return measure(one, subject, *arguments)

        patch.setattr(suite, "measure", seen)
    return asked


def test_what_was_measured_is_kept_and_shown(
    request_: Request, tmp_path: Path, broken: pytest.MonkeyPatch
) -> None:
    outcome = compare(request_, out=tmp_path / "run")
    base, rtn = outcome.records
    assert (base.status, rtn.status) == ("done", "partial")
    assert rtn.failures == {"json": "Planted: no such attribute"}
    assert set(rtn.metrics) == {
        rtn.cell.suites[name].metric for name in ("perplexity", "divergence")
    }
    assert outcome.failed == (rtn,)
    for path in (tmp_path / "run" / "records").glob("*.json"):
        jsonschema.validate(json.loads(path.read_text("utf-8")), SCHEMA)
    layouts = draw.write(outcome.records, outcome.folder)
    ppl = next(one for one in layouts if "ppl" in one.title)
    assert not any(entry.failed for _, row in ppl.body for entry in row)
    tasks = next(one for one in layouts if "accuracy" in one.title)
    row = dict(tasks.body)["json"]
    assert [entry.failed for entry in row] == [False, True]
    assert "FAILED RTN int4-g32, json: Planted: no such attribute" in tasks.notes
    assert "Planted: no such attribute" in (outcome.folder / "report.md").read_text("utf-8")
    # Two cells are compared on what both have.
    against = pair(open_cell("rtn@int4-g32", outcome.folder), base)
    assert [name for name, _ in against.body] == ["perplexity", "divergence"]
    assert any("json: Planted" in note for note in against.notes)


def test_the_same_command_runs_what_failed_and_that_alone(
    request_: Request, tmp_path: Path, broken: pytest.MonkeyPatch
) -> None:
    first = compare(request_, out=tmp_path / "run")
    broken.undo()
    asked = watched(broken, WindowsSuite)
    again = compare(request_, out=tmp_path / "run")
    assert asked == []
    assert [record.status for record in again.records] == ["done", "done"]
    metric = again.records[1].cell.suites["perplexity"].metric
    assert again.records[1].metrics[metric] == first.records[1].metrics[metric]
    assert not (tmp_path / "run" / "unfinished").exists()


@pytest.mark.parametrize(("fails", "stays"), [("divergence", "perplexity"), (None, "divergence")])
def test_half_of_a_pass_that_failed_is_run_again_by_itself(
    request_: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str | None,
    stays: str,
) -> None:
    request = request_.but(suites=("perplexity", "divergence"))
    other = "perplexity" if fails is None else fails
    measure = WindowsSuite.measure

    def half(suite: WindowsSuite, subject: Subject, *arguments: Any) -> Any:
        found = measure(suite, subject, *arguments)
        if "RTN" in subject.label:
            del found[suite.protocols[other].metric]
            raise PartFailed(found, {other: "Planted: half"})
        return found

    asked: list[tuple[str, list[str]]] = []

    def seen(suite: WindowsSuite, subject: Subject, *arguments: Any) -> Any:
        asked.append((subject.label, list(arguments[-1])))
        return measure(suite, subject, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(WindowsSuite, "measure", half)
        first = compare(request, out=tmp_path / "run")
    assert first.records[1].failures == {other: "Planted: half"}
    monkeypatch.setattr(WindowsSuite, "measure", seen)
    again = compare(request, out=tmp_path / "run")
    assert asked == [("int4-g32 RTN", [other])]
    whole = compare(request, out=tmp_path / "whole").records[1]
    assert again.records[1].status == "done"
    assert again.records[1].metrics == whole.metrics
    kept = first.records[1].cell.suites[stays].metric
    assert first.records[1].metrics[kept] == whole.metrics[kept]


def test_what_is_not_finite_takes_no_other_suite_of_the_pass(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = perplexity.measure_windows

    def nan(*arguments: Any, **options: Any) -> Any:
        scores = measure(*arguments, **options)
        if scores.divergence is None:
            return scores
        token_kl = scores.divergence.token_kl.clone()
        token_kl[0, 0] = float("nan")
        return replace(scores, divergence=replace(scores.divergence, token_kl=token_kl))

    monkeypatch.setattr(perplexity, "measure_windows", nan)
    rtn = compare(request_, out=tmp_path / "run").records[1]
    assert set(rtn.failures) == {"divergence"}
    assert rtn.failures["divergence"] == (
        "ArithmeticError: value: input should be a finite number, not nan"
    )
    assert rtn.cell.suites["perplexity"].metric in rtn.metrics


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken_at", ["record", "tables"])
def test_a_disk_that_fills_up_loses_nothing_that_was_measured(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_at: str
) -> None:
    """Without --out, as most people run it: the same command finds its folder again."""
    monkeypatch.chdir(tmp_path)
    target = (Record, "write") if broken_at == "record" else (draw, "_tables")
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(Unwritable, match="No space left"):
            compare(request_)
    asked = watched(monkeypatch, WindowsSuite, TasksSuite)
    outcome = compare(request_)
    assert [record.status for record in outcome.records] == ["done", "done"]
    assert not any("RTN" not in label for label in asked)
    assert bool(asked) == (broken_at == "record"), "the tables fail once all cells are there"
    assert (outcome.folder / "report.md").is_file()
    assert len(list((tmp_path / "awq-bench-runs").iterdir())) == 1


def test_a_cell_that_failed_in_part_is_tried_once(
    request_: Request, tmp_path: Path, broken: pytest.MonkeyPatch
) -> None:
    """Each test of `pytest --benchmark` asks for its cell's record; the last gets the tables."""
    asked = watched(broken, WindowsSuite)
    with begin(request_, out=tmp_path / "run") as comparison:
        for planned in comparison.plan * 2:
            comparison.measure(planned)
        assert not comparison.pending
        outcome = comparison.finish()
    assert asked == ["float32", "int4-g32 RTN"]
    assert [record.status for record in outcome.records] == ["done", "partial"]
    assert (tmp_path / "run" / "report.md").is_file()


def test_the_exit_code_says_so(
    request_: Request,
    tmp_path: Path,
    broken: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        *("compare", request_.model, "--methods", "rtn", "--schemes", "int4-g32"),
        *("--suites", "perplexity,json", "--limit", "2", "--text", str(request_.text.name)),
        *("--seqlen", "32", "--out", str(tmp_path / "run")),
    ]
    assert cli.main(arguments) == exit_codes.CELL_FAILED
    shown = capsys.readouterr()
    assert "json failed: Planted: no such attribute" in shown.err
    assert "FAILED RTN int4-g32, json" in shown.out
    assert read_record(tmp_path / "run" / "records" / "rtn_int4-g32.json").metrics


def test_divergence_without_its_reference_leaves_perplexity(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_.but(suites=("perplexity", "divergence"))
    whole = compare(request, out=tmp_path / "whole")

    def full(*_: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(divergence.Reference, "_allocate", full)
    outcome = compare(request, out=tmp_path / "run")
    for record, other in zip(outcome.records, whole.records, strict=True):
        assert record.status == "partial"
        assert record.failures == {"divergence": "OSError: no space left"}
        metric = record.cell.suites["perplexity"].metric
        assert record.metrics == {metric: other.metrics[metric]}


def test_a_perplexity_that_underflows_leaves_divergence(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_.but(suites=("perplexity", "divergence"))
    measure = perplexity.measure_windows

    def underflows(*arguments: Any, **options: Any) -> Any:
        scores = measure(*arguments, **options)
        return replace(scores, nll=[float("inf"), *scores.nll[1:]])

    monkeypatch.setattr(perplexity, "measure_windows", underflows)
    outcome = compare(request, out=tmp_path / "run")
    rtn = outcome.records[1]
    assert set(rtn.failures) == {"perplexity"}
    assert "underflowed" in rtn.failures["perplexity"]
    assert set(rtn.metrics) == {rtn.cell.suites["divergence"].metric}
    rows = perplexity_table.rows(outcome.records)
    assert [row.value for row in rows] == [None, None]
    draw.write(outcome.records, outcome.folder)


def test_a_cell_of_which_nothing_was_measured_has_failed(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise Planted("planted")

    monkeypatch.setattr(WindowsSuite, "measure", fails)
    monkeypatch.setattr(TasksSuite, "measure", fails)
    outcome = compare(request_, out=tmp_path / "run")
    assert {record.status for record in outcome.records} == {"failed"}
    assert {record.error for record in outcome.records} == {
        "perplexity, divergence, json: Planted: planted"
    }
    # What is known all the same: what was quantized and how, and each suite's own reason.
    for record in outcome.records:
        assert record.failures == dict.fromkeys(record.cell.suites, "Planted: planted")
    assert outcome.records[1].quantization.scale_dtype
    assert outcome.records[1].bits_per_weight
    for path in (tmp_path / "run" / "records").glob("*.json"):
        jsonschema.validate(json.loads(path.read_text("utf-8")), SCHEMA)


def test_a_gate_on_another_suite_still_decides(
    request_: Request, tmp_path: Path, broken: pytest.MonkeyPatch
) -> None:
    partly = compare(request_, out=tmp_path / "run").records
    broken.undo()
    whole = compare(request_, out=tmp_path / "whole").records
    found = changes((whole[0], whole[1]), (partly[0], partly[1]))
    assert isinstance(found["perplexity"], Change)
    assert isinstance(found["divergence"], Change)
    assert isinstance(found["json"], str)  # why there is no verdict


def test_a_backend_that_stands_in_is_in_the_record_of_stored_codes(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate --backend` of a folder's codes: what it fell back to is not only on the screen."""
    from bench.comparison.quantize import quantize

    folder = quantize(request_, method="rtn", scheme="int3-g32", out=tmp_path / "int3")
    request = request_.but(
        model=str(folder), methods=(), schemes=(), suites=("perplexity",), backend="auto"
    )
    (record,) = compare(request, out=tmp_path / "run").records
    assert labels.of_stage(record.cell) == "float32"
    assert any("takes 4 bits, not 3" in one for one in record.notices)
    draw.write((record,), tmp_path / "run")
    assert "takes 4 bits, not 3" in (tmp_path / "run" / "report.md").read_text("utf-8")


def test_throughput_that_fails_leaves_the_table_of_perplexity(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise Planted("planted")

    monkeypatch.setattr(ThroughputSuite, "prepare", fails)
    request = request_.but(
        suites=("perplexity", "throughput"),
        batch_sizes=(1,),
        prompt_lengths=(8,),
        new_tokens=2,
        rounds=2,
    )
    outcome = compare(request, out=tmp_path / "run")
    assert [record.status for record in outcome.records] == ["done", "partial"]
    assert set(outcome.records[1].failures) == {"throughput"}
    # It failed before anything was measured, and what was is taken up again.
    (kept,) = (tmp_path / "run" / "unfinished").glob("*.json")
    metric = outcome.records[1].cell.suites["perplexity"].metric
    assert list(json.loads(kept.read_text("utf-8"))["metrics"]) == [metric]
    alone = compare(request.but(suites=("throughput",)), out=tmp_path / "alone")
    assert alone.records[1].error == "throughput: Planted: planted"
