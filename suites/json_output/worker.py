"""This process holds answers against JSON schemas, apart from the one that measures.

A schema of a standard set may hold a regular expression that runs for ages on one answer. Only a
process of its own can be stopped in the midst of that, whatever thread asks and whether or not the
code that hangs looks at signals. So `suites.json_output.validation` starts this file as a program
and talks to it in lines of JSON: ``[schema, answer]``, both as JSON text, is held against each
other; ``[schema]`` asks whether the schema can be used at all. The reply is ``{"why": null}`` or
``{"why": "what is wrong"}``, or ``{"failed": "..."}`` where the validator itself broke down. A
request that takes more processor time than allowed ends the process: no reply.

The draft is the one that ``$schema`` names, Draft 2020-12 if none. Formats are checked by the
functions below, not by whatever optional packages happen to be installed, so that a score is the
same on every machine; formats that have none here are not asserted. Nothing is fetched: a schema
that refers outside itself cannot be used.
"""

from __future__ import annotations

import ipaddress
import json
import re
import signal
import sys
from collections.abc import Iterator
from datetime import date
from fractions import Fraction
from functools import partial
from typing import Any

import jsonschema_specifications  # type: ignore[import-untyped]
import referencing.exceptions
import referencing.jsonschema
from jsonschema import (
    Draft3Validator,
    Draft4Validator,
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
    FormatChecker,
    SchemaError,
    ValidationError,
    validators,
)
from jsonschema.protocols import Validator
from referencing.jsonschema import EMPTY_REGISTRY

DRAFTS: dict[str, type[Validator]] = {
    "json-schema.org/draft-03/schema": Draft3Validator,
    "json-schema.org/draft-04/schema": Draft4Validator,
    "json-schema.org/draft-06/schema": Draft6Validator,
    "json-schema.org/draft-07/schema": Draft7Validator,
    "json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "json-schema.org/draft/2020-12/schema": Draft202012Validator,
    "json-schema.org/schema": Draft202012Validator,  # "the latest one"
    # Snowplow's schemas name their own meta schema, which is Draft 4 and a description.
    "iglucentral.com/schemas/com.snowplowanalytics.self-desc/schema/jsonschema/1-0-0": (
        Draft4Validator
    ),
}
"""By ``$schema``, less ``http://`` or ``https://`` (authors mix them up) and the final ``#``."""

FORMATS = FormatChecker(formats=())
"""The formats that are asserted."""

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SHAPES = {
    "date": re.compile(r"\d{4}-\d\d-\d\d", re.ASCII),
    "email": re.compile(r"[^@\s]+@[^@\s]+"),
    "hostname": re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*", re.IGNORECASE | re.ASCII),
    "time": re.compile(
        r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
    ),
    "uri": re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-\[\]_a-z~]*"),
    "uri-reference": re.compile(r"[!#-;=?-\[\]_a-z~]*"),
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII),
}


def _has_shape(name: str, value: object) -> bool:
    """Say whether a string is written as the format asks; what is no string passes."""
    return not isinstance(value, str) or _SHAPES[name].fullmatch(value) is not None


for _name in _SHAPES:
    FORMATS.checks(_name)(partial(_has_shape, _name))


def _date(value: object) -> bool:
    # The shape is asked first: fromisoformat also takes 20310517 and 2031-W20-6.
    return not isinstance(value, str) or (
        _has_shape("date", value) and bool(date.fromisoformat(value))
    )


def _date_time(value: object) -> bool:
    return not isinstance(value, str) or (
        value[10:11] in ("T", "t") and _date(value[:10]) and _has_shape("time", value[11:])
    )


def _ipv4(value: object) -> bool:
    return not isinstance(value, str) or bool(ipaddress.IPv4Address(value))


def _ipv6(value: object) -> bool:
    # A zone (fe80::1%eth0) is no part of an address.
    return not isinstance(value, str) or ("%" not in value and bool(ipaddress.IPv6Address(value)))


for _name, _check in (
    ("date", _date),  # in place of its mere shape
    ("date-time", _date_time),
    ("ipv4", _ipv4),
    ("ipv6", _ipv6),
):
    FORMATS.checks(_name, raises=ValueError)(_check)


