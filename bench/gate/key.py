"""The key of a measurement is what was declared, and the protocols that it was measured by.

Two measurements are compared if their keys are the same. What only decides the numbers beneath the
declaration (quantized weights, library versions, hardware) is no part of it: the gate watches that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.records.cell import CalibrationSet, Cell
from bench.records.protocols import SuiteProtocol
from bench.records.record import Record

_CONFIGURATION = "source configuration"


def declared_of(cell: Cell) -> dict[str, Any]:
    """Say what a cell that was quantized on the spot was declared to be."""
    return {
        "source": cell.model,
        "configuration": cell.configuration,
        "method": cell.method,
        "scheme": cell.scheme,
        "calibration": without_draw(cell.calibration),
        "exclude": list(cell.exclude),
        "exclude_version": cell.exclude_version,
        "grid_version": cell.grid_version,
    }


def without_draw(calibration: CalibrationSet | None) -> dict[str, Any] | None:
    """Leave out which sequences a calibration came to, which is beneath the declaration."""
    return None if calibration is None else calibration.model_dump(exclude={"sha256"})


def key_of(record: Record, declared: Mapping[str, Any]) -> dict[str, Any]:
    """Say by name what a measurement must share with this one.

    Args:
        record: of the quantized model.
        declared: see `declared_of`.
    """
    cell = record.cell
    return {
        **_declaration(declared),
        "tokenizer": cell.tokenizer,
        "dtype": cell.dtype,
        "backend": cell.backend,
        **{f"suite {name}": _protocol(suite) for name, suite in sorted(cell.suites.items())},
    }


def _declaration(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Name the parts of the key that are known before anything is measured."""
    return {
        "source weights": declared["source"],
        _CONFIGURATION: declared.get("configuration"),
        "method": declared["method"],
        "scheme": declared["scheme"],
        "calibration": declared["calibration"],
        "exclude": sorted(declared["exclude"]),
        "rule of exclude": declared.get("exclude_version"),
        "rule of symmetric grids": declared.get("grid_version"),
    }


def _protocol(suite: SuiteProtocol) -> dict[str, Any]:
    """Leave out versions of libraries, which are warned about."""
    return suite.model_dump(exclude={"lm_eval"})


def differing_declaration(
    wanted: Mapping[str, Any], declared: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Find the parts of two declarations that differ; see `differing_parts`."""
    return differing_parts(_declaration(wanted), _declaration(declared))


def differing_parts(
    wanted: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Find the parts of two keys that differ, each with what the first has and the second."""
    parts = {
        name: (wanted.get(name), measured.get(name))
        for name in dict.fromkeys((*wanted, *measured))
        if wanted.get(name) != measured.get(name)
    }
    if None in parts.get(_CONFIGURATION, ()):  # it was not looked at before version 0.2
        del parts[_CONFIGURATION]
    return parts
