"""One cell is quantized, measured and recorded after the other, on the same loaded model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.comparison.calibrator import Calibrator, quantize_with_progress
from bench.comparison.cells import PlannedCell
from bench.comparison.progress import Reporter
from bench.comparison.suites.suite import (
    Metrics,
    PartFailed,
    Subject,
    Suite,
    Unquantized,
    reason_of,
)
from bench.comparison.unfinished import Findings, Unfinished
from bench.records import environment
from bench.records.cell import Cell
from bench.records.metrics import PeakBytes
from bench.records.record import (
    PhaseSeconds,
    Quantization,
    Record,
    check_metric,
    in_words,
)
from bench.report import labels
from kernels import install
from quantcore import codes as stored_codes
from quantcore.checkpoint import LoadedModel, weight_files
from quantcore.errors import Unwritable
from quantcore.grid import QuantizedWeight
from quantcore.method import Method
from quantcore.quantize import Snapshot, bits_per_weight, stored_bytes
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure
from suites import memory


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """A cell's weights are described here in a record's words."""

    stored_bytes: int | None = None
    bits_per_weight: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    quantization: Quantization | None = None


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """An attempt is what came of trying a cell."""

    weights: _Weights = field(default_factory=_Weights)
    installed: install.Installed = field(default_factory=install.Installed)
    findings: Findings = field(default_factory=Findings)
    seconds: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    """Nothing was measured, for this reason."""


@dataclass(kw_only=True)
class Workbench:
    """A workbench measures a loaded model cell by cell, and puts the weights back each time."""

    name: str
    """The user calls the model so."""
    loaded: LoadedModel
    structure: Structure
    suites: Sequence[Suite]
    """They are all of the comparison's; a cell runs those that it names."""
    calibrator: Calibrator | None
    """None: no method needs calibration."""
    unfinished: Path
    """This folder is for what the suites of an unfinished cell measured."""
    say: Reporter
    stored_codes: bool = False
    """The model's folder holds codes, and a backend is to run them."""
    is_unquantized: bool = True
    """The model as it was loaded is the one that others are compared with."""
    unquantized: Unquantized = field(default_factory=Unquantized)
    """Suites keep here what the unquantized model leaves for the others."""
    _snapshot: Snapshot | None = None
    _installed: install.Installed | None = None

    def measure(self, planned: PlannedCell) -> Record:
        """Measure one cell; a failure is a record too, of one suite or of all.

        What its suites measured stays in `unfinished` until `forget`.

        Raises:
            Unwritable: what was measured cannot be kept.
        """
        memory.reset_peak()
        try:
            attempt = self._measure(planned)
        except Unwritable:  # nor could that of the cells to come
            raise
        except Exception as error:  # a failed cell must not cost the others
            reason = reason_of(error)
            self.say.warn(f"{labels.of_stage(planned.cell)} failed: {reason}")
            attempt = _Attempt(error=reason)
        finally:
            self._uninstall()
            if self._snapshot is not None:
                self._snapshot.restore()
        return self._record(planned.cell, attempt)

    def prepare(self, suites: Sequence[Suite], label: str) -> dict[str, str]:
        """Let suites look at the unquantized model; give the reasons of those that could not."""
        subject = self._subject(label, is_unquantized=True, codes={})
        failures: dict[str, str] = {}
        for suite in suites:
            try:
                suite.prepare(subject, self.say)
            except Exception as error:  # a failed suite must not cost the others
                failures |= dict.fromkeys(suite.protocols, reason_of(error))
        self._warn(label, failures)
        return failures

    def forget(self, cell: Cell) -> None:
        """Remove what the suites of a cell measured, once a whole record holds it."""
        self._unfinished.forget(cell)

    def _record(self, cell: Cell, attempt: _Attempt) -> Record:
        findings, weights, error = attempt.findings, attempt.weights, attempt.error
        if error is None and not findings.metrics:
            error = in_words(findings.failures)
        return Record(
            cell=cell,
            status="failed" if error is not None else "partial" if findings.failures else "done",
            error=error,
            failures=findings.failures,
            notices=list(attempt.installed.notices),
            model_name=self.name,
            parameters=self.loaded.model.num_parameters(),
            metrics=findings.metrics,
            quantization=weights.quantization,
            stored_bytes=weights.stored_bytes,
            bits_per_weight=weights.bits_per_weight,
            seconds=PhaseSeconds(**attempt.seconds),
            peak_bytes=PeakBytes(**memory.peak_bytes()),
            environment=environment.describe(),
            backends=dict(attempt.installed.backends),
        )

    def _measure(self, planned: PlannedCell) -> _Attempt:
        cell, label = planned.cell, labels.of_stage(planned.cell)
        suites = [suite for suite in self.suites if set(suite.protocols) <= set(cell.suites)]
        take_codes = [suite for suite in suites if suite.needs_codes]
        weights = _Weights(stored_bytes=self._stored_bytes(None, 0))
        codes: dict[str, QuantizedWeight] = {}
        unprepared: dict[str, str] = {}
        if planned.method is not None and planned.scheme is not None:
            unprepared = self.prepare(suites, label)
            keep = codes.__setitem__ if take_codes or cell.backend is not None else None
            weights = self._quantize(label, planned.method, planned.scheme, keep)
        elif self.stored_codes:
            unprepared = self.prepare(take_codes, label)
            codes = dict(stored_codes.of(self.loaded))  # checked before the run began
        installed = install.Installed()
        if cell.backend is not None:
            installed = self._install(label, codes, cell.backend)
        subject = self._subject(
            label,
            is_unquantized=self.is_unquantized and planned.method is None,
            codes=codes,
        )
        prepared = [suite for suite in suites if not unprepared.keys() & suite.protocols]
        findings = self._run(cell, subject, prepared)
        findings.failures |= unprepared
        return _Attempt(
            weights=weights,
            installed=installed,
            findings=findings,
            seconds={**weights.seconds, "evaluate": findings.seconds},
        )

    def _subject(
        self, label: str, *, is_unquantized: bool, codes: Mapping[str, QuantizedWeight]
    ) -> Subject:
        return Subject(
            label=label,
            loaded=self.loaded,
            is_unquantized=is_unquantized,
            unquantized=self.unquantized,
            codes=codes,
        )

    def _warn(self, label: str, failures: Mapping[str, str]) -> None:
        for name, reason in failures.items():
            self.say.warn(f"{label}: {name} failed: {reason}")

    def _run(self, cell: Cell, subject: Subject, suites: Sequence[Suite]) -> Findings:
        """Measure every suite; what is finished survives an interruption, and a later failure."""
        findings = self._unfinished.take_up(cell)
        for suite in suites:
            left = [
                name
                for name, protocol in suite.protocols.items()
                if protocol.metric not in findings.metrics
            ]
            if not left:
                continue
            own = self._run_one(cell, suite, subject, left)
            findings.failures |= own.failures
            findings.seconds += own.seconds
            if own.metrics:
                findings.metrics |= own.metrics
                self._unfinished.keep(cell, findings)
        return findings

    def _run_one(
        self, cell: Cell, suite: Suite, subject: Subject, names: Sequence[str]
    ) -> Findings:
        """Measure one suite on the model as it is now; a failure must not cost the others."""
        started = time.perf_counter()
        metrics: Metrics = {}
        failures: dict[str, str] = {}
        try:
            metrics = suite.measure(subject, self.say, names)
        except PartFailed as part:
            metrics, failures = part.metrics, dict(part.reasons)
        except Exception as error:
            failures = dict.fromkeys(names, reason_of(error))
        for name in names:
            if (metric := metrics.get(suite.protocols[name].metric)) is None:
                continue
            try:
                check_metric(name, cell, metric)
            except ValueError as error:
                failures[name] = reason_of(error)
                del metrics[suite.protocols[name].metric]
        self._warn(subject.label, failures)
        return Findings(metrics=metrics, failures=failures, seconds=time.perf_counter() - started)

    def _install(
        self, label: str, codes: Mapping[str, QuantizedWeight], backend: str
    ) -> install.Installed:
        """Let a backend run the linears, and say what a user should know."""
        self._installed = install.install(self.loaded.model, codes, backend=backend)
        for notice in self._installed.notices:
            self.say.warn(f"{label}: {notice}")
        return self._installed

    def _uninstall(self) -> None:
        if self._installed is not None:
            install.remove(self.loaded.model, self._installed)
            self._installed = None

    def _quantize(
        self,
        label: str,
        method: Method,
        scheme: QuantScheme,
        keep: Callable[[str, QuantizedWeight], None] | None,
    ) -> _Weights:
        self._snapshot = self._snapshot or Snapshot(self.structure)
        if self.calibrator is None:
            report = quantize_with_progress(
                self.say, label, self.structure, method, scheme, keep=keep
            )
        else:
            report = self.calibrator.quantize(label, method, scheme, keep)
        seconds = {
            "quantize": report.quantize_s,
            "fold": report.fold_s,
            "round": report.round_s,
            "own_calibration": report.calibrate_s,
        }
        if self.calibrator and self.calibrator.seconds and method.calibration == "shared":
            seconds["shared_calibration"] = self.calibrator.seconds
        return _Weights(
            seconds=seconds,
            stored_bytes=self._stored_bytes(scheme, report.input_bits),
            bits_per_weight=bits_per_weight(self.structure, scheme, input_bits=report.input_bits),
            quantization=Quantization(
                scale_dtype=str(scheme.scale_dtype).removeprefix("torch."),
                calibration_passes=0 if method.calibration == "none" else 1,
                relative_losses=report.relative_losses,
                notices=[*self.structure.notices, *report.notices],
                exempt=list(self.structure.exempt),
            ),
        )

    def _stored_bytes(self, scheme: QuantScheme | None, input_bits: int) -> int:
        if self.loaded.format is not None:
            return sum(path.stat().st_size for path in weight_files(self.loaded.folder))
        return stored_bytes(
            self.loaded.model,
            self.structure,
            scheme,
            item_bytes=self.loaded.item_bytes,
            input_bits=input_bits,
        )

    @property
    def _unfinished(self) -> Unfinished:
        return Unfinished(folder=self.unfinished, say=self.say)
