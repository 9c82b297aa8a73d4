"""GPTQ's layout is written and read as AutoGPTQ, GPTQModel and vLLM read it.

``qweight`` is int32 [K b/32, N], a dense stream of each output's codes along its inputs. ``qzeros``
is int32 [K/G, N b/32], a stream along the outputs: zero points less 1 in version 1 of the format
(``checkpoint_format: gptq``), as they are in version 2 (``gptq_v2``). ``scales`` is [K/G, N], and
``g_idx`` int32 [K] the group of every input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quantcore.errors import InputError
from quantcore.formats import words
from quantcore.formats.tensors import (
    SCALES,
    check_extras,
    check_symmetric,
    consecutive,
    group_index,
    number,
    refuse_settings,
    scheme_of,
    take,
)
from quantcore.grid import QuantizedWeight
from quantcore.method import Extra
from quantcore.scheme import QuantScheme

METHOD = "gptq"
ABOUT = "2, 3, 4 or 8 bits; vLLM serves 4 and 8, symmetric"
SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")
EXTRAS: frozenset[Extra] = frozenset({"group_index"})
_WIDTHS = (2, 3, 4, 8)  # of others GPTQModel makes planes of bits, which nothing else reads


def refusal(scheme: QuantScheme, out_features: int, in_features: int) -> str | None:
    """See `quantcore.formats.tensors.Format.refusal`."""
    if scheme.bits not in _WIDTHS:
        return f"GPTQ checkpoints hold 2, 3, 4 or 8 bits, and this is {scheme.bits}"
    for kind, count in (("inputs", in_features), ("outputs", out_features)):
        if count * scheme.bits % 32:
            return (
                f"GPTQ packs {kind} into whole words, and {count} of {scheme.bits} bits do not "
                "fill them"
            )
    return None


def pack(weight: QuantizedWeight) -> dict[str, Tensor]:
    """See `quantcore.formats.tensors.Format.pack`; version 1."""
    check_extras(weight, METHOD, EXTRAS)
    outputs, inputs = weight.codes.shape
    if why := refusal(weight.scheme, outputs, inputs):
        raise InputError(why)
    bits, index = weight.scheme.bits, weight.group_index
    if index is None:
        index = consecutive(inputs, weight.scales.shape[1])
    return {
        "qweight": words.pack(weight.codes, bits).T.contiguous(),
        "qzeros": _shifted(words.pack(weight.zeros.T, bits), bits, by=-1),
        "scales": weight.scales.T.contiguous(),
        "g_idx": index.to(torch.int32),
    }


def unpack(
    tensors: Mapping[str, Tensor], scheme: QuantScheme, shape: tuple[int, int]
) -> QuantizedWeight:
    """See `quantcore.formats.tensors.Format.unpack`; version 1."""
    return _unpacked(tensors, scheme, shape, less=1)


def unpack_v2(
    tensors: Mapping[str, Tensor], scheme: QuantScheme, shape: tuple[int, int]
) -> QuantizedWeight:
    """See `quantcore.formats.tensors.Format.unpack`; version 2."""
    return _unpacked(tensors, scheme, shape, less=0)


def _unpacked(
    tensors: Mapping[str, Tensor], scheme: QuantScheme, shape: tuple[int, int], *, less: int
) -> QuantizedWeight:
    outputs, inputs = shape
    if why := refusal(scheme, outputs, inputs):
        raise InputError(why)
    groups, bits = inputs // scheme.group_of(inputs), scheme.bits
    qweight = take(tensors, "qweight", (inputs * bits // 32, outputs), torch.int32)
    qzeros = take(tensors, "qzeros", (groups, outputs * bits // 32), torch.int32)
    scales = take(tensors, "scales", (groups, outputs), *SCALES)
    zeros = words.unpack(_shifted(qzeros, bits, by=less), bits, outputs)
    check_symmetric(zeros, scheme, "qzeros")
    return QuantizedWeight(
        codes=words.unpack(qweight.T, bits, inputs),
        zeros=zeros.T.contiguous(),
        scales=scales.T.contiguous(),
        scheme=replace(scheme, scale_dtype=scales.dtype),
        group_index=group_index(tensors, "g_idx", inputs, groups),
    )


def _shifted(qzeros: Tensor, bits: int, *, by: int) -> Tensor:
    """Add 1, 0 or -1 to every zero point as GPTQModel does, so that both read the same.

    It adds to whole words, where no zero point lies across two: one of 0 less 1 borrows from its
    neighbour, and gives back. Of 3 bits it adds to each by itself.
    """
    outputs = qzeros.shape[-1] * 32 // bits
    if by and 32 % bits:
        return words.pack((words.unpack(qzeros, bits, outputs) + by) & 2**bits - 1, bits)
    ones = words.pack(torch.ones(outputs, dtype=torch.uint8), bits)
    return qzeros + by * ones


def config(
    scheme: QuantScheme, left_out: Sequence[str], extras: Collection[Extra] = ()
) -> dict[str, Any]:
    """See `quantcore.formats.tensors.Format.config`.

    ``dynamic`` is GPTQModel's way to leave modules out, which vLLM reads too: patterns that begin
    with ``-:`` name those that are not packed.
    """
    return {
        "quant_method": METHOD,
        "bits": scheme.bits,
        "group_size": scheme.group_size or -1,
        "desc_act": "group_index" in extras,
        "sym": scheme.symmetric,
        "lm_head": False,
        "checkpoint_format": "gptq",
        **({"dynamic": {f"-:^{_escaped(name)}$": {} for name in left_out}} if left_out else {}),
    }


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")


def scheme(config: Mapping[str, Any]) -> QuantScheme:
    """See `quantcore.formats.tensors.Format.scheme`."""
    layout = config.get("checkpoint_format", "gptq")
    if layout not in ("gptq", "gptq_v2"):
        raise InputError(f"GPTQ's checkpoint_format {layout!r} is not read here")
    dynamic = config.get("dynamic") or {}
    if not all(str(pattern).startswith("-:") for pattern in dynamic):
        refuse_settings(config, dynamic="a scheme of its own for some linears")
    return scheme_of(
        number(config, "bits"), number(config, "group_size"), symmetric=config.get("sym") is True
    )


def is_ordered(config: Mapping[str, Any]) -> bool:
    """See `quantcore.formats.tensors.Format.is_ordered`."""
    return config.get("desc_act") is True
