"""Count the operations of each phase from shapes: no implementation is spared this arithmetic.

Matrix products (and factorizations) alone are counted; rounding is bound by memory and has none.
"""

from __future__ import annotations

from torch import Tensor

from quantcore.gram import symmetric_flop
from quantcore.method import Method
from quantcore.quantize import loss_work
from quantcore.scheme import QuantScheme
from quantcore.structure import Block, LinearGroup, Structure


def of_calibration(structure: Structure, tokens: Tensor) -> dict[str, float]:
    """Count operations of the blocks' linears and attention, and those of the Gram matrices.

    Args:
        structure: of the model.
        tokens: int64 [samples, seqlen], every one of which runs through all blocks.
    """
    samples, seqlen = tokens.shape
    forward = gram = 0.0
    for block in structure.blocks:
        for group in block.groups:
            outputs = sum(_rows(block, group).values())
            forward += 2 * tokens.numel() * outputs * group.in_features
            gram += symmetric_flop(tokens.numel(), group.in_features)
        forward += 4 * samples * seqlen**2 * block.groups[0].in_features
    return {"forward": forward, "statistics": gram}


def of_method(structure: Structure, method: Method, scheme: QuantScheme) -> dict[str, float]:
    """Count operations of a method's phases, and of the losses read off H for the record."""
    sums = {"fold": 0.0, "round": 0.0, "besides": 0.0}
    for block in structure.blocks:
        for group in block.groups:
            rows = _rows(block, group)
            fold, rounding = method.work(group, rows, scheme)
            sums["fold"] += fold.product_flop
            sums["round"] += rounding.product_flop
            if method.calibration != "none":
                sums["besides"] += loss_work(group, rows).product_flop
    return sums


def _rows(block: Block, group: LinearGroup) -> dict[str, int]:
    """Return the output channels of every linear of a group."""
    return {name: len(block.weight(name)) for name in group.linears}
