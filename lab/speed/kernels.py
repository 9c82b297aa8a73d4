"""INT4 linears on a CPU against the vendor's product in the same dtype, by number of tokens.

Every way that `kernels.cpu` knows, and what it chooses; with a compiler and without. Calls of all
take turns, each on copies of the weight that together exceed the caches.
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
from lab.speed import timing
from quantcore.errors import InputError
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme

_ROTATED_BYTES = 2**28
_BUFFER_BYTES = 2**28

TARGETS = {1: 3.5, 4: 1.8}
"""Ratio asked for, by tokens; PyTorch alone never under 0.55, with the native kernel 0.9."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Shapes, numbers of tokens, rounds."""
    parser.add_argument("--shapes", default="4096x4096,11008x4096", help="outputs x inputs")
    parser.add_argument(
        "--tokens", default="1,2,4,8,16,32,64,128,256,512,1024", help="numbers of tokens"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Every shape and number of tokens.

    Raises:
        InputError: shapes that are none.
    """
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    scheme = QuantScheme.parse(options.scheme)
    tokens = [int(one) for one in options.tokens.split(",")]
    found = native.load()
    shapes = [_shape(one) for one in options.shapes.split(",")]
    with say.stage("kernels", len(shapes) * len(tokens)) as done:
        points = []
        for outputs, inputs in shapes:
            ways = _prepared(outputs, inputs, scheme, dtype)
            for count in tokens:
                points.append(_point(outputs, inputs, count, dtype, ways, options.rounds))
                done(1)
    return {
        "device": "cpu",
        "dtype": options.dtype,
        "scheme": scheme.name,
        "native": native.LEVELS[found.level]
        if isinstance(found, native.Native)
        else f"none: {found.reason}",
        "copy_bytes_per_s": _copy_rate(),
        "points": points,
    }


def _shape(text: str) -> tuple[int, int]:
    try:
        outputs, inputs = map(int, text.split("x"))
    except ValueError:
        raise InputError(f"--shapes {text}: expected outputs x inputs, such as 4096x4096") from None
    return outputs, inputs


Call = Callable[[Tensor, int], Tensor]


def _prepared(
    outputs: int, inputs: int, scheme: QuantScheme, dtype: torch.dtype
) -> Mapping[str, Call]:
    """Every way and the vendor's product, each told the number of the call: it takes that copy."""
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
        size = sum(one.numel() * one.element_size() for one in packed.values())
        many = [
            {name: one.clone() for name, one in packed.items()}
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
    """Bytes per second that all threads read when they add up a buffer beyond the caches."""
    buffer = torch.ones(_BUFFER_BYTES // 4)
    buffer.sum()
    return _BUFFER_BYTES / min(timing.seconds_of(buffer.sum) for _ in range(7))


def _best(point: Mapping[str, Any], ways: set[str]) -> tuple[str, Mapping[str, Any]]:
    """The fastest of these ways, and its ratio."""
    there = [way for way in point["ratios"] if way in ways]
    way = min(there, key=lambda one: point["seconds"][one]["median"])
    return way, point["ratios"][way]


_PYTORCH = {"aten", "chunks"}


def _least_s(point: Mapping[str, Any], document: Mapping[str, Any]) -> float:
    """Seconds of reading the codes and their grid, or of the arithmetic, whichever is more.

    The arithmetic goes at the best rate that the vendor's product reached on this shape.
    """
    size = point["out_features"] * point["in_features"]
    shape = (point["out_features"], point["in_features"])
    operations = max(
        2 * size * one["tokens"] / one["seconds"]["vendor"]["median"]
        for one in document["points"]
        if (one["out_features"], one["in_features"]) == shape
    )
    read = QuantScheme.parse(document["scheme"]).stored_bits(*shape) / 8
    return float(max(read / document["copy_bytes_per_s"], 2 * size * point["tokens"] / operations))


def table(document: dict[str, Any]) -> str:
    """Ratios by tokens: every way, the best of PyTorch's own, the best of all."""
    out = []
    for shape in dict.fromkeys((p["out_features"], p["in_features"]) for p in document["points"]):
        points = [p for p in document["points"] if (p["out_features"], p["in_features"]) == shape]
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


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Ratio over tokens, with the bound of bytes and where INT4 becomes slower."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = list(dict.fromkeys((p["out_features"], p["in_features"]) for p in document["points"]))
    figure, panels = pyplot.subplots(
        1, len(shapes), figsize=(5.2 * len(shapes), 3.9), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    colors = {"native": "#c8553d", "native-decode": "#e0913a", "aten": "#4c9a8f"}
    for axes, shape in zip(panels[0], shapes, strict=True):
        points = [p for p in document["points"] if (p["out_features"], p["in_features"]) == shape]
        tokens = [p["tokens"] for p in points]
        for way in points[0]["ratios"]:
            axes.plot(
                tokens,
                [p["ratios"][way]["median"] for p in points],
                marker="o",
                markersize=3.5,
                label=way,
                color=colors.get(way, "#9aa5b1"),
            )
        axes.plot(
            tokens, [_best(p, set(p["ratios"]))[1]["median"] for p in points], color="#333",
            linewidth=4, alpha=0.25, label="chosen",
        )  # fmt: skip
        bounds = [p["seconds"]["vendor"]["median"] / _least_s(p, document) for p in points]
        axes.plot(tokens, bounds, "--", color="#333", linewidth=0.9, label="bound")
        axes.axhline(1, color="#333", linewidth=0.9)
        slower = crossover(tokens, [_best(p, set(p["ratios"]))[1]["median"] for p in points])
        if slower is not None:
            axes.axvline(slower, color="#c8553d", linestyle=":", linewidth=1)
            axes.annotate(
                f"slower from {slower:.0f}", (slower, 1), (4, 8), textcoords="offset points",
                fontsize=8, color="#c8553d",
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(tokens, [str(one) for one in tokens], fontsize=8)
        axes.set_xlabel("tokens")
        axes.set_title(f"{shape[0]} x {shape[1]}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    top = max(r["median"] for p in document["points"] for r in p["ratios"].values())
    panels[0][0].set_ylim(0, 1.15 * top)
    panels[0][0].set_ylabel(f"speed over {document['dtype']}")
    panels[0][0].legend(frameon=False, fontsize=8)
    path = folder / "kernels.png"
    figure.savefig(path, dpi=200)
    pyplot.close(figure)
    return [path]
