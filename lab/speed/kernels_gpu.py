"""Time linears on a CUDA GPU: FP16's vendor product, our INT4, PyTorch's, GemLite's.

All run in one process, on weights rotated beyond the L2, in CUDA graphs, so that neither launches
nor a warm cache flatter anybody; each peer's answer is checked before it is timed. A peer that is
not installed, or fails, is named with the reason.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.comparison.progress import Reporter
from kernels import reference, tune
from kernels.layout import tile
from kernels.triton_w4a16 import CAPABILITY, multiply, plan_for
from lab import charts
from lab.speed import timing
from lab.speed.options import integers
from lab.speed.shapes import by_shape, read_shapes
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight, quantize
from quantcore.scheme import QuantScheme

_ROTATED_BYTES = 256 * 2**20
_COPY_BYTES = 2**30

_OVER_FP16_AT_1 = {"4096x4096": 2.2, "11008x4096": 2.9, "14336x4096": 3.0, "28672x8192": 3.5}
_OVER_FP16_AT_64 = 2.0
_OVER_FP16_FEW_OR_MANY = 0.95  # up to 128 tokens, and from 4096
_OVER_FP16_BETWEEN = 0.75
TARGETS = {
    "efficiency at M up to 16": {"4096x4096": 0.80, "20 MB and more": 0.90},
    "over FP16 at M = 1": _OVER_FP16_AT_1,
    "over FP16 at M = 64": _OVER_FP16_AT_64,
    "over FP16 at M up to 128 and from 4096": _OVER_FP16_FEW_OR_MANY,
    "over FP16 between": _OVER_FP16_BETWEEN,
}
_PEERS = ("pytorch int4", "gemlite")
_COLORS = {"ours": "#c8553d", "pytorch int4": "#4c9a8f", "gemlite": "#e0913a"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add shapes, numbers of tokens, replays."""
    parser.add_argument("--shapes", default=tune.SHAPES, help="outputs x inputs")
    parser.add_argument("--tokens", type=integers, default=tune.TOKENS)
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--replays", type=int, default=31)


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Time every shape and number of tokens by every kernel there is.

    Raises:
        InputError: no CUDA device, too old a one, or shapes that are none.
    """
    if not torch.cuda.is_available():
        raise InputError(
            "kernels_gpu: PyTorch sees no CUDA GPU here; run it where there is one, or measure the "
            "CPU's kernels with `python -m lab.speed kernels`"
        )
    if torch.cuda.get_device_capability() < CAPABILITY:
        raise InputError(f"kernels_gpu: {torch.cuda.get_device_name()} is older than sm_80")
    scheme = QuantScheme.parse(options.scheme)
    shapes = read_shapes(options.shapes)
    absent: dict[str, str] = {}
    points = []
    with say.stage("kernels", len(shapes) * len(options.tokens)) as done:
        for outputs, inputs in shapes:
            weight = quantize(torch.randn(outputs, inputs, device="cuda"), scheme)
            kernels = _kernels(weight, absent)
            for count in options.tokens:
                points.append(_point(weight, count, kernels, options.replays, absent))
                done(1)
            del weight, kernels
            torch.cuda.empty_cache()
    return {
        "device": "cuda",
        "scheme": scheme.name,
        "copy_bytes_per_s": _copy_rate(),
        "empty_kernel_s": _empty_kernel_s(),
        "absent": absent,
        "targets": TARGETS,
        "points": points,
    }


Kernel = tuple[torch.dtype, Sequence[Callable[[Tensor], Tensor]]]
"""The dtype of its activations, and one call for every copy of the weight."""


def _kernels(weight: QuantizedWeight, absent: dict[str, str]) -> dict[str, Kernel]:
    """Return every kernel with copies of the weight beyond the L2; the absent are named."""
    makers: Mapping[str, Callable[[QuantizedWeight], tuple[torch.dtype, int, Any]]] = {
        "fp16": _vendor,
        "ours": _ours,
        "pytorch int4": _tinygemm,
        "gemlite": _gemlite,
    }
    kernels: dict[str, Kernel] = {}
    for name, make in makers.items():
        try:
            dtype, size, build = make(weight)
            copies = max(2, -(-_ROTATED_BYTES // size))
            kernels[name] = dtype, [build() for _ in range(copies)]
        except Exception as error:  # a peer's own reasons: it is left out, and the table says so
            if name in ("fp16", "ours"):
                raise
            absent[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return kernels


def _vendor(weight: QuantizedWeight) -> tuple[torch.dtype, int, Any]:
    plain = weight.dequantize().half()
    return (
        torch.float16,
        plain.numel() * 2,
        lambda: partial(functional.linear, weight=plain.clone()),
    )


def _ours(weight: QuantizedWeight) -> tuple[torch.dtype, int, Any]:
    tiled = tile(weight)
    counter = torch.zeros(8 * len(tiled.codes), dtype=torch.int32, device="cuda")

    def build() -> Callable[[Tensor], Tensor]:
        copy, zeros = tune.rotated(tiled, counter, copies=1)[0]
        return lambda x: multiply(x, copy, None, zeros, plan_for(x, copy))

    return torch.float16, tiled.codes.numel() * 2 + tiled.grid.numel() * 4, build


def _tinygemm(weight: QuantizedWeight) -> tuple[torch.dtype, int, Any]:
    """Return PyTorch's own: bfloat16, scales and (8 - zero) * scale in bfloat16."""
    codes = weight.codes
    group = codes.shape[1] // weight.scales.shape[1]
    halves = (codes[:, 0::2] << 4) | codes[:, 1::2]
    packed = torch.ops.aten._convert_weight_to_int4pack(halves.contiguous(), 8)
    scales = weight.scales.float()
    grid = torch.stack([scales, (8 - weight.zeros.float()) * scales], -1).transpose(0, 1)
    grid = grid.bfloat16().contiguous()

    def build() -> Callable[[Tensor], Tensor]:
        own_codes, own_grid = packed.clone(), grid.clone()
        return lambda x: torch.ops.aten._weight_int4pack_mm(x, own_codes, group, own_grid)

    return torch.bfloat16, codes.numel() // 2, build


