"""The Triton backend cuts shapes up as tuned configurations say, and launches its kernels.

Small M is bound by the bytes of the weights, large M by arithmetic. Up to a number of tokens that
depends on the shape one fused kernel reads the codes once (`kernels.triton_kernels.w4a16`); beyond,
the weights are decoded a cache-sized chunk at a time and multiplied by the vendor's kernel
(`Decode`). Which of the two, and cut up how, is measured (``python -m kernels.tune``) and read from
a file; a shape that no file knows gets `default_plan`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kernels.cache import cache_folder
from kernels.layout import TILE, TiledWeight, reason_against_grid, tile, untile
from kernels.place import Place
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight

SHIPPED = Path(__file__).with_name("tuned.json")
CAPABILITY = (8, 0)
"""The least compute capability: bf16 tensor cores and asynchronous copies."""

_MOST_TILES = 8
"""Counters of a weight for each 128 of its outputs: with more tiles, inputs are not split."""

_CHUNK_BYTES = 32 * 2**20
"""Of decoded weights at a time: they should still be in the L2 (50 MB on an H100) when read."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A `Config` says how the fused kernel cuts one shape up."""

    outputs: int
    """BN, rows of a program's tile: 64, 128 or 256."""
    tokens: int
    """BM, a power of two from 8 on."""
    split: int
    """Programs that share a tile's inputs; their parts are added up in order."""
    stages: int
    """Tiles of 128 inputs under way."""
    warps: int
    prescale: bool = False
    """Scales before the product, rounded to x's dtype: cheaper where M is large."""


@dataclass(frozen=True, kw_only=True)
class Decode:
    """A `Decode` is a plan to decode weights in chunks, each followed by the vendor's product."""

    rows: int
    """Outputs of a chunk, a multiple of 128."""


Plan: TypeAlias = Config | Decode


def reason_against(place: Place) -> str | None:
    """Say why the kernel does not run there; None: it does."""
    if place.device.type != "cuda" and not interpreted():
        return f"it runs on CUDA GPUs, and this is {place.device.type}"
    if find_spec("triton") is None:
        return "the package triton is not installed (it comes with torch for CUDA)"
    if place.device.type == "cuda":
        capability = torch.cuda.get_device_capability(place.device)
        if capability < CAPABILITY:
            return (
                f"it takes compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more, and "
                f"{torch.cuda.get_device_name(place.device)} has {capability[0]}.{capability[1]}"
            )
    if place.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes activations of float16 or bfloat16, not {_name(place.dtype)}"
    return reason_against_grid(place.scheme, place.in_features)


def interpreted() -> bool:
    """Say whether Triton's interpreter stands in for a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def pack(weight: QuantizedWeight, place: Place) -> dict[str, Tensor]:
    """Give `TiledWeight`'s tensors, and counters of programs, zero between calls."""
    tiled = tile(weight)
    tiles = len(tiled.codes) * _MOST_TILES
    counter = torch.zeros(tiles, dtype=torch.int32, device=tiled.codes.device)
    return {"codes": tiled.codes, "grid": tiled.grid, "counter": counter}


def unpack(packed: Mapping[str, Tensor], place: Place) -> QuantizedWeight:
    """Give back the weight that was packed."""
    codes, scales, zeros = untile(_tiled(packed["codes"], packed["grid"], place))
    return QuantizedWeight(codes=codes, scales=scales, zeros=zeros, scheme=place.scheme)


def _tiled(codes: Tensor, grid: Tensor, place: Place) -> TiledWeight:
    return TiledWeight(
        codes=codes,
        grid=grid,
        out_features=place.out_features,
        in_features=place.in_features,
        group_size=place.scheme.group_of(place.in_features),
    )


def linear(x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, place: Place) -> Tensor:
    """Give x [M, K] times the weight, plus the bias; of x's dtype [M, N]."""
    group = place.scheme.group_of(place.in_features)
    found: Tensor = torch.ops.awq_bench.w4a16(
        x, packed["codes"], packed["grid"], packed["counter"], bias, place.out_features, group
    )
    return found


