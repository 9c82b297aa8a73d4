"""AWQ is a method that searches scales, folds them, clips and rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from awq_impl.clip import factors, search_ranges
from awq_impl.search import candidates, evaluations, search_shared_scales
from quantcore.gram import symmetric_flop
from quantcore.grid import QuantizedWeight, grouped, quantize
from quantcore.method import CalibrationKind, Extra, GroupTask, Work
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold, LinearGroup

UNCLIPPED = "rows that write queries and keys"
"""Left unclipped, as in the reference: their errors meet in a product of two rounded operands,
which the output error of either alone does not see. Structure tells which rows these are."""


@dataclass(frozen=True, kw_only=True)
class AWQ:
    """AWQ is ``awq`` (scales only) and ``awq+clip`` (the same scales, then ranges clipped)."""

    clip: bool = False
    steps: int = 20

    @property
    def name(self) -> str:
        """Give the name that the user types."""
        return "awq+clip" if self.clip else "awq"

    @property
    def calibration(self) -> CalibrationKind:
        """Ask for the statistics of the original model."""
        return "shared"

    @property
    def extras(self) -> frozenset[Extra]:
        """Name what weights keep beside codes, scales and zero points."""
        return frozenset()

    def settings(self) -> dict[str, object]:
        """Give what decides the result: the steps of the search, and what is not clipped."""
        return {"steps": self.steps, "unclipped": UNCLIPPED if self.clip else None}

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
            groups = grouped(weight, task.scheme)
            low, high = groups.amin(-1), groups.amax(-1)
            rows = clipped_rows(task.group, name, len(weight)).to(weight.device)
            if self.clip and len(rows):
                low[rows], high[rows] = search_ranges(
                    weight[rows], task.statistics, task.scheme, steps=self.steps
                )
            rounded[name] = quantize(weight, task.scheme, low=low, high=high)
        return rounded

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        """Count scored candidates where scales can be folded, then scored ranges within groups."""
        count, inputs = sum(rows.values()), group.in_features
        fold, rounding = Work(), Work(rounded=count * inputs)
        if group.absorber is not None:
            scored = evaluations(len(candidates(self.steps)), count)
            fold = Work(
                product_flop=scored * symmetric_flop(count, inputs), rounded=scored * count * inputs
            )
        if self.clip:
            clipped = sum(len(clipped_rows(group, name, n)) for name, n in rows.items()) * inputs
            tried = len(factors(self.steps))
            rounding += Work(
                product_flop=tried * 2 * clipped * scheme.group_of(inputs), rounded=tried * clipped
            )
        return fold, rounding


def clipped_rows(group: LinearGroup, name: str, count: int) -> Tensor:
    """List a linear's rows whose ranges are clipped, int64: all that write no queries or keys."""
    kept = group.score_rows.get(name)
    return torch.arange(count) if kept is None else (~kept).nonzero()[:, 0]
