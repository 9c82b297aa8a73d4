"""One cell: quantize, evaluate, record; and the calibration that all cells share."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from bench.comparison.calibration import Calibration
from bench.comparison.measure import Metrics, PartFailed, Suite, ThroughputSuite, reason_of
from bench.comparison.progress import Reporter
from bench.records import environment
from bench.records.check import DIGEST, check_metric, digest, parsed, sealed
from bench.records.record import Cell, Record, in_words, write_json
from bench.report import labels, quantities
from kernels import install
from quantcore import codes, files
from quantcore.calibration import BlockWalk, StatsStore, calibrate, stats_bytes
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError, Unwritable, writing
from quantcore.grid import QuantizedWeight
from quantcore.method import Method
from quantcore.quantize import (
    QuantizationReport,
    Snapshot,
    bits_per_weight,
    quantize_model,
    stored_bytes,
)
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure
from suites import memory

_STATS_SHARE = 0.25  # of memory that statistics may take before they go to disk


class Calibrator:
    """The calibration sequences, and the one pass over them that every cell shares."""

    def __init__(
        self,
        loaded: LoadedModel,
        structure: Structure,
        calibration: Calibration,
        *,
        cache: Path | None,
        say: Reporter,
    ) -> None:
        """Keep statistics in ``cache``, or in memory if None; nothing is run yet."""
        self.seconds: float | None = None
        """What the shared pass took; None until it was made."""
        self._loaded = loaded
        self._structure = structure
        self._tokens = calibration.tokens
        self._say = say
        self._cache = cache
        self._store = StatsStore(cache)
        self._error: Exception | None = None
        self._batch_size = calibration_batch(loaded, calibration)

    def quantize(
        self,
        label: str,
        method: Method,
        scheme: QuantScheme,
        keep: Callable[[str, QuantizedWeight], None] | None = None,
    ) -> QuantizationReport:
        """Quantize the model in place, with the statistics that the method wants."""
        stats = self._stats_for(method)
        started = time.perf_counter()
        walk = self._walk() if method.calibration == "sequential" else None
        embed_s = time.perf_counter() - started if walk else 0.0
        report = quantize_with_progress(
            self._say, label, self._structure, method, scheme, stats=stats, walk=walk, keep=keep
        )
        report.calibrate_s += embed_s
        return report

    def _stats_for(self, method: Method) -> StatsStore | None:
        if method.calibration == "sequential":
            return None
        try:
            return self._shared_stats()
        except Unwritable:
            raise
        except Exception:
            # RTN needs none; it only reports its losses where they are there.
            if method.calibration == "shared":
                raise
            return None

    def _walk(self) -> BlockWalk:
        return BlockWalk(
            self._loaded.model, self._structure, self._tokens, batch_size=self._batch_size
        )

    def _shared_stats(self) -> StatsStore:
        if self._error is not None:
            raise self._error  # the pass failed for the first cell, and would again
        if self.seconds is None:
            started = time.perf_counter()
            try:
                with self._say.stage("calibrate", len(self._structure.blocks)) as done:
                    calibrate(
                        self._loaded.model,
                        self._structure,
                        self._tokens,
                        self._store,
                        batch_size=self._batch_size,
                        done=lambda index: done(1),
                    )
            except SafetensorError as error:  # it says what the system refused
                raise Unwritable(
                    f"{self._cache} cannot be written ({error}); make room and give rights there"
                ) from error
            except Exception as error:
                self._error = error
                raise
            self.seconds = time.perf_counter() - started
        return self._store


def calibration_batch(loaded: LoadedModel, calibration: Calibration) -> int:
    """Sequences per forward pass: enough tokens to keep the device busy."""
    budget = 65536 if loaded.device.type == "cuda" else 4096
    return max(1, budget // calibration.tokens.shape[1])


def quantize_with_progress(
    say: Reporter,
    label: str,
    structure: Structure,
    method: Method,
    scheme: QuantScheme,
    *,
    stats: StatsStore | None = None,
    walk: BlockWalk | None = None,
    keep: Callable[[str, QuantizedWeight], None] | None = None,
) -> QuantizationReport:
    """`quantcore.quantize.quantize_model` with a bar, and its notices said."""
    with say.stage(f"{label}: quantize", len(structure.blocks)) as done:
        report = quantize_model(
            structure, method, scheme, stats=stats, walk=walk, keep=keep, done=lambda index: done(1)
        )
    for notice in report.notices:
        say.warn(f"{label}: {notice}")
    return report


@dataclass(kw_only=True)
class _Found:
    """What suites found, why others found nothing, and what that took."""

    metrics: Metrics = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(kw_only=True)
class Workbench:
    """A loaded model: measures one cell after the other, and puts the weights back each time."""

    name: str
    """What the user calls the model."""
    loaded: LoadedModel
    structure: Structure
    suites: Sequence[Suite]
    """All of the comparison; a cell runs those that it names."""
    calibrator: Calibrator | None
    """None where no method needs calibration."""
    unfinished: Path
    """Folder for what the suites of an unfinished cell measured."""
    say: Reporter
    stored_codes: bool = False
    """The model's folder holds codes, and a backend is to run them."""
    _snapshot: Snapshot | None = None
    _installed: install.Installed | None = None

    def measure(self, cell: Cell, method: Method | None, scheme: QuantScheme | None) -> Record:
        """One cell; a failure is a record too, of one suite or of all.

        What its suites found stays in `unfinished` until `forget`.

        Raises:
            Unwritable: what was found cannot be kept.
        """
        memory.reset_peak()
        result: dict[str, Any]
        try:
            result = self._measure(cell, method, scheme)
        except Unwritable:  # nor could that of the cells to come
            raise
        except Exception as error:  # a failed cell must not cost the others
            text = reason_of(error)
            self.say.warn(f"{labels.of_stage(cell)} failed: {text}")
            result = {"status": "failed", "error": text}
        finally:
            self._uninstall()
            if self._snapshot is not None:
                self._snapshot.restore()
        return Record(
            cell=cell,
            model_name=self.name,
            parameters=self.loaded.model.num_parameters(),
            peak_bytes=memory.peak_bytes(),
            environment=environment.describe(),
            **result,
        )

    def forget(self, cell: Cell) -> None:
        """Remove what the suites of a cell found, once a whole record holds it."""
        self._kept(cell).unlink(missing_ok=True)

    def _measure(
        self, cell: Cell, method: Method | None, scheme: QuantScheme | None
    ) -> dict[str, Any]:
        label = labels.of_stage(cell)
        suites = [one for one in self.suites if set(one.protocols) <= set(cell.suites)]
        result: dict[str, Any] = {"stored_bytes": self._stored_bytes(None, 0), "seconds": {}}
        weights: dict[str, QuantizedWeight] = {}
        timed = [one for one in suites if isinstance(one, ThroughputSuite)]
        unprepared: dict[str, str] = {}
        if method is not None and scheme is not None:
            unprepared = self._prepare(suites, label)
            keep = weights.__setitem__ if timed or cell.backend is not None else None
            result |= self._quantize(label, method, scheme, keep)
        elif self.stored_codes:
            unprepared = self._prepare(timed, label)
            weights = codes.load(self.loaded.folder)  # checked before the run began
        if cell.backend is not None:
            result["backends"], result["notices"] = self._install(label, weights, cell.backend)
        for suite in timed:
            suite.weights = weights
        found = self._run(cell, [one for one in suites if not unprepared.keys() & one.protocols])
        found.failures |= unprepared
        result["seconds"]["evaluate"] = found.seconds
        result |= {"metrics": found.metrics, "failures": found.failures}
        if not found.metrics:
            return result | {"status": "failed", "error": in_words(found.failures)}
        return result | {"status": "partial" if found.failures else "done"}

    def _prepare(self, suites: Sequence[Suite], label: str) -> dict[str, str]:
        """Let suites look at the unquantized model; why those that could not have failed."""
        failures: dict[str, str] = {}
        for suite in suites:
            try:
                suite.prepare(self.loaded, self.say)
            except Exception as error:  # a failed suite must not cost the others
                failures |= dict.fromkeys(suite.protocols, reason_of(error))
        self._warn(label, failures)
        return failures

    def _warn(self, label: str, failures: Mapping[str, str]) -> None:
        for name, reason in failures.items():
            self.say.warn(f"{label}: {name} failed: {reason}")

    def _run(self, cell: Cell, suites: Sequence[Suite]) -> _Found:
        """What every suite found; what is finished survives an interruption, and a later failure.

        Quantizing again gives the same weights, so it still holds when the cell is run again.
        """
        found = self._taken_up(cell)
        for suite in suites:
            left = [n for n, one in suite.protocols.items() if one["metric"] not in found.metrics]
            if not left:
                continue
            one = self._attempt(suite, left, labels.of_stage(cell))
            found.failures |= one.failures
            found.seconds += one.seconds
            if one.metrics:
                found.metrics |= one.metrics
                with writing(self.unfinished, "make room and give rights there"):
                    kept = {"metrics": found.metrics, "seconds": found.seconds}
                    write_json(self._kept(cell), sealed(kept))
        return found

    def _taken_up(self, cell: Cell) -> _Found:
        """What an earlier attempt at the cell found; nothing, and said, if that is not whole."""
        path = self._kept(cell)
        if not path.exists():
            return _Found()
        try:
            kept = parsed(files.read_text(path))
            if not isinstance(kept, dict) or not isinstance(kept.get("metrics"), dict):
                raise ValueError("it holds no metrics")
            if kept.get(DIGEST) != digest(kept):
                raise ValueError("it does not match its own sha256")
            found = _Found(seconds=float(kept["seconds"]))
            for protocol in cell.suites.values():
                if metric := kept["metrics"].get(protocol["metric"]):
                    check_metric(metric, protocol)
                    found.metrics[protocol["metric"]] = metric
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.say.warn(f"{path} is damaged ({error}): its suites are measured again")
            return _Found()
        return found

    def _kept(self, cell: Cell) -> Path:
        return self.unfinished / f"{cell.id}.json"

    def _attempt(self, suite: Suite, names: Sequence[str], label: str) -> _Found:
        """One suite on the model as it is now; a failure must not cost the others."""
        started = time.perf_counter()
        metrics: Metrics = {}
        failures: dict[str, str] = {}
        try:
            metrics = suite.measure(label, self.loaded, self.say, names)
        except PartFailed as part:
            metrics, failures = part.found, dict(part.reasons)
        except Exception as error:
            failures = dict.fromkeys(names, reason_of(error))
        for name in names:
            protocol = suite.protocols[name]
            if (metric := metrics.get(protocol["metric"])) is None:
                continue
            try:  # what no record may hold, such as NaN, is a failure too
                metric = json.loads(json.dumps(metric, allow_nan=False))
                check_metric(metric, protocol)
                metrics[protocol["metric"]] = metric
            except ValueError as error:
                failures[name] = reason_of(error)
                del metrics[protocol["metric"]]
        self._warn(label, failures)
        return _Found(metrics=metrics, failures=failures, seconds=time.perf_counter() - started)

    def _install(
        self,
        label: str,
        weights: Mapping[str, QuantizedWeight],
        backend: str,
    ) -> tuple[dict[str, int], list[str]]:
        """Let a backend run the linears; says how many each runs, and what a user should know."""
        self._installed = install.install(self.loaded.model, weights, backend=backend)
        for notice in self._installed.notices:
            self.say.warn(f"{label}: {notice}")
        return dict(self._installed.backends), list(self._installed.notices)

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
    ) -> dict[str, Any]:
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
        return {
            "seconds": seconds,
            "stored_bytes": self._stored_bytes(scheme, report.input_bits),
            "bits_per_weight": bits_per_weight(
                self.structure, scheme, input_bits=report.input_bits
            ),
            "quantization": {
                "scale_dtype": str(scheme.scale_dtype).removeprefix("torch."),
                "calibration_passes": 0 if method.calibration == "none" else 1,
                "relative_losses": report.relative_losses,
                "notices": [*self.structure.notices, *report.notices],
                "exempt": list(self.structure.exempt),
            },
        }

    def _stored_bytes(self, scheme: QuantScheme | None, input_bits: int) -> int:
        return stored_bytes(
            self.loaded.model,
            self.structure,
            scheme,
            item_bytes=self.loaded.item_bytes,
            input_bits=input_bits,
        )


def stats_folder(folder: Path, structure: Structure, loaded: LoadedModel) -> Path | None:
    """Where statistics go: None for memory, or ``folder`` if they would take too much of it.

    Raises:
        InputError: there is not enough free disk either.
    """
    available = environment.total_memory_bytes()
    if loaded.device.type == "cuda":
        available = torch.cuda.mem_get_info(loaded.device)[0]
    if stats_bytes(structure, on_disk=False) <= _STATS_SHARE * available:
        return None
    need = stats_bytes(structure, on_disk=True)
    place = next(p for p in folder.absolute().parents if p.is_dir())
    free = shutil.disk_usage(place).free
    if need > 0.95 * free:
        raise InputError(
            f"calibration statistics take {quantities.size(need)} on disk and "
            f"{quantities.size(free)} are free at {place}; choose an --out with more room"
        )
    return folder
