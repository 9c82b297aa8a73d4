"""Peak memory is read here, of this process and of the GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_carried: dict[str, int] = {}
"""Peaks since `reset_peak` that a reset within it would have hidden."""


def reset_peak() -> None:
    """Start counting the peak anew, where the system allows it."""
    _carried.clear()
    _reset()


def peak_bytes() -> dict[str, int]:
    """Read the peak of this process's resident memory, and the GPU's, since `reset_peak`."""
    return {name: max(peak, _carried.get(name, 0)) for name, peak in _peaks().items()}


def _reset() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Where that is not allowed the peak is the process's own, since its start: an upper bound.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "utf-8")


def _peaks() -> dict[str, int]:
    peaks = {"host": _resident("VmHWM")}
    if not peaks["host"]:
        import resource

        peaks["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if torch.cuda.is_available():
        peaks["gpu"] = torch.cuda.max_memory_allocated()
    return peaks


def _resident(what: str) -> int:
    """Read a figure of the kernel's about this process, in bytes; 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
    return 0


class RunPeaks:
    """A `RunPeaks` keeps the most that a model's runs take, with other models in memory as well.

    On the model's own device that is its weights and what its runs add to what was there before
    them; on the host of a GPU, the process's resident memory.
    """

    def __init__(self, device: torch.device) -> None:
        """Count runs on this device."""
        self._own = "gpu" if device.type == "cuda" else "host"
        self._added = 0
        self._host = 0

    @contextmanager
    def over(self) -> Iterator[None]:
        """Count a run."""
        gc.collect()
        with suppress(OSError, AttributeError):  # what was freed before must not hide what is taken
            ctypes.CDLL(None).malloc_trim(0)
        for name, peak in _peaks().items():
            _carried[name] = max(peak, _carried.get(name, 0))
        _reset()
        rest = torch.cuda.memory_allocated() if self._own == "gpu" else _resident("VmRSS")
        yield
        peaks = _peaks()
        self._added = max(self._added, peaks[self._own] - rest)
        self._host = max(self._host, peaks["host"])

    def with_weights(self, size: int) -> dict[str, int]:
        """Give bytes on the host and, where there is one, the GPU."""
        found = {"host": self._host} if self._own == "gpu" else {}
        return {**found, self._own: size + self._added}
