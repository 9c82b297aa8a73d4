"""What a quantization method is: two functions of one group of linears and its statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme
from quantcore.statistics import InputStats
from quantcore.structure import LinearGroup

CalibrationKind = Literal["none", "shared", "sequential"]


@dataclass(frozen=True, kw_only=True)
class GroupTask:
    """One group of linears, as a method gets it."""

    group: LinearGroup
    """The linears that share the input, and who can absorb its scales."""
    weights: Mapping[str, Tensor]
    """float32 [N, K] of every linear to be quantized, by its name in the block."""
    stats: InputStats | None
    """Statistics of the shared input; None if the method asked for none."""
    scheme: QuantScheme
    """How the weights are to be stored."""
    notice: Callable[[str], None]
    """Says, in the record and on the screen, what a user should know."""

    @property
    def statistics(self) -> InputStats:
        """The statistics, for methods that asked for them."""
        if self.stats is None:
            raise RuntimeError(f"no calibration statistics for {self.group.linears}")
        return self.stats


class Method(Protocol):
    """Chooses scales for a block (phase 1), then rounds its weights (phase 2).

    All groups of a block are folded before any is rounded, because a fold changes the rows of
    the weight that absorbs it (v_proj takes o_proj's scales).
    """

    @property
    def name(self) -> str:
        """What the user types."""

    @property
    def calibration(self) -> CalibrationKind:
        """Whether statistics are needed, and if so of the original or the quantized prefix."""

    def settings(self) -> dict[str, object]:
        """Everything that decides the result, for the record and the cell's hash."""

    def fold(self, task: GroupTask) -> Tensor | None:
        """Positive scales [K] that the input is divided by and the weights multiplied by."""

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Quantize the folded weights under the folded statistics."""
