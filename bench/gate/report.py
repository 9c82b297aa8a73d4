"""A gate's result for people and machines: table, Markdown, JUnit XML, JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.gate.gate import (
    Noise,
    Result,
    Verdict,
    detectable_of,
    gates_of,
    measure_of,
    noise_of,
    own_changes,
    shown,
)
from bench.gate.null_runs import Rates
from bench.records.record import write_json
from bench.report import escape, tables
from bench.report.tables import Entry, Grid
from bench.stats import tolerance
from quantcore import files
from quantcore.errors import InputError, writing

MARKS = {"pass": "pass", "fail": "FAIL", "no verdict": "no verdict"}


def grid(result: Result) -> Grid:
    """One line for each gate."""
    heads = ("gate", "change", "one-sided bounds", "tolerance", "detected from", "verdict")
    noises, detected = _reruns(result)
    body = []
    for verdict in result.verdicts:
        name, decision = verdict.name, verdict.decision
        allowed = result.baseline.tolerances[name]
        cells = ["-", "-"]
        if decision is not None:
            bounds = (decision.low, decision.high)
            cells = [
                shown(name, decision.change),
                " to ".join(shown(name, bound).split(" ")[0] for bound in bounds),
            ]
        size = detected.get(name)
        cells += [
            shown(name, allowed.value, written=True),
            "-" if size is None else shown(name, size),
            MARKS[verdict.outcome],
        ]
        body.append((name, [Entry(lines=(cell,)) for cell in cells]))
    return Grid(
        title=f"{title(result)}: {MARKS[result.outcome]}",
        header=[Entry(lines=(head,)) for head in heads],
        body=body,
        notes=_notes(result, noises),
    )


def title(result: Result) -> str:
    """The model and what was declared of it."""
    record, declared = result.baseline.quantized, result.baseline.declared
    if declared["method"] is None:
        return record.model_name
    return f"{record.model_name}, {declared['method']} {declared['scheme']}"


def _reruns(result: Result) -> tuple[dict[str, Noise], dict[str, float]]:
    """By gate, what the baseline's reruns showed, and from which size a regression is found."""
    baseline = result.baseline
    noises: dict[str, Noise] = {}
    detected: dict[str, float] = {}
    for name, own in own_changes(baseline).items():
        noise = noise_of(name, own, baseline.reruns)
        if name in baseline.tolerances and noise is not None:
            noises[name] = noise
            size = detectable_of(baseline, name, own, noise)
            if size is not None:
                detected[name] = size
    return noises, detected


def idle(result: Result) -> list[str]:
    """Gates that can hardly fail, as sentences."""
    own = own_changes(result.baseline)
    return [
        f"{name} can hardly fail: only a loss of {shown(name, size)} would be found, and the "
        f"quantized model has {shown(name, own[name].most)} to lose. Ask more items."
        for name, size in _reruns(result)[1].items()
        if size > own[name].most
    ]


def _notes(result: Result, noises: dict[str, Noise]) -> list[str]:
    count = gates_of(result.baseline.tolerances)
    error = f"{tolerance.ALPHA:g}" if count == 1 else f"{tolerance.ALPHA:g} / {count}"
    if "size" in result.baseline.tolerances:
        error += " (size is exact)"
    compared = "of what quantization costs" if result.paired else "of the model's own outcomes"
    notes = [
        f"Baseline {result.path}, made {result.baseline.made}. Change {compared}, "
        "paired by window and item; positive is worse. "
        f"Each bound errs with probability {error}: a gate passes if both "
        "are within the tolerance, fails if both are beyond it. Detected from: a regression of "
        f"this size fails with a power of {100 * tolerance.POWER:.0f} %.",
    ]
    for name, (before, now) in result.differing.items():
        if isinstance(before, dict) and isinstance(now, dict):
            fields = {k for k in (*before, *now) if before.get(k) != now.get(k)}
            before, now = ({k: one.get(k) for k in sorted(fields)} for one in (before, now))
        notes.append(
            f"The key differs, so nothing is decided: {name} is {_short(before)} in the "
            f"baseline, {_short(now)} now. Measure what the baseline declares, or make another one."
        )
    if result.differing:
        return [f"Baseline {result.path}, made {result.baseline.made}.", *notes[1:]]
    said = {verdict.name: _why(verdict) for verdict in result.verdicts if _why(verdict)}
    if len(set(said.values())) == 1 and len(said) > 1:
        said = {"every gate": next(iter(said.values()))}
    notes += [f"{name}: {why}." for name, why in said.items()]
    for name, allowed in result.baseline.tolerances.items():
        value = shown(name, allowed.value, written=True)
        text = f"Tolerance of {name}, {value}: {allowed.reason}."
        if name in noises:
            floor = shown(name, noises[name].floor)
            text += f" Noise floor: reruns, here or on another machine, stay below {floor}."
        notes.append(text)
    notes += idle(result)
    if result.warnings:
        notes.append("Not part of the key, and different: " + "; ".join(result.warnings) + ".")
    return notes


