"""The gate: what it decides, what it refuses to decide, and what a baseline file guards."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison.compare import Comparison, compare
from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from bench.gate import baseline as baselines
from bench.gate import gate
from bench.gate import report as gate_report
from bench.gate.baseline import Measured, opened
from bench.gate.gate import Baseline, Tolerance, judge, read, write
from bench.plugin import hooks as pytest_plugin
from bench.records.record import Record, read_record
from bench.report import tables
from quantcore.errors import InputError

PERPLEXITY = "evaluation_ppl_32"


def measure(request: Request) -> Measured:
    with opened(request) as model:
        return model.measure(*request.methods, *request.schemes)


@pytest.fixture(scope="module")
def measured(asked: Request) -> Measured:
    return measure(asked)


@pytest.fixture
def base(measured: Measured, asked: Request) -> Baseline:
    return Baseline(
        unquantized=measured.unquantized,
        quantized=measured.quantized,
        declared=measured.declared,
        request=baselines._kept(asked, None),
        tolerances={
            "perplexity": Tolerance(value=0.01, reason="a test's"),
            "divergence": Tolerance(value=0.01, reason="a test's"),
            "size": Tolerance(value=0.0, reason="declared"),
        },
        made="2026-01-01T00:00:00+00:00",
    )


def changed(record: Record, change: Callable[[dict[str, Any]], None]) -> Record:
    metrics = copy.deepcopy(record.metrics)
    change(metrics)
    return replace(record, metrics=metrics)


def shifted(by: float) -> Callable[[dict[str, Any]], None]:
    def change(metrics: dict[str, Any]) -> None:
        own = metrics[PERPLEXITY]
        own["window_nll"] = [nll + by + 1e-4 * (i % 3) for i, nll in enumerate(own["window_nll"])]
        own["value"] = math.exp(statistics.fmean(own["window_nll"]))

    return change


def outcomes(result: gate.Result) -> dict[str, str]:
    return {verdict.name: verdict.outcome for verdict in result.verdicts}


def test_the_same_again_passes(base: Baseline, measured: Measured, tmp_path: Path) -> None:
    result = judge(base, tmp_path / "b.json", measured.pair, measured.declared)
    assert set(outcomes(result).values()) == {"pass"}
    assert result.outcome == "pass"


def test_a_worse_quantized_model_fails_and_both_worse_do_not(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    worse = changed(measured.quantized, shifted(0.05))
    result = judge(base, tmp_path / "b.json", (measured.unquantized, worse), measured.declared)
    assert outcomes(result)["perplexity"] == "fail"
    assert result.outcome == "fail"
    assert measured.unquantized is not None
    other = changed(measured.unquantized, shifted(0.05))
    result = judge(base, tmp_path / "b.json", (other, worse), measured.declared)
    assert result.outcome == "pass"
    # Without the unquantized model the quantized one's own outcomes are gated.
    result = judge(base, tmp_path / "b.json", (None, worse), measured.declared)
    assert outcomes(result)["perplexity"] == "fail"


def drop(metrics: dict[str, Any]) -> None:
    del metrics[PERPLEXITY]


def nan(metrics: dict[str, Any]) -> None:
    metrics[PERPLEXITY]["window_nll"][3] = float("nan")


def cut(metrics: dict[str, Any]) -> None:
    del metrics[PERPLEXITY]["window_nll"][0]


@pytest.mark.parametrize(
    ("damage", "said"),
    [(drop, "has no evaluation_ppl_32"), (nan, "NaN"), (cut, "windows where the baseline has")],
)
def test_what_was_not_measured_is_no_verdict(
    base: Baseline,
    measured: Measured,
    tmp_path: Path,
    damage: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    broken = [None if r is None else changed(r, damage) for r in measured.pair]
    result = judge(base, tmp_path / "b.json", tuple(broken), measured.declared)  # type: ignore[arg-type]
    assert outcomes(result)["perplexity"] == "no verdict"
    assert result.outcome == "no verdict"
    assert any(said in verdict.why for verdict in result.verdicts)


def test_a_failed_cell_is_no_verdict(base: Baseline, measured: Measured, tmp_path: Path) -> None:
    failed = replace(measured.quantized, status="failed", error="it is NaN", metrics={})
    result = judge(base, tmp_path / "b.json", (measured.unquantized, failed), measured.declared)
    assert result.outcome == "no verdict"
    assert "it is NaN" in result.verdicts[0].why


@pytest.mark.parametrize(
    ("name", "value"),
    [("source", "0" * 64), ("method", "rtn"), ("scheme", "int3-g32"), ("calibration", None)],
)
def test_another_declaration_is_no_verdict_and_named(
    base: Baseline, measured: Measured, tmp_path: Path, name: str, value: object
) -> None:
    worse = changed(measured.quantized, shifted(9.0))
    declared = {**measured.declared, name: value}
    result = judge(base, tmp_path / "b.json", (measured.unquantized, worse), declared)
    assert result.outcome == "no verdict"
    (part,) = result.differing
    assert name in part
    assert part in "".join(gate_report.grid(result).notes)


def test_other_sequences_of_the_same_calibration_are_the_same_declaration(
    base: Baseline, asked: Request, tmp_path: Path
) -> None:
    again = measure(replace(asked, calibration_seed=1))
    own, other = (one.cell.calibration for one in (base.quantized, again.quantized))
    assert own is not None
    assert other is not None
    assert own["sha256"] != other["sha256"]
    assert judge(base, tmp_path / "b.json", again.pair, again.declared).differing == {}


def test_a_file_comes_back_whole(base: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    assert read(path) == base
    with pytest.raises(InputError, match="is there already"):
        write(base, path, force=False)
    write(base, path, force=True)


def edited(text: str) -> str:
    return text.replace('"value": 0.01', '"value": 0.9', 1)


def older(text: str) -> str:
    return text.replace('"baseline_version": 1', '"baseline_version": 0')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edited, "edited by hand"),
        (older, "has version 0, and this program reads 1"),
        (lambda text: text[: len(text) // 2], "damaged, cut off"),
        (lambda text: "", "damaged, cut off"),
        (lambda text: "[]", "was not written by"),
        (lambda text: '{"schema_version": 1}', "was not written by"),
    ],
)
def test_a_damaged_file_is_refused(
    base: Baseline, tmp_path: Path, damage: Callable[[str], str], said: str
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(InputError, match=said):
        read(path)
    assert cli.main(["gate", "--baseline", str(path)]) == exit_codes.BAD_INPUT


def test_reports_for_people_and_machines(
    base: Baseline, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    worse = changed(measured.quantized, shifted(0.05))
    results = [
        judge(base, tmp_path / "b.json", measured.pair, measured.declared),
        judge(base, tmp_path / "b.json", (measured.unquantized, worse), measured.declared),
    ]
    gate_report.write(results, tmp_path / "report")
    root = ElementTree.fromstring((tmp_path / "report" / "gate.xml").read_text("utf-8"))
    assert [suite.get("failures") for suite in root] == ["0", "1"]
    failure = root.find(".//failure")
    assert failure is not None
    assert "allowed +1.01 %" in str(failure.get("message"))
    found = json.loads((tmp_path / "report" / "gate.json").read_text("utf-8"))
    assert [one["outcome"] for one in found] == ["pass", "fail"]
    units = {one["name"]: one["unit"] for one in found[0]["gates"]}
    assert units["perplexity"] == "natural logarithm of the ratio"
    assert "FAIL" in summary.read_text("utf-8")
    assert summary.read_text("utf-8") == (tmp_path / "report" / "gate.md").read_text("utf-8")


def test_every_file_that_is_named_is_read(
    base: Baseline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(base, tmp_path / "b.json", force=False)
    (tmp_path / "damaged.json").write_text("{", "utf-8")
    once = ["--baseline", str(tmp_path / "damaged.json"), "--baseline", str(tmp_path / "b.json")]
    assert cli.main(["gate", *once]) == exit_codes.BAD_INPUT
    assert "damaged.json is no JSON document" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_changes_no_failure(
    base: Baseline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "nowhere" / "summary.md"))
    path = tmp_path / "b.json"
    write(replace(base, quantized=changed(base.quantized, shifted(-0.5))), path, force=False)
    assert cli.main(["gate", "--baseline", str(path)]) == exit_codes.GATE_FAILED
    assert "no report: " in capsys.readouterr().err
    path = tmp_path / "same.json"
    write(base, path, force=False)
    assert cli.main(["gate", "--baseline", str(path)]) == exit_codes.BAD_INPUT


def test_changes_are_shown_in_their_units() -> None:
    found = [gate.shown("perplexity", value) for value in (0.0, -0.0, 0.0031, float("inf"))]
    assert found == ["+0.00 %", "+0.00 %", "+0.31 %", "unbounded"]
    assert gate.shown("divergence", 0.0012) == "+0.0012 nats"
    assert gate.shown("json", -0.0123) == "-1.2 points"
    assert gate.shown("throughput", 0.05) == "+4.88 %"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("perplexity", -4.12e-8, "-4.1e-06 %"),
        ("perplexity", 5.123e-5, "+0.0051 %"),
        ("perplexity", 2.01e-5, "+0.0020 %"),
        ("size", 1.26e-4, "+0.013 %"),
        ("divergence", 0.00012, "+0.00012 nats"),
        ("divergence", 1.04e-5, "+1.0e-05 nats"),
        ("json", -0.000416, "-0.042 points"),
    ],
)
def test_a_small_change_is_shown_by_two_digits_and_never_as_none(
    name: str, value: float, said: str
) -> None:
    assert gate.shown(name, value) == said


@pytest.mark.parametrize("name", ["perplexity", "divergence", "json", "size", "throughput"])
def test_a_tolerance_is_shown_as_it_was_written(name: str) -> None:
    places = {"nats": 4, "points": 1, "%": 2}[gate.unit_of(name)]
    most = 100 if name == "throughput" else 300
    for number in (step * most / 997 for step in range(997)):
        written = f"{number:.{places}f} {gate.unit_of(name)}"
        if float(f"{number:.{places}f}") < most:
            value = gate.parsed_tolerance(name, written)
            assert gate.shown(name, value) == f"+{written}"
            assert gate.shown(name, value, written=True) == f"+{written}"
            assert gate.parsed_tolerance(name, gate.shown(name, value)) == value
    for written in ("0.12345", "1.00625", "0.00125", "1.25e-07"):
        value = gate.parsed_tolerance(name, written)
        assert gate.shown(name, value, written=True) == f"+{written} {gate.unit_of(name)}"
    # Nobody wrote this one.
    assert gate.shown("divergence", 4 / 3, written=True) == "+1.3333 nats"


def test_half_the_speed_is_half_the_speed() -> None:
    assert gate.parsed_tolerance("throughput", "50%") == pytest.approx(math.log(2))
    for text in ("100%", "250", "-1%", "inf", "nan"):
        with pytest.raises(ValueError, match=text.removesuffix("%")):
            gate.parsed_tolerance("throughput", text)


def test_the_command_measures_again_and_a_finished_comparison_serves(
    base: Baseline, asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    assert cli.main(["gate", "--baseline", str(path)]) == exit_codes.DONE
    assert "pass" in capsys.readouterr().out
    compare(asked, out=tmp_path / "run")
    judged = ["gate", "--baseline", str(path), "--run", str(tmp_path / "run")]
    assert cli.main(judged) == exit_codes.DONE


def test_a_quantized_folder_beside_its_source(
    base: Baseline, asked: Request, tmp_path: Path
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    folder = quantize(asked, method="awq", scheme="int4-g32", out=tmp_path / "folder")
    command = ["gate", str(folder), "--source", asked.model, "--baseline", str(path)]
    assert cli.main(command) == exit_codes.DONE
    other = quantize(asked, method="awq", scheme="int3-g32", out=tmp_path / "other")
    command[1] = str(other)
    assert cli.main(command) == exit_codes.NO_VERDICT


def made_of_zeros(base: Baseline, dtype: str, *, paired: bool = True) -> Baseline:
    """A baseline of this dtype whose reruns all gave the same to the last bit."""
    quantized = replace(base.quantized, cell=replace(base.quantized.cell, dtype=dtype))
    base = replace(base, quantized=quantized, unquantized=base.unquantized if paired else None)
    own = gate.own_changes(base)
    samples = {name: list(own[name].values) for name in ("perplexity", "divergence")}
    reruns = [gate.Rerun(what=what, drawn=False, samples=samples) for what in ("one", "other")]
    return replace(
        base,
        reruns=tuple(reruns),
        tolerances={
            name: baselines._tolerance(name, None, reruns, own[name], gates=2) for name in samples
        },
    )


# What other instruction sets changed at most: the mean, and the deviation of windows.
MEASURED = {
    "float32": {"perplexity": (5e-7, 8e-7), "divergence": (3e-6, 4e-7)},
    "bfloat16": {"perplexity": (2e-4, 8e-3), "divergence": (5e-5, 3e-3)},
}


@pytest.mark.parametrize("dtype", MEASURED)
@pytest.mark.parametrize("sign", [1, -1])
def test_another_instruction_set_passes_where_reruns_showed_nothing(
    base: Baseline, tmp_path: Path, dtype: str, sign: int
) -> None:
    made = made_of_zeros(base, dtype)
    random = np.random.default_rng(0)

    def rounded(metrics: dict[str, Any]) -> None:
        for suite, samples in (("perplexity", "window_nll"), ("divergence", "window_kl")):
            own = metrics[made.quantized.cell.suites[suite]["metric"]]
            mean, deviation = MEASURED[dtype][suite]
            noise = random.normal(sign * mean, deviation, len(own[samples]))
            own[samples] = (np.asarray(own[samples]) + noise).tolist()

    for _ in range(100):
        now = changed(made.quantized, rounded)
        result = judge(made, tmp_path / "b.json", (made.unquantized, now), made.declared)
        assert outcomes(result) == {"perplexity": "pass", "divergence": "pass"}
    table = tables.markdown(gate_report.grid(result))
    assert "+0.00 " not in table
    assert "+0.0000 " not in table


@pytest.mark.parametrize(("dtype", "worse"), [("float32", 1e-4), ("bfloat16", 0.02)])
@pytest.mark.parametrize("paired", [True, False])
def test_a_real_change_still_fails_where_reruns_showed_nothing(
    base: Baseline, tmp_path: Path, dtype: str, worse: float, paired: bool
) -> None:
    made = made_of_zeros(base, dtype, paired=paired)

    def shift(metrics: dict[str, Any]) -> None:
        own = metrics[PERPLEXITY]
        own["window_nll"] = [nll + worse for nll in own["window_nll"]]

    now = changed(made.quantized, shift)
    result = judge(made, tmp_path / "b.json", (made.unquantized, now), made.declared)
    assert outcomes(result)["perplexity"] == "fail"


def test_a_size_takes_no_part_in_what_bounds_err_by(base: Baseline, tmp_path: Path) -> None:
    pair = base.unquantized, base.quantized

    def said(*names: str) -> str:
        some = replace(base, tolerances={name: base.tolerances[name] for name in names})
        return gate_report.grid(judge(some, tmp_path / "b.json", pair, base.declared)).notes[0]

    assert "errs with probability 0.05: a gate passes" in said("perplexity")
    assert "errs with probability 0.05 (size is exact): a gate" in said("perplexity", "size")
    assert "0.05 / 2 (size is exact): a gate" in said("perplexity", "divergence", "size")


RECORDS = Path(__file__).parents[3] / "results/reference/tasks/records"


def of_tasks(now: str) -> tuple[Baseline, tuple[Record, Record]]:
    """INT3-g128 AWQ + clip with its tasks as a baseline, and another cell's outcomes as its own."""
    unquantized, before, after = (
        read_record(RECORDS / f"{name}.json")
        for name in ("unquantized", "awq+clip_int3-g128", f"awq+clip_{now}")
    )
    measured = replace(after, cell=before.cell, stored_bytes=before.stored_bytes)
    names = ("json", "tool_calls", "multilingual", "code", "long_prompt", "size")
    made = Baseline(
        unquantized=unquantized,
        quantized=before,
        declared=gate.declared_of(before.cell),
        request={"model": "reference"},
        tolerances={name: Tolerance(value=0.02, reason="a test's") for name in names},
    )
    return made, (unquantized, measured)


