"""AWQ's GEMM layout, which AutoAWQ, vLLM and Transformers read, holds 4 bits only.

``qweight`` is int32 [K, N/8] and ``qzeros`` int32 [K/G, N/8]: a word's nibbles, from the lowest,
are of outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight. ``scales`` is [K/G, N].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quantcore.errors import InputError
from quantcore.formats.tensors import SCALES, check_extras, number, refuse_settings, scheme_of, take
from quantcore.grid import QuantizedWeight
from quantcore.method import Extra
from quantcore.scheme import QuantScheme

METHOD = "awq"
ABOUT = "4 bits with zero points: AutoAWQ's GEMM layout"
SUFFIXES = ("qweight", "qzeros", "scales")
EXTRAS: frozenset[Extra] = frozenset()
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_CHUNK = 2**17  # words that are unpacked at a time: half a MiB, which stays in the second cache


def refusal(scheme: QuantScheme, out_features: int, in_features: int) -> str | None:
    """See `quantcore.formats.tensors.Format.refusal`."""
    if scheme.bits != 4:
        return f"AWQ checkpoints hold 4 bits, and this is {scheme.bits}"
    if out_features % 8:
        return f"AWQ packs 8 outputs to a word, and {out_features} are no multiple of 8"
    return None


def pack(weight: QuantizedWeight) -> dict[str, Tensor]:
    """See `quantcore.formats.tensors.Format.pack`."""
    check_extras(weight, METHOD, EXTRAS)
    if why := refusal(weight.scheme, *weight.codes.shape):
        raise InputError(why)
    return {
        "qweight": _packed(weight.codes),
        "qzeros": _packed(weight.zeros),
        "scales": weight.scales.T.contiguous(),
    }


def unpack(
    tensors: Mapping[str, Tensor], scheme: QuantScheme, shape: tuple[int, int]
) -> QuantizedWeight:
    """See `quantcore.formats.tensors.Format.unpack`."""
    outputs, inputs = shape
    if why := refusal(scheme, outputs, inputs):
        raise InputError(why)
    groups = inputs // scheme.group_of(inputs)
    scales = take(tensors, "scales", (groups, outputs), *SCALES)
    return QuantizedWeight(
        codes=_unpacked(take(tensors, "qweight", (inputs, outputs // 8), torch.int32)),
        zeros=_unpacked(take(tensors, "qzeros", (groups, outputs // 8), torch.int32)),
        scales=scales.T.contiguous(),
        scheme=replace(scheme, scale_dtype=scales.dtype),
    )


def _packed(codes: Tensor) -> Tensor:
    """Pack uint8 [N, rows] as int32 [rows, N/8]."""
    eights = codes.unflatten(0, (-1, 8))
    packed = torch.zeros(len(eights), eights.shape[2], dtype=torch.int32)
    for place in range(0, 8, 2):
        low, high = eights[:, _ORDER[place]], eights[:, _ORDER[place + 1]]
        packed |= (low | (high << 4)).to(torch.int32) << (4 * place)
    return packed.T.contiguous()


def _unpacked(packed: Tensor) -> Tensor:
    """Unpack int32 [rows, N/8] to uint8 [N, rows]: a byte of each word, two outputs, at a time."""
    rows, count = packed.shape
    turned = packed.T.contiguous()  # a fourth as many numbers as there would be codes
    codes = torch.empty(count, 8, rows, dtype=torch.uint8)
    at_once = max(1, _CHUNK // rows)
    shifted = torch.empty(min(at_once, count), rows, dtype=torch.int32)
    for there, here in zip(codes.split(at_once), turned.split(at_once), strict=True):
        for place in range(0, 8, 2):
            both = torch.bitwise_right_shift(here, 4 * place, out=shifted[: len(here)])
            both = both.to(torch.uint8)
            torch.bitwise_and(both, 15, out=there[:, _ORDER[place]])
            torch.bitwise_right_shift(both, 4, out=there[:, _ORDER[place + 1]])
    return codes.flatten(0, 1)


def config(
    scheme: QuantScheme, left_out: Sequence[str], extras: Collection[Extra] = ()
) -> dict[str, Any]:
    """See `quantcore.formats.tensors.Format.config`.

    Zero points are stored for symmetric grids too: without them vLLM misses its fastest kernel.
    """
    return {
        "quant_method": METHOD,
        "bits": scheme.bits,
        "group_size": scheme.group_size or -1,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": list(left_out),
    }


def scheme(config: Mapping[str, Any]) -> QuantScheme:
    """See `quantcore.formats.tensors.Format.scheme`."""
    version = str(config.get("version", "gemm")).lower()
    if version != "gemm":
        raise InputError(f"AWQ's version {version!r} is not read here; only gemm is")
    refuse_settings(config, dynamic="a scheme of its own for some linears")
    if config.get("zero_point", True) is not True:
        raise InputError("AWQ without zero points (zero_point false) is not read here")
    bits = number(config, "bits", "w_bit")
    if bits != 4:
        raise InputError(f"quantization_config has {bits} bits; AWQ checkpoints hold 4")
    return scheme_of(bits, number(config, "group_size", "q_group_size"), symmetric=False)


def is_ordered(config: Mapping[str, Any]) -> bool:
    """See `quantcore.formats.tensors.Format.is_ordered`; there is no group index."""
    return False