@torch.library.custom_op("awq_bench::w4a16", mutates_args=())
def _w4a16(
    x: Tensor,
    codes: Tensor,
    grid: Tensor,
    counter: Tensor,
    bias: Tensor | None,
    out_features: int,
    group_size: int,
) -> Tensor:
    """Run `multiply` with the plan for this shape, opaque to torch.compile."""
    weight = TiledWeight(
        codes=codes,
        grid=grid,
        out_features=out_features,
        in_features=x.shape[1],
        group_size=group_size,
    )
    return multiply(x, weight, bias, counter, plan_for(x, weight))


@_w4a16.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    grid: Tensor,
    counter: Tensor,
    bias: Tensor | None,
    out_features: int,
    group_size: int,
) -> Tensor:
    return x.new_empty((x.shape[0], out_features))


def multiply(
    x: Tensor, weight: TiledWeight, bias: Tensor | None, counter: Tensor, plan: Plan
) -> Tensor:
    """Give x [M, K] times the weight, of x's dtype [M, N].

    Sums are in float32 and rounded once; the same inputs give the same bits.

    Args:
        x: float16 or bfloat16.
        weight: on x's device.
        bias: [N] of x's dtype, or None.
        counter: int32, zeros; they are zeros again afterwards.
        plan: how to cut the work up.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    if not len(x):
        return x.new_empty((0, weight.out_features))
    if isinstance(plan, Decode):
        return _decoded(x, weight, bias, plan)
    from kernels import triton_kernels

    m, k = x.shape
    n = weight.out_features
    y = x.new_empty((m, n))
    across, down = math.ceil(n / plan.outputs), math.ceil(m / plan.tokens)
    tiles_k = weight.codes.shape[1]
    split = min(plan.split, tiles_k) if across * down <= len(counter) else 1
    parts = across * down * split * plan.outputs * plan.tokens if split > 1 else 1
    partial = torch.empty(parts, dtype=torch.float32, device=x.device)
    triton_kernels.w4a16[(across, split, down)](
        x, weight.codes, weight.grid, x if bias is None else bias, y, partial, counter,
        m, n, k, x.stride(0), tiles_k, weight.grid.shape[1],
        BN=plan.outputs, BM=plan.tokens, SPLIT=split, STAGES=plan.stages,
        PER_TILE=weight.per_tile, TILES_PER_GROUP=_tiles_per_group(weight),
        EVEN_K=k % TILE == 0, BIAS=bias is not None, PRESCALE=plan.prescale,
        BF16=x.dtype is torch.bfloat16, ASM=not interpreted(), num_warps=plan.warps,
        enable_fp_fusion=True,  # its default differs between versions
    )  # fmt: skip
    return y


def _decoded(x: Tensor, weight: TiledWeight, bias: Tensor | None, plan: Decode) -> Tensor:
    """Decode and multiply in chunks of ``plan.rows`` outputs."""
    from kernels import triton_kernels

    n, k = weight.out_features, weight.in_features
    y = x.new_empty((len(x), n))
    chunk = x.new_empty((min(plan.rows, n), k))
    for first in range(0, n, plan.rows):
        rows = min(plan.rows, n - first)
        triton_kernels.decode[(math.ceil(rows / TILE), weight.codes.shape[1])](
            weight.codes, weight.grid, chunk, first // TILE, rows, k,
            weight.codes.shape[1], weight.grid.shape[1],
            PER_TILE=weight.per_tile, TILES_PER_GROUP=_tiles_per_group(weight),
            BF16=x.dtype is torch.bfloat16, ASM=not interpreted(), num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
        torch.mm(x, chunk[:rows].T, out=y[:, first : first + rows])
    return y if bias is None else y.add_(bias)


def _tiles_per_group(weight: TiledWeight) -> int:
    """Count a group's tiles; 0 means one group of all inputs."""
    if weight.per_tile > 1:
        return 1
    return 0 if weight.group_size == weight.in_features else weight.group_size // TILE


