"""Charts: pure functions of records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import escape
from bench.report.tables import Row
from bench.report.tasks import Result
from bench.report.throughput import Speed
from bench.stats.windows import Interval

_COLORS = {
    "rtn": "#9aa5b1",
    "gptq": "#4c9a8f",
    "gptq+seq": "#2f6f68",
    "awq": "#e0913a",
    "awq+clip": "#c8553d",
    "awq-article": "#8c6bb1",
}


def perplexity_bars(table: Sequence[Row], scheme: str, folder: Path) -> list[Path]:
    """Perplexity above the unquantized model by method, with paired intervals; PNG and SVG.

    Bars start at zero loss, so that their lengths compare what each method gives away.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "awq-bench"  # the same records draw the same bytes
    from matplotlib import pyplot

    bars = [row for row in table if row.record.cell.scheme == scheme and row.ratio is not None]
    base = next((row for row in table if row.record.cell.method is None), None)
    if not bars or base is None or base.value is None:
        return []
    figure, axes = pyplot.subplots(figsize=(7.2, 4.0), layout="constrained")
    losses = [100 * (row.ratio.estimate - 1) for row in bars if row.ratio]
    below = [100 * (row.ratio.estimate - row.ratio.low) for row in bars if row.ratio]
    above = [100 * (row.ratio.high - row.ratio.estimate) for row in bars if row.ratio]
    places = range(len(bars))
    axes.bar(
        places,
        losses,
        width=0.62,
        color=[_COLORS.get(row.record.cell.method or "", "#6b7785") for row in bars],
        yerr=[below, above],
        error_kw={"ecolor": "#333", "elinewidth": 1.2, "capsize": 4},
    )
    ceiling = max(max(0.0, loss + up) for loss, up in zip(losses, above, strict=True))
    floor = min(min(0.0, loss - down) for loss, down in zip(losses, below, strict=True))
    span = (ceiling - floor) or 1.0
    for place, row, loss, up in zip(places, bars, losses, above, strict=True):
        axes.text(
            place,
            max(0.0, loss + up) + 0.03 * span,
            f"{row.value:.3f}\n{loss:+.2f} %",
            ha="center",
            va="bottom",
            fontsize=9.5,
        )
    axes.set_xticks(list(places), [row.label for row in bars], fontsize=10.5)
    axes.set_ylim(floor - 0.04 * span if floor < 0 else 0, ceiling + 0.22 * span)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.set_ylabel(f"perplexity above {base.label}, %")
    axes.set_title(
        escape.chart(
            f"{base.record.model_name}, {scheme.replace('int', 'INT')}: "
            f"{base.metric}  ({base.label} {base.value:.3f})"
        ),
        fontsize=11.5,
        loc="left",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.text(
        1.0,
        -0.13,
        "bars: lower is better; whiskers: paired 95 % intervals over windows",
        transform=axes.transAxes,
        ha="right",
        fontsize=8,
        color="#555",
    )
    paths = [folder / f"perplexity_{scheme}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths


def task_changes(found: Sequence[Result], scheme: str, folder: Path) -> list[Path]:
    """Change of accuracy by suite and method with paired intervals; PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "awq-bench"
    from matplotlib import pyplot

    drawn = [one for one in found if one.record.cell.scheme == scheme and one.against is not None]
    suites = list(dict.fromkeys(one.suite for one in drawn))
    methods = list(dict.fromkeys(one.record.cell.method for one in drawn))
    if not drawn:
        return []
    height = 1.1 + len(suites) * (0.3 + 0.2 * len(methods))
    figure, axes = pyplot.subplots(figsize=(7.2, height), layout="constrained")
    step = 0.78 / len(methods)
    for one in drawn:
        against = one.against
        if against is None:
            continue
        number = methods.index(one.record.cell.method)
        place = suites.index(one.suite) + (number - (len(methods) - 1) / 2) * step
        color = _COLORS.get(one.record.cell.method or "", "#6b7785")
        axes.plot(
            [100 * against.low, 100 * against.high],
            [place, place],
            color=color,
            linewidth=2.0,
            label=one.label if one.suite == suites[0] else None,
        )
        axes.plot(
            100 * against.difference,
            place,
            "o",
            markersize=6.5,
            color=color,
            markerfacecolor=color if against.significant() else "white",
        )
    for number in range(1, len(suites)):
        axes.axhline(number - 0.5, color="#e3e6ea", linewidth=0.8)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set_yticks(range(len(suites)), list(map(escape.chart, suites)), fontsize=10.5)
    axes.set_ylim(len(suites) - 0.5, -0.5)
    axes.set_xlabel("change of accuracy, points (full dot: more than chance; lines: paired 95 %)")
    axes.set_title(
        escape.chart(
            f"{drawn[0].record.model_name}, {scheme.replace('int', 'INT')}: what tasks lose"
        ),
        fontsize=11.5,
        loc="left",
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper right",
        ncols=len(methods),
        fontsize=9,
        frameon=False,
    )
    paths = [folder / f"tasks_{scheme}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths


def speed_up(found: Sequence[Speed], folder: Path) -> list[Path]:
    """Speed over the unquantized model's by the tokens of a pass, with its bound; PNG and SVG.

    A panel for each scheme and backend. Decoding passes have as many tokens as sequences, prefill
    passes a whole prompt of each. Where a line falls below 1, INT4 is slower from there on.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "awq-bench"
    from matplotlib import pyplot

    drawn = [one for one in found if one.decode_ratio is not None]
    if not drawn:
        return []
    kinds = list(dict.fromkeys((one.record.cell.scheme, one.backend) for one in drawn))
    figure, panels = pyplot.subplots(
        1, len(kinds), figsize=(max(5.6, 4.4 * len(kinds)), 3.9), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, kind in zip(panels[0], kinds, strict=True):
        here = [one for one in drawn if (one.record.cell.scheme, one.backend) == kind]
        for place, label in enumerate(dict.fromkeys(one.label for one in here)):
            _speed_line(axes, label, [one for one in here if one.label == label], place)
        tokens = [2**power for power in range(13)]
        last = max(one.batch_size * one.prompt_tokens for one in here)
        tokens = [count for count in tokens if count < 2 * last]
        fine = [2 ** (step / 8) for step in range(8 * len(tokens) - 7)]
        axes.plot(
            fine,
            [here[0].bound(count) for count in fine],
            color="#333",
            linestyle="--",
            linewidth=0.9,
            label="bound: bytes, then arithmetic",
        )
        axes.axhline(1, color="#333", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(tokens[::2], [str(one) for one in tokens[::2]], fontsize=8)
        axes.set_xlabel("tokens of a pass (filled: decoding; hollow: prefill)", fontsize=9)
        scheme = str(kind[0] or "this folder's codes").replace("int", "INT")
        axes.set_title(f"{scheme}, backend {kind[1]}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7.5)
    panels[0][0].set_ylim(bottom=0)
    base = found[0].record
    panels[0][0].set_ylabel(f"speed over {base.cell.dtype}")
    figure.suptitle(escape.chart(base.model_name), fontsize=11, x=0.01, ha="left")
    paths = [folder / f"throughput.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths


def _speed_line(axes: Any, label: str, found: Sequence[Speed], place: int) -> None:
    """One method: decoding, then prefill, by tokens; a mark where it becomes slower."""
    points: dict[int, tuple[Interval, str]] = {}
    for one in found:
        assert one.decode_ratio is not None
        assert one.prefill_ratio is not None
        points.setdefault(one.batch_size, (one.decode_ratio, "o"))
        points.setdefault(one.batch_size * one.prompt_tokens, (one.prefill_ratio, "s"))
    color = _COLORS.get(found[0].record.cell.method or "", "#6b7785")
    tokens = sorted(points)
    ratios = [points[count][0].estimate for count in tokens]
    axes.plot(tokens, ratios, color=color, linewidth=1.4, label=label)
    for count in tokens:
        ratio, marker = points[count]
        axes.errorbar(
            count, ratio.estimate, marker=marker, color=color, markersize=4.5, capsize=2,
            yerr=[[ratio.estimate - ratio.low], [ratio.high - ratio.estimate]],
            markerfacecolor=color if marker == "o" else "white",
        )  # fmt: skip
    crossing = crossover(tokens, ratios)
    if crossing is not None and ratios[0] >= 1:
        axes.axvline(crossing, color=color, linestyle=":", linewidth=1)
        axes.annotate(
            f"slower from {crossing:.0f}", (crossing, 1), (3, 4 + 9 * place),
            textcoords="offset points",
            fontsize=7.5, color=color,
        )  # fmt: skip


def crossover(tokens: Sequence[int], ratios: Sequence[float]) -> float | None:
    """Tokens from which the ratio stays below 1, between two points by their logarithms.

    None if it ends at 1 or above; the first tokens where it was never above.
    """
    if ratios[-1] >= 1:
        return None
    at = next((i for i in range(len(ratios) - 1, -1, -1) if ratios[i] >= 1), None)
    if at is None:
        return float(tokens[0])
    share = math.log(ratios[at]) / (math.log(ratios[at]) - math.log(ratios[at + 1]))
    return float(tokens[at] * (tokens[at + 1] / tokens[at]) ** share)
