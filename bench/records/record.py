"""A record is one JSON document per cell, written once and whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    model_validator,
)

from bench.records import document as documents
from bench.records.cell import Cell
from bench.records.document import Document, tag
from bench.records.environment import Environment
from bench.records.metrics import (
    Answers,
    Count,
    Counted,
    Divergence,
    Metric,
    PeakBytes,
    Perplexity,
    Positive,
    Seconds,
    Timings,
)
from bench.records.protocols import MEASURED, TASKS
from quantcore import files
from quantcore.errors import InputError

SCHEMA_VERSION = 1
"""It rises when an old reader would misread a new record; a field that may be absent does not
raise it."""

_ENVELOPE = ("schema_version", "cell_id")
_Kind = TypeVar("_Kind", Perplexity, Divergence, Timings)


class Quantization(Document):
    """Quantization says what quantizing did to the model."""

    scale_dtype: str
    """What scales are stored in, and were rounded to before any code was computed."""
    calibration_passes: Count
    """Passes over the calibration sequences that the method needs; the one shared by all cells
    counts."""
    relative_losses: dict[str, float]
    """By linear: tr(E H E^T) / tr(W H W^T), the error of its output over the output, in the units
    of the original weights. Empty without calibration."""
    notices: list[str]
    """What a user should know, such as inputs whose scales nothing can absorb, or raised
    damping."""
    exempt: list[str]
    """Parameters of two or more dimensions that were left unquantized."""


class PhaseSeconds(Document):
    """Phase seconds are wall-clock seconds by phase."""

    quantize: Seconds | None = None
    """Quantizing the model: own_calibration, fold and round."""
    fold: Seconds | None = None
    """Choosing scales and folding them into the operations before."""
    round: Seconds | None = None
    """Rounding the weights."""
    own_calibration: Seconds | None = None
    """A calibration pass of the method's own; 0 where the shared one served."""
    shared_calibration: Seconds | None = None
    """The pass that all cells share, made once; absent if the method uses none of it."""
    evaluate: Seconds | None = None
    """Running the suites."""


# An empty object stands for no quantization.
_Nothing: TypeAlias = Annotated[
    None,
    BeforeValidator(lambda value: None if value == {} else value),
    PlainSerializer(lambda _: {}),
    WithJsonSchema({"type": "object", "maxProperties": 0}),
]
_Quantization: TypeAlias = Annotated[
    Annotated[Quantization, Tag(tag("quantized"))] | Annotated[_Nothing, Tag(tag("not"))],
    Discriminator(lambda value: tag("not" if value in ({}, None) else "quantized")),
]


class Record(Document):
    """A record says what one cell measured: one file in the folder records/ of a comparison.

    What could not be measured is absent or null, and the status says why.
    """

    cell: Cell
    """What was measured, and everything that decides the outcome."""
    status: Literal["done", "partial", "failed"]
    """done: every suite has its metric. partial: some suites failed, and failures says which and
    why; the metrics of the others are whole. failed: nothing could be measured, and error says
    why."""
    error: str | None
    """Why nothing could be measured: kind of the error and its text. Null if something was."""
    failures: dict[str, str] = Field(default={})
    """By suite that failed: kind of the error and its text. Absent if none did."""
    notices: list[str] = Field(default=[])
    """What a user should know of how the cell was measured, such as a backend that stood in for
    the one that was asked for. Absent if nothing."""
    model_name: Annotated[str, Field(min_length=1)]
    """What the user calls the model: a hub name, a folder, or 'reference'. Not part of the cell:
    the weights' hash is."""
    parameters: Counted
    """How many parameters the model has; tied ones count once."""
    metrics: dict[str, Metric]
    """What the suites measured, by the metric's name. The name holds the protocol: another window
    length is another metric. Empty if the cell failed."""
    quantization: _Quantization
    """What quantizing did to the model. Empty for the unquantized model and for a failed cell."""
    stored_bytes: Counted | None
    """Bytes of all weights: quantized ones as the scheme packs them, with scales, zero points and
    group indices; the rest in the checkpoint's own dtype. Null if the cell failed."""
    bits_per_weight: Positive | None
    """Bits of one quantized weight, with its share of scales, zero points and group indices. Null
    for the unquantized model and for a failed cell."""
    seconds: PhaseSeconds
    """Wall-clock seconds by phase, on the machine that environment names."""
    peak_bytes: PeakBytes
    """Peak memory while the cell was measured."""
    environment: Environment
    """Where, and with which program, the cell was measured."""
    backends: dict[str, Counted] = Field(default={})
    """How many linears each backend ran; absent or empty where no backend was asked for."""

    @property
    def perplexity(self) -> Perplexity | None:
        """Give what was measured of perplexity."""
        return self._metric("perplexity", Perplexity)

    @property
    def divergence(self) -> Divergence | None:
        """Give what was measured of divergence."""
        return self._metric("divergence", Divergence)

    @property
    def timings(self) -> Timings | None:
        """Give what was measured of throughput."""
        return self._metric("throughput", Timings)

    @property
    def answers(self) -> dict[str, Answers]:
        """Give what was measured of task suites, by suite."""
        measured = {
            name: self.metrics.get(protocol.metric) for name, protocol in self.cell.suites.items()
        }
        return {name: metric for name, metric in measured.items() if isinstance(metric, Answers)}

    def _metric(self, suite: str, kind: type[_Kind]) -> _Kind | None:
        protocol = self.cell.suites.get(suite)
        metric = None if protocol is None else self.metrics.get(protocol.metric)
        return metric if isinstance(metric, kind) else None

    @property
    def failed_tasks(self) -> list[str]:
        """Name the task suites that could not be measured."""
        return [n for n in self.cell.suites if n not in MEASURED and n in self.reasons]

    @property
    def reasons(self) -> dict[str, str]:
        """Give every suite that has no outcome, with why: those that failed, or all."""
        if self.status == "failed" and not self.failures:
            return dict.fromkeys(self.cell.suites, self.error or "")
        return self.failures

    @property
    def problem(self) -> str:
        """Say all that failed in one line; empty if nothing did."""
        return self.error or in_words(self.failures)

    @model_validator(mode="after")
    def _agrees_with_status(self) -> Self:
        """Refuse what a cell of this status and method cannot have; the schema says the same."""
        failed, quantized = self.status == "failed", self.cell.method is not None
        rules = {
            "error": (self.error is None) != failed,
            "metrics": bool(self.metrics) != failed,
            "failures": failed or bool(self.failures) == (self.status == "partial"),
            "stored_bytes": failed or self.stored_bytes is not None,
            "seconds.evaluate": failed or self.seconds.evaluate is not None,
            "quantization": quantized if self.quantization else failed or not quantized,
            "bits_per_weight": quantized if self.bits_per_weight else failed or not quantized,
        }
        if quantized and not failed:
            for phase in ("quantize", "fold", "round", "own_calibration"):
                rules[f"seconds.{phase}"] = getattr(self.seconds, phase) is not None
        wrong = next((name for name, holds in rules.items() if not holds), None)
        if wrong is not None:
            model = "a quantized" if quantized else "an unquantized"
            raise ValueError(
                f"{wrong}: not what a record of {model} model has that is {self.status}"
            )
        return self

    @model_validator(mode="after")
    def _agrees_with_protocols(self) -> Self:
        """Refuse metrics that the cell's suites cannot have measured."""
        for name, protocol in self.cell.suites.items():
            metric = self.metrics.get(protocol.metric)
            if metric is not None:
                check_metric(name, self.cell, metric)
            elif self.status != "failed" and name not in self.failures:
                raise ValueError(f"metrics.{protocol.metric} is not there, and no failure says why")
        strangers = self.metrics.keys() - {one.metric for one in self.cell.suites.values()}
        if strangers:
            raise ValueError(f"metrics.{min(strangers)}: none of the cell's suites measures it")
        return self

    def document(self) -> dict[str, Any]:
        """Give what JSON holds, without the document's own digest."""
        return {"cell_id": self.cell.id, **super().document(), "schema_version": SCHEMA_VERSION}

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all, where a comparison's folder has it."""
        path = folder / self.cell.file_name
        documents.write_json(path, documents.sealed(self.document()))


