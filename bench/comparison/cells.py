"""Cells are made of what is loaded and what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.comparison.calibration import Calibration
from bench.comparison.request import Request
from bench.comparison.suites.suite import Suite
from bench.records.cell import Cell
from quantcore import exclusion, grid
from quantcore.checkpoint import LoadedModel
from quantcore.method import Method
from quantcore.scheme import QuantScheme


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A planned cell has the method and the scheme that make it."""

    cell: Cell
    method: Method | None = None
    """None leaves the model as it was loaded."""
    scheme: QuantScheme | None = None
    """None leaves the model as it was loaded."""


def cell_of(
    request: Request,
    loaded: LoadedModel,
    suites: Sequence[Suite],
    *,
    method: Method | None = None,
    scheme: QuantScheme | None = None,
    calibration: Calibration | None = None,
) -> Cell:
    """Name all that decides what a method and a scheme, or the model as it is, will measure.

    Args:
        request: what was asked for.
        loaded: the model.
        suites: all of the comparison; the cell names those that run on its scheme.
        method: None for the model as it was loaded.
        scheme: None for the model as it was loaded.
        calibration: the comparison's; the cell names it if the method takes one.
    """
    calibrated = method is not None and method.calibration != "none"
    return Cell(
        model=loaded.weights_sha256,
        tokenizer=loaded.tokenizer_sha256,
        configuration=loaded.configuration_sha256,
        method=None if method is None else method.name,
        method_settings={} if method is None else method.settings(),
        scheme=None if scheme is None else scheme.name,
        exclude=() if method is None else request.exclude,
        exclude_version=exclusion.VERSION if method and request.exclude else None,
        grid_version=None if scheme is None else grid.version_of(scheme),
        calibration=calibration.describe() if calibration is not None and calibrated else None,
        suites={
            name: protocol
            for suite in suites
            if suite.runs_on(None if scheme is None else scheme.name)
            for name, protocol in suite.protocols.items()
        },
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=loaded.device.type,
        seed=request.seed,
        # Beside methods the unquantized model runs as it is; alone its stored codes may be run.
        backend=request.backend if method is not None or not request.methods else None,
    )
