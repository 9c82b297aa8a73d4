"""The project's own charts are set up and saved in one way."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pyplot() -> Any:
    """Import matplotlib's pyplot for a machine without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path, *, dpi: int) -> None:
    """Write a figure, and forget it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    pyplot().close(figure)
