"""A quantization method is two functions of one group of linears and its statistics.

It also says beforehand what they take, so that nobody else has to know how it works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from quantcore.gram import InputStats
from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold, LinearGroup

CalibrationKind = Literal["none", "shared", "sequential"]
Extra = Literal["group_index", "input_scales"]
"""These fields of a `QuantizedWeight` not every method fills."""


@dataclass(frozen=True, kw_only=True)
class GroupTask:
    """A task is one group of linears, as a method gets it."""

    group: LinearGroup
    """The linears that share the input, who can absorb its scales, which rows write queries."""
    weights: Mapping[str, Tensor]
    """float32 [N, K] of every linear to be quantized, by its name in the block."""
    stats: InputStats | None
    """Statistics of the shared input; None if the method asked for none, or no token reached it."""
    scheme: QuantScheme
    """How the weights are to be stored."""
    notice: Callable[[str], None]
    """Says, in the record and on the screen, what a user should know."""

    @property
    def statistics(self) -> InputStats:
        """Give the statistics, which are there for methods that asked for them."""
        if self.stats is None:
            raise RuntimeError(f"no calibration statistics for {self.group.linears}")
        return self.stats


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work is what quantizing takes, in units that a machine can be timed by."""

    product_flop: float = 0.0
    """Operations of float32 matrix products and factorizations."""
    rounded: float = 0.0
    """Weights rounded and decoded."""
    steps: float = 0.0
    """Turns of a loop of a few calls each, of which every one waits for the one before."""

    def __add__(self, other: Work) -> Work:
        """Add the work of two steps that are done one after the other."""
        return Work(
            product_flop=self.product_flop + other.product_flop,
            rounded=self.rounded + other.rounded,
            steps=self.steps + other.steps,
        )


class Method(Protocol):
    """A method chooses scales for a block (phase 1), then rounds its weights (phase 2).

    All groups of a block are folded before any is rounded, because a fold changes the rows of
    the weight that absorbs it (v_proj takes o_proj's scales).
    """

    @property
    def name(self) -> str:
        """Give the name that the user types."""

    @property
    def calibration(self) -> CalibrationKind:
        """Say whether statistics are needed, and if so of the original or the quantized prefix."""

    @property
    def extras(self) -> frozenset[Extra]:
        """Name what its weights keep beside codes, scales and zero points."""

    def settings(self) -> dict[str, object]:
        """Give all that decides the result, for the record and the cell's hash."""

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Choose positive scales [K] to divide the inputs by and multiply the weights by.

        Args:
            fold: who absorbs them.
            tasks: its groups that are quantized and have statistics, if the method asked for any:
                one for most inputs, one for each expert of a mixture.
        """

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Quantize the folded weights under the folded statistics."""

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        """Say what one group's share of `fold`, and its `round`, take; from shapes alone.

        Args:
            group: that is quantized; K is its ``in_features``.
            rows: N of every linear to be quantized, by its name in the block.
            scheme: how the weights are to be stored.
        """
