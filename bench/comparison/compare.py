"""The comparison: one model, every method, every scheme, one calibration pass.

One cell in a straight line: load -> structure -> calibrate (shared) -> quantize -> suites ->
record -> tables. The command line and Python both come through `compare`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import registry
from bench.comparison import estimate, measure
from bench.comparison.calibration import Calibration
from bench.comparison.cells import cell_of
from bench.comparison.progress import Reporter, quiet
from bench.comparison.request import Request, build_calibration, open_model
from bench.comparison.run_folder import RunFolder, default_names
from bench.comparison.workbench import Calibrator, Workbench, stats_folder
from bench.records.record import Cell, Record, read_record
from bench.report import draw, quantities
from bench.report.grid import Grid
from kernels import backends, cpu
from kernels.place import Place
from quantcore import codes
from quantcore.calibration import stats_bytes
from quantcore.checkpoint import LoadedModel
from quantcore.discovery import discover
from quantcore.errors import InputError
from quantcore.method import Method
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure

_CACHE = "calibration-cache"
"""Of a comparison's folder: statistics that would take too much memory."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished comparison."""

    folder: Path
    records: tuple[Record, ...]
    tables: tuple[Grid, ...]
    """As they are written in the folder, to be printed."""

    @property
    def failed(self) -> tuple[Record, ...]:
        """Cells that could not be measured, or not by all of their suites."""
        return tuple(record for record in self.records if record.status != "done")


Entry = tuple[Cell, Method | None, QuantScheme | None]


@dataclass(kw_only=True)
class Comparison:
    """A comparison under way: `begin` makes it, `measure` takes one cell, `finish` ends it."""

    run: RunFolder
    plan: tuple[Entry, ...]
    """Every cell, the unquantized model's first."""
    bench: Workbench
    price_per_hour: float | None = None
    _tried: set[str] = field(default_factory=set)

    @property
    def pending(self) -> list[Entry]:
        """Cells that have no whole record yet, and were not tried now."""
        return [one for one in self.plan if one[0].id not in self.run.done | self._tried]

    def measure(self, entry: Entry) -> Record:
        """One cell's record, kept in the folder; one that is there, or was tried now, is read.

        Raises:
            InputError: the folder can no longer be written.
        """
        cell = entry[0]
        if cell.id in self.run.done | self._tried:
            return read_record(self.run.path / cell.file_name)
        record = self.bench.measure(*entry)
        self.run.keep(record)
        self._tried.add(cell.id)
        if record.status == "done":  # else another attempt takes up what its suites found
            self.bench.forget(cell)
        return record

    def finish(self) -> Outcome:
        """Draw the tables, and remove what was only needed on the way.

        Raises:
            InputError: the folder can no longer be written; the same comparison begun again
                measures nothing, and draws.
        """
        records = tuple(read_record(self.run.path / one.file_name) for one, _, _ in self.plan)
        layouts = draw.write(records, self.run.path, price_per_hour=self.price_per_hour)
        if all(record.status == "done" for record in records):
            # Else the same command with --out runs the suites that failed, and no other.
            shutil.rmtree(self.run.path / "unfinished", ignore_errors=True)
        # Nobody comes back to what is finished: killed from here on, it would stay.
        shutil.rmtree(self.run.path / _CACHE, ignore_errors=True)
        self.run.finish()
        return Outcome(folder=self.run.path, records=records, tables=tuple(layouts))


