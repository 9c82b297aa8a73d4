"""Whether a record is what suites could have measured: its shape, and figures from samples.

A digest catches what was edited or damaged. What follows from samples is computed from them again,
so that no figure is believed that its own samples do not give.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import statistics
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jsonschema

DIGEST = "sha256"
"""The key under which a document carries the digest of all else in it."""

_CLOSE = 1e-9  # of a value: sums of doubles in another order
_LEAST_NATS = -1e-6
"""KL divergence and likelihoods are sums of rounded numbers: what is 0 may come out below it."""


def parsed(text: str) -> Any:
    """A JSON document of ours: all its numbers are such that they can be computed with.

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
    """Of a JSON document without its own, 64 hex digits.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    content = {name: value for name, value in document.items() if name != DIGEST}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its digest."""
    return {DIGEST: digest(document), **document}


def check(document: Mapping[str, Any]) -> None:
    """Refuse a record's document that no run of this program wrote.

    Args:
        document: as `bench.records.record.Record.write` writes it.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    _check_shape(_validator(), document)
    metrics, suites = document["metrics"], document["cell"]["suites"]
    for name, protocol in suites.items():
        if protocol["metric"] in metrics:
            check_metric(metrics[protocol["metric"]], protocol)
        elif document["status"] != "failed" and name not in document.get("failures", {}):
            raise ValueError(f"metrics.{protocol['metric']} is not there, and no failure says why")
    strangers = metrics.keys() - {protocol["metric"] for protocol in suites.values()}
    if strangers:
        raise ValueError(f"metrics.{min(strangers)}: none of the cell's suites measures it")


def check_metric(metric: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
    """Refuse what one suite cannot have measured.

    Args:
        metric: as a record holds it.
        protocol: of the suite, as a cell holds it.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    name = protocol["metric"]
    _check_shape(_validator("properties", "metrics"), {name: metric}, "metrics")
    try:
        if "windows" in protocol:
            _check_windows(metric, protocol)
        elif "tasks" in protocol:
            _check_items(metric, protocol)
        else:
            _check_speeds(metric, protocol)
    except ValueError as error:
        raise ValueError(f"metrics.{name}{error}") from error
    except OverflowError as error:
        raise ValueError(f"metrics.{name}: its samples are beyond all numbers") from error


# To JSON Schema 1e300 is an integer, and to no code that counts with it.
_VALIDATOR = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: type(value) is int
    ),
)


@functools.cache
def _validator(*path: str) -> jsonschema.Draft202012Validator:
    """Of a record, or of the part of it that the schema has there."""
    schema = json.loads((resources.files(__package__) / "record.schema.json").read_text("utf-8"))
    part = functools.reduce(lambda inner, key: inner[key], path, schema)
    return _VALIDATOR({**part, "$defs": schema["$defs"]})


def _check_shape(
    validator: jsonschema.Draft202012Validator, document: object, where: str = ""
) -> None:
    errors = validator.iter_errors(document)
    found = min(errors, key=lambda error: len(error.absolute_path), default=None)
    if found is not None:
        steps = [f"[{p}]" if isinstance(p, int) else f".{p}" for p in found.absolute_path]
        field = "".join([where, *steps]).removeprefix(".")
        raise ValueError(f"{field or 'the whole'}: {found.message[:200]}")


def _check_windows(metric: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
    """Of perplexity or divergence."""
    samples = [name for name in ("window_nll", "window_kl", "window_agreement") if name in metric]
    for name in samples:
        values = metric[name]
        if not len(values) == metric["windows"] == protocol["windows"]:
            raise ValueError(
                f".{name}: {len(values)} samples, of {metric['windows']} windows, where the "
                f"protocol has {protocol['windows']}"
            )
        if min(values) < _LEAST_NATS:
            raise ValueError(f".{name}: {min(values)} nats, below 0")
    if "window_nll" in metric:
        _check_value(metric, "value", math.exp(statistics.fmean(metric["window_nll"])))
    else:
        _check_value(metric, "value", statistics.fmean(metric["window_kl"]))
        _check_value(metric, "top1_agreement", statistics.fmean(metric["window_agreement"]))


def _check_items(metric: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
    """Of a task suite."""
    columns = metric["columns"]
    for name, entries in columns.items():
        if not len(entries) == metric["items"] == protocol["items"]:
            raise ValueError(
                f".columns.{name}: {len(entries)} entries, of {metric['items']} items, where the "
                f"protocol has {protocol['items']}"
            )
    values = [value for value in columns["value"] if value is not None]
    if values:
        _check_value(metric, "value", statistics.fmean(values))
    elif not metric.get("aggregates"):
        raise ValueError(".columns.value: no item has a value, and there is no aggregate")


def _check_speeds(metric: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
    """Of throughput: every kind of run in every round, and the median speed of the first kind."""
    kinds = {_kind(run) for run in metric["unquantized"]["runs"]}
    models = {f".backends.{name}": one for name, one in metric["backends"].items()}
    for where, model in {**models, ".unquantized": metric["unquantized"]}.items():
        found = {(*_kind(run), run["round"]) for run in model["runs"]}
        whole = len(found) == len(model["runs"]) == len(kinds) * protocol["rounds"]
        of_protocol = all((*kind,) in kinds and n < protocol["rounds"] for *kind, n in found)
        if not (whole and of_protocol):
            raise ValueError(f"{where}.runs: not each kind once in each of the protocol's rounds")
        if any(len(run["step_s"]) != protocol["new_tokens"] - 1 for run in model["runs"]):
            raise ValueError(f"{where}.runs: not as many steps as the protocol has new tokens")
    runs = next(iter(metric["backends"].values()), metric["unquantized"])["runs"]
    speeds = [
        one["batch_size"] * len(one["step_s"]) / sum(one["step_s"])
        for one in runs
        if _kind(one) == _kind(runs[0])
    ]
    _check_value(metric, "value", statistics.median(speeds))


def _kind(run: Mapping[str, Any]) -> tuple[int, int]:
    return run["batch_size"], run["prompt_tokens"]


def _check_value(metric: Mapping[str, Any], name: str, computed: float) -> None:
    if not math.isclose(metric[name], computed, rel_tol=_CLOSE, abs_tol=1e-12):
        raise ValueError(f".{name}: {metric[name]}, where its samples give {computed}")
