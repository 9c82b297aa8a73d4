"""Time the scale search through H against running the linear again for every candidate.

Both score the same candidates with the same rounding: through H, tr(E H E^T) from statistics that
are summed once; again, ||X E^T||^2 over all tokens, one product per candidate (kinder than keeping
the outputs of the original linear to subtract from).
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awq_impl.salience import activation_salience, weight_salience
from awq_impl.search import candidate, candidates, evaluations, search_scales
from bench.comparison.progress import Reporter
from lab import charts
from lab.speed.options import integers
from lab.speed.timing import (
    interleave,
    machine,
    markdown,
    matmul_rate,
    paired_ratio,
    seconds_of,
    spread,
    summary,
)
from quantcore.errors import InputError
from quantcore.gram import InputStats, add_products, mirror, symmetric_flop
from quantcore.grid import round_to_nearest
from quantcore.scheme import QuantScheme

TARGET = 10.0
_CHUNK = 8192  # tokens per product


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add sizes; the defaults are those of the target."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--size", type=int, default=1024, help="K and N")
    parser.add_argument("--steps", type=int, default=10, help="2 x steps candidates, and s = 1")
    parser.add_argument("--growth-tokens", type=int, default=16384)
    parser.add_argument("--growth", type=integers, default=(256, 512, 1024, 2048, 4096))
    parser.add_argument("--scheme", default="int4-g128")


def problem(tokens: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Make X [tokens, K] of correlated channels, a few of them salient, and W [N, K]."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.exp(torch.randn(inputs, generator=generator))
    sizes[:: max(1, inputs // 8)] *= 20
    x = torch.randn(tokens, inputs, generator=generator)
    x[:, 1:] += 0.5 * x[:, :-1].clone()
    return x.mul_(sizes), torch.randn(outputs, inputs, generator=generator) / inputs**0.5


def statistics_of(x: Tensor) -> InputStats:
    """Sum H and mean |x| as calibration does."""
    gram = torch.zeros(x.shape[1], x.shape[1])
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for part in x.split(_CHUNK):
        add_products(gram, part)
        total += part.abs().sum(0, dtype=torch.float32)
    return InputStats(gram=mirror(gram), mean_abs=(total / len(x)).float(), tokens=len(x))


def search_again(
    x: Tensor, weight: Tensor, mean_abs: Tensor, scheme: QuantScheme, *, steps: int
) -> tuple[float, bool, float]:
    """Run every candidate over all tokens.

    Returns:
        exponent of the best, whether its scales are divided by the weights', and its loss.
    """

    def loss_of(scales: Tensor) -> float:
        error = round_to_nearest(weight * scales, scheme).div_(scales).sub_(weight).t()
        return sum(float((part @ error).square_().sum()) for part in x.split(_CHUNK))

    activation, salience = activation_salience(mean_abs), weight_salience(weight, scheme)
    best = (0.0, False, float("inf"))
    for exponent, by_weight in candidates(steps):
        divisor = salience if by_weight else None
        loss = loss_of(candidate(activation, divisor, exponent, rows=None))
        if loss < best[2]:
            best = (exponent, by_weight, loss)
    return best


def point(
    tokens: int, inputs: int, outputs: int, scheme: QuantScheme, *, steps: int, rounds: int
) -> dict[str, Any]:
    """Time all three at one size, in turn, and say whether both searches chose the same."""
    x, weight = problem(tokens, inputs, outputs)
    stats = statistics_of(x)
    choice = search_scales(weight, stats, scheme, steps=steps)
    again = search_again(x, weight, stats.mean_abs, scheme, steps=steps)
    seconds = interleave(
        {
            "gram": lambda _: seconds_of(lambda: statistics_of(x)),
            "search": lambda _: seconds_of(
                lambda: search_scales(weight, stats, scheme, steps=steps)
            ),
            "again": lambda _: seconds_of(
                lambda: search_again(x, weight, stats.mean_abs, scheme, steps=steps)
            ),
        },
        rounds,
    )
    scored = len(candidates(steps))
    with_gram = [a + b for a, b in zip(seconds["gram"], seconds["search"], strict=True)]
    return {
        "tokens": tokens,
        "in_features": inputs,
        "out_features": outputs,
        "scored": scored,
        "seconds": {name: summary(samples) for name, samples in seconds.items()},
        "operations": {
            "gram": symmetric_flop(tokens, inputs),
            "search": evaluations(scored, outputs) * symmetric_flop(outputs, inputs),
            "again": scored * 2 * tokens * outputs * inputs,
        },
        "ratio_search": paired_ratio(seconds["again"], seconds["search"]),
        "ratio_with_gram": paired_ratio(seconds["again"], with_gram),
        "choice": {"exponent": choice.exponent, "by_weight": choice.by_weight},
        "same_choice": (choice.exponent, choice.by_weight) == again[:2],
        "relative_loss_difference": abs(choice.loss - again[2]) / again[2],
    }


@torch.no_grad()
def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Measure the target's size, then each size swept alone."""
    scheme = QuantScheme.parse(options.scheme)
    smallest = min(options.tokens, options.size, options.steps, options.rounds, *options.growth)
    if smallest < 1:
        raise InputError(f"sizes, steps and rounds must be at least 1, not {smallest}")
    rate = matmul_rate(torch.device("cpu"))
    size, tokens = options.size, options.growth_tokens
    main = point(options.tokens, size, size, scheme, steps=options.steps, rounds=options.rounds)
    say.say(
        f"  {options.tokens} tokens, {size} x {size}: {spread(main['ratio_with_gram'])} times "
        f"faster with H's sum, {spread(main['ratio_search'])} without"
    )
    sweeps: dict[str, list[dict[str, Any]]] = {"K": [], "N": [], "tokens": []}
    token_ladder = [tokens * value // max(options.growth) for value in options.growth]
    cases: list[tuple[str, tuple[int, int, int]]] = []
    cases += [("K", (tokens, value, size)) for value in options.growth]
    cases += [("N", (tokens, size, value)) for value in options.growth]
    cases += [("tokens", (4 * value, size, size)) for value in token_ladder]
    for name, shape in cases:
        sweeps[name].append(point(*shape, scheme, steps=options.steps, rounds=1))
        say.say(f"  swept {name}: {shape[0]} tokens, K = {shape[1]}, N = {shape[2]}")
    return {
        "scheme": scheme.name,
        "matmul_per_s": rate,
        "target": TARGET,
        "main": main,
        "sweeps": sweeps,
        "growth_size": size,
        "growth_tokens": tokens,
    }


def table(document: dict[str, Any]) -> str:
    """Show the target's size, then every point of the sweeps."""

    def row(measured: dict[str, Any]) -> list[str]:
        seconds, bound = measured["seconds"], measured["operations"]
        cells = [
            f"{seconds[n]['median']:.3f} ({bound[n] / document['matmul_per_s']:.3f})"
            for n in ("gram", "search", "again")
        ]
        ratios = [f"{measured[n]['median']:.1f}" for n in ("ratio_search", "ratio_with_gram")]
        same = "yes" if measured["same_choice"] else "no"
        shape = [f"{measured[key]:,}" for key in ("tokens", "in_features", "out_features")]
        return [*shape, *cells, *ratios, same]

    main = document["main"]
    timed = ["sum of H, s", "search through H, s", "again, s"]
    ratios = ["again / search", "again / (sum + search)", "same choice"]
    header = ["tokens", "K", "N", *timed, *ratios]
    points = [main, *chain.from_iterable(document["sweeps"].values())]
    return (
        f"**The scale search, {main['scored'] - 1} candidates and s = 1, {document['scheme']}**\n\n"
        f"Target: at least {document['target']:g} times faster than running the linear again on "
        f"{main['tokens']:,} tokens. Measured: {spread(main['ratio_with_gram'], digits=1)} with "
        f"the sum of H (which serves every scheme and method), "
        f"{spread(main['ratio_search'], digits=1)} without.\n\n"
        + markdown(header, list(map(row, points)))
        + f"\nIn brackets: the operations at the measured "
        f"{document['matmul_per_s'] / 1e9:,.0f} GFLOP/s of a product of 2048 x 2048. "
        + machine(document)
    )


_LINES = {
    "again": ("run the linear again", "#9aa5b1"),
    "gram": ("sum of H, once", "#4c9a8f"),
    "search": ("search through H", "#c8553d"),
}
_SWEPT = {"K": "in_features", "N": "out_features", "tokens": "tokens"}


def draw(document: dict[str, Any], folder: Path) -> None:
    """Draw seconds against K, N and tokens, with the bound dashed."""
    size, tokens = document["growth_size"], document["growth_tokens"]
    titles = {
        "K": f"N = {size:,}, {tokens:,} tokens",
        "N": f"K = {size:,}, {tokens:,} tokens",
        "tokens": f"K = N = {size:,}",
    }
    figure, panels = charts.pyplot().subplots(
        1, 3, figsize=(10.4, 4.0), sharey=True, layout="constrained"
    )
    for axes, (name, sweep) in zip(panels, document["sweeps"].items(), strict=True):
        _panel(
            axes, [measured[_SWEPT[name]] for measured in sweep], sweep, document["matmul_per_s"]
        )
        axes.set_xlabel(name)
        axes.set_title(titles[name], fontsize=10, loc="left", color="#555")
    panels[0].set_ylabel("seconds")
    panels[0].set_ylim(top=8 * panels[0].get_ylim()[1])  # room for the legend
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    figure.suptitle(
        f"Scale search of one linear, {document['main']['scored'] - 1} candidates",
        x=0.01, ha="left", fontsize=11.5,
    )  # fmt: skip
    rate = document["matmul_per_s"] / 1e9
    figure.supxlabel(
        f"dashed: the operations at the measured {rate:,.0f} GFLOP/s of a matrix product",
        x=0.99, ha="right", fontsize=8, color="#555",
    )  # fmt: skip
    charts.save(figure, folder / "search.png", dpi=200)


def _panel(axes: Any, sizes: list[int], sweep: list[dict[str, Any]], rate: float) -> None:
    """Draw one sweep."""
    for kind, (label, color) in _LINES.items():
        seconds = [measured["seconds"][kind]["median"] for measured in sweep]
        bound = [measured["operations"][kind] / rate for measured in sweep]
        axes.plot(sizes, seconds, marker="o", markersize=4, color=color, label=label)
        axes.plot(sizes, bound, linestyle="--", linewidth=1, color=color)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [_short(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _short(value: int) -> str:
    return f"{value // 1024}k" if value >= 1024 and value % 1024 == 0 else str(value)
