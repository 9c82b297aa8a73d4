"""INT4 linears on a CUDA GPU: FP16's vendor product, ours, PyTorch's INT4 kernel, GemLite.

All in one process, on weights rotated beyond the L2, in CUDA graphs, so that neither launches nor a
warm cache flatter anybody; each peer's answer is checked before it is timed. A peer that is not
installed, or fails, is named with the reason.
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
from lab.speed import timing
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight, quantize
from quantcore.scheme import QuantScheme

_ROTATED_BYTES = 256 * 2**20
_COPY_BYTES = 2**30

TARGETS = {
    "efficiency at M up to 16": {"4096x4096": 0.80, "20 MB and more": 0.90},
    "over FP16 at M = 1": {
        "4096x4096": 2.2,
        "11008x4096": 2.9,
        "14336x4096": 3.0,
        "28672x8192": 3.5,
    },
    "over FP16 at M = 64": 2.0,
    "over FP16 at M up to 128 and from 4096": 0.95,
    "over FP16 between": 0.75,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Shapes, tokens, tuning."""
    parser.add_argument("--shapes", default=tune.SHAPES, help="outputs x inputs")
    parser.add_argument("--tokens", default=",".join(map(str, tune.TOKENS)))
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--replays", type=int, default=31)


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Every shape and number of tokens by every kernel there is.

    Raises:
        InputError: no CUDA device, or too old a one.
    """
    if not torch.cuda.is_available():
        raise InputError(
            "kernels_gpu: PyTorch sees no CUDA GPU here; run it where there is one, or measure the "
            "CPU's kernels with `python -m lab.speed kernels`"
        )
    if torch.cuda.get_device_capability() < CAPABILITY:
        raise InputError(f"kernels_gpu: {torch.cuda.get_device_name()} is older than sm_80")
    scheme = QuantScheme.parse(options.scheme)
    tokens = [int(one) for one in options.tokens.split(",")]
    shapes = [tuple(map(int, one.split("x"))) for one in options.shapes.split(",")]
    absent: dict[str, str] = {}
    points = []
    with say.stage("kernels", len(shapes) * len(tokens)) as done:
        for outputs, inputs in shapes:
            weight = quantize(torch.randn(outputs, inputs, device="cuda"), scheme)
            kernels = _kernels(weight, absent)
            for count in tokens:
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
    """Every kernel with copies of the weight beyond the L2; the absent are named."""
    makers: Mapping[str, Callable[[QuantizedWeight], tuple[torch.dtype, int, Any]]] = {
        "fp16": _vendor,
        "ours": _ours,
        "pytorch int4": _tinygemm,
        "gemlite": _gemlite,
    }
    found: dict[str, Kernel] = {}
    for name, make in makers.items():
        try:
            dtype, size, build = make(weight)
            copies = max(2, -(-_ROTATED_BYTES // size))
            found[name] = dtype, [build() for _ in range(copies)]
        except Exception as error:  # a peer's own reasons: it is left out, and the table says so
            if name in ("fp16", "ours"):
                raise
            absent[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


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
        one, zeros = tune.rotated(tiled, counter, copies=1)[0]
        return lambda x: multiply(x, one, None, zeros, plan_for(x, one))

    return torch.float16, tiled.codes.numel() * 2 + tiled.grid.numel() * 4, build


def _tinygemm(weight: QuantizedWeight) -> tuple[torch.dtype, int, Any]:
    """PyTorch's own: bfloat16, scales and (8 - zero) * scale in bfloat16."""
    codes = weight.codes
    group = codes.shape[1] // weight.scales.shape[1]
    halves = (codes[:, 0::2] << 4) | codes[:, 1::2]
    packed = torch.ops.aten._convert_weight_to_int4pack(halves.contiguous(), 8)
    scales = weight.scales.float()
    grid = torch.stack([scales, (8 - weight.zeros.float()) * scales], -1).transpose(0, 1)
    grid = grid.bfloat16().contiguous()

    def build() -> Callable[[Tensor], Tensor]:
        one, other = packed.clone(), grid.clone()
        return lambda x: torch.ops.aten._weight_int4pack_mm(x, one, group, other)

    return torch.bfloat16, codes.numel() // 2, build


def _gemlite(weight: QuantizedWeight) -> tuple[torch.dtype, int, Any]:
    """GemLite's W4A16, as its own README packs it."""
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
    samples = {name: tune.seconds_of(graph, n, 3) and [] for name, (graph, n) in graphs.items()}
    for _ in range(replays):
        for name, (graph, count) in graphs.items():
            samples[name] += tune.seconds_of(graph, count, 1)
    seconds = {name: timing.summary(found) for name, found in samples.items()}
    return {
        "out_features": outputs,
        "in_features": inputs,
        "tokens": tokens,
        "bytes": weight.codes.numel() // 2
        + weight.scales.numel() * 4
        + 2 * tokens * (outputs + inputs),
        "plan": str(plan_for(x.half(), tile(weight))),
        "seconds": seconds,
        "ratios": {
            name: timing.paired_ratio(samples["fp16"], found)
            for name, found in samples.items()
            if name != "fp16"
        },
    }


