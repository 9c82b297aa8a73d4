"""One JSON document per cell, written once and whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.records import check as record_check
from quantcore import files
from quantcore.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of a comparison, identified by its content."""

    model: str
    """Weights' sha256."""
    tokenizer: str
    """Its files' sha256."""
    method: str | None
    """None: the unquantized model."""
    method_settings: dict[str, Any]
    scheme: str | None
    exclude: tuple[str, ...]
    calibration: dict[str, Any] | None
    """Name, hash and sizes of the sequences; None if the method needs none."""
    suites: dict[str, Any]
    """Every suite with its protocol: version, text hash, window, how many of them."""
    dtype: str
    device: str
    seed: int
    backend: str | None = None
    """What runs the quantized linears, as asked for; None: exactly the dequantized weights."""
    configuration: str | None = None
    """What else decides the model's outputs, see `quantcore.checkpoint.configuration_of`; None:
    of before version 0.2."""
    exclude_version: int | None = None
    """By which rule patterns match, `quantcore.exclusion.VERSION`; None: there are none."""

    def document(self) -> dict[str, Any]:
        """As a record holds it; what was not there before version 0.2 is left out where unused."""
        document = asdict(self)
        for name in ("backend", "configuration", "exclude_version"):
            if document[name] is None:
                del document[name]
        return document

    @property
    def id(self) -> str:
        """16 hex digits over everything above."""
        content = json.dumps(self.document(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """Where its record lies in a comparison's folder."""
        row = "unquantized" if self.method is None else f"{self.method}_{self.scheme}"
        return f"records/{row}.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one cell measured."""

    cell: Cell
    status: Literal["done", "partial", "failed"]
    """All suites were measured, some of them, or none."""
    error: str | None = None
    """Why nothing was measured."""
    failures: dict[str, str] = field(default_factory=dict)
    """By suite that failed: why."""
    notices: list[str] = field(default_factory=list)
    """What a user should know of how it was measured, such as a backend that stood in."""
    model_name: str
    parameters: int
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By metric name: value, protocol, and every sample (``window_nll`` in nats per token)."""
    quantization: dict[str, Any] = field(default_factory=dict)
    """Seconds by phase, relative losses by linear, notices, what was exempt."""
    stored_bytes: int | None = None
    """All weights: quantized ones as the scheme packs them, the rest in the checkpoint's dtype."""
    bits_per_weight: float | None = None
    """Of the quantized weights, scales and zero points included."""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    backends: dict[str, int] = field(default_factory=dict)
    """How many linears each backend ran; empty where none was asked for."""
    schema_version: int = SCHEMA_VERSION

    @property
    def reasons(self) -> dict[str, str]:
        """Every suite that has no outcome, with why: those that failed, or all of a failed cell."""
        if self.status == "failed" and not self.failures:
            return dict.fromkeys(self.cell.suites, self.error or "")
        return self.failures

    @property
    def problem(self) -> str:
        """All that failed in one line; empty if nothing did."""
        return self.error or in_words(self.failures)

    def document(self) -> dict[str, Any]:
        """As JSON holds it; what was not there before version 0.2 is left out where empty."""
        document = {"cell_id": self.cell.id, **asdict(self), "cell": self.cell.document()}
        return _without_empty(document)

    def write(self, folder: Path) -> None:
        """Write atomically; non-finite numbers are refused.

        Raises:
            ValueError: a number is NaN or infinite.
        """
        document = self.document()
        write_json(folder / self.cell.file_name, record_check.sealed(document))


def _without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k not in ("failures", "notices") or v}


def in_words(failures: Mapping[str, str]) -> str:
    """Reasons by suite in one line; one that suites share is said once."""
    by_reason: dict[str, list[str]] = {}
    for suite, reason in failures.items():
        by_reason.setdefault(reason, []).append(suite)
    return "; ".join(f"{', '.join(suites)}: {reason}" for reason, suites in by_reason.items())


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document whole or not at all."""
    files.write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        InputError: damaged, edited, or of another version.
    """
    fix = "remove it, or name another --out"
    try:
        document = record_check.parsed(files.read_text(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a record of this program ({error}); {fix}") from error
    claimed = document.pop(record_check.DIGEST, None) if isinstance(document, dict) else None
    record = record_of(document, where=str(path), fix=fix)
    if claimed != record_check.digest(document):
        raise InputError(
            f"{path} does not match its own sha256: it was edited by hand, damaged, or written "
            f"before version 0.2; {fix}"
        )
    return record


def read_cell(folder: Path, file_name: str) -> Record:
    """Read a record of a comparison's folder, which is what its place says.

    Args:
        folder: of the comparison.
        file_name: see `Cell.file_name`.

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


def record_of(document: dict[str, Any], *, where: str, fix: str) -> Record:
    """A record of its document.

    Args:
        document: as `Record.write` writes it.
        where: it was found, for messages.
        fix: what to do about one that is none.

    Raises:
        InputError: damaged, edited, or of another version.
    """
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise InputError(
            f"{where} has record version {version}, this program {SCHEMA_VERSION}; {fix}"
        )
    try:
        if isinstance(document, dict):  # baselines held empty ones for a time
            document = _without_empty(document)
        record_check.check(document)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not a record of this program ({error}); {fix}") from error
    content = {k: v for k, v in document.items() if k not in ("schema_version", "cell_id", "cell")}
    cell = Cell(**{**document["cell"], "exclude": tuple(document["cell"]["exclude"])})
    record = Record(cell=cell, **content)
    if cell.id != document["cell_id"]:
        raise InputError(
            f"{where}: the cell does not match its id {document['cell_id']}; it was edited; {fix}"
        )
    return record