def _gemlite(weight: QuantizedWeight) -> tuple[torch.dtype, int, Any]:
    """Return GemLite's W4A16, as its own README packs it."""
    from gemlite.core import DType, GemLiteLinear  # type: ignore[import-not-found]

    rows, columns = weight.codes.shape
    groups = weight.scales.shape[1]

    def build() -> Callable[[Tensor], Tensor]:
        layer = GemLiteLinear(
            W_nbits=4,
            group_size=columns // groups,
            in_features=columns,
            out_features=rows,
            input_dtype=DType.FP16,
            output_dtype=DType.FP16,
        )
        layer.pack(
            weight.codes.view(rows, columns),
            weight.scales.view(-1, 1).half(),
            weight.zeros.view(-1, 1).half(),
            bias=None,
        )
        return lambda x: layer(x)

    return torch.float16, weight.codes.numel() // 2, build


def _point(
    weight: QuantizedWeight,
    tokens: int,
    kernels: Mapping[str, Kernel],
    replays: int,
    absent: dict[str, str],
) -> dict[str, Any]:
    outputs, inputs = weight.codes.shape
    x = torch.randn(tokens, inputs, device="cuda")
    expected = reference.linear(x.half(), weight)
    graphs: dict[str, tuple[torch.cuda.CUDAGraph, int]] = {}
    for name, (dtype, calls) in kernels.items():
        given = x.half().to(dtype)
        try:
            error = float((calls[0](given).float() - expected).norm() / expected.norm())
            if error > 0.02:
                raise RuntimeError(f"its answer is off by {100 * error:.1f} % of the output")
            graphs[name] = tune.graph_of([partial(call, given) for call in calls]), len(calls)
        except Exception as error:
            if name in ("fp16", "ours"):
                raise
            absent[f"{name} at {outputs}x{inputs}, {tokens} tokens"] = str(error)[:200]
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for graph, count in graphs.values():
        tune.seconds_of(graph, count, 3)  # a warm clock for all
    for _ in range(replays):
        for name, (graph, count) in graphs.items():
            samples[name] += tune.seconds_of(graph, count, 1)
    return {
        "out_features": outputs,
        "in_features": inputs,
        "tokens": tokens,
        "bytes": weight.codes.numel() // 2
        + weight.scales.numel() * 4
        + 2 * tokens * (outputs + inputs),
        "plan": str(plan_for(x.half(), tile(weight))),
        "seconds": {name: timing.summary(timed) for name, timed in samples.items()},
        "ratios": {
            name: timing.paired_ratio(samples["fp16"], timed)
            for name, timed in samples.items()
            if name != "fp16"
        },
    }


def _copy_rate() -> float:
    """Return bytes per second of a device copy, read and written."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    graph = tune.graph_of([lambda: target.copy_(source)])
    return 2 * _COPY_BYTES / statistics.median(tune.seconds_of(graph, 1))


def _empty_kernel_s() -> float:
    """Return the seconds of a kernel with nothing to do, in a graph of a hundred."""
    cell = torch.zeros(1, device="cuda")
    graph = tune.graph_of([lambda: cell.zero_()] * 100)
    return statistics.median(tune.seconds_of(graph, 100))


def _bound_s(document: Mapping[str, Any], point: Mapping[str, Any]) -> float:
    """Return the seconds of an empty kernel and of the bytes at the copy's rate."""
    return float(document["empty_kernel_s"] + point["bytes"] / document["copy_bytes_per_s"])


