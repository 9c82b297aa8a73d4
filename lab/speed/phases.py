"""Sum up seconds and operators of a method by phase and by the linears that share an input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lab.delegating import DelegatingMethod
from lab.speed.timing import now
from quantcore.calibration import StatsStore
from quantcore.grid import QuantizedWeight
from quantcore.method import GroupTask, Method
from quantcore.quantize import quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold, LinearGroup, Structure


class TimedMethod(DelegatingMethod):
    """A timed method has its two phases timed, and its operators counted if asked."""

    def __init__(self, method: Method, device: torch.device, *, counting: bool = False) -> None:
        """Time ``method`` on ``device``; with ``counting`` count what it dispatches as well."""
        super().__init__(method)
        self._device, self._counting = device, counting
        self.fold_s: dict[str, float] = {}
        self.round_s: dict[str, float] = {}
        self.dispatched: dict[str, Counter[str]] = {}
        """Operators by group's label and phase."""

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Fold against the clock."""
        with self._watch(tasks[0].group, "fold", self.fold_s):
            return super().fold(fold, tasks)

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Round against the clock."""
        with self._watch(task.group, "round", self.round_s):
            return super().round(task)

    @contextmanager
    def _watch(self, group: LinearGroup, phase: str, sums: dict[str, float]) -> Iterator[None]:
        started = now(self._device)
        if self._counting:
            with _Operators() as operators:  # type: ignore[no-untyped-call]
                yield
            counts = self.dispatched.setdefault(group.label, Counter())
            counts[phase] += operators.count
        else:
            yield
        sums[group.label] = sums.get(group.label, 0.0) + now(self._device) - started


class _Operators(TorchDispatchMode):
    """Operators that reach a device are counted here; on a GPU each is about one launch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.count += 1
        return func(*args, **(kwargs or {}))


def count_operators(
    structure: Structure, method: Method, scheme: QuantScheme, store: StatsStore
) -> dict[str, Any]:
    """Count the operators that the first block takes, and on a GPU the kernels it launches.

    Returns:
        ``groups``: by a group's label, operators of either phase, input channels, operators of
        rounding a channel; ``launches``: None without a GPU.
    """
    first = Structure(blocks=structure.blocks[:1], exempt=(), notices=())
    device = next(first.blocks[0].module.parameters()).device
    counted = TimedMethod(method, device, counting=True)
    quantize_model(first, counted, scheme, stats=store)
    widths = {group.label: group.in_features for group in first.blocks[0].groups}
    groups = {
        label: {
            "fold": counts["fold"],
            "round": counts["round"],
            "columns": widths[label],
            "round_per_column": counts["round"] / widths[label],
        }
        for label, counts in counted.dispatched.items()
    }
    if device.type != "cuda":
        return {"groups": groups, "launches": None}
    # The weights are rounded by now, which changes no launch.
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        quantize_model(first, method, scheme, stats=store)
        torch.cuda.synchronize(device)
    launches = sum(e.count for e in profiler.key_averages() if "LaunchKernel" in e.key)
    return {"groups": groups, "launches": launches}
