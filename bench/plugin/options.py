"""The plugin has options of its own, and they make the request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantcore.errors import InputError, settings_called

if TYPE_CHECKING:
    from bench.comparison.request import Request

OPTIONS = {
    "model": "model of the comparison cells: a folder, a hub name, or 'reference'",
    "methods": "methods, separated by commas",
    "schemes": "schemes, separated by commas",
    "suites": "suites, separated by commas",
    "text": "evaluation text",
    "backend": "what runs quantized linears",
}
_DEFAULTS: dict[str, Any] = {
    "text": "embedded",
    "windows": 32,
    "schemes": ("int4-g128", "int3-g128"),
    "suites": ("perplexity", "throughput"),
    "calibration_samples": 32,
    "batch_sizes": (1,),
    "prompt_lengths": (128,),
    "rounds": 5,
}


def option_of(setting: str) -> str:
    """Name our option that gives a field of the request; else its key in ``--awq-config``."""
    own = setting in (*OPTIONS, "config", "out")
    return f"--awq-{setting}" if own else setting.replace("_", "-")


@settings_called(option_of)
def request_of(config: pytest.Config) -> Request:
    """Read what the options ask for.

    Raises:
        UsageError: something about them cannot work.
    """
    from bench.comparison.config import config_values
    from bench.comparison.request import Request
    from bench.comparison.suites.windows import check_paired
    from bench.report import escape

    values: dict[str, Any] = {}
    path = config.getoption("--awq-config")
    try:
        if path is not None:
            values = config_values(Path(path))
            values.pop("out", None)  # that of --awq-out counts
        given = {name: config.getoption(f"--awq-{name}") for name in OPTIONS}
        values |= {name: value for name, value in given.items() if value is not None}
        request = Request.of(**{**_DEFAULTS, **values})
        check_paired(request, paired=bool(request.methods))
    except InputError as error:
        raise pytest.UsageError(escape.line(f"awq-bench: {error}")) from error
    return request