def test_an_item_that_flips_by_rounding_passes_and_lost_ones_do_not(tmp_path: Path) -> None:
    made, (unquantized, quantized) = of_tasks("int3-g128")
    cell = replace(made.quantized.cell, dtype="bfloat16")
    made = replace(made, quantized=replace(made.quantized, cell=cell))
    own = gate.own_changes(made)["json"]
    reruns = [gate.Rerun(what="again", drawn=False, samples={"json": list(own.values)})] * 2
    allowed = baselines._tolerance("json", None, reruns, own, gates=1)
    made = replace(made, tolerances={"json": allowed}, reruns=tuple(reruns))

    def outcome(lost: int) -> str:
        def lose(metrics: dict[str, Any]) -> None:
            held = metrics["json_acc"]["columns"]["value"]
            for index in [n for n, value in enumerate(held) if value == 1.0][:lost]:
                held[index] = 0.0

        now = changed(replace(quantized, cell=cell), lose)
        result = judge(made, tmp_path / "b.json", (unquantized, now), made.declared)
        return outcomes(result)["json"]

    assert [outcome(lost) for lost in (0, 1, 30)] == ["pass", "pass", "fail"]


def test_every_task_suite_is_gated(tmp_path: Path) -> None:
    made, same = of_tasks("int3-g128")
    result = judge(made, tmp_path / "b.json", same, made.declared)
    assert set(outcomes(result).values()) == {"pass"}
    made, worse = of_tasks("int2-g64")
    result = judge(made, tmp_path / "b.json", worse, made.declared)
    found = outcomes(result)
    assert found.pop("size") == "pass"
    # INT2 costs these two no more than INT3 does, as far as their items tell.
    unsure = {found.pop("multilingual"), found.pop("long_prompt")}
    assert unsure == {"no verdict"}
    assert found == {"json": "fail", "tool_calls": "fail", "code": "fail"}
    for verdict in result.verdicts:
        assert verdict.decision is not None
        assert (verdict.decision.units_needed is None) == (verdict.outcome != "no verdict")
    before, after = (one.metrics["json_acc"]["value"] for one in (made.quantized, worse[1]))
    (decision,) = [v.decision for v in result.verdicts if v.name == "json"]
    assert decision is not None
    assert decision.change == pytest.approx(before - after, abs=1e-12)


