"""Judgements are written for people and machines: as a table, Markdown, JUnit XML and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.gate.changes import own_changes
from bench.gate.judge import Judgement, Verdict
from bench.gate.noise import Noise, detectable_of, gates_of, noise_of
from bench.gate.null_runs import ErrorRates
from bench.gate.units import measure_of, shown
from bench.records.document import write_json
from bench.report import escape, labels
from bench.report import grid as grids
from bench.report.grid import Field, Grid
from bench.stats import tolerance
from quantcore import files
from quantcore.errors import InputError, setting_name, writing

MARKS = {"pass": "pass", "fail": "FAIL", "no verdict": "no verdict"}


def grid(judgement: Judgement) -> Grid:
    """Draw one line for each gate."""
    heads = ("gate", "change", "one-sided bounds", "tolerance", "detected from", "verdict")
    noises, detected = _reruns(judgement)
    body = []
    for verdict in judgement.verdicts:
        name, decision = verdict.name, verdict.decision
        allowed = judgement.baseline.tolerances[name]
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
        body.append((name, [Field(lines=(cell,)) for cell in cells]))
    return Grid(
        title=f"{title(judgement)}: {MARKS[judgement.outcome]}",
        header=[Field(lines=(head,)) for head in heads],
        body=body,
        notes=_notes(judgement, noises),
    )


def title(judgement: Judgement) -> str:
    """Name the model and what was declared of it."""
    record, declared = judgement.baseline.quantized, judgement.baseline.declared
    return labels.of_declared(record.model_name, declared["method"], declared["scheme"])


def _reruns(judgement: Judgement) -> tuple[dict[str, Noise], dict[str, float]]:
    """Say by gate what reruns of the baseline showed, and which size of regression is found."""
    baseline = judgement.baseline
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


def idle(judgement: Judgement) -> list[str]:
    """Say of each gate that can hardly fail that it can."""
    own = own_changes(judgement.baseline)
    return [
        f"{name} can hardly fail: only a loss of {shown(name, size)} would be found, and the "
        f"quantized model has {shown(name, own[name].most)} to lose. Ask more items."
        for name, size in _reruns(judgement)[1].items()
        if size > own[name].most
    ]


def _notes(judgement: Judgement, noises: dict[str, Noise]) -> list[str]:
    baseline = judgement.baseline
    of = f"Baseline {judgement.path}, made {baseline.made}."
    if judgement.differing:
        return [of, *_differing(judgement)]
    compared = "of what quantization costs" if judgement.paired else "of the model's own outcomes"
    count = gates_of(baseline.tolerances)
    error = f"{tolerance.ALPHA:g}" if count == 1 else f"{tolerance.ALPHA:g} / {count}"
    if "size" in baseline.tolerances:
        error += " (size is exact)"
    notes = [
        f"{of} Change {compared}, paired by window and item; positive is worse. "
        f"Each bound errs with probability {error}: a gate passes if both "
        "are within the tolerance, fails if both are beyond it. Detected from: a regression of "
        f"this size fails with a power of {100 * tolerance.POWER:.0f} %.",
    ]
    said = {verdict.name: _why(verdict) for verdict in judgement.verdicts if _why(verdict)}
    if len(set(said.values())) == 1 and len(said) > 1:
        said = {"every gate": next(iter(said.values()))}
    notes += [f"{name}: {why}." for name, why in said.items()]
    for name, allowed in baseline.tolerances.items():
        value = shown(name, allowed.value, written=True)
        text = f"Tolerance of {name}, {value}: {allowed.reason}."
        if name in noises:
            floor = shown(name, noises[name].floor)
            text += f" Noise floor: reruns, here or on another machine, stay below {floor}."
        notes.append(text)
    notes += idle(judgement)
    if judgement.warnings:
        notes.append("Not part of the key, and different: " + "; ".join(judgement.warnings) + ".")
    return notes


def _differing(judgement: Judgement) -> Iterator[str]:
    """Say of each part of the key that differs what it was and is; of a part's fields, those."""
    for name, (before, now) in judgement.differing.items():
        if isinstance(before, dict) and isinstance(now, dict):
            fields = {k for k in (*before, *now) if before.get(k) != now.get(k)}
            before, now = ({k: part.get(k) for k in sorted(fields)} for part in (before, now))
        yield (
            f"The key differs, so nothing is decided: {name} is {_short(before)} in the "
            f"baseline, {_short(now)} now. Measure what the baseline declares, or make another one."
        )


