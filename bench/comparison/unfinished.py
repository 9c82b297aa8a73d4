"""What the suites of an unfinished cell measured is kept until a whole record holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.comparison.progress import Reporter
from bench.comparison.suites.suite import Metrics
from bench.records.check import DIGEST, check_metric, digest, parsed, sealed
from bench.records.record import Cell, write_json
from quantcore import files
from quantcore.errors import writing


@dataclass(kw_only=True)
class Findings:
    """Suites have measured this."""

    metrics: Metrics = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """They say, by suite, why others have no outcome."""
    seconds: float = 0.0
    """The suites took so long."""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A folder holds the findings of cells that have no whole record yet.

    Quantizing again gives the same weights, so they still hold when a cell is run again.
    """

    folder: Path
    say: Reporter

    def keep(self, cell: Cell, findings: Findings) -> None:
        """Write what is measured so far.

        Raises:
            Unwritable: it cannot be kept.
        """
        with writing(self.folder, "make room and give rights there"):
            kept = {"metrics": findings.metrics, "seconds": findings.seconds}
            write_json(self._path(cell), sealed(kept))

    def take_up(self, cell: Cell) -> Findings:
        """Read what an earlier attempt measured; nothing, and say so, if that is not whole."""
        path = self._path(cell)
        if not path.exists():
            return Findings()
        try:
            return _read(path, cell)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.say.warn(f"{path} is damaged ({error}): its suites are measured again")
            return Findings()

    def forget(self, cell: Cell) -> None:
        """Remove a cell's findings."""
        self._path(cell).unlink(missing_ok=True)

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.id}.json"


def _read(path: Path, cell: Cell) -> Findings:
    kept = parsed(files.read_text(path))
    if not isinstance(kept, dict) or not isinstance(kept.get("metrics"), dict):
        raise ValueError("it holds no metrics")
    if kept.get(DIGEST) != digest(kept):
        raise ValueError("it does not match its own sha256")
    findings = Findings(seconds=float(kept["seconds"]))
    for protocol in cell.suites.values():
        if metric := kept["metrics"].get(protocol["metric"]):
            check_metric(metric, protocol)
            findings.metrics[protocol["metric"]] = metric
    return findings