def check_metric(suite: str, cell: Cell, metric: Metric) -> None:
    """Refuse what a suite of a cell cannot have measured.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    protocol = cell.suites[suite]
    _, kind = MEASURED.get(suite, TASKS)
    if type(metric) is not kind:
        raise ValueError(f"metrics.{protocol.metric}: this is not what {suite} measures")
    try:
        protocol.check(metric)
    except ValueError as error:
        raise ValueError(f"metrics.{protocol.metric}{error}") from error


def in_words(failures: Mapping[str, str]) -> str:
    """Write reasons by suite in one line; one that suites share is said once."""
    by_reason: dict[str, list[str]] = {}
    for suite, reason in failures.items():
        by_reason.setdefault(reason, []).append(suite)
    return "; ".join(f"{', '.join(suites)}: {reason}" for reason, suites in by_reason.items())


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        InputError: damaged, edited, or of another version.
    """
    fix = "remove it, and run its comparison again"
    try:
        document = documents.parsed(files.read_text(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a record of this program ({error}); {fix}") from error
    claimed = document.pop(documents.DIGEST, None) if isinstance(document, dict) else None
    record = record_of(document, where=str(path), fix=fix)
    if claimed != documents.digest(document):
        raise InputError(
            f"{path} does not match its own sha256: it was edited by hand, damaged, or written "
            f"before version 0.2; {fix}"
        )
    return record


def read_cell(folder: Path, file_name: str) -> Record:
    """Read a record of a comparison's folder, which is what its place says.

    Args:
        folder: of the comparison.
        file_name: see `bench.records.cell.Cell.file_name`.

    Raises:
        InputError: see `read_record`; also the record of another cell.
    """
    record = read_record(folder / file_name)
    if record.cell.file_name != file_name:
        raise InputError(
            f"{folder / file_name} holds what belongs into {record.cell.file_name}: it was copied; "
            "remove it, and run the comparison again"
        )
    return record


def record_of(document: object, *, where: str, fix: str) -> Record:
    """Make a record of its document.

    Args:
        document: as `Record.write` writes it, without its digest.
        where: it was found, for messages.
        fix: what to do about one that is none.

    Raises:
        InputError: damaged, edited, or of another version.
    """
    given = document if isinstance(document, dict) else {}
    version = given.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise InputError(
            f"{where} has record version {version}, this program {SCHEMA_VERSION}; {fix}"
        )
    try:
        for name in _ENVELOPE:
            if given and name not in given:
                raise ValueError(f"{name} is not there")
        content = {name: value for name, value in given.items() if name not in _ENVELOPE}
        record = Record.model_validate(content if given else document)
    except (ValueError, RecursionError) as error:
        why = documents.told(error)
        raise InputError(f"{where} is not a record of this program ({why}); {fix}") from error
    if record.cell.id != given["cell_id"]:
        raise InputError(
            f"{where}: the cell does not match its id {given['cell_id']}; it was edited; {fix}"
        )
    return record
