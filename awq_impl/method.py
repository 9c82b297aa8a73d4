"""AWQ as a method: search scales, fold them, clip, round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from awq_impl.clip import search_ranges
from awq_impl.search import search_shared_scales
from quantcore.grid import QuantizedWeight, grouped, quantize
from quantcore.method import CalibrationKind, GroupTask
from quantcore.structure import Fold

UNCLIPPED = ("*q_proj", "*k_proj", "*query", "*key")
"""Left unclipped, as in the reference: their errors meet in a product of two rounded operands,
which the output error of either alone does not see."""
FUSED = ("*qkv*", "*query_key_value", "*c_attn")
"""q, k and v in one matrix: only the rows of v are clipped."""


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
        unclipped = [*UNCLIPPED, *(f"{name}, but for v" for name in FUSED)]
        return {"steps": self.steps, "unclipped": unclipped if self.clip else None}

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Search one set of scales for all matrices that read what the absorber writes."""
        parts = [(torch.cat(list(task.weights.values())), task.statistics) for task in tasks]
        rows = fold.absorber.rows
        tied = rows if len(rows.unique()) < len(rows) else None
        return search_shared_scales(parts, tasks[0].scheme, steps=self.steps, rows=tied).scales

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Round to nearest, within clipped ranges where asked."""
        rounded: dict[str, QuantizedWeight] = {}
        for name, weight in task.weights.items():
            low = high = None
            if self.clip and not _matches(name, UNCLIPPED):
                low, high = search_ranges(weight, task.statistics, task.scheme, steps=self.steps)
                if _matches(name, FUSED):
                    groups = grouped(weight, task.scheme)
                    v = torch.zeros(len(weight), 1, dtype=torch.bool, device=weight.device)
                    v[task.passing_rows.get(name, torch.empty(0, dtype=torch.int64))] = True
                    low = torch.where(v, low, groups.amin(-1))
                    high = torch.where(v, high, groups.amax(-1))
            rounded[name] = quantize(weight, task.scheme, low=low, high=high)
        return rounded


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
