"""What the formats' own libraries pack and decode, kept as a file for tests without them.

Made with compressed-tensors 0.20.0 and GPTQModel 7.6.0 (its AWQ decoder is AutoAWQ's), each in an
environment of its own, from the repository's root:

    python -m tests.quantcore.formats.packed_by_others compressed-tensors
    python -m tests.quantcore.formats.packed_by_others gptqmodel
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme

FILE = Path(__file__).with_name("packed_by_others.safetensors")


def weight_for(scheme: QuantScheme, outputs: int, inputs: int, lowest: int = 1) -> QuantizedWeight:
    """Any codes; zero points from the lowest on."""
    random = torch.Generator().manual_seed(scheme.bits)
    groups = inputs // scheme.group_of(inputs)
    top = scheme.top_code + 1
    zeros = torch.randint(lowest, top, (outputs, groups), generator=random, dtype=torch.uint8)
    zeros[::3] = lowest
    return QuantizedWeight(
        codes=torch.randint(0, top, (outputs, inputs), generator=random, dtype=torch.uint8),
        scales=(0.01 + torch.rand(outputs, groups, generator=random)).half(),
        zeros=torch.full_like(zeros, 2 ** (scheme.bits - 1)) if scheme.symmetric else zeros,
        scheme=scheme,
    )


def with_weight(tensors: dict[str, Tensor], weight: QuantizedWeight) -> dict[str, Tensor]:
    """What a library gave, and what it was given."""
    return {
        **tensors,
        "codes": weight.codes,
        "scales of codes": weight.scales,
        "zeros": weight.zeros,
    }


def of_compressed_tensors() -> dict[str, dict[str, Tensor]]:
    """33 outputs, which fill no word."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    made = {}
    for bits in range(2, 9):
        for symmetric in (False, True):
            scheme = QuantScheme(bits=bits, group_size=32, symmetric=symmetric)
            weight = weight_for(scheme, 33, 64, lowest=0)
            arguments = QuantizationArgs(num_bits=bits, symmetric=symmetric, group_size=32)
            theirs = QuantizationScheme(targets=["Linear"], weights=arguments)
            state = {"weight": weight.dequantize(), "weight_scale": weight.scales}
            if not symmetric:
                signed = weight.zeros.int() - 2 ** (bits - 1)
                state["weight_zero_point"] = signed.to(torch.int8)
            packed = PackedQuantizationCompressor.compress(state, theirs)
            decoded = PackedQuantizationCompressor.decompress(dict(packed), theirs)["weight"]
            made[f"compressed-tensors/{scheme.name}"] = with_weight(
                {**packed, "decoded": decoded}, weight
            )
    return made


def of_gptqmodel() -> dict[str, dict[str, Tensor]]:
    """Both versions, zero points of 0 in the first, and AWQ's words decoded."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    made = {}
    names = ("int2-g32", "int3-g32-sym", "int3-g32", "int4-g32", "int8-g32")
    for name, lowest in (*((n, 1) for n in names), *((f"int{b}-g32", 0) for b in (2, 4, 8))):
        scheme = QuantScheme.parse(name)
        weight = weight_for(scheme, 32, 64, lowest)
        linear = nn.Linear(64, 32, bias=False)
        linear.weight.data = weight.dequantize()
        theirs = TorchLinear(
            bits=scheme.bits, group_size=32, sym=scheme.symmetric, desc_act=False, in_features=64,
            out_features=32, bias=False, pack_dtype=torch.int32, register_buffers=True,
        )  # fmt: skip
        index = torch.arange(64, dtype=torch.int32) // 32
        theirs.pack(linear, weight.scales.float(), weight.zeros.float(), g_idx=index)
        parts = ("qweight", "qzeros", "scales", "g_idx")
        for version in (2, 1):
            if version == 1:
                sizes = SimpleNamespace(bits=scheme.bits, pack_dtype=torch.int32)
                convert_gptq_v2_to_v1_format_module(theirs, sizes)
            packed = {part: getattr(theirs, part).detach().clone() for part in parts}
            packed |= {"g_idx": packed["g_idx"].int(), "scales": packed["scales"].half()}
            label = f"gptq/{name}/{version}" if lowest else f"gptq with 0/{name}"
            made[label] = with_weight(packed, weight)
    random = torch.Generator().manual_seed(4)
    words = torch.iinfo(torch.int32)
    awq = {
        "qweight": torch.randint(words.min, words.max, (64, 3), generator=random).int(),
        "qzeros": torch.randint(words.min, words.max, (2, 3), generator=random).int(),
        "scales": torch.rand(2, 24, generator=random).half(),
    }
    decoded = dequantize_gemm(awq["qweight"], awq["qzeros"], awq["scales"].float(), 4, 32).t()
    return {**made, "awq": {**awq, "decoded": decoded}}


if __name__ == "__main__":
    made = of_gptqmodel() if sys.argv[1] == "gptqmodel" else of_compressed_tensors()
    held = load_file(FILE) if FILE.exists() else {}
    for label, tensors in made.items():
        held |= {f"{label}/{part}": tensor.contiguous().clone() for part, tensor in tensors.items()}
    save_file(dict(sorted(held.items())), FILE)