def _multiple_of(
    validator: Validator, factor: float, value: object, schema: object
) -> Iterator[ValidationError]:
    """Divide in exact decimals: jsonschema divides floats, and refuses 19.99 as a multiple of 0.01.

    Source: JSON Schema Validation, Draft 2020-12, section 6.2.1: the quotient is an integer.
    """
    if validator.is_type(value, "number") and Fraction(str(value)) % Fraction(str(factor)):
        yield ValidationError(f"{value} is not a multiple of {factor}")


def validator_class(schema: object) -> type[Validator]:
    """Give the validator of the schema's draft.

    Raises:
        ValueError: it names a draft that is not in `DRAFTS`.
    """
    draft: type[Validator] = Draft202012Validator
    if isinstance(schema, dict) and "$schema" in schema:
        named = schema["$schema"]
        key = named.removesuffix("#").split("://")[-1] if isinstance(named, str) else None
        if key not in DRAFTS:
            raise ValueError(f"unknown draft {named!r}")
        draft = DRAFTS[key]
    multiples = "divisibleBy" if draft is Draft3Validator else "multipleOf"
    return validators.extend(draft, {multiples: _multiple_of})  # type: ignore[no-any-return]


def why_unusable(schema: object) -> str | None:
    """Say what keeps the schema from being used (draft, form, patterns, references), or None."""
    try:
        draft = validator_class(schema)
        draft.check_schema(schema, format_checker=FormatChecker(formats=()))
        specification = referencing.jsonschema.specification_with(draft.ID_OF(draft.META_SCHEMA))
        resource = specification.create_resource(_without_draft(schema))
        _walk(resource, jsonschema_specifications.REGISTRY.resolver_with_root(resource))
        # A schema that refers to itself without end shows it on some value.
        values: tuple[object, ...] = (None, {}, [], "")
        for value in values:
            _validator(schema).is_valid(value)
    except ValueError as error:
        return str(error)
    except SchemaError as error:
        return f"not a valid schema: {error.message}"
    except re.error as error:
        return f"pattern {error.pattern!r}: {error}"
    except referencing.exceptions.Unresolvable as error:
        return f"a reference leads nowhere: {error}"
    except RecursionError:
        return "refers to itself without end"
    return None


def why_refused(schema: object, value: object) -> str | None:
    """Say how the value breaks the schema, or None."""
    error = next(_validator(schema).iter_errors(value), None)
    return None if error is None else f"{error.json_path}: {error.message}"


def _validator(schema: object) -> Validator:
    # A registry of ours is one that fetches nothing.
    return validator_class(schema)(
        _without_draft(schema), format_checker=FORMATS, registry=EMPTY_REGISTRY
    )


def _without_draft(schema: object) -> object:
    """Leave out ``$schema``, at which jsonschema would choose its own class for a $ref."""
    if isinstance(schema, dict):
        return {key: value for key, value in schema.items() if key != "$schema"}
    return schema


def _walk(resource: Any, resolver: Any) -> None:
    """Compile every pattern and look up every reference of a schema and the schemas in it."""
    schema = resource.contents
    if isinstance(schema, dict):
        for pattern in [schema.get("pattern", ""), *schema.get("patternProperties", ())]:
            re.compile(pattern)
        for keyword in ("$ref", "$dynamicRef"):
            if isinstance(schema.get(keyword), str):
                resolver.lookup(schema[keyword])
    for part in resource.subresources():
        _walk(part, resolver.in_subresource(part))


def _reply(request: list[str]) -> dict[str, str | None]:
    schema, *answer = map(json.loads, request)
    try:
        why = why_refused(schema, *answer) if answer else why_unusable(schema)
    except Exception as error:  # whatever the validator may raise on a schema from outside
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    return {"why": why}


def main(cpu_limit_s: float) -> None:
    """Answer requests until the input ends, or until one takes more processor time than allowed."""
    print("ready", flush=True)
    for line in sys.stdin:
        # Unhandled on purpose: the signal then ends the process even in the midst of C code.
        signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
        reply = _reply(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