def rates_grid(rates: Rates) -> Grid:
    """What `bench.gate.null_runs` found, for the table of a new baseline."""
    heads = ("gate", "caught at the size shown", "at twice that")
    share = rates.outcomes["no verdict"] / rates.runs
    unsure = []
    if share > tolerance.ALPHA:
        unsure = [
            f"{100 * share:.0f} % of reruns by another calibration seed would have no verdict: "
            "more windows, items or calibration, or larger tolerances, give fewer."
        ]
    return Grid(
        title=f"{rates.runs:,} null runs: {rates.outcomes['fail']} failed, "
        f"{rates.outcomes['no verdict']} had no verdict",
        header=[Entry(lines=(head,)) for head in heads],
        body=[
            (name, [Entry(lines=(f"{100 * one / rates.runs:.1f} %",)) for one in caught])
            for name, caught in rates.caught.items()
        ],
        notes=[
            "Null runs: reruns that were drawn, each against the tolerance that the others give, "
            "windows and items resampled; at most 5 % are to fail. Caught: the same with a "
            "regression on top, of the size under `detected from` and of twice that; at least 80 "
            "and 99 % are to fail.",
            *unsure,
        ],
    )


def _why(verdict: Verdict) -> str:
    """Why there is no verdict, and what would give one."""
    decision = verdict.decision
    if decision is None:
        return f"no verdict, {verdict.why}"
    if decision.outcome != "no verdict":
        return ""
    if decision.units_needed is None:
        return f"no verdict from {decision.units} windows or items; no number of them would decide"
    return (
        f"no verdict from {decision.units} windows or items (clusters); with this change about "
        f"{decision.units_needed} would decide"
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text[:12]  # a hash: that it is another one is all it says
    return text if len(text) <= 80 else text[:77] + "..."


def document(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For machines."""
    found = []
    for result in results:
        _, detected = _reruns(result)
        found.append(
            {
                "baseline": str(result.path),
                "outcome": result.outcome,
                "gates": [
                    {
                        "name": verdict.name,
                        "outcome": verdict.outcome,
                        "why": _why(verdict),
                        "unit": measure_of(verdict.name),
                        **_numbers(verdict),
                        "detectable": _finite(detected.get(verdict.name)),
                        "tolerance": asdict(result.baseline.tolerances[verdict.name]),
                    }
                    for verdict in result.verdicts
                ],
                "key_differs": {
                    name: {"baseline": before, "now": now}
                    for name, (before, now) in result.differing.items()
                },
                "warnings": list(result.warnings),
            }
        )
    return found


def _numbers(verdict: Verdict) -> dict[str, Any]:
    one = verdict.decision
    if one is None:
        return {"change": None, "low": None, "high": None, "units": None, "units_needed": None}
    return {
        "change": one.change,
        "low": _finite(one.low),
        "high": _finite(one.high),
        "units": one.units,
        "units_needed": one.units_needed,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def junit(results: Sequence[Result]) -> str:
    """JUnit XML: a suite for each baseline, a case for each gate; no verdict is an error."""
    root = ElementTree.Element("testsuites")
    for result in results:
        outcomes = [verdict.outcome for verdict in result.verdicts]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=escape.xml(f"awq-bench gate {result.path.name}"),
            tests=str(len(outcomes)),
            failures=str(outcomes.count("fail")),
            errors=str(outcomes.count("no verdict")),
        )
        for verdict in result.verdicts:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=escape.xml(result.path.stem),
                name=escape.xml(verdict.name),
            )
            if verdict.outcome == "pass":
                continue
            one = verdict.decision
            said = _why(verdict)
            if one is not None and not said:
                said = (
                    f"{shown(verdict.name, one.change)}, at least {shown(verdict.name, one.low)}; "
                    f"allowed {shown(verdict.name, one.tolerance, written=True)}"
                )
            kind = "failure" if verdict.outcome == "fail" else "error"
            ElementTree.SubElement(case, kind, message=escape.xml(said))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(results: Sequence[Result]) -> str:
    """Every table; what GitHub's step summary shows."""
    return "\n".join(tables.markdown(grid(result)) for result in results)


def write(results: Sequence[Result], folder: Path | None) -> None:
    """``gate.md``, ``gate.json``, ``gate.xml``; and the step summary where there is one.

    Raises:
        InputError: one of them cannot be written.
    """
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown(results))
        except OSError as error:  # its folder, too, is not ours to make
            raise InputError(
                f"GITHUB_STEP_SUMMARY {summary} cannot be written ({error.strerror}); name a file "
                "that can be, or unset it"
            ) from error
    if folder is not None:
        with writing(f"--report {folder}", "make room and give rights there, or name another"):
            folder.mkdir(parents=True, exist_ok=True)
            files.write_text(folder / "gate.md", markdown(results))
            files.write_text(folder / "gate.xml", junit(results))
            write_json(folder / "gate.json", document(results))
