"""Baselines are gated: what they declare is measured again, and judged.

A finished comparison that holds what they declare can stand for the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.gate.baseline import Baseline, read
from bench.gate.judge import Judgement, judge, undecided
from bench.gate.kept_request import for_quantized, request_of, source_of
from bench.gate.key import declared_of, differing_declaration
from bench.gate.manifest import is_quantized
from bench.gate.measure import opened
from bench.report.pair import open_cell
from quantcore.errors import InputError, refused, setting_name


def gate(
    baselines: Sequence[Path],
    *,
    model: str | None = None,
    source: str | None = None,
    run: Path | None = None,
    data_dir: Path | None = None,
    tasks_data: Path | None = None,
    reporter: Reporter | None = None,
) -> list[Judgement]:
    """Measure again what baselines declare, and decide.

    Baselines that differ in method and scheme alone share the model, its outcomes and calibration.

    Args:
        baselines: files, or folders of them; all are read before anything is measured.
        model: to quantize as declared, or a quantized folder; None: the baseline's own.
        source: the unquantized model of a quantized folder.
        run: a finished comparison to judge instead of measuring.
        data_dir: local copies of texts.
        tasks_data: local copies of data sets of tasks.
        reporter: who shows progress; default nobody.

    Returns:
        A judgement for each baseline, in their order.

    Raises:
        InputError: a baseline, model or comparison that cannot be used.
    """
    if run is not None and (model is not None or source is not None):
        others = f"{setting_name('model')} and {setting_name('source')}"
        rule = f"is measured already; leave {others} out"
        raise InputError(f"{setting_name('run')} {run} {rule}", setting="run", found=run)
    declared = {path: read(path) for path in _files(baselines)}
    if run is not None:
        return [_judge_run(baseline, path, run) for path, baseline in declared.items()]
    judgements: dict[Path, Judgement] = {}
    for group in _groups(
        declared, model=model, source=source, data_dir=data_dir, tasks_data=tasks_data
    ):
        judgements |= _judge_group(group, reporter)
    return [judgements[path] for path in declared]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A group of baselines is served by one loaded model."""

    request: Request
    """It asks for the cells of all."""
    source: str | None
    """It is the unquantized model of a quantized folder."""
    baselines: dict[Path, Baseline]


def _files(baselines: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    option = setting_name("baselines")
    for path in baselines:
        if (path / "config.json").is_file():
            raise InputError(
                f"{option} {path} is a model's folder; give it as {setting_name('model')}, and "
                f"what `awq-bench baseline` wrote with {option}",
                setting="baselines",
                found=path,
            )
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            rule = "holds no .json file; name a baseline, or a folder"
            raise InputError(f"{option} {path} {rule}", setting="baselines", found=path)
        paths += inside
    if not paths:
        raise InputError("no baseline given; name a file that `awq-bench baseline` wrote")
    return paths


def _groups(
    baselines: Mapping[Path, Baseline],
    *,
    model: str | None,
    source: str | None,
    data_dir: Path | None,
    tasks_data: Path | None,
) -> list[_Group]:
    """Put together the baselines whose requests differ in method and scheme alone."""
    groups: dict[tuple[Request, str | None, Path | None], dict[Path, Request]] = {}
    for path, baseline in baselines.items():
        request, own_source = request_of(baseline.request, data_dir=data_dir, tasks_data=tasks_data)
        beside = source or own_source
        if model is not None:
            request, beside = _on_model(request, model, source), source
        shared = request.but(methods=(), schemes=())
        # A folder makes its source way when it is measured: each has a group of its own.
        alone = None if request.methods else path
        groups.setdefault((shared, beside, alone), {})[path] = request
    return [
        _Group(
            request=shared.but(
                methods=tuple(dict.fromkeys(m for r in requests.values() for m in r.methods)),
                schemes=tuple(dict.fromkeys(s for r in requests.values() for s in r.schemes)),
            ),
            source=beside,
            baselines={path: baselines[path] for path in requests},
        )
        for (shared, beside, _), requests in groups.items()
    ]


def _on_model(request: Request, model: str, source: str | None) -> Request:
    request = request.but(model=model)
    if source is None and not is_quantized(model):
        return request
    return for_quantized(request, beside=source is not None)


def _judge_group(group: _Group, reporter: Reporter | None) -> dict[Path, Judgement]:
    judgements = {}
    with opened(group.request, source=group.source, reporter=reporter) as model:
        unquantized = None
        for path, baseline in group.baselines.items():
            cell = baseline.declared["method"], baseline.declared["scheme"]
            differing = differing_declaration(baseline.declared, model.declared(*cell))
            if differing:  # known before anything is measured
                judgements[path] = undecided(baseline, path, differing=differing)
                continue
            measured = model.measure(*cell, unquantized=unquantized)
            unquantized = measured.unquantized
            judgements[path] = judge(baseline, path, measured.pair, measured.declared)
    return judgements


def _judge_run(baseline: Baseline, path: Path, folder: Path) -> Judgement:
    """Decide on the cell of a finished comparison that a baseline declares."""
    if not folder.is_dir():
        raise refused("run", folder, "no such folder; name one that `awq-bench compare` wrote")
    method, scheme = baseline.declared["method"], baseline.declared["scheme"]
    if method is None or source_of(baseline.request) is not None:
        raise InputError(
            f"{path} is of a quantized folder, and a comparison's cells are quantized on the spot; "
            f"give the folder as {setting_name('model')} instead of {setting_name('run')}"
        )
    try:
        unquantized, quantized = (
            open_cell(name, folder) for name in ("unquantized", f"{method}@{scheme}")
        )
    except InputError as error:  # not there, failed or damaged: never a pass by absence
        return undecided(baseline, path, why=str(error))
    return judge(baseline, path, (unquantized, quantized), declared_of(quantized.cell))
