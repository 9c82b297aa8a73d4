"""A baseline is made of one measurement and its reruns, and made anew in the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench.comparison.progress import Bars, Reporter, quiet
from bench.comparison.request import Request
from bench.gate.baseline import OWN_REASON, Baseline, Rerun, Tolerance, read
from bench.gate.changes import Change, changes
from bench.gate.judge import Judgement, judge_made
from bench.gate.kept_request import kept, request_of
from bench.gate.measure import Measured, opened
from bench.gate.noise import gates_of, tolerance_of
from bench.gate.parts import held, parts_folder
from bench.gate.reruns import SEEDS, rerun_of, threads, variations
from bench.report import quantities
from bench.stats import tolerance
from quantcore.errors import InputError, nearest, refused, setting_name


def make(
    request: Request,
    tolerances: Mapping[str, Tolerance],
    *,
    source: str | None = None,
    seeds: int = SEEDS,
    parts: Path | None = None,
    reporter: Reporter | None = None,
) -> Baseline:
    """Measure a baseline and its reruns.

    Args:
        request: what to measure, by at most one method and one scheme; see
            `bench.gate.measure.opened`.
        tolerances: by gate; those that are not named get what `bench.gate.noise.Noise` says.
        source: see `bench.gate.measure.opened`.
        seeds: calibration seeds besides the baseline's own, at least 5 where there is calibration.
        parts: folder for what is measured on the way, from which a second call goes on; see
            `bench.gate.parts.parts_folder`. None: nothing is kept.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: see `bench.gate.measure.opened`; also a tolerance for no gate, or below what
            reruns showed.
    """
    say = reporter or quiet()
    _check(request, tolerances, seeds)
    with held(parts, say):
        started = time.perf_counter()
        first = _first(request, source, parts, say)
        seconds = time.perf_counter() - started
        reruns = _reruns(first, source, seeds, parts, say, seconds=seconds)
    own = changes(first.pair, first.pair)
    gates = gates_of(own)
    return Baseline(
        unquantized=first.unquantized,
        quantized=first.quantized,
        declared=first.declared,
        request=kept(first.request, source),
        tolerances={
            name: tolerance_of(name, tolerances.get(name), reruns, change, gates=gates)
            for name, change in own.items()
            if isinstance(change, Change)
        },
        reruns=tuple(reruns),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def remake(
    path: Path,
    tolerances: Mapping[str, Tolerance],
    *,
    data_dir: Path | None = None,
    tasks_data: Path | None = None,
    keep: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Baseline, Judgement, Path | None]:
    """Measure a baseline anew, and how it changed against the one that is there.

    Tolerances that were named stay, unless they are named anew or reruns no longer stay below them.

    Args:
        path: of the baseline.
        tolerances: see `make`.
        data_dir: local copies of texts.
        tasks_data: local copies of data sets of tasks.
        keep: keep what is measured in `bench.gate.parts.parts_folder`.
        reporter: who shows progress; default nobody.

    Returns:
        The new baseline, its changes against the old one, and the folder of what was kept.

    Raises:
        InputError: see `make` and `bench.gate.baseline.read`.
    """
    before = read(path)
    request, source = request_of(before.request, data_dir=data_dir, tasks_data=tasks_data)
    parts = parts_folder(request, source) if keep else None
    named = {k: v for k, v in before.tolerances.items() if v.reason != OWN_REASON}
    seeds = sum(rerun.what.startswith("calibration seed") for rerun in before.reruns)
    made = make(
        request,
        {**named, **tolerances},
        source=source,
        seeds=max(seeds, SEEDS),
        parts=parts,
        reporter=reporter,
    )
    return made, judge_made(before, path, made), parts


def _check(request: Request, tolerances: Mapping[str, Tolerance], seeds: int) -> None:
    """Refuse what no measurement is needed to refuse."""
    if seeds < SEEDS:
        raise refused("seeds", seeds, f"at least {SEEDS}; fewer say nothing of their spread")
    gates = (*request.suites, *request.tasks.names, "size")
    for name in tolerances:
        if name not in gates:
            rule = f"no such gate here; {nearest(name, gates)}"
            raise refused("tolerances", name, rule, allowed=gates)
    if len(request.methods) > 1 or len(request.schemes) > 1:
        raise InputError("a baseline is of one method and one scheme; make one for each")


def _first(request: Request, source: str | None, parts: Path | None, say: Reporter) -> Measured:
    """Measure the baseline itself, and refuse what could not be gated."""
    with opened(request, source=source, parts=parts and parts / "00", reporter=say) as model:
        model.check_seeds()
        first = model.measure(*_method_and_scheme(request))
    _refuse_failed(first, "the first measurement")
    for name, change in changes(first.pair, first.pair).items():
        _refuse_idle(name, change)
    return first


def _reruns(
    first: Measured,
    source: str | None,
    seeds: int,
    parts: Path | None,
    say: Reporter,
    *,
    seconds: float,
) -> list[Rerun]:
    """Measure everything that may vary of a baseline, of which each takes about these seconds."""
    planned = list(variations(first, seeds))
    bars = Bars(say.console)
    reruns = []
    for number, variation in enumerate(planned, start=1):
        left = quantities.duration(seconds * (len(planned) - number + 1))
        say.say(
            f"Rerun {number} of {len(planned)}: {variation.what}; about {left} left", style="bold"
        )
        part = parts and parts / f"{number:02}"
        with (
            threads(variation.threads),
            opened(variation.request, source=source, parts=part, reporter=bars) as model,
        ):
            second = model.measure(
                *_method_and_scheme(variation.request), unquantized=variation.unquantized
            )
        _refuse_failed(second, f"rerun {variation.what!r}")
        reruns.append(rerun_of(variation, first, second))
    return reruns


def _method_and_scheme(request: Request) -> tuple[str | None, str | None]:
    return (*request.methods, None)[0], (*request.schemes, None)[0]


def _refuse_failed(measured: Measured, when: str) -> None:
    for record in measured.pair:
        if record is not None and record.status != "done":
            raise InputError(
                f"{record.model_name} could not be measured ({when}): {record.problem}; a baseline "
                "needs every measurement"
            )


def _refuse_idle(name: str, change: Change | str) -> None:
    """Refuse a gate that is not there, or cannot fail: it would pass by accident."""
    why = change if isinstance(change, str) else ""
    if isinstance(change, Change) and not change.exact:
        units = tolerance.spread(change.values, change.clusters).units
        if units < 2:
            why = f"{units} window or item says nothing of how much it varies; measure more"
        elif change.most <= 0:
            why = "the quantized model has nothing right that it could lose"
    if why:
        suites = setting_name("suites")
        raise InputError(f"{name} cannot be gated: {why}, or leave it out of {suites}")