def _wanted(point: Mapping[str, Any]) -> float:
    """Return the ratio over FP16 that is asked for at this point."""
    shape, tokens = f"{point['out_features']}x{point['in_features']}", point["tokens"]
    if tokens == 1 and shape in _OVER_FP16_AT_1:
        return _OVER_FP16_AT_1[shape]
    if tokens == 64:
        return _OVER_FP16_AT_64
    return _OVER_FP16_FEW_OR_MANY if tokens <= 128 or tokens >= 4096 else _OVER_FP16_BETWEEN


def _falls_short(point: Mapping[str, Any]) -> bool:
    """Say whether ours is slower than is asked for, or than a peer."""
    ours = point["ratios"]["ours"]["median"]
    peers = [point["ratios"][peer]["median"] for peer in _PEERS if peer in point["ratios"]]
    return bool(ours < _wanted(point) or any(peer > ours for peer in peers))


def table(document: dict[str, Any]) -> str:
    """Show microseconds of FP16, ratios of all and efficiency; shortfalls are marked."""
    header = ["tokens", "FP16, us", "ours", "asked for", *_PEERS, "efficiency"]
    tables = [
        f"{outputs} x {inputs}\n\n"
        + timing.markdown(header, [_row(document, point) for point in points])
        + "\n"
        for (outputs, inputs), points in by_shape(document["points"]).items()
    ]
    short = sum(map(_falls_short, document["points"]))
    absent = "".join(f"- {name}: {why}\n" for name, why in document["absent"].items())
    return (
        f"Speed over FP16 ({document['scheme']}). Efficiency: an empty kernel "
        f"({1e6 * document['empty_kernel_s']:.1f} us) and the bytes at a copy's "
        f"{document['copy_bytes_per_s'] / 1e12:.2f} TB/s, over what was measured. {short} of "
        f"{len(document['points'])} points fall short of what was asked for, or behind a peer "
        f"(gemlite {_version('gemlite')}).\n\n"
        + "".join(tables)
        + (f"Not measured:\n\n{absent}\n" if absent else "")
        + timing.machine(document)
    )


def _row(document: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    ratios, seconds = point["ratios"], point["seconds"]
    return [
        f"{point['tokens']}",
        f"{1e6 * seconds['fp16']['median']:.1f}",
        f"{timing.spread(ratios['ours'])}{' (short)' if _falls_short(point) else ''}",
        f"{_wanted(point):.2f}",
        *(f"{ratios[peer]['median']:.2f}" if peer in ratios else "-" for peer in _PEERS),
        f"{_bound_s(document, point) / seconds['ours']['median']:.2f}",
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def draw(document: dict[str, Any], folder: Path) -> None:
    """Draw the ratio over tokens for each shape, with the bound of bytes and the crossover."""
    shapes = by_shape(document["points"])
    columns = min(3, len(shapes))
    rows = -(-len(shapes) // columns)
    figure, panels = charts.pyplot().subplots(
        rows, columns, figsize=(4.4 * columns, 3.3 * rows), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, (shape, points) in zip(panels.flat, shapes.items(), strict=False):
        _panel(axes, points, document)
        axes.set_title(f"{shape[0]} x {shape[1]}", fontsize=10, loc="left")
    panels[0][0].legend(frameon=False, fontsize=8)
    panels[0][0].set_ylabel("speed over FP16")
    charts.save(figure, folder / "kernels_gpu.png", dpi=150)


def _panel(axes: Any, points: list[dict[str, Any]], document: Mapping[str, Any]) -> None:
    """Draw one shape."""
    for name, color in _COLORS.items():
        there = [p for p in points if name in p["ratios"]]
        axes.plot(
            [p["tokens"] for p in there],
            [p["ratios"][name]["median"] for p in there],
            marker="o", markersize=3.5, color=color, label=name,
        )  # fmt: skip
    tokens = [p["tokens"] for p in points]
    bound = [min(4, p["seconds"]["fp16"]["median"] / _bound_s(document, p)) for p in points]
    axes.plot(tokens, bound, "--", color="#333", linewidth=0.9, label="bytes alone (at most 4)")
    axes.axhline(1, color="#333", linewidth=0.9)
    slower = next((p["tokens"] for p in points if p["ratios"]["ours"]["median"] < 1), None)
    if slower is not None:
        axes.axvline(slower, color="#c8553d", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
