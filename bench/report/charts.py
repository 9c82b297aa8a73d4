"""Charts are functions of what the tables are made of, each drawn as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.records.cell import Cell
from bench.report import escape, labels
from bench.report.perplexity import Row
from bench.report.scores import SuiteScore
from bench.report.throughput import Speed
from bench.stats.items import Difference
from bench.stats.windows import Interval
from quantcore.versions import installed

_COLORS = {
    "rtn": "#9aa5b1",
    "gptq": "#4c9a8f",
    "gptq+seq": "#2f6f68",
    "gptq-group": "#86c5b4",
    "gptq-off": "#b9d8d0",
    "gptq-actorder": "#3f7fa3",
    "awq": "#e0913a",
    "awq+clip": "#c8553d",
    "awq-article": "#8c6bb1",
}


def _color(cell: Cell) -> str:
    """Return the colour of a cell's method, the same in every chart."""
    return _COLORS.get(cell.method or "", "#6b7785")


MISSING = "No charts: they need matplotlib, which is not installed; pip install 'awq-bench[charts]'"


def available() -> bool:
    """Say whether charts can be drawn here; what says why not is `MISSING`."""
    return installed("matplotlib") is not None


def _pyplot() -> Any:
    """Import matplotlib so that the same records draw the same bytes, on no screen."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "awq-bench"
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG, and forget it."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    _pyplot().close(figure)
    return paths


def perplexity_bars(table: Sequence[Row], scheme: str, folder: Path) -> list[Path]:
    """Draw perplexity above the unquantized model by method, with paired intervals.

    Bars start at zero loss, so that their lengths compare what each method gives away.
    """
    bars = [
        (row, row.ratio)
        for row in table
        if row.record.cell.scheme == scheme and row.ratio is not None
    ]
    base = next((row for row in table if row.record.cell.method is None), None)
    if not bars or base is None or base.value is None:
        return []
    figure, axes = _pyplot().subplots(figsize=(7.2, 4.0), layout="constrained")
    _bars(axes, bars)
    label = labels.of_row(base.record)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.set_ylabel(f"perplexity above {label}, %")
    axes.set_title(
        escape.chart(
            f"{base.record.model_name}, {labels.of_scheme(scheme)}: "
            f"{base.metric}  ({label} {base.value:.3f})"
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
    return _save(figure, folder / f"perplexity_{scheme}")


def _bars(axes: Any, bars: Sequence[tuple[Row, Interval]]) -> None:
    """Draw a bar for each method, its interval, and its figures above."""
    losses = [100 * (ratio.estimate - 1) for _, ratio in bars]
    below = [100 * (ratio.estimate - ratio.low) for _, ratio in bars]
    above = [100 * (ratio.high - ratio.estimate) for _, ratio in bars]
    places = range(len(bars))
    axes.bar(
        places,
        losses,
        width=0.62,
        color=[_color(row.record.cell) for row, _ in bars],
        yerr=[below, above],
        error_kw={"ecolor": "#333", "elinewidth": 1.2, "capsize": 4},
    )
    ceiling = max(max(0.0, loss + up) for loss, up in zip(losses, above, strict=True))
    floor = min(min(0.0, loss - down) for loss, down in zip(losses, below, strict=True))
    span = (ceiling - floor) or 1.0
    for place, (row, _), loss, up in zip(places, bars, losses, above, strict=True):
        axes.text(
            place,
            max(0.0, loss + up) + 0.03 * span,
            f"{row.value:.3f}\n{loss:+.2f} %",
            ha="center",
            va="bottom",
            fontsize=9.5,
        )
    axes.set_xticks(list(places), [labels.of_row(row.record) for row, _ in bars], fontsize=10.5)
    axes.set_ylim(floor - 0.04 * span if floor < 0 else 0, ceiling + 0.22 * span)


def task_changes(scored: Sequence[SuiteScore], scheme: str, folder: Path) -> list[Path]:
    """Draw the change of accuracy by suite and method with paired intervals."""
    drawn = [
        (score, score.against)
        for score in scored
        if score.record.cell.scheme == scheme and score.against is not None
    ]
    if not drawn:
        return []
    suites = list(dict.fromkeys(score.suite for score, _ in drawn))
    methods = list(dict.fromkeys(score.record.cell.method for score, _ in drawn))
    height = 1.1 + len(suites) * (0.3 + 0.2 * len(methods))
    figure, axes = _pyplot().subplots(figsize=(7.2, height), layout="constrained")
    step = 0.78 / len(methods)
    for score, against in drawn:
        number = methods.index(score.record.cell.method)
        place = suites.index(score.suite) + (number - (len(methods) - 1) / 2) * step
        label = labels.of_cell(score.record.cell) if score.suite == suites[0] else None
        _change(axes, against, place, _color(score.record.cell), label)
    for number in range(1, len(suites)):
        axes.axhline(number - 0.5, color="#e3e6ea", linewidth=0.8)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set_yticks(range(len(suites)), list(map(escape.chart, suites)), fontsize=10.5)
    axes.set_ylim(len(suites) - 0.5, -0.5)
    axes.set_xlabel("change of accuracy, points (full dot: more than chance; lines: paired 95 %)")
    model = drawn[0][0].record.model_name
    axes.set_title(
        escape.chart(f"{model}, {labels.of_scheme(scheme)}: what tasks lose"),
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
    return _save(figure, folder / f"tasks_{scheme}")


def _change(axes: Any, difference: Difference, place: float, color: str, label: str | None) -> None:
    """Draw one suite on one model: its interval, and a dot that is full if more than chance."""
    axes.plot(
        [100 * difference.low, 100 * difference.high],
        [place, place],
        color=color,
        linewidth=2.0,
        label=label,
    )
    axes.plot(
        100 * difference.difference,
        place,
        "o",
        markersize=6.5,
        color=color,
        markerfacecolor=color if difference.significant() else "white",
    )


def speed_up(timed: Sequence[Speed], folder: Path) -> list[Path]:
    """Draw speed over the unquantized model's by the tokens of a pass, with its bound.

    Each scheme and backend has a panel. Decoding passes have as many tokens as sequences, prefill
    passes a whole prompt of each. Where a line falls below 1, INT4 is slower from there on.
    """
    quantized = [speed for speed in timed if speed.decode_ratio is not None]
    if not quantized:
        return []
    by_panel: dict[tuple[str | None, str], list[Speed]] = {}
    for speed in quantized:
        by_panel.setdefault((speed.record.cell.scheme, speed.backend), []).append(speed)
    figure, panels = _pyplot().subplots(
        1, len(by_panel), figsize=(max(5.6, 4.4 * len(by_panel)), 3.9), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, ((scheme, backend), speeds) in zip(panels[0], by_panel.items(), strict=True):
        _panel(axes, speeds)
        quantization = labels.of_scheme(scheme) if scheme else labels.THIS_FOLDER
        axes.set_title(f"{quantization}, backend {backend}", fontsize=10, loc="left")
    panels[0][0].set_ylim(bottom=0)
    base = timed[0].record
    panels[0][0].set_ylabel(f"speed over {base.cell.dtype}")
    figure.suptitle(escape.chart(base.model_name), fontsize=11, x=0.01, ha="left")
    return _save(figure, folder / "throughput")


def _panel(axes: Any, speeds: Sequence[Speed]) -> None:
    """Draw one scheme on one backend: a line for each method, and the bound."""
    for place, label in enumerate(dict.fromkeys(speed.label for speed in speeds)):
        _speed_line(axes, label, [speed for speed in speeds if speed.label == label], place)
    last = max(speed.batch_size * speed.prompt_tokens for speed in speeds)
    tokens = [2**power for power in range(13) if 2**power < 2 * last]
    fine = [2 ** (step / 8) for step in range(8 * len(tokens) - 7)]
    axes.plot(
        fine,
        [speeds[0].bound(count) for count in fine],
        color="#333",
        linestyle="--",
        linewidth=0.9,
        label="bound: bytes, then arithmetic",
    )
    axes.axhline(1, color="#333", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens[::2], list(map(str, tokens[::2])), fontsize=8)
    axes.set_xlabel("tokens of a pass (filled: decoding; hollow: prefill)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7.5)


def _speed_line(axes: Any, label: str, speeds: Sequence[Speed], place: int) -> None:
    """Draw one method, decoding and prefill by tokens, and a mark where it becomes slower."""
    points: dict[int, tuple[Interval, str]] = {}
    for speed in speeds:
        assert speed.decode_ratio is not None
        assert speed.prefill_ratio is not None
        points.setdefault(speed.batch_size, (speed.decode_ratio, "o"))
        points.setdefault(speed.batch_size * speed.prompt_tokens, (speed.prefill_ratio, "s"))
    color = _color(speeds[0].record.cell)
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
    """Return the tokens from which the ratio stays below 1, between points by their logarithms.

    It is None if the ratio ends at 1 or above, and the first tokens if it was never above.
    """
    if ratios[-1] >= 1:
        return None
    at = next((i for i in range(len(ratios) - 1, -1, -1) if ratios[i] >= 1), None)
    if at is None:
        return float(tokens[0])
    share = math.log(ratios[at]) / (math.log(ratios[at]) - math.log(ratios[at + 1]))
    return float(tokens[at] * (tokens[at + 1] / tokens[at]) ** share)
