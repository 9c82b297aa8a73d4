"""The benchmarks of kernels read shapes of linears, outputs x inputs, and sort by them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quantcore.errors import InputError

Shape = tuple[int, int]


def read_shapes(text: str) -> list[Shape]:
    """Read shapes that are separated by commas.

    Raises:
        InputError: a part is no shape.
    """
    return [_shape(part) for part in text.split(",")]


def _shape(text: str) -> Shape:
    try:
        outputs, inputs = map(int, text.split("x"))
    except ValueError:
        raise InputError(f"--shapes {text}: expected outputs x inputs, such as 4096x4096") from None
    return outputs, inputs


def by_shape(points: Iterable[dict[str, Any]]) -> dict[Shape, list[dict[str, Any]]]:
    """Sort what was measured by shape, in the order of measuring."""
    sorted_points: dict[Shape, list[dict[str, Any]]] = {}
    for point in points:
        shape = (point["out_features"], point["in_features"])
        sorted_points.setdefault(shape, []).append(point)
    return sorted_points