def compare(
    request: Request, *, out: Path | None = None, reporter: Reporter | None = None
) -> Outcome:
    """Measure the unquantized model and every method x scheme; keep a record of each, and tables.

    A comparison that was interrupted goes on from its whole records when called again.

    Args:
        request: what to compare.
        out: folder for what comes out; default a new one under ``awq-bench-runs/``.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    say = reporter or quiet()
    with begin(request, out=out, reporter=reporter) as comparison:
        say.say(f"  output       {comparison.run.path}")
        pending = comparison.pending
        if len(comparison.plan) > 1:
            say.say(f"Running {len(pending)} of {len(comparison.plan)} cells", style="bold")
        for number, entry in enumerate(pending):
            record = comparison.measure(entry)
            if number == 0:
                _estimate_tasks(say, record, [cell for cell, _, _ in pending[1:]])
        return comparison.finish()


@contextmanager
def begin(
    request: Request, *, out: Path | None = None, reporter: Reporter | None = None
) -> Iterator[Comparison]:
    """Check everything, load the model and plan the cells; nothing is measured yet.

    No other process can write the comparison's folder until the end, whatever ends it.

    Args:
        request: what to compare.
        out: folder for the records; default a new one under ``awq-bench-runs/``.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    say = reporter or quiet()
    methods = [registry.method(name) for name in request.methods]
    schemes = [QuantScheme.parse(name) for name in request.schemes]
    _refuse_repeated("method", [method.name for method in methods])
    _refuse_repeated("scheme", [scheme.name for scheme in schemes])
    _refuse_repeated("suite", request.suites)
    _refuse_repeated("task", request.tasks)
    measure.check(request)
    if schemes and not methods:
        raise InputError(f"no method given; known: {', '.join(registry.METHODS)}")
    if methods and not schemes:
        raise InputError("no scheme given; name at least one, for example int4-g128")
    loaded = open_model(request)
    _check_backends(request, loaded, schemes)
    # A model that is only evaluated may have any structure.
    nothing = Structure(blocks=(), exempt=(), notices=())
    structure = discover(loaded.model, exclude=request.exclude) if methods else nothing
    for scheme in schemes:
        structure.check_scheme(scheme)
    suites = measure.build(request, loaded, say)
    text = next((s.text for s in suites if isinstance(s, measure.TextSuite)), None)
    calibrated = any(m.calibration != "none" for m in methods) and bool(schemes)
    calibration = build_calibration(request, loaded, text, say) if calibrated else None
    timed = [suite for suite in suites if isinstance(suite, measure.ThroughputSuite)]
    asked = [name for suite in timed for name in suite.backends]
    asked += [request.backend] if request.backend is not None else []
    _time_ways(loaded, structure, schemes, asked, say)
    plan: list[Entry] = [(cell_of(request, loaded, suites), None, None)]
    plan += [
        (cell_of(request, loaded, suites, method=m, scheme=s, calibration=calibration), m, s)
        for s in schemes
        for m in methods
    ]
    # Where statistics would go is checked before anything is written.
    place = out or next(default_names(request))
    needs_disk = calibrated and stats_folder(place, structure, loaded)
    with RunFolder.open(out, [c for c, _, _ in plan], request, say) as run:
        if run.resumed:
            say.say(f"going on with {run.path}: {len(run.done)} of {len(plan)} cells are there")
        cache = run.path / _CACHE if needs_disk else None
        pending = [entry for entry in plan if entry[0].id not in run.done]
        for notice in structure.notices:
            say.warn(notice)
        if not say.silent:
            _announce(say, loaded, structure, suites, calibration, pending, cache)

        calibrator = None
        if calibration is not None:
            calibrator = Calibrator(loaded, structure, calibration, cache=cache, say=say)
        bench = Workbench(
            name=loaded.name,
            loaded=loaded,
            structure=structure,
            suites=suites,
            calibrator=calibrator,
            unfinished=run.path / "unfinished",
            say=say,
            stored_codes=not methods and _named_backends(request) != [],
        )
        try:
            yield Comparison(
                run=run, plan=tuple(plan), bench=bench, price_per_hour=request.price_per_hour
            )
        finally:
            # Gigabytes of a large model, and of no use to another run. One that was killed may have
            # needed it where this one does not.
            shutil.rmtree(run.path / _CACHE, ignore_errors=True)


def _named_backends(request: Request) -> list[tuple[str, str]]:
    """Settings and the backends that they name."""
    asked = [("backend", request.backend)] if request.backend is not None else []
    return [*asked, *(("throughput_backends", name) for name in request.throughput_backends)]


def _check_backends(request: Request, loaded: LoadedModel, schemes: Sequence[QuantScheme]) -> None:
    """Refuse a backend that does not run here, before any work."""
    named = _named_backends(request)
    if named and not schemes:
        codes.check(codes.load(loaded.folder), loaded.model, loaded.folder)
    for scheme in schemes:
        width = scheme.group_size or 128
        place = Place(
            device=loaded.device,
            dtype=loaded.dtype,
            scheme=scheme,
            out_features=width,
            in_features=2 * width,
        )
        for setting, name in named:
            backends.choose(name, place, setting=setting)


