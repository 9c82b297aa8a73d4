"""A cell is one line of a comparison, identified by its content."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Self, TypeAlias

from pydantic import Field, WithJsonSchema, model_validator

from bench.records.document import Document
from bench.records.metrics import Count, Counted
from bench.records.protocols import MEASURED, TASKS, Sha256, SuiteProtocol


class CalibrationSet(Document):
    """A calibration set has the token sequences that methods are calibrated on."""

    name: str
    """Name of the text, or stem of the user's file."""
    samples: Counted
    """How many sequences."""
    seqlen: Annotated[int, Field(ge=2)]
    """Tokens in each sequence."""
    sha256: Sha256
    """sha256 over the token ids, as int64 in the machine's byte order."""


Patterns: TypeAlias = Annotated[tuple[str, ...], Field(strict=False)]  # JSON has lists only


class Cell(Document):
    """A cell is one line of a comparison: what is measured, and all that decides the outcome."""

    model: Sha256
    """sha256 over the model's safetensors files, in the order of their names."""
    tokenizer: Sha256
    """sha256 over the tokenizer's files."""
    method: str | None
    """The method by the name that the command line takes, such as awq+clip. Null: the unquantized
    model."""
    method_settings: Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
    """Everything else that decides the method's result; its keys are the method's own."""
    scheme: Annotated[str, Field(pattern="^int[2-8]-(g[0-9]+|channel)(-sym)?$")] | None
    """How weights are stored: int<bits>-(g<weights that share a scale>|channel)[-sym]. Null: as
    they are."""
    exclude: Patterns
    """Patterns of linears that were asked to be left unquantized."""
    calibration: CalibrationSet | None
    """The calibration sequences; null if the method needs none."""
    suites: Annotated[dict[str, SuiteProtocol], Field(min_length=1)]
    """Every suite that is run, with its protocol: perplexity, divergence, throughput, a task suite
    by its name, or an lm-eval task by its own."""
    dtype: str
    """What the model runs in, such as float32."""
    device: str
    """What the model runs on: cpu or cuda."""
    seed: Count
    """Seed of everything random: where calibration sequences start, bootstrap resamples."""
    backend: str | None = None
    """What runs the quantized linears, as asked for: auto, triton, cpu or dequant. Absent: the
    exact dequantized weights, as ordinary linears."""
    configuration: Sha256 | None = None
    """sha256 over config.json and the tokenizer's settings, without what programs write of
    themselves; not there before version 0.2."""
    exclude_version: Annotated[int, Field(ge=2)] | None = None
    """By which rule these patterns match; not there without patterns, nor before version 0.2."""
    grid_version: Annotated[int, Field(ge=2)] | None = None
    """By which rule a symmetric scheme's grids are fitted; not there for asymmetric schemes, nor
    before version 0.2."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.method is None) != (self.scheme is None):
            raise ValueError(f".scheme: {self.scheme!r}, where the method is {self.method!r}")
        if self.method is None and self.calibration is not None:
            raise ValueError(".calibration: there is one, and no method that takes it")
        for name, protocol in self.suites.items():
            wanted, _ = MEASURED.get(name, TASKS)
            if type(protocol) is not wanted:
                raise ValueError(f".suites.{name}: this is no protocol of such a suite")
        return self

    @property
    def id(self) -> str:
        """Give 16 hex digits over everything above."""
        content = json.dumps(self.document(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """Say where its record lies in a comparison's folder."""
        row = "unquantized" if self.method is None else f"{self.method}_{self.scheme}"
        return f"records/{row}.json"
