"""This backend takes everything: it dequantizes at every call, then takes the vendor's product.

It saves memory, not time. Weights are dequantized some outputs at a time, so that the float form of
a large layer never exists whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from kernels.place import Place
from quantcore.codes import halves, one_to_a_byte, two_to_a_byte
from quantcore.grid import QuantizedWeight

_CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**25}
"""Of dequantized weights at a time: what a second-level cache holds."""


def reason_against(place: Place) -> str | None:
    """Say that nothing is against it."""
    return None


def pack(weight: QuantizedWeight, place: Place) -> dict[str, Tensor]:
    """Keep codes in uint8 (two to a byte if they are of 4 bits), scales' bits and zero points.

    Scales are kept as integers, so that converting a model to another dtype leaves them alone.
    """
    codes = weight.codes
    return {
        "codes": two_to_a_byte(codes) if halves(place.scheme, place.in_features) else codes.clone(),
        "scales": as_bits(weight.scales),
        "zeros": weight.zeros.clone(),
    }


def unpack(packed: Mapping[str, Tensor], place: Place) -> QuantizedWeight:
    """Give back the weight that was packed."""
    return _rows(packed, place, 0, place.out_features)


def _rows(packed: Mapping[str, Tensor], place: Place, first: int, last: int) -> QuantizedWeight:
    codes = packed["codes"][first:last]
    return QuantizedWeight(
        codes=one_to_a_byte(codes) if halves(place.scheme, place.in_features) else codes,
        scales=packed["scales"][first:last].view(place.scheme.scale_dtype),
        zeros=packed["zeros"][first:last],
        scheme=place.scheme,
    )


def linear(x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, place: Place) -> Tensor:
    """Give x [M, K] times the weight, rounded to x's dtype, plus the bias: [M, N]."""
    chunk = _CHUNK_BYTES["cuda" if x.is_cuda else "cpu"]
    step = max(1, chunk // (place.in_features * x.element_size()))
    if step >= place.out_features:
        return functional.linear(x, unpack(packed, place).dequantize().to(x.dtype), bias)
    y = x.new_empty((len(x), place.out_features))
    for first in range(0, place.out_features, step):
        last = min(first + step, place.out_features)
        served = _rows(packed, place, first, last).dequantize().to(x.dtype)
        y[:, first:last] = functional.linear(x, served)
    return y if bias is None else y + bias


def as_bits(values: Tensor) -> Tensor:
    """Copy floats as integers of the same width."""
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[values.element_size()]
    return values.contiguous().view(width).clone()