def default_plan(
    tokens: int, outputs: int, inputs: int, multiprocessors: int, words: int = 1
) -> Plan:
    """Choose a plan for a shape that no file of tuned configurations holds.

    Up to 64 tokens bytes decide: many outputs for each warp, as that takes the fewest instructions
    a weight (as long as the registers suffice: `kernels.machine_code` shows it), and as many parts
    as give every multiprocessor two programs. Up to 256 tokens tiles are 128 x 64; beyond,
    decoding is a small share of the product.

    Args:
        tokens: M.
        outputs: N.
        inputs: K.
        multiprocessors: of the GPU.
        words: of the grid for an output and tile, `TiledWeight.per_tile`.
    """
    if tokens > 256:
        return Decode(rows=chunk_rows(inputs))
    bm = min(64, max(8, 2 ** math.ceil(math.log2(tokens))))
    bn, stages, warps = 128, 3, 4
    if bm == 8:
        bn, stages, warps = (256, 4, 4) if outputs >= 64 * multiprocessors else (128, 4, 2)
    elif bm == 16:
        bn, stages, warps = (256 if words == 1 else 128), 4, 2
    elif bm == 64 and words > 1:
        warps = 8
    tiles_k = math.ceil(inputs / TILE)
    tiles = math.ceil(outputs / bn) * math.ceil(tokens / bm)
    split = max(1, min(tiles_k // 4, math.ceil(2 * multiprocessors / tiles)))
    return Config(outputs=bn, tokens=bm, split=split, stages=stages, warps=warps)


def chunk_rows(inputs: int) -> int:
    """Count outputs whose decoded 16-bit weights take `_CHUNK_BYTES`, as a multiple of 128."""
    return max(TILE, _CHUNK_BYTES // (2 * inputs) // TILE * TILE)


def plan_for(x: Tensor, weight: TiledWeight) -> Plan:
    """Give what was measured for this shape on this GPU, else `default_plan`."""
    name, multiprocessors = _device(x.device)
    key = shape_key(weight, x.dtype)
    measured = tuned().get(name, {}).get(key, {})
    below = [int(tokens) for tokens in measured if int(tokens) <= max(1, len(x))]
    if below:
        return plan_of(measured[str(max(below))])
    return default_plan(
        len(x), weight.out_features, weight.in_features, multiprocessors, weight.per_tile
    )


@cache
def _device(device: torch.device) -> tuple[str, int]:
    if device.type != "cuda":
        return "interpreter", 1
    properties = torch.cuda.get_device_properties(device)
    return properties.name, properties.multi_processor_count


def shape_key(weight: TiledWeight, dtype: torch.dtype) -> str:
    """Name outputs, inputs, group size and activations: ``4096x14336 g128 float16``."""
    return f"{weight.out_features}x{weight.in_features} g{weight.group_size} {_name(dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def tuned() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Read plans by GPU, shape and least number of tokens: the user's own file wins.

    Raises:
        InputError: a file that is not what ``python -m kernels.tune`` writes.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for path in (SHIPPED, own_file()):
        if not path.is_file():
            continue
        try:
            document = json.loads(path.read_text("utf-8"))
            for gpu, shapes in document["gpus"].items():
                for plans in shapes["shapes"].values():
                    for plan in plans.values():
                        plan_of(plan)
                found[gpu] = {**found.get(gpu, {}), **shapes["shapes"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no file of tuned configurations ({error!r}); write it anew with "
                "`python -m kernels.tune`, or remove it"
            ) from error
    return found


def own_file() -> Path:
    """Give the file that ``python -m kernels.tune`` writes."""
    return cache_folder() / "tuned.json"


def plan_of(document: Mapping[str, Any]) -> Plan:
    """Read a plan as a file holds it."""
    return Decode(**document) if set(document) == {"rows"} else Config(**document)


def document_of(plan: Plan) -> dict[str, Any]:
    """Write a plan as a file holds it."""
    return asdict(plan)
