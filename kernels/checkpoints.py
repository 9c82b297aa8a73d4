"""Weights of AWQ and GPTQ checkpoints are read as `QuantizedWeight` here, and written back.

Both pack eight 4-bit codes into an int32, the first in the lowest bits, and keep scales as float16
[K/G, N] and zero points as int32 [K/G, N/8].

AWQ (the "gemm" version of AutoAWQ, which vLLM and Transformers load): ``qweight`` is int32
[K, N/8]; its eight codes, and those of ``qzeros``, are of outputs 0, 2, 4, 6, 1, 3, 5, 7.

GPTQ (AutoGPTQ and GPTQModel): ``qweight`` is int32 [K/8, N], eight neighbouring inputs of one
output; ``qzeros`` packs eight neighbouring outputs. In the first version of the format zero points
are stored less 1, in the second as they are. ``g_idx`` int32 [K] is the group of every input.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme

_EIGHT = 8
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_PLAIN_ORDER = tuple(range(_EIGHT))


def _unpacked(words: Tensor, order: tuple[int, ...]) -> Tensor:
    """Unpack int32 [..., n] to uint8 [..., 8 n]; place i of a word holds entry ``order[i]``."""
    shifts = torch.tensor([4 * order.index(entry) for entry in range(_EIGHT)], device=words.device)
    codes = (words[..., None] >> shifts) & 15
    return codes.flatten(-2).to(torch.uint8)


def _packed(codes: Tensor, order: tuple[int, ...]) -> Tensor:
    """Pack uint8 [..., 8 n] into int32 [..., n]."""
    entries = codes.unflatten(-1, (-1, _EIGHT))[..., list(order)].to(torch.int64)
    shifts = torch.arange(0, 32, 4, device=codes.device)
    words = (entries << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _scheme(groups: int, inputs: int) -> QuantScheme:
    return QuantScheme(bits=4, group_size=None if groups == 1 else inputs // groups)


def _check(name: str, words: Tensor, shape: tuple[int, int]) -> None:
    if words.dtype is not torch.int32 or tuple(words.shape) != shape:
        raise InputError(
            f"{name} is {words.dtype} {list(words.shape)}; with these scales it must be int32 "
            f"{list(shape)}"
        )


def from_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> QuantizedWeight:
    """Read the tensors of one linear of an AWQ checkpoint.

    Args:
        qweight: int32 [K, N/8].
        qzeros: int32 [K/G, N/8].
        scales: float16 [K/G, N].

    Raises:
        InputError: shapes that do not belong together.
    """
    groups, outputs = scales.shape
    _check("qweight", qweight, (len(qweight), outputs // _EIGHT))
    _check("qzeros", qzeros, (groups, outputs // _EIGHT))
    if len(qweight) % groups:
        raise InputError(f"{len(qweight)} inputs do not divide into {groups} groups")
    return QuantizedWeight(
        codes=_unpacked(qweight, _AWQ_ORDER).T.contiguous(),
        scales=scales.T.contiguous(),
        zeros=_unpacked(qzeros, _AWQ_ORDER).T.contiguous(),
        scheme=_scheme(groups, len(qweight)),
    )


def to_awq(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Make the tensors of one linear of an AWQ checkpoint: ``qweight``, ``qzeros``, ``scales``.

    Raises:
        InputError: not 4 bits, outputs that are no multiple of 8, or inputs in another order.
    """
    _check_packable(weight)
    if weight.group_index is not None:
        raise InputError("AWQ checkpoints have no group index: columns must be in their own order")
    return {
        "qweight": _packed(weight.codes.T, _AWQ_ORDER),
        "qzeros": _packed(weight.zeros.T, _AWQ_ORDER),
        "scales": weight.scales.T.contiguous(),
    }


def from_gptq(
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Tensor | None = None,
    *,
    version: Literal[1, 2] = 1,
) -> QuantizedWeight:
    """Read the tensors of one linear of a GPTQ checkpoint.

    Args:
        qweight: int32 [K/8, N].
        qzeros: int32 [K/G, N/8].
        scales: float16 [K/G, N].
        g_idx: int32 [K], the group of every input; None: consecutive inputs.
        version: of the format: 1 keeps zero points less 1.

    Raises:
        InputError: shapes that do not belong together, or a group index beyond the groups.
    """
    groups, outputs = scales.shape
    inputs = len(qweight) * _EIGHT
    _check("qweight", qweight, (len(qweight), outputs))
    _check("qzeros", qzeros, (groups, outputs // _EIGHT))
    index = None
    if g_idx is not None:
        index = g_idx.to(torch.int64)
        if len(index) != inputs or int(index.min()) < 0 or int(index.max()) >= groups:
            raise InputError(
                f"g_idx has {len(index)} entries from {int(index.min())} to {int(index.max())}; it "
                f"must have one for each of {inputs} inputs, from 0 to {groups - 1}"
            )
        plain = torch.arange(inputs, device=index.device) // (inputs // groups)
        index = None if torch.equal(index, plain) else index
    zeros = _unpacked(qzeros, _PLAIN_ORDER)
    return QuantizedWeight(
        codes=_unpacked(qweight.T, _PLAIN_ORDER),
        scales=scales.T.contiguous(),
        zeros=((zeros + 1) % 16 if version == 1 else zeros).T.contiguous(),
        scheme=_scheme(groups, inputs),
        group_index=index,
    )


def to_gptq(weight: QuantizedWeight, *, version: Literal[1, 2] = 1) -> dict[str, Tensor]:
    """Make the tensors of one linear of a GPTQ checkpoint, by the names that `from_gptq` takes.

    Raises:
        InputError: not 4 bits, or outputs or inputs that are no multiple of 8.
    """
    _check_packable(weight)
    inputs = weight.codes.shape[1]
    if inputs % _EIGHT:
        raise InputError(f"{inputs} inputs: GPTQ packs 8 of them into a word")
    index = weight.group_index
    if index is None:
        index = torch.arange(inputs) // (inputs // weight.scales.shape[1])
    zeros = weight.zeros.T
    return {
        "qweight": _packed(weight.codes, _PLAIN_ORDER).T.contiguous(),
        "qzeros": _packed((zeros - 1) % 16 if version == 1 else zeros, _PLAIN_ORDER),
        "scales": weight.scales.T.contiguous(),
        "g_idx": index.to(torch.int32),
    }


def _check_packable(weight: QuantizedWeight) -> None:
    if weight.scheme.bits != 4:
        raise InputError(f"{weight.scheme.name}: AWQ and GPTQ words hold 4-bit codes here")
    if len(weight.codes) % _EIGHT:
        raise InputError(f"{len(weight.codes)} outputs: zero points are packed 8 to a word")
    if weight.input_scales is not None:
        raise InputError("scales kept beside the weight have no place in these checkpoints")
