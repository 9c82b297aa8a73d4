"""A baseline is a committed measurement that later ones are held to.

It holds two records whole (every window, every item), a tolerance with its reason for each gate,
and what reruns showed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.gate.key import key_of
from bench.records.document import DIGEST, digest, parsed, sealed, write_json
from bench.records.record import Record, record_of
from quantcore import files
from quantcore.errors import InputError, setting_name, writing

VERSION = 1
OWN_REASON = "twice the noise floor, and the reach of a bound; nobody named another"
"""This is the reason of a tolerance that was not given."""

_ANEW = "make it anew with `awq-bench baseline`"

Pair = tuple[Record | None, Record]
"""These are the unquantized model's record (None where there is no such model) and the quantized
one's."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """A tolerance is the largest change of one gate that passes."""

    value: float
    """It is counted in the gate's own measure, positive where things get worse."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A rerun is what measuring again showed, everything declared being the same."""

    what: str
    """It says what was varied: ``calibration seed 1``, ``batches of 1``."""
    drawn: bool
    """It is one draw of many: another calibration, other seconds."""
    samples: dict[str, list[float]]
    """They are, by gate, the change of every window or item against the baseline."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline says what was measured, how to measure it again, and what may become of it."""

    unquantized: Record | None
    quantized: Record
    declared: dict[str, Any]
    """Method, scheme and calibration stand here as they were asked for; see
    `bench.gate.key.declared_of`."""
    request: dict[str, Any]
    """It measures the baseline again; see `bench.gate.kept_request`."""
    tolerances: dict[str, Tolerance]
    reruns: tuple[Rerun, ...] = ()
    made: str = ""
    """It says when, in UTC."""

    @property
    def key(self) -> dict[str, Any]:
        """Say by name what a measurement must share with this one."""
        return key_of(self.quantized, self.declared)

    @property
    def pair(self) -> Pair:
        """Give both records, as `bench.gate.changes.changes` takes them."""
        return self.unquantized, self.quantized


def write(baseline: Baseline, path: Path, *, force: bool) -> None:
    """Write a baseline, whole or not at all.

    Raises:
        InputError: there is one already, and ``force`` is not given; or it cannot be written.
    """
    if path.exists() and not force:
        raise InputError(
            f"{path} is there already; a baseline is written over only with "
            f"{setting_name('force')}, or by `awq-bench rebaseline`, which shows what changed first"
        )
    document = _document(baseline)
    with writing(path, "make room and give rights there, or name another file"):
        write_json(path, sealed(document))


def _document(baseline: Baseline) -> dict[str, Any]:
    unquantized, quantized = (
        record and record.document() for record in (baseline.unquantized, baseline.quantized)
    )
    return {
        "baseline_version": VERSION,
        "made": baseline.made,
        "declared": baseline.declared,
        "request": baseline.request,
        "tolerances": {name: asdict(allowed) for name, allowed in baseline.tolerances.items()},
        "reruns": [asdict(rerun) for rerun in baseline.reruns],
        "unquantized": unquantized,
        "quantized": quantized,
    }


def read(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InputError: it is not there, damaged, of another version, or edited by hand.
    """
    document = _checked(path)
    try:
        unquantized, quantized = (
            None
            if document[name] is None
            else record_of(document[name], where=f"{path}: {name}", fix=_ANEW)
            for name in ("unquantized", "quantized")
        )
        if quantized is None:
            raise ValueError("there is no quantized record")
        return Baseline(
            unquantized=unquantized,
            quantized=quantized,
            declared=document["declared"],
            request=document["request"],
            tolerances={k: Tolerance(**v) for k, v in document["tolerances"].items()},
            reruns=tuple(Rerun(**rerun) for rerun in document["reruns"]),
            made=document["made"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"baseline {path} is no whole baseline ({error!r}); {_ANEW}") from error


def _checked(path: Path) -> dict[str, Any]:
    """Read the document of a file that `write` wrote, by this version, and nobody changed."""
    try:
        document = parsed(files.read_text(path))
    except OSError as error:
        raise InputError(
            f"baseline {path} cannot be read ({error.strerror}); name a file that `awq-bench "
            "baseline` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"baseline {path} is no JSON document ({error}): it is damaged, cut off, or another "
            f"kind of file; name one that `awq-bench baseline` wrote, or {_ANEW}"
        ) from error
    if not isinstance(document, dict) or document.get("baseline_version") is None:
        raise InputError(
            f"baseline {path} was not written by `awq-bench baseline`; name files that it wrote, "
            "or a folder that holds nothing else"
        )
    if document["baseline_version"] != VERSION:
        raise InputError(
            f"baseline {path} has version {document['baseline_version']}, and this program reads "
            f"{VERSION}; {_ANEW}"
        )
    if document.pop(DIGEST, None) != digest(document):
        raise InputError(
            f"baseline {path} does not match its own sha256: it was edited by hand or damaged. "
            f"Tolerances are changed with `awq-bench rebaseline`; otherwise {_ANEW}"
        )
    return document
