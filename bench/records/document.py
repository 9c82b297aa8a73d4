"""A document is written as JSON by a typed model, and validated by it when it is read back.

A digest catches what was edited or damaged. What follows from samples is computed from them again
by the models, so that no figure is believed that its own samples do not give.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError

from quantcore import files

DIGEST = "sha256"
"""The key under which a document carries the digest of all else in it."""


class Document(BaseModel):
    """A document, or a part of one, is frozen, with the types of JSON and nothing besides."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def document(self) -> dict[str, Any]:
        """Give what JSON holds; a field with a default is left out where it has it."""
        return self.model_dump(exclude_defaults=True)


def tag(name: str) -> str:
    """Mark an alternative of a union so that `told` leaves it out of a field's place."""
    return f"<{name}>"


def told_by(fields: Mapping[str, type[Document]], what: str) -> Discriminator:
    """Tell the alternatives of a union apart by a field that each has alone.

    Args:
        fields: the alternatives, tagged with `tag` of their names, by that field.
        what: there must be, for the message where none of the fields is there.
    """

    def kind(value: object) -> str | None:
        if isinstance(value, Document):
            return tag(type(value).__name__)
        if not isinstance(value, dict):
            return None
        return next((tag(k.__name__) for name, k in fields.items() if name in value), None)

    return Discriminator(kind, custom_error_type="no_alternative", custom_error_message=what)


def told(error: Exception) -> str:
    """Say the first thing that is wrong with a document: its place, the rule, and what is there.

    Args:
        error: of a model; of any other kind, its text is given.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    first = min(error.errors(include_url=False), key=lambda wrong: len(wrong["loc"]))
    steps = [step for step in first["loc"] if not str(step).startswith("<")]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    place = place.removeprefix(".")
    if first["type"] == "missing":
        return f"{place} is not there"
    if first["type"] == "extra_forbidden":
        return f"{place} is no field of it"
    if first["type"] == "value_error":
        rule = str(first["ctx"]["error"])
        return f"{place}{rule}" if rule.startswith(".") or not place else f"{place}: {rule}"
    rule = first["msg"][0].lower() + first["msg"][1:]
    return f"{place or 'the whole'}: {rule}, not {repr(first['input'])[:80]}"


def parsed(text: str) -> Any:
    """Read a JSON document of ours: all its numbers are such that they can be computed with.

    Raises:
        ValueError: no JSON, or a number that is NaN, infinite, or longer than any that is measured.
        RecursionError: nested deeper than Python goes.
    """
    return json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_counted)


def _no_number(name: str) -> float:
    raise ValueError(f"it holds {name}, which is a failure and not a number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits[:20])


def _counted(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"it holds a whole number of {len(digits)} digits, which counts nothing")
    return int(digits)


def digest(document: Mapping[str, Any]) -> str:
    """Digest a JSON document without its own digest; 64 hex digits.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    content = {name: value for name, value in document.items() if name != DIGEST}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Add a document's digest to it."""
    return {DIGEST: digest(document), **document}


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document whole or not at all.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    files.write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
