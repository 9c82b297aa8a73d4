"""Time INT4 linears on a CPU against the vendor's product in the same dtype, by tokens.

Every way that `kernels.cpu` knows, and what it chooses, is timed with a compiler and without. Calls
of all take turns, each on copies of the weight that together exceed the caches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.comparison.progress import Reporter
from bench.report.charts import crossover
from kernels import cpu, native
from kernels.place import Place
from lab import charts
from lab.speed import timing
from lab.speed.options import integers
from lab.speed.shapes import by_shape, read_shapes
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme

_ROTATED_BYTES = 2**28
_BUFFER_BYTES = 2**28
_COLORS = {"native": "#c8553d", "native-decode": "#e0913a", "aten": "#4c9a8f"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add shapes, numbers of tokens, rounds."""
    parser.add_argument("--shapes", default="4096x4096,11008x4096", help="outputs x inputs")
    parser.add_argument(
        "--tokens",
        type=integers,
        default="1,2,4,8,16,32,64,128,256,512,1024",
        help="numbers of tokens",
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Time every shape and number of tokens.

    Raises:
        InputError: shapes that are none.
    """
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    scheme = QuantScheme.parse(options.scheme)
    loaded = native.load()
    shapes = read_shapes(options.shapes)
    with say.stage("kernels", len(shapes) * len(options.tokens)) as done:
        points = []
        for outputs, inputs in shapes:
            ways = _prepared(outputs, inputs, scheme, dtype)
            for count in options.tokens:
                points.append(_point(outputs, inputs, count, dtype, ways, options.rounds))
                done(1)
    return {
        "device": "cpu",
        "dtype": options.dtype,
        "scheme": scheme.name,
        "native": native.LEVELS[loaded.level]
        if isinstance(loaded, native.Native)
        else f"none: {loaded.reason}",
        "copy_bytes_per_s": _copy_rate(),
        "points": points,
    }


Call = Callable[[Tensor, int], Tensor]


def _prepared(
    outputs: int, inputs: int, scheme: QuantScheme, dtype: torch.dtype
) -> Mapping[str, Call]:
    """Return every way and the vendor's product; a call is told its number, and takes that copy."""
    weight = quantize(torch.randn(outputs, inputs), scheme)
    place = Place(
        device=torch.device("cpu"),
        dtype=dtype,
        scheme=scheme,
        out_features=outputs,
        in_features=inputs,
    )
    plain = weight.dequantize().to(dtype)
    count = max(2, -(-_ROTATED_BYTES // (plain.numel() * plain.element_size())))
    copies = [plain.clone() for _ in range(count)]

    def vendor(x: Tensor, turn: int) -> Tensor:
        return functional.linear(x, copies[turn % len(copies)])

    calls: dict[str, Call] = {"vendor": vendor}
    for layout in dict.fromkeys(cpu._LAYOUT[way] for way in cpu.ways(place)):
        packed = cpu._pack(layout, weight, place)
        size = sum(part.numel() * part.element_size() for part in packed.values())
        many = [
            {name: part.clone() for name, part in packed.items()}
            for _ in range(max(2, -(-_ROTATED_BYTES // 2 // size)))
        ]
        for way in cpu.ways(place):
            if cpu._LAYOUT[way] == layout:
                calls[way] = partial(_run, way, many, place)
    return calls


def _run(way: str, many: list[dict[str, Tensor]], place: Place, x: Tensor, turn: int) -> Tensor:
    return cpu.run(way, x, many[turn % len(many)], None, place)


def _point(
    outputs: int,
    inputs: int,
    tokens: int,
    dtype: torch.dtype,
    ways: Mapping[str, Call],
    rounds: int,
) -> dict[str, Any]:
    x = torch.randn(tokens, inputs).to(dtype)
    for call in ways.values():
        call(x, 0)
    seconds = timing.interleave(
        {
            name: partial(lambda call, turn: timing.seconds_of(partial(call, x, turn + 1)), call)
            for name, call in ways.items()
        },
        rounds,
    )
    ratios = {
        name: timing.paired_ratio(seconds["vendor"], samples)
        for name, samples in seconds.items()
        if name != "vendor"
    }
    return {
        "out_features": outputs,
        "in_features": inputs,
        "tokens": tokens,
        "seconds": {name: timing.summary(samples) for name, samples in seconds.items()},
        "ratios": ratios,
    }


def _copy_rate() -> float:
    """Return bytes per second that all threads read in a sum over a buffer beyond the caches."""
    buffer = torch.ones(_BUFFER_BYTES // 4)
    buffer.sum()
    return _BUFFER_BYTES / min(timing.seconds_of(buffer.sum) for _ in range(7))


def _best(point: Mapping[str, Any], ways: set[str]) -> tuple[str, Mapping[str, Any]]:
    """Return the fastest of these ways, and its ratio."""
    there = [way for way in point["ratios"] if way in ways]
    way = min(there, key=lambda name: point["seconds"][name]["median"])
    return way, point["ratios"][way]


_PYTORCH = {"aten", "chunks"}


def _least_s(point: Mapping[str, Any], document: Mapping[str, Any]) -> float:
    """Return the seconds of reading codes and grid, or of the arithmetic, whichever is more.

    The arithmetic goes at the best rate that the vendor's product reached on this shape.
    """
    size = point["out_features"] * point["in_features"]
    shape = (point["out_features"], point["in_features"])
    operations = max(
        2 * size * other["tokens"] / other["seconds"]["vendor"]["median"]
        for other in by_shape(document["points"])[shape]
    )
    read = QuantScheme.parse(document["scheme"]).stored_bits(*shape) / 8
    return float(max(read / document["copy_bytes_per_s"], 2 * size * point["tokens"] / operations))


def table(document: dict[str, Any]) -> str:
    """Show ratios by tokens: every way, the best of PyTorch's own, the best of all."""
    out = []
    for shape, points in by_shape(document["points"]).items():
        ways = list(points[0]["ratios"])
        rows = []
        for point in points:
            vendor = point["seconds"]["vendor"]["median"]
            torch_way, torch_ratio = _best(point, _PYTORCH)
            best_way, best = _best(point, set(ways))
            reached = _least_s(point, document) / point["seconds"][best_way]["median"]
            rows.append(
                [
                    f"{point['tokens']}",
                    f"{1e3 * vendor:.2f}",
                    *(f"{point['ratios'][way]['median']:.2f}" for way in ways),
                    f"{torch_ratio['median']:.2f} ({torch_way})",
                    f"{timing.spread(best)} ({best_way})",
                    f"{reached:.2f}",
                ]
            )
        header = [
            "tokens",
            f"vendor, {document['dtype']}, ms",
            *ways,
            "PyTorch alone",
            "best",
            "of the bound",
        ]
        out.append(f"{shape[0]} x {shape[1]}, {document['scheme']}\n\n")
        out.append(timing.markdown(header, rows) + "\n")
    return (
        "INT4 against the vendor's product: seconds of the product over seconds of each way, the "
        "median over rounds (in brackets the range). Bound: reading codes, scales and zeros at "
        f"the {document['copy_bytes_per_s'] / 1e9:.1f} GB/s at which all threads read a buffer, or "
        "the arithmetic at the vendor's best rate, whichever takes longer. "
        f"Native kernel: {document['native']}.\n\n" + "".join(out) + timing.machine(document)
    )


def draw(document: dict[str, Any], folder: Path) -> None:
    """Draw the ratio over tokens, with the bound of bytes and where INT4 becomes slower."""
    shapes = by_shape(document["points"])
    figure, panels = charts.pyplot().subplots(
        1, len(shapes), figsize=(5.2 * len(shapes), 3.9), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axes, (shape, points) in zip(panels[0], shapes.items(), strict=True):
        _panel(axes, points, document)
        axes.set_title(f"{shape[0]} x {shape[1]}", fontsize=10, loc="left")
    top = max(r["median"] for p in document["points"] for r in p["ratios"].values())
    panels[0][0].set_ylim(0, 1.15 * top)
    panels[0][0].set_ylabel(f"speed over {document['dtype']}")
    panels[0][0].legend(frameon=False, fontsize=8)
    charts.save(figure, folder / "kernels.png", dpi=200)


def _panel(axes: Any, points: list[dict[str, Any]], document: Mapping[str, Any]) -> None:
    """Draw one shape: every way, what is chosen, the bound."""
    tokens = [p["tokens"] for p in points]
    for way in points[0]["ratios"]:
        ratios = [p["ratios"][way]["median"] for p in points]
        color = _COLORS.get(way, "#9aa5b1")
        axes.plot(tokens, ratios, marker="o", markersize=3.5, label=way, color=color)
    chosen = [_best(p, set(p["ratios"]))[1]["median"] for p in points]
    axes.plot(tokens, chosen, color="#333", linewidth=4, alpha=0.25, label="chosen")
    bounds = [p["seconds"]["vendor"]["median"] / _least_s(p, document) for p in points]
    axes.plot(tokens, bounds, "--", color="#333", linewidth=0.9, label="bound")
    axes.axhline(1, color="#333", linewidth=0.9)
    slower = crossover(tokens, chosen)
    if slower is not None:
        axes.axvline(slower, color="#c8553d", linestyle=":", linewidth=1)
        axes.annotate(
            f"slower from {slower:.0f}", (slower, 1), (4, 8), textcoords="offset points",
            fontsize=8, color="#c8553d",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, list(map(str, tokens)), fontsize=8)
    axes.set_xlabel("tokens")
    axes.spines[["top", "right"]].set_visible(False)
