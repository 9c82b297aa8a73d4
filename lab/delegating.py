"""A method can leave its work to another, so that subclasses look on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from quantcore.grid import QuantizedWeight
from quantcore.method import CalibrationKind, Extra, GroupTask, Method, Work
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold, LinearGroup


class DelegatingMethod:
    """A delegating method is a `quantcore.method.Method` that does what the method inside does."""

    def __init__(self, method: Method) -> None:
        """Leave the work to ``method``."""
        self._method = method

    @property
    def name(self) -> str:
        """Return what the user types for the method inside."""
        return self._method.name

    @property
    def calibration(self) -> CalibrationKind:
        """Say what statistics the method inside asks for."""
        return self._method.calibration

    @property
    def extras(self) -> frozenset[Extra]:
        """Name what weights keep beside codes, scales and zero points."""
        return self._method.extras

    def settings(self) -> dict[str, object]:
        """Return the settings of the method inside."""
        return self._method.settings()

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Fold as the method inside does."""
        return self._method.fold(fold, tasks)

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Round as the method inside does."""
        return self._method.round(task)

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        """Say what the method inside takes."""
        return self._method.work(group, rows, scheme)
