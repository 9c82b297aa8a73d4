"""A baseline keeps the request that measures it again, and is read for this machine and model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.comparison.request import Request
from bench.gate.changes import SPEED
from quantcore.errors import refused, setting_name

_PLACES = ("data_dir", "tasks_data")  # where copies lie on this machine
_ALWAYS = ("model", "methods", "schemes")
_QUANTIZING = (
    "backend", "exclude", "tasks_schemes",
    "calibration", "calibration_samples", "calibration_seed", "calibration_seqlen",
)  # fmt: skip
"""These fields say how to quantize, besides method and scheme."""


def kept(request: Request, source: str | None) -> dict[str, Any]:
    """Say what was asked for otherwise than by default, as JSON holds it.

    Args:
        request: what measures the baseline.
        source: the unquantized model of a quantized folder.
    """
    usual = Request().options()
    asked = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in request.options().items()
        if name not in _PLACES and (value != usual[name] or name in _ALWAYS)
    }
    return {**asked, "source": source}


def request_of(
    document: Mapping[str, Any], *, data_dir: Path | None, tasks_data: Path | None
) -> tuple[Request, str | None]:
    """Read what `kept` wrote, with the source of a quantized folder.

    Args:
        document: as a baseline holds it.
        data_dir: local copies of texts.
        tasks_data: local copies of data sets of tasks.
    """
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in document.items() if k != "source"
    }
    fields |= {"data_dir": data_dir, "tasks_data": tasks_data}
    return Request.of(**fields), source_of(document)


def source_of(document: Mapping[str, Any]) -> str | None:
    """Name the unquantized model of a quantized folder; None: there is none."""
    source: str | None = document.get("source")
    return source


def for_quantized(request: Request, *, beside: bool) -> Request:
    """Ask the same of a folder that is quantized already, less what it cannot have.

    What would quantize it falls away, and so does what a model alone has not.

    Args:
        request: of a model that is quantized on the spot, or of a folder.
        beside: whether there is the unquantized model too.
    """
    without = {SPEED} if beside else {SPEED, "divergence"}
    usual = Request().options()
    return request.but(
        methods=(),
        schemes=(),
        **{name: usual[name] for name in _QUANTIZING},
        suites=tuple(name for name in request.suites if name not in without),
    )


def refuse_quantizing(request: Request) -> None:
    """Refuse what would quantize a folder that is taken as quantized already.

    Raises:
        InputError: anything is asked for that says how to quantize.
    """
    asked, usual = request.options(), Request().options()
    for name in _QUANTIZING:
        if asked[name] != usual[name]:
            rule = (
                f"{request.model} is taken as quantized already; leave it out, or give "
                f"{setting_name('methods')} and {setting_name('schemes')} to quantize here"
            )
            raise refused(name, asked[name], rule)