def test_a_suite_with_little_to_lose_is_told(tmp_path: Path) -> None:
    made, same = of_tasks("int3-g128")
    held = made.quantized.metrics["json_acc"]["columns"]["value"]
    few = [1.0 if number < 3 else 0.0 for number in range(len(held))]
    metrics = copy.deepcopy(made.quantized.metrics)
    metrics["json_acc"]["columns"]["value"] = few
    poor = replace(made.quantized, metrics=metrics)
    zeros = {"json": [0.0] * len(held)}
    reruns = tuple(gate.Rerun(what=f"{n}", drawn=True, samples=zeros) for n in range(5))
    made = replace(made, quantized=poor, reruns=reruns)
    result = judge(made, tmp_path / "b.json", (same[0], poor), made.declared)
    assert outcomes(result)["json"] == "pass"
    assert any("json can hardly fail" in note for note in gate_report.grid(result).notes)


def test_suites_that_were_measured_besides_do_not_matter(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    suites = {**measured.quantized.cell.suites, "json": {"metric": "json_acc"}}
    more = replace(measured.quantized, cell=replace(measured.quantized.cell, suites=suites))
    result = judge(base, tmp_path / "b.json", (measured.unquantized, more), measured.declared)
    assert result.outcome == "pass"
    fewer = {name: suite for name, suite in suites.items() if name == "divergence"}
    less = replace(measured.quantized, cell=replace(measured.quantized.cell, suites=fewer))
    result = judge(base, tmp_path / "b.json", (measured.unquantized, less), measured.declared)
    assert list(result.differing) == ["suite perplexity"]
    assert result.outcome == "no verdict"


def test_items_of_another_suite_version_are_no_verdict(tmp_path: Path) -> None:
    made, (unquantized, measured) = of_tasks("int2-g64")
    suites = copy.deepcopy(measured.cell.suites)
    suites["json"]["items_sha256"] = "0" * 64
    other = replace(measured, cell=replace(measured.cell, suites=suites))
    result = judge(made, tmp_path / "b.json", (unquantized, other), made.declared)
    assert result.outcome == "no verdict"
    assert list(result.differing) == ["suite json"]
    assert "suite json" in result.verdicts[0].why


def timed(record: Record, slower: float, **environment: Any) -> Record:
    """With speeds of its own: 1.5 times the unquantized model's, divided by ``slower``."""

    def runs(speed: float) -> list[dict[str, Any]]:
        return [
            {
                "batch_size": batch,
                "prompt_tokens": 16,
                "round": number,
                "first_token_s": 0.1,
                "step_s": [0.01 * (1 + 0.01 * ((number + batch) % 3)) / speed] * 4,
            }
            for number in range(8)
            for batch in (1, 4)
        ]

    metric = {
        "value": 1.5 / slower,
        "unquantized": {"runs": runs(1.0)},
        "backends": {"cpu": {"runs": runs(1.5 / slower)}},
    }
    cell = replace(
        record.cell, suites={**record.cell.suites, "throughput": {"metric": "throughput"}}
    )
    return replace(
        record,
        cell=cell,
        metrics={**record.metrics, "throughput": metric},
        environment={**record.environment, **environment},
    )


@pytest.mark.parametrize(
    ("slower", "environment", "outcome"),
    [
        (1.0, {}, "pass"),
        (1.02, {}, "pass"),
        (1.3, {}, "fail"),
        (1.3, {"cpu": "another"}, "no verdict"),
        (1.0, {"packages": {"torch": "9"}}, "no verdict"),
    ],
)
def test_speed_is_gated_where_it_was_measured(
    base: Baseline,
    measured: Measured,
    tmp_path: Path,
    slower: float,
    environment: dict[str, Any],
    outcome: str,
) -> None:
    made = replace(
        base,
        quantized=timed(base.quantized, 1.0),
        tolerances={"throughput": Tolerance(value=0.05, reason="a test's")},
    )
    again = timed(measured.quantized, slower, **environment)
    result = judge(made, tmp_path / "b.json", (measured.unquantized, again), measured.declared)
    assert outcomes(result) == {"throughput": outcome}
    if environment:
        assert any(next(iter(environment)) in w.lower() or "torch" in w for w in result.warnings)


def test_an_unquantized_model_that_moved_is_told(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    def worse(metrics: dict[str, Any]) -> None:
        metrics[PERPLEXITY]["value"] *= 1.5
        shifted(0.4)(metrics)

    assert measured.unquantized is not None
    moved = tuple(changed(one, worse) for one in (measured.unquantized, measured.quantized))
    result = judge(base, tmp_path / "b.json", (moved[0], moved[1]), measured.declared)
    assert result.outcome == "pass"
    assert any("perplexity of the unquantized model" in one for one in result.warnings)


def test_a_baseline_without_gates_decides_nothing(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    empty = replace(base, tolerances={})
    result = judge(empty, tmp_path / "b.json", measured.pair, measured.declared)
    assert result.outcome == "no verdict"


def never(*_: object, **__: object) -> Record:
    raise AssertionError("measured, though the declaration differs")


def test_another_models_baseline_is_no_verdict_before_anything_is_measured(
    base: Baseline,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(Comparison, "measure", never)
    assert cli.main(["gate", str(other), "--baseline", str(path)]) == exit_codes.NO_VERDICT
    assert "source weights" in capsys.readouterr().out


def test_a_run_without_the_cell_is_no_verdict_and_no_folder_is_bad_input(
    base: Baseline, asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    command = ["gate", "--baseline", str(path), "--run", str(tmp_path / "run")]
    assert cli.main(command) == exit_codes.BAD_INPUT
    (tmp_path / "run").mkdir()
    assert cli.main(command) == exit_codes.NO_VERDICT
    assert "holds no records" in capsys.readouterr().out
    compare(asked, out=tmp_path / "nan")
    record = tmp_path / "nan/records/awq_int4-g32.json"
    text = record.read_text("utf-8")
    record.write_text(re.sub(r'("window_nll": \[\s*)[0-9.]+', r"\1NaN", text, count=1), "utf-8")
    assert cli.main([*command[:-1], str(tmp_path / "nan")]) == exit_codes.NO_VERDICT
    assert "NaN" in capsys.readouterr().out
    compare(replace(asked, methods=("rtn",), suites=("perplexity",)), out=tmp_path / "rtn")
    assert cli.main([*command[:-1], str(tmp_path / "rtn")]) == exit_codes.NO_VERDICT
    assert "no cell 'awq@int4-g32'" in capsys.readouterr().out


def test_baselines_of_one_model_share_it(
    base: Baseline, asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(asked, schemes=("int3-g32",))
    found = measure(other)
    third = replace(
        base,
        unquantized=found.unquantized,
        quantized=found.quantized,
        declared=found.declared,
        request=baselines._kept(other, None),
    )
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for one, path in zip((base, third), paths, strict=True):
        write(one, path, force=False)
    begun = []
    real = baselines.begin
    monkeypatch.setattr(
        baselines,
        "begin",
        lambda *a, **k: begun.append(a) or real(*a, **k),  # type: ignore[func-returns-value]
    )
    results = baselines.gate(paths)
    assert [result.outcome for result in results] == ["pass", "pass"]
    assert [result.path for result in results] == paths
    assert len(begun) == 1


def test_a_folder_alone_is_held_to_its_own_outcomes(
    base: Baseline, asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quantize(asked, method="awq", scheme="int4-g32", out=tmp_path / "folder")
    whole, text_only = tmp_path / "whole.json", tmp_path / "text.json"
    write(base, whole, force=False)
    assert cli.main(["gate", str(folder), "--baseline", str(whole)]) == exit_codes.NO_VERDICT
    said = capsys.readouterr().out
    assert "give it with --source" in said
    kept = {name: base.tolerances[name] for name in ("perplexity", "size")}
    write(replace(base, tolerances=kept), text_only, force=False)
    assert cli.main(["gate", str(folder), "--baseline", str(text_only)]) == exit_codes.DONE
    assert "the model's own outcomes" in " ".join(capsys.readouterr().out.split())


def test_what_a_folder_of_another_program_declares(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    found = baselines._declared_in(tmp_path)
    assert (found["method"], found["scheme"]) == ("awq", {"bits": 4, "group_size": 128})
    assert "hidden_size 64" in found["source"]
    assert baselines.is_quantized(str(tmp_path))


class Asked(Exception):
    """Stands for the measurement: only what is asked for is looked at."""


@pytest.mark.parametrize("way", ["gate", "rebaseline", "pytest"])
def test_local_copies_reach_what_is_measured(
    base: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    way: str,
) -> None:
    path, texts, sets = tmp_path / "b.json", tmp_path / "texts", tmp_path / "sets"
    write(base, path, force=False)
    texts.mkdir()
    asked = []

    def opened(request: Request, **_: object) -> object:
        asked.append((request.data_dir, request.tasks_data))
        raise Asked

    monkeypatch.setattr(baselines, "opened", opened)
    monkeypatch.chdir(tmp_path)
    if way == "pytest":
        fixture = pytest_plugin.AwqBench(request.config, tmp_path)
        with pytest.raises(Asked):
            fixture.gate(path, data_dir=texts, tasks_data=sets)
    else:
        words = ["gate", "--baseline", str(path)] if way == "gate" else ["rebaseline", str(path)]
        copies = ["--data-dir", str(texts), "--tasks-data", str(sets)]
        assert cli.main([*words, *copies]) == exit_codes.INTERNAL_ERROR  # `Asked`
    assert asked == [(texts, sets)]


def test_a_baseline_on_local_copies_is_gated_offline(
    asked: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """HumanEval's columns in a folder."""
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def add(x):\n",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
        "entry_point": "add",
    }
    folder = tmp_path / "sets/openai/openai_humaneval"
    folder.mkdir(parents=True)
    rows = [{**row, "task_id": f"HumanEval/{number}"} for number in range(3)]
    (folder / "test.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows), "utf-8")
    monkeypatch.setattr("quantcore.hub.unreachable", lambda: "no network here")
    on_sets = replace(
        asked,
        methods=("rtn",),
        calibration=None,
        suites=(),
        tasks=("awqbench_humaneval",),
        allow_code_execution=True,
        tasks_data=tmp_path / "sets",
    )
    found = measure(on_sets)
    path = tmp_path / "b.json"
    made = Baseline(
        unquantized=found.unquantized,
        quantized=found.quantized,
        declared=found.declared,
        request=baselines._kept(on_sets, None),
        tolerances={"awqbench_humaneval": Tolerance(value=0.1, reason="a test's")},
    )
    write(made, path, force=False)
    command = ["gate", "--baseline", str(path)]
    assert cli.main(command) == exit_codes.BAD_INPUT
    assert "give --tasks-data DIR" in capsys.readouterr().err
    assert cli.main([*command, "--tasks-data", str(tmp_path / "sets")]) == exit_codes.DONE
