"""One calibration pass over the sequences serves every cell."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError

from bench.comparison.calibration import Calibration
from bench.comparison.progress import Reporter
from bench.records import environment
from bench.report import quantities
from quantcore.calibration import BlockWalk, StatsStore, calibrate, stats_bytes
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError, Unwritable, setting_name
from quantcore.grid import QuantizedWeight
from quantcore.method import Method
from quantcore.quantize import QuantizationReport, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure

_STATS_SHARE = 0.25  # of memory that statistics may take before they go to disk


class Calibrator:
    """A calibrator holds the calibration sequences, and makes the pass that every cell shares."""

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
        """The shared pass took so long; None until it was made."""
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
    """Choose the sequences of a forward pass: enough tokens to keep the device busy."""
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
    """Call `quantcore.quantize.quantize_model` with a bar, and say its notices."""
    with say.stage(f"{label}: quantize", len(structure.blocks)) as done:
        report = quantize_model(
            structure, method, scheme, stats=stats, walk=walk, keep=keep, done=lambda index: done(1)
        )
    for notice in report.notices:
        say.warn(f"{label}: {notice}")
    return report


def stats_folder(folder: Path, structure: Structure, loaded: LoadedModel) -> Path | None:
    """Say where statistics go: None for memory, or ``folder`` if they would take too much of it.

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
            f"{quantities.size(free)} are free at {place}; choose an {setting_name('out')} with "
            "more room"
        )
    return folder
