"""The kernels' weights lie in memory as tiles of 128 outputs x 128 inputs, one after the other.

`TiledWeight.codes` is int16 [ceil(N/128), ceil(K/128), 128, 32]. The word at [i, j, n, k] belongs
to output 128 i + n and holds four codes, four bits each, from the lowest up: of inputs
128 j + k, + 32, + 64, + 96. A copy of any run of words is contiguous, whatever N and K, and each of
the four *planes* of 32 inputs comes out of all words by one shift.

`TiledWeight.grid` is int32 [ceil(N/128), groups, 128]: the float16 scale's bits, and above them the
zero point. Scale and zero come in one 4-byte copy, because shorter ones cannot be asynchronous.
Where the group size is a multiple of 128 (or there is one group) there is a word for every group;
otherwise for every 64 or 32 inputs, so that every plane has one scale.

Outputs and inputs beyond N and K are codes, scales and zero points of 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme

TILE = 128
PLANES = 4
PLANE = TILE // PLANES


@dataclass(frozen=True, kw_only=True)
class TiledWeight:
    """A `TiledWeight` is one linear's weight as the Triton kernels read it."""

    codes: Tensor
    """int16 [ceil(N/128), ceil(K/128), 128, 32]"""
    grid: Tensor
    """int32 [ceil(N/128), groups, 128]"""
    out_features: int
    in_features: int
    group_size: int

    @property
    def per_tile(self) -> int:
        """Count one output's grid words in a tile: 1, 2 or 4."""
        return per_tile(self.group_size, self.in_features)


def per_tile(group_size: int, in_features: int) -> int:
    """Count one output's grid words in a tile, of a group size that the layout takes."""
    if group_size == in_features or group_size % TILE == 0:
        return 1
    return 2 if group_size % 64 == 0 else 4


def reason_against_grid(scheme: QuantScheme, in_features: int) -> str | None:
    """Say why the layout does not hold such weights; None: it does."""
    if scheme.bits != 4:
        return f"it takes 4 bits, not {scheme.bits} ({scheme.name})"
    if scheme.scale_dtype is not torch.float16:
        return f"it takes float16 scales, not {scheme.scale_dtype}"
    group = scheme.group_of(in_features)
    if group != in_features and group % PLANE:
        return f"it takes group sizes that are multiples of {PLANE}, or -channel, not {group}"
    return None


def tile(weight: QuantizedWeight) -> TiledWeight:
    """Pack codes, scales and zero points of 4 bits; consecutive groups only.

    Raises:
        InputError: what `reason_against_grid` is against.
    """
    codes, scales, zeros = weight.codes, weight.scales, weight.zeros
    reason = reason_against_grid(weight.scheme, codes.shape[1])
    if reason is not None:
        raise InputError(f"this layout does not hold the weight: {reason}")
    rows, columns = codes.shape
    group = columns // scales.shape[1]
    words = per_tile(group, columns)
    tiles_n, tiles_k = math.ceil(rows / TILE), math.ceil(columns / TILE)
    padded = functional.pad(codes, (0, tiles_k * TILE - columns, 0, tiles_n * TILE - rows))
    planes = padded.view(tiles_n, TILE, tiles_k, PLANES, PLANE).permute(3, 0, 2, 1, 4)
    packed = sum(plane.to(torch.int32) << (4 * place) for place, plane in enumerate(planes))
    entries = (scales.view(torch.int16).to(torch.int32) & 0xFFFF) | (zeros.to(torch.int32) << 16)
    if words > 1:
        # Tiles have 2 or 4 words even where a group spans several of them.
        entries = entries.repeat_interleave(group // (TILE // words), dim=1)
        entries = functional.pad(entries, (0, tiles_k * words - entries.shape[1]))
    entries = functional.pad(entries, (0, 0, 0, tiles_n * TILE - rows))
    return TiledWeight(
        codes=packed.to(torch.int16).contiguous(),
        grid=entries.view(tiles_n, TILE, -1).transpose(1, 2).contiguous(),
        out_features=rows,
        in_features=columns,
        group_size=group,
    )


def untile(weight: TiledWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Unpack a weight: codes uint8 [N, K], scales float16 and zero points uint8 [N, K/G]."""
    n, k, group = weight.out_features, weight.in_features, weight.group_size
    tiles_n, tiles_k = weight.codes.shape[:2]
    words = weight.codes.to(torch.int32)
    planes = torch.stack([(words >> (4 * place)) & 15 for place in range(PLANES)], dim=-2)
    codes = planes.permute(0, 2, 1, 3, 4).reshape(tiles_n * TILE, tiles_k * TILE)[:n, :k]
    entries = weight.grid.transpose(1, 2).reshape(tiles_n * TILE, -1)[:n]
    if weight.per_tile > 1:
        entries = entries[:, : k // (TILE // weight.per_tile) : group // (TILE // weight.per_tile)]
    scales = (entries & 0xFFFF).to(torch.int16).view(torch.float16)
    return codes.to(torch.uint8), scales, (entries >> 16).to(torch.uint8)
