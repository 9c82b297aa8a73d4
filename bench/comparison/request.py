"""A request is what a user asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; the defaults are the command line's."""

    model: str = "reference"
    methods: tuple[str, ...] = ("rtn", "gptq", "awq", "awq+clip")
    schemes: tuple[str, ...] = ("int4-g128", "int4-g32", "int3-g128")
    suites: tuple[str, ...] = ("perplexity",)
    tasks: tuple[str, ...] = ()
    """lm-eval tasks by name, beside the suites."""
    tasks_source: str = "embedded"
    tasks_schemes: tuple[str, ...] = ()
    """Schemes whose cells run tasks, which take long; empty: all."""
    tasks_data: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    lengths: tuple[int, ...] = ()
    allow_code_execution: bool = False
    calibration: str | None = None
    calibration_samples: int = 128
    calibration_seed: int | None = None
    """Where its sequences start; None: `seed`."""
    calibration_seqlen: int | None = None
    """None: 512, or the model's context if that is less."""
    text: str | None = None
    seqlen: int | None = None
    windows: int | None = None
    batch_size: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    backend: str | None = None
    """What runs quantized linears (`kernels.backends.NAMES`); None: the dequantized weights."""
    throughput_backends: tuple[str, ...] = ()
    """What runs them when speed is measured, each in turn; none: `backend`, or ``auto``."""
    batch_sizes: tuple[int, ...] = (1, 4)
    """Of throughput, as are the next four."""
    prompt_lengths: tuple[int, ...] = (128, 512)
    new_tokens: int = 32
    rounds: int = 5
    price_per_hour: float | None = None
    exclude: tuple[str, ...] = ()
    revision: str | None = None
    seed: int = 0
    data_dir: Path | None = None
