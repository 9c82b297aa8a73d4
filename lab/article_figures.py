"""Draw the figures of ``docs/awq-article.md``: ``python -m lab.article_figures docs/figures``."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from awq_impl.article import (
    awq_dequantize,
    awq_quantize,
    channel_importance,
    search_group_scales,
)
from bench.reference import CALIBRATION_FILE, MODEL_FOLDER
from lab import charts
from lab.lessons import (
    Errors,
    error_with_top_scaled,
    made_up_layer,
    relative_errors,
    stats_of,
)
from quantcore.calibration import StatsStore, calibrate
from quantcore.checkpoint import load
from quantcore.discovery import discover
from quantcore.gram import InputStats
from quantcore.grid import round_to_nearest
from quantcore.scheme import QuantScheme

_SCHEME = QuantScheme(bits=4, group_size=128)
_FACTORS = [2 ** (step / 4) for step in range(25)]
_MADE_UP = "made-up layer"
_COLORS = ("#c8553d", "#4c9a8f", "#e0913a", "#8c6bb1")
_SEQUENCES = 8

Layers = Mapping[str, Sequence[tuple[Tensor, InputStats]]]
"""Weights [N, K] and statistics of the linears of one type, one for each block."""


def reference_layers(*, sequences: int = _SEQUENCES) -> Layers:
    """Return every linear of the reference model with its statistics, and the made-up layer."""
    loaded = load("reference", folder=MODEL_FOLDER, dtype=torch.float32, device=torch.device("cpu"))
    structure = discover(loaded.model)
    stats = StatsStore()
    tokens = load_file(CALIBRATION_FILE)["input_ids"].long()[:sequences]
    calibrate(loaded.model, structure, tokens, stats, batch_size=4)
    weight, inputs = made_up_layer()
    layers: dict[str, list[tuple[Tensor, InputStats]]] = defaultdict(list)
    layers[_MADE_UP].append((weight, stats_of(inputs)))
    for index, block in enumerate(structure.blocks):
        for group in block.groups:
            for name in group.linears:
                linear = block.weight(name)
                layers[name.rsplit(".", 1)[-1]].append((linear, stats[index][group.index]))
    return layers


def scaling_figure(layers: Layers, path: Path) -> None:
    """Draw the output error against the factor on the top 1 % of the channels."""
    figure, axes = _canvas()
    chosen = (_MADE_UP, "gate_proj", "q_proj", "o_proj")
    for name, color in zip(chosen, _COLORS, strict=True):
        weight, stats = layers[name][0]
        importance = channel_importance(stats)
        curve = [
            error_with_top_scaled(weight, stats, _SCHEME, factor=factor, importance=importance)
            for factor in _FACTORS
        ]
        low = min(range(len(curve)), key=curve.__getitem__)
        axes.plot(_FACTORS, curve, color=color, linewidth=2, label=_in_words(name))
        axes.plot(_FACTORS[low], curve[low], "o", color=color, markersize=7)
    axes.axhline(1, color="#333", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(0.2, 20)
    axes.set_xticks(_FACTORS[::4], [f"{factor:.0f}" for factor in _FACTORS[::4]])
    axes.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16], ["¼", "½", "1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.set_xlabel("factor on the most important 1 % of the input channels")
    axes.set_ylabel("output error, over that without scaling")
    axes.set_title("Scaling the top 1 %, INT4-g128 (dots: best factor)", fontsize=11.5, loc="left")
    axes.legend(frameon=False, loc="upper left")
    charts.save(figure, path, dpi=150)


def errors_figure(layers: Layers, path: Path) -> None:
    """Draw AWQ's error over RTN's by weight and by output, by layer type, the mean over blocks."""
    figure, axes = _canvas()
    names = list(layers)
    by_weight, by_output = [], []
    for name in names:
        pairs = [rtn_and_awq(weight, stats) for weight, stats in layers[name]]
        by_weight.append(mean(awq.weight / rtn.weight for rtn, awq in pairs))
        by_output.append(mean(awq.output / rtn.output for rtn, awq in pairs))
    for offset, values, color, label in (
        (-0.2, by_weight, "#9aa5b1", "by weight"),
        (0.2, by_output, "#c8553d", "by output"),
    ):
        places = [place + offset for place in range(len(names))]
        axes.bar(places, values, width=0.38, color=color, label=label)
        for place, value in zip(places, values, strict=True):
            text = axes.text(place, value + 0.03, f"{value:.2f}", ha="center", fontsize=8.5)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
    axes.axhline(1, color="#333", linewidth=0.8)
    axes.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=9.5)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.75)
    axes.set_ylabel("AWQ's squared error over RTN's")
    axes.set_title(
        "AWQ (article) against RTN, INT4-g128: below 1 is better", fontsize=11.5, loc="left"
    )
    axes.legend(frameon=False, loc="upper right")
    charts.save(figure, path, dpi=150)


def rtn_and_awq(weight: Tensor, stats: InputStats) -> tuple[Errors, Errors]:
    """Return the errors of plain rounding and of the article's AWQ on one linear [N, K]."""
    scales = search_group_scales(weight, stats, _SCHEME).scales
    served = awq_dequantize(awq_quantize(weight, scales, _SCHEME))
    rtn = relative_errors(weight, round_to_nearest(weight, _SCHEME), stats)
    return rtn, relative_errors(weight, served, stats)


def draw(folder: Path, *, sequences: int = _SEQUENCES) -> list[Path]:
    """Draw both figures into ``folder``."""
    layers = reference_layers(sequences=sequences)
    paths = [folder / "scaling-the-top.png", folder / "errors.png"]
    scaling_figure(layers, paths[0])
    errors_figure(layers, paths[1])
    return paths


def _canvas() -> tuple[Any, Any]:
    """Make a figure on white, so that it reads on dark pages too."""
    figure, axes = charts.pyplot().subplots(figsize=(7.2, 4.0), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _in_words(name: str) -> str:
    return name if name == _MADE_UP else f"reference model, block 0, {name}"


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
