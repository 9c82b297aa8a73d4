"""One cell: quantize, evaluate, record; and the calibration that all cells share."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import environment, estimate, registry
from bench.calibration import Calibration
from bench.measure import Metrics, Suite, ThroughputSuite
from bench.progress import Reporter
from bench.records import Cell, Record, write_json
from kernels import install
from quantcore import codes
from quantcore.calibration import BlockWalk, StatsStore, calibrate, stats_bytes
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError
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
        """One cell; a failure is a record too."""
        memory.reset_peak()
        result: dict[str, Any]
        try:
            result = self._measure(cell, method, scheme)
        except Exception as error:  # a failed cell must not cost the others
            text = f"{type(error).__name__}: {error}"
            self.say.warn(f"{label_of(cell)} failed: {text}")
            result = {"error": text}
        finally:
            self._uninstall()
            if self._snapshot is not None:
                self._snapshot.restore()
        return Record(
            cell=cell,
            status="failed" if "error" in result else "done",
            model_name=self.name,
            parameters=self.loaded.model.num_parameters(),
            peak_bytes=memory.peak_bytes(),
            environment=environment.describe(),
            **result,
        )

    def _measure(
        self, cell: Cell, method: Method | None, scheme: QuantScheme | None
    ) -> dict[str, Any]:
        label = label_of(cell)
        suites = [one for one in self.suites if set(one.protocols) <= set(cell.suites)]
        result: dict[str, Any] = {"stored_bytes": self._stored_bytes(None, 0), "seconds": {}}
        weights: dict[str, QuantizedWeight] = {}
        timed = [one for one in suites if isinstance(one, ThroughputSuite)]
        if method is not None and scheme is not None:
            for suite in suites:
                suite.prepare(self.loaded, self.say)
            keep = weights.__setitem__ if timed or cell.backend is not None else None
            result |= self._quantize(label, method, scheme, keep)
        elif self.stored_codes:
            for suite in timed:
                suite.prepare(self.loaded, self.say)
            weights = codes.load(self.loaded.folder)  # checked before the run began
        if cell.backend is not None:
            notices = result["quantization"]["notices"] if "quantization" in result else []
            result["backends"] = self._install(label, weights, cell.backend, notices)
        for suite in timed:
            suite.weights = weights
        result["metrics"], result["seconds"]["evaluate"] = self._run(cell, suites)
        return result

    def _run(self, cell: Cell, suites: Sequence[Suite]) -> tuple[Metrics, float]:
        """Every suite's metrics and the seconds they took; finished ones survive an interruption.

        Quantizing again gives the same weights, so what an interrupted run measured still holds.
        """
        kept = self.unfinished / f"{cell.id}.json"
        done: dict[str, Any] = {}
        if kept.is_file():
            with suppress(ValueError):  # not whole: it is measured again
                done = json.loads(kept.read_text("utf-8"))
        for suite in suites:
            name = "+".join(suite.protocols)
            if name not in done:
                started = time.perf_counter()
                metrics = suite.measure(label_of(cell), self.loaded, self.say)
                done[name] = {"metrics": metrics, "seconds": time.perf_counter() - started}
                write_json(kept, done)
        kept.unlink()
        found: Metrics = {}
        for one in done.values():
            found |= one["metrics"]
        return found, sum(one["seconds"] for one in done.values())

    def _install(
        self,
        label: str,
        weights: Mapping[str, QuantizedWeight],
        backend: str,
        notices: list[str],
    ) -> dict[str, int]:
        """Let a backend run the linears; says how many each runs."""
        self._installed = install.install(self.loaded.model, weights, backend=backend)
        for notice in self._installed.notices:
            self.say.warn(f"{label}: {notice}")
        notices += self._installed.notices
        return dict(self._installed.backends)

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


def label_of(cell: Cell) -> str:
    """``int4-g128 AWQ + clip``, or the dtype of the unquantized model."""
    if cell.method is None:
        return cell.dtype
    return f"{cell.scheme} {registry.METHODS[cell.method].label}"


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
            f"calibration statistics take {estimate.size_in_words(need)} on disk and "
            f"{estimate.size_in_words(free)} are free at {place}; choose an --out with more room"
        )
    return folder