def _copy_rate() -> float:
    """Bytes per second of a device copy: read and written."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    graph = tune.graph_of([lambda: target.copy_(source)])
    return 2 * _COPY_BYTES / statistics.median(tune.seconds_of(graph, 1))


def _empty_kernel_s() -> float:
    """Seconds of a kernel with nothing to do, in a graph of a hundred."""
    one = torch.zeros(1, device="cuda")
    graph = tune.graph_of([lambda: one.zero_()] * 100)
    return statistics.median(tune.seconds_of(graph, 100))


def _efficiency(document: Mapping[str, Any], point: Mapping[str, Any]) -> float:
    """(an empty kernel + bytes at the copy's rate) / measured."""
    bound = document["empty_kernel_s"] + point["bytes"] / document["copy_bytes_per_s"]
    return float(bound / point["seconds"]["ours"]["median"])


def _wanted(point: Mapping[str, Any]) -> float:
    """The ratio over FP16 that is asked for at this point."""
    shape = f"{point['out_features']}x{point['in_features']}"
    targets = TARGETS["over FP16 at M = 1"]
    assert isinstance(targets, dict)
    if point["tokens"] == 1 and shape in targets:
        return float(targets[shape])
    if point["tokens"] == 64:
        return 2.0
    return 0.95 if point["tokens"] <= 128 or point["tokens"] >= 4096 else 0.75


def table(document: dict[str, Any]) -> str:
    """By shape and tokens: microseconds of FP16, ratios of all, efficiency; shortfalls marked."""
    names = ["ours", "pytorch int4", "gemlite"]
    out = []
    short = 0
    for shape in dict.fromkeys((p["out_features"], p["in_features"]) for p in document["points"]):
        rows = []
        for point in document["points"]:
            if (point["out_features"], point["in_features"]) != shape:
                continue
            wanted, got = _wanted(point), point["ratios"]["ours"]["median"]
            others = [point["ratios"][n]["median"] for n in names[1:] if n in point["ratios"]]
            missed = got < wanted or any(other > got for other in others)
            short += missed
            rows.append(
                [
                    f"{point['tokens']}",
                    f"{1e6 * point['seconds']['fp16']['median']:.1f}",
                    f"{timing.spread(point['ratios']['ours'])}{' (short)' if missed else ''}",
                    f"{wanted:.2f}",
                    *(
                        f"{point['ratios'][n]['median']:.2f}" if n in point["ratios"] else "-"
                        for n in names[1:]
                    ),
                    f"{_efficiency(document, point):.2f}",
                ]
            )
        header = ["tokens", "FP16, us", "ours", "asked for", *names[1:], "efficiency"]
        out.append(f"{shape[0]} x {shape[1]}\n\n{timing.markdown(header, rows)}\n")
    versions = [f"gemlite {_version('gemlite')}"]
    absent = "".join(f"- {name}: {why}\n" for name, why in document["absent"].items())
    return (
        f"Speed over FP16 ({document['scheme']}). Efficiency: an empty kernel "
        f"({1e6 * document['empty_kernel_s']:.1f} us) and the bytes at a copy's "
        f"{document['copy_bytes_per_s'] / 1e12:.2f} TB/s, over what was measured. {short} of "
        f"{len(document['points'])} points fall short of what was asked for, or behind a peer "
        f"({', '.join(versions)}).\n\n"
        + "".join(out)
        + (f"Not measured:\n\n{absent}\n" if absent else "")
        + timing.machine(document)
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Ratio over tokens for each shape, with the roofline's bound and the crossover."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = list(dict.fromkeys((p["out_features"], p["in_features"]) for p in document["points"]))
    columns = min(3, len(shapes))
    rows = -(-len(shapes) // columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(4.4 * columns, 3.3 * rows), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    colors = {"ours": "#c8553d", "pytorch int4": "#4c9a8f", "gemlite": "#e0913a"}
    for axes, shape in zip(panels.flat, shapes, strict=False):
        points = [p for p in document["points"] if (p["out_features"], p["in_features"]) == shape]
        for name, color in colors.items():
            there = [p for p in points if name in p["ratios"]]
            axes.plot(
                [p["tokens"] for p in there],
                [p["ratios"][name]["median"] for p in there],
                marker="o", markersize=3.5, color=color, label=name,
            )  # fmt: skip
        bound = [
            p["seconds"]["fp16"]["median"]
            / (document["empty_kernel_s"] + p["bytes"] / document["copy_bytes_per_s"])
            for p in points
        ]
        axes.plot(
            [p["tokens"] for p in points], [min(4, one) for one in bound], "--", color="#333",
            linewidth=0.9, label="bytes alone (at most 4)",
        )  # fmt: skip
        axes.axhline(1, color="#333", linewidth=0.9)
        slower = next((p["tokens"] for p in points if p["ratios"]["ours"]["median"] < 1), None)
        if slower is not None:
            axes.axvline(slower, color="#c8553d", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_title(f"{shape[0]} x {shape[1]}", fontsize=10, loc="left")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(frameon=False, fontsize=8)
    panels[0][0].set_ylabel("speed over FP16")
    path = folder / "kernels_gpu.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return [path]
