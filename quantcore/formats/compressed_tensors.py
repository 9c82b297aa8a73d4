"""compressed-tensors' pack-quantized format, which vLLM and Transformers read, holds 2 to 8 bits.

``weight_packed`` is int32 [N, ceil(K b/32)], a dense stream of each output's codes.
``weight_scale`` is [N, K/G]; ``weight_zero_point`` int32 [ceil(N b/32), K/G], a stream along the
outputs, only where the grid is not symmetric. ``weight_shape`` is int64 [2]: N and K. The format
counts values from -2^(b-1) and stores them from 0, which are this project's codes and zero points.
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
    group_index,
    number,
    refuse_settings,
    scheme_of,
    take,
)
from quantcore.grid import QuantizedWeight
from quantcore.method import Extra
from quantcore.scheme import QuantScheme

METHOD = "compressed-tensors"
ABOUT = "2 to 8 bits, with zero points or without: pack-quantized"
SUFFIXES = (
    "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx",
)  # fmt: skip
EXTRAS: frozenset[Extra] = frozenset()  # with actorder group nothing serves it today


def refusal(scheme: QuantScheme, out_features: int, in_features: int) -> str | None:
    """See `quantcore.formats.tensors.Format.refusal`; it holds every shape."""
    return None


def pack(weight: QuantizedWeight) -> dict[str, Tensor]:
    """See `quantcore.formats.tensors.Format.pack`."""
    check_extras(weight, METHOD, EXTRAS)
    bits = weight.scheme.bits
    tensors = {
        "weight_packed": words.pack(weight.codes, bits),
        "weight_scale": weight.scales.contiguous(),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if not weight.scheme.symmetric:
        tensors["weight_zero_point"] = words.pack(weight.zeros.T, bits).T.contiguous()
    return tensors


def unpack(
    tensors: Mapping[str, Tensor], scheme: QuantScheme, shape: tuple[int, int]
) -> QuantizedWeight:
    """See `quantcore.formats.tensors.Format.unpack`."""
    outputs, inputs = shape
    told = take(tensors, "weight_shape", (2,), torch.int64, torch.int32).tolist()
    if told != [outputs, inputs]:
        raise InputError(f"weight_shape is {told}, and the linear is {[outputs, inputs]}")
    groups, bits = inputs // scheme.group_of(inputs), scheme.bits
    packed = take(tensors, "weight_packed", (outputs, words.words_of(inputs, bits)), torch.int32)
    if scheme.symmetric:
        if "weight_zero_point" in tensors:
            raise InputError("weight_zero_point is there, and config.json says symmetric")
        zeros = torch.full((outputs, groups), 2 ** (bits - 1), dtype=torch.uint8)
    else:
        stream = (words.words_of(outputs, bits), groups)
        zero_point = take(tensors, "weight_zero_point", stream, torch.int32)
        zeros = words.unpack(zero_point.T, bits, outputs).T.contiguous()
    scales = take(tensors, "weight_scale", (outputs, groups), *SCALES)
    return QuantizedWeight(
        codes=words.unpack(packed, bits, inputs),
        zeros=zeros,
        scales=scales.contiguous(),
        scheme=replace(scheme, scale_dtype=scales.dtype),
        group_index=group_index(tensors, "weight_g_idx", inputs, groups),
    )


def config(
    scheme: QuantScheme, left_out: Sequence[str], extras: Collection[Extra] = ()
) -> dict[str, Any]:
    """See `quantcore.formats.tensors.Format.config`."""
    return {
        "quant_method": METHOD,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "input_activations": None,
                "output_activations": None,
                "weights": {
                    "num_bits": scheme.bits,
                    "type": "int",
                    "symmetric": scheme.symmetric,
                    "strategy": "channel" if scheme.group_size is None else "group",
                    "group_size": scheme.group_size,
                    "dynamic": False,
                    "actorder": None,
                },
            }
        },
        "ignore": list(left_out),
    }


def scheme(config: Mapping[str, Any]) -> QuantScheme:
    """See `quantcore.formats.tensors.Format.scheme`."""
    layout = config.get("format")
    if layout != "pack-quantized":
        raise InputError(
            f"compressed-tensors format {layout!r} is not read here; pack-quantized is"
        )
    refuse_settings(
        config,
        kv_cache_scheme="a quantized cache",
        sparsity_config="a sparse layout",
        transform_config="a transform of weights or activations",
    )
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        named = sorted(groups) if isinstance(groups, Mapping) else groups
        raise InputError(f"config_groups must be one group of one scheme, not {named!r}")
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise InputError("config_groups has no weights")
    refuse_settings(
        group,
        input_activations="quantized activations",
        output_activations="quantized activations",
    )
    refuse_settings(weights, dynamic="a scale that is chosen at run time")
    if weights.get("type", "int") != "int" or weights.get("strategy") not in ("group", "channel"):
        raise InputError(
            f"weights of type {weights.get('type')!r} by {weights.get('strategy')!r} are not read "
            "here; whole numbers by group or channel are"
        )
    size = -1 if weights["strategy"] == "channel" else number(weights, "group_size")
    symmetric = weights.get("symmetric") is not False
    return scheme_of(number(weights, "num_bits"), size, symmetric=symmetric)


def is_ordered(config: Mapping[str, Any]) -> bool:
    """See `quantcore.formats.tensors.Format.is_ordered`; only old releases wrote it."""
    (group,) = config["config_groups"].values()
    return group["weights"].get("actorder") in ("group", "dynamic", True)
