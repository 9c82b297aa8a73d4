"""The grid is the only code of the project that rounds weights.

A group of weights w has a scale s (negative in some symmetric grids) and an integer zero point z,
and is stored as codes

    code = clamp(round(w / s) + z, 0, 2**bits - 1),      w_hat = (code - z) * s

A method may scale input channels before it rounds; scales that it keeps beside the codes are
divided out of w_hat.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.scheme import QuantScheme


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """A quantized weight holds one linear's codes, unpacked (N outputs, K inputs, G to a group)."""

    codes: Tensor
    """uint8 [N, K]"""
    scales: Tensor
    """the scheme's scale dtype [N, K/G]"""
    zeros: Tensor
    """uint8 [N, K/G]"""
    scheme: QuantScheme
    group_index: Tensor | None = None
    """int64 [K], the group of every input; None: groups are consecutive inputs."""
    input_scales: Tensor | None = None
    """The scheme's scale dtype [K], what every input channel was multiplied by before rounding;
    None: by nothing, or by scales that were folded into the operation before."""

    def dequantize(self) -> Tensor:
        """Give the weights that are served, float32 [N, K].

        Without input scales they are exact, for products of 8 by 11 bits fit; the division by
        input scales rounds once.
        """
        rows, columns = self.codes.shape
        scales, zeros = self.scales.float(), self.zeros.float()
        if self.group_index is not None:
            served = decode(
                self.codes.float(), scales[:, self.group_index], zeros[:, self.group_index]
            )
        else:
            groups = self.codes.float().view(rows, scales.shape[1], -1)
            served = decode(groups, scales[..., None], zeros[..., None]).view(rows, columns)
        return served if self.input_scales is None else served.div_(self.input_scales.float())


SYMMETRIC_VERSION = 2
"""Of the symmetric grid that `fit` gives; by the first, scales were positive and the weight of
largest magnitude lay at 2^(b-1) - 1/2 steps."""


def version_of(scheme: QuantScheme) -> int | None:
    """Say by which rule a scheme's grids are fitted: a number, or None for asymmetric ones."""
    return SYMMETRIC_VERSION if scheme.symmetric else None


def fit(low: Tensor, high: Tensor, scheme: QuantScheme) -> tuple[Tensor, Tensor]:
    """Fit scales and zero points that span ``[low, high]``, of any shape, as float32.

    Asymmetric: the range is extended to include zero, s = (high - low) / (2^b - 1) and
    z = round(-low / s). No weight in the range moves by more than s/2.

    Symmetric: z = 2^(b-1), and the end of larger magnitude lies on code 0, so that all codes are
    used: s = -end / 2^(b-1), which is negative where that end is positive. Weights move by |s|/2 at
    most, but for those beyond 2^(b-1) - 1/2 steps at the other end: 2^(b-1) steps have no code
    there, and they move by |s| at most.

    Scales carry the value that their storage dtype holds, never zero or infinite. What float16's
    rounding moves the ends by comes on top: 2^(b-11) steps at most.
    """
    levels = scheme.top_code
    if scheme.symmetric:
        scales = torch.maximum(-low, high) / 2 ** (scheme.bits - 1)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scales = high / levels - low / levels  # in this order the difference cannot overflow
    dtype = torch.finfo(scheme.scale_dtype)
    # float16 scales may be subnormal: 2^-24 is the smallest, and small groups need it.
    smallest = dtype.smallest_normal * (dtype.eps if scheme.scale_dtype is torch.float16 else 1)
    scales = scales.clamp(smallest, dtype.max).to(scheme.scale_dtype).float()
    if scheme.symmetric:
        scales = torch.where(high > -low, -scales, scales)
        return scales, torch.full_like(scales, 2 ** (scheme.bits - 1))
    return scales, torch.round(-low / scales).clamp_(0, levels)


def encode(weight: Tensor, scales: Tensor, zeros: Tensor, top_code: int) -> Tensor:
    """Round to codes as float32, by broadcasting; halves round to even."""
    return torch.round(weight / scales).add_(zeros).clamp_(0, top_code)


def steps_from_zero(
    weight: Tensor, scales: Tensor, low: Tensor, high: Tensor, *, out: Tensor
) -> Tensor:
    """Write ``code - zero`` into ``out``, by broadcasting: times the scale it is the served weight.

    Args:
        weight: to be rounded.
        scales: not zero; negative ones too.
        low: -zero.
        high: top_code - zero.
        out: float32, of the weight's shape.
    """
    return torch.clamp(torch.div(weight, scales, out=out).round_(), low, high, out=out)


def decode(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Compute ``(code - zero) * scale``, by broadcasting."""
    return (codes - zeros).mul_(scales)


def grouped(weight: Tensor, scheme: QuantScheme) -> Tensor:
    """View ``[N, K]`` as ``[N, K/G, G]``.

    Raises:
        InputError: G does not divide K.
    """
    rows, columns = weight.shape
    return weight.reshape(rows, -1, scheme.group_of(columns))


def round_to_nearest(weight: Tensor, scheme: QuantScheme) -> Tensor:
    """Quantize and dequantize ``[N, K]`` float32 by its own minimum and maximum per group."""
    groups = grouped(weight, scheme)
    scales, zeros = fit(groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True), scheme)
    codes = torch.div(groups, scales).round_().add_(zeros).clamp_(0, scheme.top_code)
    return codes.sub_(zeros).mul_(scales).view_as(weight)


def quantize(
    weight: Tensor, scheme: QuantScheme, *, low: Tensor | None = None, high: Tensor | None = None
) -> QuantizedWeight:
    """Round ``[N, K]`` float32 to the grid that spans each group, or the ranges given.

    Args:
        weight: finite float32 [N, K].
        scheme: the grid.
        low: smallest value of every group's range [N, K/G]; default the group's minimum.
        high: largest value of every group's range [N, K/G]; default the group's maximum.

    Raises:
        InputError: the group size does not divide K.
    """
    groups = grouped(weight, scheme)
    scales, zeros = fit(
        groups.amin(-1) if low is None else low, groups.amax(-1) if high is None else high, scheme
    )
    codes = encode(groups, scales[..., None], zeros[..., None], scheme.top_code)
    return QuantizedWeight(
        codes=codes.view_as(weight).to(torch.uint8),
        scales=scales.to(scheme.scale_dtype),
        zeros=zeros.to(torch.uint8),
        scheme=scheme,
    )
