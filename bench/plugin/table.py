"""The table of kernels has one linear, quantized and not, by dtype and tokens."""

from __future__ import annotations

import statistics

import pytest

from bench.plugin.session import KERNELS, Seconds
from bench.report.grid import Field, Grid

OUT_FEATURES, IN_FEATURES = 4096, 4096
SHAPE = f"{OUT_FEATURES} x {IN_FEATURES}"
UNQUANTIZED, QUANTIZED = "unquantized", "int4-g128"
"""What the linear's weights are."""


def keep(config: pytest.Config, dtype: str, tokens: int, kind: str, seconds: list[float]) -> None:
    """Remember a linear's seconds for the table at the end."""
    kernels = config.stash.setdefault(KERNELS, {})
    kernels.setdefault((dtype, tokens), {})[kind] = seconds


def grid(kernels: Seconds) -> Grid:
    """Lay out dtypes down, tokens across: milliseconds of both, and how much faster INT4 is."""
    dtypes = dict.fromkeys(dtype for dtype, _ in kernels)
    tokens = list(dict.fromkeys(tokens for _, tokens in kernels))
    return Grid(
        title=f"INT4 linears, {SHAPE}",
        header=[Field(lines=("tokens",)), *(Field(lines=(str(count),)) for count in tokens)],
        body=[
            (dtype, [_field(kernels.get((dtype, count), {})) for count in tokens])
            for dtype in dtypes
        ],
        notes=[
            "Medians of 12 calls each on copies that exceed the caches. x: the unquantized "
            "linear's seconds over INT4's; they did not take turns (python -m lab.speed kernels "
            "has them so, with ranges)."
        ],
    )


def _field(seconds: dict[str, list[float]]) -> Field:
    """Write the ratio over the milliseconds of both, or of what ran."""
    medians = {kind: statistics.median(taken) for kind, taken in seconds.items()}
    lines = [f"{kind} {1e3 * median:.2f} ms" for kind, median in medians.items()]
    if len(medians) == 2:
        lines.insert(0, f"x{medians[UNQUANTIZED] / medians[QUANTIZED]:.2f}")
    return Field(lines=tuple(lines))
