"""All that a comparison needs is checked, loaded and chosen, before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import registry
from bench.comparison.backends import check_backends_run, time_ways
from bench.comparison.calibration import Calibration
from bench.comparison.cells import PlannedCell, cell_of
from bench.comparison.inputs import build_calibration, open_model
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.suites.build import build_suites, text_of
from bench.comparison.suites.suite import Suite
from bench.comparison.suites.windows import check_paired
from quantcore.checkpoint import LoadedModel
from quantcore.discovery import discover
from quantcore.method import Method
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A comparison can begin with this."""

    loaded: LoadedModel
    structure: Structure
    """It is empty where nothing is quantized: a model that is only evaluated may have any."""
    suites: Sequence[Suite]
    calibration: Calibration | None
    """None: no method needs one."""
    plan: tuple[PlannedCell, ...]
    """It holds every cell, the unquantized model's first."""


def set_up(request: Request, say: Reporter) -> Setup:
    """Check, load, choose and plan.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    check_paired(request, paired=bool(request.methods))
    methods = [registry.method(name) for name in request.methods]
    schemes = [QuantScheme.parse(name) for name in request.schemes]
    loaded, structure = _load(request, methods, schemes)
    suites = build_suites(request, loaded, say)
    calibration = None
    if schemes and any(method.calibration != "none" for method in methods):
        calibration = build_calibration(request, loaded, text_of(suites), say)
    backends = [name for suite in suites for name in suite.backends]
    backends += [request.backend] if request.backend is not None else []
    time_ways(loaded, structure, schemes, backends, say)
    return Setup(
        loaded=loaded,
        structure=structure,
        suites=suites,
        calibration=calibration,
        plan=(
            PlannedCell(cell=cell_of(request, loaded, suites)),
            *(
                PlannedCell(
                    cell=cell_of(
                        request,
                        loaded,
                        suites,
                        method=method,
                        scheme=scheme,
                        calibration=calibration,
                    ),
                    method=method,
                    scheme=scheme,
                )
                for scheme in schemes
                for method in methods
            ),
        ),
    )


def _load(
    request: Request, methods: Sequence[Method], schemes: Sequence[QuantScheme]
) -> tuple[LoadedModel, Structure]:
    """Load the model, and refuse methods, schemes and backends that it cannot take."""
    loaded = open_model(request)
    check_backends_run(request, loaded, schemes)
    structure = Structure(blocks=(), exempt=(), notices=())
    if methods:
        structure = discover(loaded.model, exclude=request.exclude)
    for scheme in schemes:
        structure.check_scheme(scheme)
    return loaded, structure
