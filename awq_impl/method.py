"""AWQ as a method: search scales, fold them, clip, round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from awq_impl.clip import search_ranges
from awq_impl.search import search_scales
from quantcore.grid import QuantizedWeight, quantize
from quantcore.method import CalibrationKind, GroupTask

UNCLIPPED = ("*q_proj", "*k_proj", "*query", "*key")
"""Left unclipped, as in the reference: their errors meet in a product of two rounded operands,
which the output error of either alone does not see."""


@dataclass(frozen=True, kw_only=True)
class AWQ:
    """``awq`` (scales only) and ``awq+clip`` (the same scales, then ranges clipped)."""

    clip: bool = False
    steps: int = 20

    @property
    def name(self) -> str:
        """What the user types."""
        return "awq+clip" if self.clip else "awq"

    @property
    def calibration(self) -> CalibrationKind:
        """AWQ reads the statistics of the original model."""
        return "shared"

    def settings(self) -> dict[str, object]:
        """Steps of the search, and what is not clipped."""
        return {"steps": self.steps, "unclipped": list(UNCLIPPED) if self.clip else None}

    def fold(self, task: GroupTask) -> Tensor | None:
        """Search one set of scales for all linears of the group; None where nobody takes them."""
        absorber = task.group.absorber
        if absorber is None:
            return None
        weight = torch.cat(list(task.weights.values()))
        rows = absorber.rows if absorber.kind == "linear" else None
        choice = search_scales(weight, task.statistics, task.scheme, steps=self.steps, rows=rows)
        return choice.scales

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Round to nearest, within clipped ranges where asked."""
        rounded: dict[str, QuantizedWeight] = {}
        for name, weight in task.weights.items():
            low = high = None
            if self.clip and not any(fnmatchcase(name, pattern) for pattern in UNCLIPPED):
                low, high = search_ranges(weight, task.statistics, task.scheme, steps=self.steps)
            rounded[name] = quantize(weight, task.scheme, low=low, high=high)
        return rounded
