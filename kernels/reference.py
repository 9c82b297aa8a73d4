"""The oracle is Y = X W^T + bias in plain PyTorch and float32; `tolerance` bounds kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from quantcore.grid import QuantizedWeight

_ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}
"""Largest relative error of rounding once: half the distance between neighbours."""


def linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """Compute float32 [M, N] of any x [M, K], with the weights of `QuantizedWeight.dequantize`."""
    y = x.float() @ weight.dequantize().T
    return y if bias is None else y + bias.float()


def tolerance(
    x: Tensor,
    weight: QuantizedWeight,
    y: Tensor,
    *,
    rounded_weights: bool = False,
    rounded_scales: bool = False,
) -> Tensor:
    """Say how far a kernel's answer may be from `linear`'s, for every entry: [M, N].

    Three roundings add up. Sums are in float32: every one of the K terms is rounded at most K
    times, to within 2^-24 of the running sum, which sum |x w| bounds (kernels that multiply codes
    and correct for the zero point sum |x| code instead, at most 16 steps of the scale each).
    Where a kernel rounds weights to x's dtype before the product, that adds 2^-11 (float16) or
    2^-8 (bfloat16) of |x w|. The answer itself is rounded to x's dtype once. A kernel that keeps
    scales in x's dtype is off by that much of |x| times 16 steps.

    Args:
        x: [M, K].
        weight: [N, K].
        y: the oracle's answer [M, N].
        rounded_weights: whether the kernel rounds the weights to x's dtype.
        rounded_scales: whether it rounds the scales to x's dtype.
    """
    unit, sums = _ROUNDING[x.dtype], _ROUNDING[torch.float32]
    size = x.float().abs()
    products = size @ weight.dequantize().abs().T
    steps = size @ _steps(weight).T
    allowed = x.shape[1] * sums * (products + steps) + unit * y.abs()
    if rounded_weights:
        allowed += unit * products
    if rounded_scales:
        allowed += unit * steps
    # Subnormal answers are rounded to a fixed step.
    return allowed + torch.finfo(x.dtype).smallest_normal * unit


def _steps(weight: QuantizedWeight) -> Tensor:
    """Give 16 times the scale of every weight, float32 [N, K]."""
    columns = weight.codes.shape[1]
    scales = weight.scales.float().abs()
    index = weight.group_index
    if index is None:
        index = torch.arange(columns, device=scales.device) // (columns // scales.shape[1])
    return 16 * scales[:, index]