def _time_ways(
    loaded: LoadedModel,
    structure: Structure,
    schemes: Sequence[QuantScheme],
    asked: Sequence[str],
    say: Reporter,
) -> None:
    """Let `kernels.cpu` measure what it will ask for, once a machine, with a bar."""
    if loaded.device.type != "cpu" or not {"auto", "cpu"} & set(asked):
        return
    places = {
        cpu.key(place): place
        for scheme in schemes
        for block in structure.blocks
        for name in block.matrices
        for outputs, inputs in [block.weight(name).shape]
        for place in [
            Place(
                device=loaded.device,
                dtype=loaded.dtype,
                scheme=scheme,
                out_features=outputs,
                in_features=inputs,
            )
        ]
        if cpu.reason_against(place) is None
    }
    unknown = [place for place in places.values() if not cpu.known(place)]
    if unknown:
        with say.stage("time INT4 on this processor, once", len(unknown)) as done:
            for place in unknown:
                cpu.table_for(place)
                done(1)


def _refuse_repeated(kind: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise InputError(f"{kind} {', '.join(repeated)} is given twice; name each once")


def _estimate_tasks(say: Reporter, record: Record, left: Sequence[Cell]) -> None:
    """What tasks will take is known once one model has answered them."""
    seconds = {
        name: metric["seconds"]
        for name, protocol in record.cell.suites.items()
        if (metric := record.metrics.get(protocol["metric"])) and "seconds" in metric
    }
    more = sum(seconds.get(name, 0.0) for cell in left for name in cell.suites)
    if more:
        say.say(f"  tasks        {quantities.duration(more)} more at the first cell's pace")


def _announce(
    say: Reporter,
    loaded: LoadedModel,
    structure: Structure,
    suites: Sequence[measure.Suite],
    calibration: Calibration | None,
    pending: Sequence[Entry],
    cache: Path | None,
) -> None:
    """What will be done, and what it will take."""
    pace = estimate.measure_pace(loaded, measure.trial_tokens(suites, loaded))
    calibration_tokens = 0 if calibration is None else calibration.tokens.numel()
    quantized = [(method, scheme) for _, method, scheme in pending if method and scheme]
    calibrate_s = (
        estimate.calibration_s(structure, calibration_tokens, pace)
        if any(method.calibration == "shared" for method, _ in quantized)
        else 0.0
    )
    quantize_s = sum(
        estimate.quantization_s(
            structure, method, scheme, pace, calibration_tokens=calibration_tokens
        )
        for method, scheme in quantized
    )
    tokens = sum(one.windows.tokens.numel() for one in suites if isinstance(one, measure.TextSuite))
    evaluate_s = len(pending) * estimate.evaluation_s(tokens, loaded, pace) if tokens else 0.0
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    statistics = stats_bytes(structure, on_disk=cache is not None) if calibration else 0
    memory = 2 * weights + (0 if cache else statistics)
    size = quantities.size
    count = loaded.model.num_parameters()
    say.say(
        f"{loaded.name}: {count / 1e6:,.1f} M parameters in "
        f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device.type}",
        style="bold",
    )
    for suite in suites:
        say.say(f"  evaluation   {suite.about}")
    if calibration is not None:
        samples, seqlen = calibration.tokens.shape
        say.say(
            f"  calibration  {calibration.name}: {samples} x {seqlen} tokens, {calibration.source}"
        )
    parts = {"calibrate": calibrate_s, "quantize": quantize_s, "evaluate": evaluate_s}
    detail = ", ".join(f"{name} {quantities.duration(s)}" for name, s in parts.items() if s)
    about = [f"about {quantities.duration(sum(parts.values()))} ({detail})"] if detail else []
    if any(isinstance(suite, measure.TasksSuite) for suite in suites):
        about.append("that of the tasks is known after the first cell")
    if any(isinstance(suite, measure.ThroughputSuite) for suite in suites):
        about.append("throughput comes on top, with a bar of its own")
    say.say(f"  time         {'; '.join(about)}")
    kept = f"{size(statistics)} of statistics on disk" if cache else "records only on disk"
    say.say(f"  memory       about {size(memory)} for weights and statistics; {kept}")
