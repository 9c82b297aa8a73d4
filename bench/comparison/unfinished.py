"""What the suites of an unfinished cell measured is kept until a whole record holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.comparison.progress import Reporter
from bench.comparison.suites.suite import Metrics
from bench.records.cell import Cell
from bench.records.document import DIGEST, Document, digest, parsed, sealed, told, write_json
from bench.records.metrics import Metric, Seconds
from bench.records.record import check_metric
from quantcore import files
from quantcore.errors import writing


@dataclass(kw_only=True)
class Findings:
    """Findings are what suites have measured so far."""

    metrics: Metrics = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """They say, by suite, why others have no outcome."""
    seconds: float = 0.0
    """The suites took so long."""


class _Kept(Document):
    """Kept findings are those that lie on disk."""

    metrics: dict[str, Metric]
    seconds: Seconds


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
            kept = _Kept(metrics=findings.metrics, seconds=findings.seconds)
            write_json(self._path(cell), sealed(kept.document()))

    def take_up(self, cell: Cell) -> Findings:
        """Read what an earlier attempt measured; nothing, and say so, if that is not whole."""
        path = self._path(cell)
        if not path.exists():
            return Findings()
        try:
            return _read(path, cell)
        except (OSError, ValueError, RecursionError) as error:
            self.say.warn(f"{path} is damaged ({told(error)}): its suites are measured again")
            return Findings()

    def forget(self, cell: Cell) -> None:
        """Remove a cell's findings."""
        self._path(cell).unlink(missing_ok=True)

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.id}.json"


def _read(path: Path, cell: Cell) -> Findings:
    document = parsed(files.read_text(path))
    claimed = document.pop(DIGEST, None) if isinstance(document, dict) else None
    kept = _Kept.model_validate(document)
    if claimed != digest(document):
        raise ValueError("it does not match its own sha256")
    for name, protocol in cell.suites.items():
        if protocol.metric in kept.metrics:
            check_metric(name, cell, kept.metrics[protocol.metric])
    return Findings(metrics=kept.metrics, seconds=kept.seconds)
