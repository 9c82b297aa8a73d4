"""AutoAWQ's settings are here, and the shapes in which its checkpoints store a linear.

Source: AutoAWQ 0.2.9, ``awq/modules/linear/gemm.py`` and ``awq/models/_config.py``; its "GEMM"
version, which Transformers and vLLM read. Nothing is packed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantcore.errors import InputError
from quantcore.scheme import QuantScheme

NIBBLE_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Bits ``4 i .. 4 i + 3`` of an int32 hold output ``8 c + NIBBLE_ORDER[i]`` of its word c."""
_PER_WORD = 8


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A stored tensor says of which shape and type one tensor of a checkpoint is."""

    shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def bits(self) -> int:
        """Count the bits of the tensor."""
        item = 32 if self.dtype is torch.int32 else torch.finfo(self.dtype).bits
        return self.shape[0] * self.shape[1] * item


def autoawq_shapes(n: int, k: int, group_size: int) -> dict[str, StoredTensor]:
    """Say how AutoAWQ stores a linear of N outputs and K inputs with groups of G inputs.

    The weight is transposed: inputs go down, outputs across, and eight neighbouring outputs share
    an int32. ``qweight`` int32 [K, N/8], ``qzeros`` int32 [K/G, N/8], ``scales`` float16 [K/G, N].

    Raises:
        InputError: G does not divide K, or 8 does not divide N.
    """
    if group_size < 1 or k % group_size:
        raise InputError(f"{k} inputs do not divide into groups of {group_size}")
    if n % _PER_WORD:
        raise InputError(
            f"{n} outputs: AutoAWQ packs 8 outputs to an int32, so N must be a multiple of 8"
        )
    groups, words = k // group_size, n // _PER_WORD
    return {
        "qweight": StoredTensor(shape=(k, words), dtype=torch.int32),
        "qzeros": StoredTensor(shape=(groups, words), dtype=torch.int32),
        "scales": StoredTensor(shape=(groups, n), dtype=torch.float16),
    }


def autoawq_settings(scheme: QuantScheme) -> dict[str, object]:
    """Give AutoAWQ's ``quant_config`` for a scheme.

    ``zero_point`` is True for asymmetric grids; ``q_group_size`` is -1 for whole channels.

    Raises:
        InputError: not 4 bits with a float16 scale, the only ones that its GEMM version stores.
    """
    if scheme.bits != 4 or scheme.scale_dtype is not torch.float16:
        raise InputError(f"{scheme.name}: AutoAWQ stores 4 bits with float16 scales; use int4-*")
    return {
        "zero_point": not scheme.symmetric,
        "q_group_size": -1 if scheme.group_size is None else scheme.group_size,
        "w_bit": scheme.bits,
        "version": "GEMM",
    }
