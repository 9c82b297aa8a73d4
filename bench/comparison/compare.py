"""A comparison has one model, every method, every scheme, and one calibration pass.

A cell goes in a straight line: load -> structure -> calibrate (shared) -> quantize -> suites ->
record -> tables. The command line and Python both come through `compare`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.comparison.announce import announce, announce_tasks
from bench.comparison.backends import named_backends
from bench.comparison.calibrator import Calibrator, stats_folder
from bench.comparison.cells import PlannedCell
from bench.comparison.progress import Reporter, quiet
from bench.comparison.request import Request
from bench.comparison.run_folder import RunFolder, default_names
from bench.comparison.set_up import Setup, set_up
from bench.comparison.workbench import Workbench
from bench.records.record import Record
from bench.report import draw
from bench.report.grid import Grid

_CACHE = "calibration-cache"
"""This part of a comparison's folder holds statistics that would take too much memory."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An outcome is a finished comparison."""

    folder: Path
    records: tuple[Record, ...]
    tables: tuple[Grid, ...]
    """They are as written in the folder, to be printed."""

    @property
    def failed(self) -> tuple[Record, ...]:
        """Give the cells that could not be measured, or not by all of their suites."""
        return tuple(record for record in self.records if record.status != "done")


@dataclass(kw_only=True)
class Comparison:
    """A comparison is under way: `begin` makes it, `measure` takes one cell, `finish` ends it."""

    run: RunFolder
    plan: tuple[PlannedCell, ...]
    """It holds every cell, the unquantized model's first."""
    bench: Workbench
    price_per_hour: float | None = None
    _records: dict[str, Record] = field(init=False)
    """They are, by cell, those that were there, and those of cells that were tried now."""

    def __post_init__(self) -> None:
        """Begin with the records that are there."""
        self._records = dict(self.run.done)

    @property
    def pending(self) -> list[PlannedCell]:
        """Give the cells that have no whole record yet, and were not tried now."""
        return [planned for planned in self.plan if planned.cell.id not in self._records]

    def measure(self, planned: PlannedCell) -> Record:
        """Measure one cell and keep its record, unless it is there or was tried now.

        Raises:
            InputError: the folder can no longer be written.
        """
        cell = planned.cell
        if cell.id not in self._records:
            record = self.bench.measure(planned)
            self.run.keep(record)
            self._records[cell.id] = record
            if record.status == "done":  # else another attempt takes up what its suites measured
                self.bench.forget(cell)
        return self._records[cell.id]

    def finish(self) -> Outcome:
        """Draw the tables, and remove what was only needed on the way.

        Raises:
            InputError: the folder can no longer be written; the same comparison begun again
                measures nothing, and draws.
        """
        records = tuple(self._records[planned.cell.id] for planned in self.plan)
        layouts = draw.write(records, self.run.path, price_per_hour=self.price_per_hour)
        if all(record.status == "done" for record in records):
            # Else the same comparison, begun again here, runs the suites that failed alone.
            shutil.rmtree(self.bench.unfinished, ignore_errors=True)
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
        for number, planned in enumerate(pending):
            record = comparison.measure(planned)
            if number == 0:
                announce_tasks(record, pending[1:], say)
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
    out = None if out is None else Path(out)  # a string is a path, too
    setup = set_up(request, say)
    on_disk = _needs_disk(setup, out or next(default_names(request)))
    cells = [planned.cell for planned in setup.plan]
    with RunFolder.open(out, cells, request, say) as run:
        cache = run.path / _CACHE if on_disk else None
        if run.done:
            say.say(f"going on with {run.path}: {len(run.done)} of {len(cells)} cells are there")
        for notice in setup.structure.notices:
            say.warn(notice)
        if not say.silent:
            pending = [planned for planned in setup.plan if planned.cell.id not in run.done]
            announce(setup, pending, say, cache=cache)
        comparison = _hand_over(request, setup, run, cache, say)
        try:
            yield comparison
        finally:
            # Gigabytes of a large model, and of no use to another run. One that was killed may have
            # needed it where this one does not.
            shutil.rmtree(run.path / _CACHE, ignore_errors=True)


def _needs_disk(setup: Setup, folder: Path) -> bool:
    """Say whether statistics take too much memory; refuse too little disk before any is written."""
    if setup.calibration is None:
        return False
    return stats_folder(folder, setup.structure, setup.loaded) is not None


def _hand_over(
    request: Request, setup: Setup, run: RunFolder, cache: Path | None, say: Reporter
) -> Comparison:
    """Make the comparison of what was set up, and of the folder that was opened for it."""
    calibrator = None
    if setup.calibration is not None:
        calibrator = Calibrator(
            setup.loaded, setup.structure, setup.calibration, cache=cache, say=say
        )
    bench = Workbench(
        name=setup.loaded.name,
        loaded=setup.loaded,
        structure=setup.structure,
        suites=setup.suites,
        calibrator=calibrator,
        unfinished=run.path / "unfinished",
        say=say,
        stored_codes=not request.methods and named_backends(request) != [],
    )
    return Comparison(
        run=run, plan=setup.plan, bench=bench, price_per_hour=request.throughput.price_per_hour
    )
