"""Judgements are told to people and machines, with what a gate cannot find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.gate import report
from bench.gate.baseline import Baseline, Rerun, write
from bench.gate.judge import judge
from bench.gate.measure import Measured
from tests.bench.gate.changed import changed, of_tasks, outcomes, shifted


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
    report.write(results, tmp_path / "report")
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


def test_a_size_takes_no_part_in_what_bounds_err_by(base: Baseline, tmp_path: Path) -> None:
    pair = base.unquantized, base.quantized

    def said(*names: str) -> str:
        some = replace(base, tolerances={name: base.tolerances[name] for name in names})
        return report.grid(judge(some, tmp_path / "b.json", pair, base.declared)).notes[0]

    assert "errs with probability 0.05: a gate passes" in said("perplexity")
    assert "errs with probability 0.05 (size is exact): a gate" in said("perplexity", "size")
    assert "0.05 / 2 (size is exact): a gate" in said("perplexity", "divergence", "size")


def test_a_suite_with_little_to_lose_is_told(tmp_path: Path) -> None:
    made, same = of_tasks("int3-g128")
    items = made.quantized.answers["json"].items

    def nearly_all_wrong(metrics: dict[str, Any]) -> None:
        metrics["json_acc"]["columns"]["value"] = [1.0] * 3 + [0.0] * (items - 3)

    poor = changed(made.quantized, nearly_all_wrong)
    zeros = {"json": [0.0] * items}
    reruns = tuple(Rerun(what=f"{n}", drawn=True, samples=zeros) for n in range(5))
    made = replace(made, quantized=poor, reruns=reruns)
    result = judge(made, tmp_path / "b.json", (same[0], poor), made.declared)
    assert outcomes(result)["json"] == "pass"
    assert any("json can hardly fail" in note for note in report.grid(result).notes)