def rates_grid(rates: ErrorRates) -> Grid:
    """Draw the rates of null runs, for the table of a new baseline."""
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
        header=[Field(lines=(head,)) for head in heads],
        body=[
            (name, [Field(lines=(f"{100 * count / rates.runs:.1f} %",)) for count in caught])
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
    """Say why there is no verdict, and what would give one."""
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


def _beyond(verdict: Verdict) -> str:
    """Say by how much a gate failed."""
    name, decision = verdict.name, verdict.decision
    assert decision is not None, "only what was decided fails"
    return (
        f"{shown(name, decision.change)}, at least {shown(name, decision.low)}; "
        f"allowed {shown(name, decision.tolerance, written=True)}"
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text[:12]  # a hash: that it is another one is all it says
    return text if len(text) <= 80 else text[:77] + "..."


def document(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Say all for machines, as JSON holds it."""
    written = []
    for judgement in judgements:
        _, detected = _reruns(judgement)
        written.append(
            {
                "baseline": str(judgement.path),
                "outcome": judgement.outcome,
                "gates": [
                    {
                        "name": verdict.name,
                        "outcome": verdict.outcome,
                        "why": _why(verdict),
                        "unit": measure_of(verdict.name),
                        **_numbers(verdict),
                        "detectable": _finite(detected.get(verdict.name)),
                        "tolerance": asdict(judgement.baseline.tolerances[verdict.name]),
                    }
                    for verdict in judgement.verdicts
                ],
                "key_differs": {
                    name: {"baseline": before, "now": now}
                    for name, (before, now) in judgement.differing.items()
                },
                "warnings": list(judgement.warnings),
            }
        )
    return written


def _numbers(verdict: Verdict) -> dict[str, Any]:
    decision = verdict.decision
    if decision is None:
        return {"change": None, "low": None, "high": None, "units": None, "units_needed": None}
    return {
        "change": decision.change,
        "low": _finite(decision.low),
        "high": _finite(decision.high),
        "units": decision.units,
        "units_needed": decision.units_needed,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def junit(judgements: Sequence[Judgement]) -> str:
    """Write JUnit XML: a suite for each baseline, a case for each gate; no verdict is an error."""
    root = ElementTree.Element("testsuites")
    for judgement in judgements:
        outcomes = [verdict.outcome for verdict in judgement.verdicts]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=escape.xml(f"awq-bench gate {judgement.path.name}"),
            tests=str(len(outcomes)),
            failures=str(outcomes.count("fail")),
            errors=str(outcomes.count("no verdict")),
        )
        for verdict in judgement.verdicts:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=escape.xml(judgement.path.stem),
                name=escape.xml(verdict.name),
            )
            if verdict.outcome == "pass":
                continue
            said = _why(verdict) or _beyond(verdict)
            kind = "failure" if verdict.outcome == "fail" else "error"
            ElementTree.SubElement(case, kind, message=escape.xml(said))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(judgements: Sequence[Judgement]) -> str:
    """Draw every table in Markdown, as GitHub's step summary shows it."""
    return "\n".join(grids.markdown(grid(judgement)) for judgement in judgements)


def write(judgements: Sequence[Judgement], report: Path | None) -> None:
    """Write ``gate.md``, ``gate.json``, ``gate.xml``; and the step summary where there is one.

    Args:
        judgements: of every baseline.
        report: the folder for them, made if it is not there. None: the summary alone.

    Raises:
        InputError: one of them cannot be written.
    """
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown(judgements))
        except OSError as error:  # its folder, too, is not ours to make
            raise InputError(
                f"GITHUB_STEP_SUMMARY {summary} cannot be written ({error.strerror}); name a file "
                "that can be, or unset it"
            ) from error
    if report is not None:
        place = f"{setting_name('report')} {report}"
        with writing(place, "make room and give rights there, or name another"):
            report.mkdir(parents=True, exist_ok=True)
            files.write_text(report / "gate.md", markdown(judgements))
            files.write_text(report / "gate.xml", junit(judgements))
            write_json(report / "gate.json", document(judgements))
