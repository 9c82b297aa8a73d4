"""RTN rounds to nearest: a baseline that ignores the activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from quantcore.grid import QuantizedWeight, quantize
from quantcore.method import Extra, GroupTask, Work
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold, LinearGroup


class RTN:
    """RTN sends every weight to the nearest point of its group's own grid."""

    name = "rtn"
    calibration = "none"

    @property
    def extras(self) -> frozenset[Extra]:
        """Name what weights keep beside codes, scales and zero points."""
        return frozenset()

    def settings(self) -> dict[str, object]:
        """Give nothing: there is nothing to set."""
        return {}

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Fold nothing: RTN does not scale."""
        return None

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Round each linear on its own."""
        return {name: quantize(weight, task.scheme) for name, weight in task.weights.items()}

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        """Count one rounding of every weight."""
        return Work(), Work(rounded=sum(rows.values()) * group.in_features)
