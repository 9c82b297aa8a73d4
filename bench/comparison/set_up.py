"""A comparison's needs are checked, loaded and chosen before anything is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from bench import registry
from bench.comparison.backends import check_backends_run, time_ways
from bench.comparison.calibration import Calibration, build_calibration
from bench.comparison.cells import PlannedCell, cell_of
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.suites.build import build_suites, text_of
from bench.comparison.suites.suite import Suite
from bench.comparison.suites.windows import check_paired
from bench.reference import MODEL_FOLDER
from bench.report import labels
from quantcore import files
from quantcore.checkpoint import MANIFEST, LoadedModel, load, resolve
from quantcore.discovery import discover
from quantcore.errors import InputError, setting_name
from quantcore.method import Method
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A setup has all that a comparison needs to begin."""

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


def open_model(request: Request) -> LoadedModel:
    """Find, check and load the model.

    Raises:
        InputError: see `quantcore.checkpoint.load`; also an absent device.
    """
    device = request.load.device
    if device == "cuda" and not torch.cuda.is_available():
        called = setting_name("device")
        raise InputError(f"{called} cuda: PyTorch sees no CUDA GPU here; use {called} cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES.get(request.load.dtype)
    if request.load.dtype == "auto" and device == "cpu":
        dtype = torch.float32
    folder = MODEL_FOLDER
    if request.model != "reference":
        folder = resolve(request.model, revision=request.load.revision)
    loaded = load(
        request.model,
        folder=folder,
        dtype=dtype,
        device=torch.device(device),
        packed=not request.methods,
    )
    return replace(loaded, name=request.model + _how_quantized(loaded, request.backend))


def _how_quantized(loaded: LoadedModel, backend: str | None) -> str:
    """Say `` (AWQ INT4-g128, dequantized)`` of a quantized folder, else nothing."""
    try:
        manifest = json.loads(files.read_text(loaded.folder / MANIFEST))
        method = labels.of_method(manifest["method"])
        scheme = labels.of_scheme(str(manifest["scheme"]))
    except (OSError, ValueError, KeyError, TypeError):
        if loaded.format is None:
            return ""
        method = loaded.format  # another program's: what it is packed as is all that is known
        scheme = labels.of_scheme(next(iter(loaded.codes.values())).scheme.name)
    how = "dequantized" if backend is None else "from its codes"
    return f" ({method} {scheme}, {how})"


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
