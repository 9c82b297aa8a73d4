"""``python -m kernels.tune`` measures configurations of the Triton kernel on this GPU.

For every shape and number of tokens all configurations that may be best are timed, on weights
rotated beyond the cache and in CUDA graphs, and the fastest is kept in the user's cache, where the
backend finds it. ``--out`` writes a file of the form that ships with the package instead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.layout import TILE, TiledWeight, tile
from kernels.triton_w4a16 import (
    CAPABILITY,
    Config,
    Decode,
    Plan,
    chunk_rows,
    document_of,
    multiply,
    own_file,
    shape_key,
)
from quantcore import files
from quantcore.errors import InputError
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme

SHAPES = (
    "4096x4096,6144x4096,12288x4096,11008x4096,22016x4096,4096x11008,14336x4096,28672x4096,"
    "4096x14336,28672x8192"
)
"""Outputs x inputs of Llama-2-7B's and Llama-3-8B's linears, alone and side by side, and one of a
70B model's."""
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_ROTATED_BYTES = 256 * 2**20
_REPLAYS = 15


def candidates(tokens: int, outputs: int, inputs: int) -> Iterator[Plan]:
    """Yield every way to cut a shape up that may be the fastest for this many tokens."""
    tiles_k = -(-inputs // TILE)
    if tokens <= 256:
        for bm in (8, 16, 32, 64, 128):
            if bm > max(8, 2 * tokens) or (bm < tokens and bm < 64):
                continue
            for bn in (64, 128, 256):
                if bn * bm > 128 * 128:
                    continue
                for split in (1, 2, 3, 4, 6, 8, 12, 16):
                    if split > 1 and tiles_k // split < 4:
                        continue
                    for stages, warps in itertools.product((3, 4, 5), (1, 2, 4, 8)):
                        # A warp takes 32 to 128 outputs: with fewer the loop's own work weighs,
                        # with more the registers do not suffice.
                        if 32 <= bn // warps <= (128 if bm <= 16 else 64):
                            yield Config(
                                outputs=bn,
                                tokens=bm,
                                split=split,
                                stages=stages,
                                warps=warps,
                                prescale=bm >= 64,
                            )
    if tokens >= 64:
        for bn, bm, warps in ((128, 128, 8), (128, 256, 8), (256, 128, 8)):
            for stages in (3, 4):
                yield Config(
                    outputs=bn, tokens=bm, split=1, stages=stages, warps=warps, prescale=True
                )
        for share in (1, 2, 4):
            yield Decode(rows=chunk_rows(inputs) * share)
        yield Decode(rows=-(-outputs // TILE) * TILE)


def graph_of(calls: list[Any]) -> torch.cuda.CUDAGraph:
    """Capture all calls, once, as one CUDA graph.

    Args:
        calls: without arguments; run twice before, as compilation cannot be captured.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in [*calls[:1], *calls]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def seconds_of(graph: torch.cuda.CUDAGraph, calls: int, replays: int = _REPLAYS) -> list[float]:
    """Time one call, in seconds, for every replay."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found = []
    for _ in range(replays):
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / calls)
    return found


def rotated(
    weight: TiledWeight, counter: Tensor, *, copies: int | None = None
) -> list[tuple[TiledWeight, Tensor]]:
    """Copy a weight as often as takes more bytes than the L2 holds, unless told how often."""
    size = weight.codes.numel() * 2 + weight.grid.numel() * 4
    count = max(2, -(-_ROTATED_BYTES // size)) if copies is None else copies
    return [
        (replace(weight, codes=weight.codes.clone(), grid=weight.grid.clone()), counter.clone())
        for _ in range(count)
    ]


def tune_shape(
    outputs: int, inputs: int, scheme: QuantScheme, dtype: torch.dtype
) -> dict[str, Any]:
    """Find the fastest plan for every number of `TOKENS`, as the file holds them."""
    weight = tile(quantize(torch.randn(outputs, inputs, device="cuda"), scheme))
    counter = torch.zeros(8 * len(weight.codes), dtype=torch.int32, device="cuda")
    copies = rotated(weight, counter)
    best: dict[str, Any] = {}
    for tokens in TOKENS:
        x = torch.randn(tokens, inputs, device="cuda", dtype=dtype)
        fastest: tuple[float, Plan] | None = None
        for plan in candidates(tokens, outputs, inputs):
            try:
                calls = [partial(multiply, x, w, None, c, plan) for w, c in copies]
                graph = graph_of(calls)
            except Exception as error:  # too much shared memory, registers: not for this GPU
                if "out of resource" not in str(error).lower():
                    raise
                continue
            took = statistics.median(seconds_of(graph, len(calls), 3))
            if fastest is None or took < 1.1 * fastest[0]:
                took = statistics.median(seconds_of(graph, len(calls)))
                if fastest is None or took < fastest[0]:
                    fastest = took, plan
        if fastest is None:
            raise RuntimeError(f"no configuration runs at {outputs}x{inputs}, {tokens} tokens")
        best[str(tokens)] = document_of(fastest[1])
        print(f"  {tokens:5} tokens  {fastest[0] * 1e6:9.1f} us  {fastest[1]}", flush=True)
    return {shape_key(weight, dtype): best}


def main(arguments: list[str] | None = None) -> int:
    """Tune, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m kernels.tune", description=__doc__)
    parser.add_argument("--shapes", default=SHAPES, metavar="NxK,...", help=f"default: {SHAPES}")
    parser.add_argument("--scheme", default="int4-g128", metavar="S", help="default: int4-g128")
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16"))
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: {own_file()}")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("tuning measures on a CUDA GPU, and PyTorch sees none")
    if torch.cuda.get_device_capability() < CAPABILITY:
        parser.error(f"{torch.cuda.get_device_name()} is older than compute capability 8.0")
    try:
        scheme = QuantScheme.parse(options.scheme)
        shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
        if any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
            raise ValueError
    except InputError as error:
        parser.error(str(error))
    except ValueError:
        parser.error(f"--shapes {options.shapes}: expected outputs x inputs, such as 4096x11008")
    path = options.out or own_file()
    name = torch.cuda.get_device_name()
    document: dict[str, Any] = {"gpus": {}}
    if path.is_file():
        document = json.loads(path.read_text("utf-8"))
    gpu = document["gpus"].setdefault(name, {"shapes": {}})
    started = time.perf_counter()
    for outputs, inputs in shapes:
        print(f"{outputs} x {inputs} on {name}", flush=True)
        dtype = getattr(torch, options.dtype)
        gpu["shapes"] |= tune_shape(outputs, inputs, scheme, dtype)
        import triton

        gpu |= {"triton": triton.__version__, "torch": torch.__version__}
        files.write_text(path, json.dumps(document, indent=1) + "\n")
    print(f"{path}: {len(shapes)} shapes in {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
