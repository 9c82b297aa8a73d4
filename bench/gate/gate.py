"""The regression gate: a quantized model against a baseline, on the same windows and items.

What is gated is what quantization costs: quantized minus unquantized, both measured now, less the
same difference in the baseline. A change of a library that moves both alike is no regression of the
quantization, and one that moves the quantized model alone is. Where there is no unquantized model
the outcomes themselves are gated.

A baseline holds two records whole (every window, every item), a tolerance with its reason for each
gate, and what reruns showed. Its key is what was declared: source and tokenizer by their hashes,
texts, protocols, method, scheme, calibration. What only decides the numbers beneath the declaration
(quantized weights, library versions, hardware) is no part of it: that is what the gate watches.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.records.check import DIGEST, digest, parsed, sealed
from bench.records.items import none_fits, task_suites, valued
from bench.records.record import Cell, Record, record_of, write_json
from bench.stats import tolerance
from bench.stats.tolerance import Arithmetic, Decision, Spread
from quantcore import files
from quantcore.errors import InputError, writing

VERSION = 1
SPEED = "throughput"
OWN_REASON = "twice the noise floor, and the reach of a bound; nobody named another"
"""Of a tolerance that was not given."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest change of one gate that passes."""

    value: float
    """In the gate's own unit, positive where things got worse; see `Change`."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """What measuring again showed, everything declared being the same."""

    what: str
    """``calibration seed 1``, ``batches of 1``."""
    drawn: bool
    """One draw of many: another calibration, other seconds."""
    samples: dict[str, list[float]]
    """By gate, the change of every window or item against the baseline."""


_SINGLE = {
    "perplexity": Arithmetic(shift=5e-6, deviation=5e-6),
    "divergence": Arithmetic(shift=1e-5, deviation=5e-6),
    "items": Arithmetic(deviation=0.003),
}
ARITHMETIC = {
    "float64": _SINGLE,  # logits are scored in float32
    "float32": _SINGLE,
    "float16": {
        "perplexity": Arithmetic(shift=1e-4, deviation=1e-3),
        "divergence": Arithmetic(shift=1e-4, deviation=5e-4),
        "items": Arithmetic(deviation=0.05),
    },
    "bfloat16": {
        "perplexity": Arithmetic(shift=3e-4, deviation=1e-2),
        "divergence": Arithmetic(shift=1e-4, deviation=4e-3),
        "items": Arithmetic(deviation=0.1),
    },
}
"""By dtype, what another instruction set changes: nats of a window, or outcomes of an item. All
that was measured lies within; the figures are in docs/gate.md."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A committed measurement, and what may become of it."""

    unquantized: Record | None
    quantized: Record
    declared: dict[str, Any]
    """Method, scheme, calibration, as they were asked for."""
    request: dict[str, Any]
    """Options of `bench.comparison.request.Request` that measure it again, and ``source``."""
    tolerances: dict[str, Tolerance]
    reruns: tuple[Rerun, ...] = ()
    made: str = ""
    """When, UTC."""

    @property
    def key(self) -> dict[str, Any]:
        """What a measurement must share; by name."""
        return key_of(self.quantized, self.declared)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Samples of one gate's change, positive where it got worse."""

    values: Sequence[float]
    clusters: Sequence[Hashable] | None = None
    flips: bool = False
    """Samples are items that are right or wrong."""
    most: float = math.inf
    """That the mean can become: of items, the share that the quantized model has right."""
    exact: bool = False
    """There is nothing to infer: one figure."""
    shares: Sequence[float] | None = None
    """Of each sample in what quantization costs, 1 on average; None: all alike."""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    """What another machine changes by rounding."""

    @property
    def uneven(self) -> float:
        """Standard error of the mean share; see `bench.stats.tolerance.detectable`."""
        return 0.0 if self.shares is None else tolerance.spread(self.shares, None).error


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One gate."""

    name: str
    decision: Decision | None
    """None: nothing could be compared."""
    why: str = ""
    """There is no verdict, because."""

    @property
    def outcome(self) -> tolerance.Outcome:
        """Pass, fail or no verdict."""
        return "no verdict" if self.decision is None else self.decision.outcome


@dataclass(frozen=True, kw_only=True)
class Result:
    """Every gate of one baseline."""

    baseline: Baseline
    path: Path
    verdicts: tuple[Verdict, ...]
    paired: bool = True
    """There were unquantized models: what quantization costs was compared."""
    differing: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Parts of the key that are not the baseline's: what it has, and what was measured."""
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> tolerance.Outcome:
        """One failure fails; otherwise one gate without a verdict leaves none."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        if self.differing or not outcomes:
            return "no verdict"
        return next((o for o in ("fail", "no verdict") if o in outcomes), "pass")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What a gate's change is when nothing of the declaration changed."""

    means: tuple[float, ...]
    """Of reruns that were drawn, or of all where none was."""
    spread: Spread
    """The widest over windows or items."""
    floor: float
    """What a rerun, here or on another machine, stays below with a probability of 95 %."""

    def tolerance(self, gates: int) -> float:
        """Where nobody names one: twice the floor, so that a rerun's bound lies within it too."""
        return 2 * self.floor + tolerance.bound_of(self.spread, gates=gates)


def noise_of(name: str, own: Change, reruns: Sequence[Rerun]) -> Noise | None:
    """What reruns showed of a gate; None where fewer than two of them say anything of it.

    Args:
        name: the gate.
        own: its change in the baseline against itself, for clusters.
        reruns: of the baseline.
    """
    if own.exact:
        return None
    every = [
        (one.drawn, tolerance.spread(one.samples[name], own.clusters))
        for one in reruns
        if name in one.samples
    ]
    drawn = [found.mean for is_drawn, found in every if is_drawn]
    means = tuple(drawn or [found.mean for _, found in every])
    if len(means) < 2:
        return None
    spreads = [found for _, found in every]
    spreads.append(own.arithmetic.spread(spreads[0]))  # reruns here may not differ at all
    return Noise(
        means=means,
        spread=replace(max(spreads, key=lambda one: one.error), mean=0.0),
        floor=max(tolerance.floor(means), *(one.mean for one in spreads)),
    )


def detectable_of(baseline: Baseline, name: str, own: Change, noise: Noise | None) -> float | None:
    """The smallest regression of a gate that is found with a power of 80 %; None: not known."""
    if noise is None:
        return None
    return tolerance.detectable(
        noise.spread,
        noise.means,
        tolerance=baseline.tolerances[name].value,
        gates=gates_of(baseline.tolerances),
        flips=own.flips,
        uneven=own.uneven,
    )


def own_changes(baseline: Baseline) -> dict[str, Change]:
    """Every gate's change of a baseline against itself: zeros, and how they cluster."""
    pair = baseline.unquantized, baseline.quantized
    return {n: one for n, one in changes(pair, pair).items() if isinstance(one, Change)}


def unit_of(name: str) -> str:
    """What a gate's change is counted in."""
    if name in ("perplexity", "size", SPEED):
        return "%"
    return "nats" if name == "divergence" else "points"


def measure_of(name: str) -> str:
    """What the numbers of a gate are in files: a change, its bounds and its tolerance."""
    if name in ("perplexity", SPEED):
        return "natural logarithm of the ratio"
    return "nats" if name == "divergence" else "fraction"


def shown(name: str, value: float, *, written: bool = False) -> str:
    """A change in its gate's unit: ``+0.31 %``, ``+0.0012 nats``, ``-1.2 points``, ``+4.1e-06 %``.

    Two digits of it at least, so that only what is 0 looks like it.

    Args:
        name: the gate.
        value: in the gate's own measure.
        written: it may be a number that somebody wrote, which is shown with all of its digits.
    """
    if math.isinf(value):
        return "unbounded"
    if name == "perplexity":
        value = math.expm1(value)
    elif name == SPEED:
        value = -math.expm1(-value)
    unit = unit_of(name)
    if unit != "nats":
        value *= 100
    places = {"nats": 4, "points": 1, "%": 2}[unit]
    value += 0.0  # no -0
    digits = f"{value:+.9g}"
    if not written or not _same(digits, value):
        digits = f"{value:+.{places}f}"
        if abs(value) < 10 ** (1 - places) and not _same(digits, value):
            digits = f"{value:+#.2g}"
    if "e" in digits:
        return f"{digits} {unit}"
    whole, _, rest = digits.partition(".")
    return f"{whole}.{rest.ljust(places, '0')} {unit}"


def _same(digits: str, value: float) -> bool:
    """Whether they are this value, to what logarithms leave of it."""
    return math.isclose(float(digits), value, rel_tol=1e-13)


def parsed_tolerance(name: str, text: str) -> float:
    """A tolerance as people write it, in a gate's own measure: ``0.5%``, ``0.002``, ``2``.

    `shown` is its inverse.

    Raises:
        ValueError: no finite number that is 0 or more, in this gate's unit, or 100 % of a speed.
    """
    unit = unit_of(name)
    text = text.strip().removesuffix(unit)
    number = float(text if unit == "nats" else text.removesuffix("%"))
    if not math.isfinite(number) or number < 0 or (name == SPEED and number >= 100):
        raise ValueError(text)
    if unit == "nats":
        return number
    number /= 100
    if name == SPEED:
        return -math.log1p(-number)
    return math.log1p(number) if name == "perplexity" else number


_CONFIGURATION = "source configuration"


def key_of(record: Record, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What was declared, and by what protocol it was measured."""
    cell = record.cell
    return {
        **_declaration(declared),
        "tokenizer": cell.tokenizer,
        "dtype": cell.dtype,
        "backend": cell.backend,
        **{f"suite {name}": _protocol(suite) for name, suite in sorted(cell.suites.items())},
    }


def _declaration(declared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source weights": declared["source"],
        _CONFIGURATION: declared.get("configuration"),
        "method": declared["method"],
        "scheme": declared["scheme"],
        "calibration": declared["calibration"],
        "exclude": sorted(declared["exclude"]),
        "rule of exclude": declared.get("exclude_version"),
    }


def _protocol(suite: Mapping[str, Any]) -> dict[str, Any]:
    """Of a suite, without versions of libraries: those are warned about."""
    return {name: value for name, value in suite.items() if name != "lm_eval"}


def declared_of(cell: Cell) -> dict[str, Any]:
    """As a cell that was quantized on the spot declares it.

    Which sequences a calibration came to is beneath the declaration.
    """
    calibration = None
    if cell.calibration is not None:
        calibration = {k: v for k, v in cell.calibration.items() if k != "sha256"}
    return {
        "source": cell.model,
        "configuration": cell.configuration,
        "method": cell.method,
        "scheme": cell.scheme,
        "calibration": calibration,
        "exclude": list(cell.exclude),
        "exclude_version": cell.exclude_version,
    }


def changes(
    base: tuple[Record | None, Record], now: tuple[Record | None, Record]
) -> dict[str, Change | str]:
    """The change of every gate, or why there is none.

    Args:
        base: the baseline's unquantized and quantized model.
        now: what was measured.
    """
    found: dict[str, Change | str] = {}
    quantized = now[1]
    for name, suite in base[1].cell.suites.items():
        try:
            if name == SPEED:
                found[name] = _speed(base[1], quantized, suite["metric"])
            elif "tasks" in suite:
                found[name] = _items(name, base, now)
            else:
                found[name] = _windows(name, suite["metric"], base, now)
        except _Missing as missing:
            found[name] = str(missing)
    if base[1].stored_bytes is not None and quantized.stored_bytes is not None:
        found["size"] = Change(
            values=[quantized.stored_bytes / base[1].stored_bytes - 1], exact=True
        )
    else:
        found["size"] = "the size of the quantized model is not known"
    return found


class _Missing(Exception):
    """Why a gate has nothing to compare."""


def _metric(record: Record, metric: str, whose: str) -> Mapping[str, Any]:
    if record.status == "failed":
        raise _Missing(f"{whose} was not measured: {record.error}")
    if metric not in record.metrics:
        named = {protocol["metric"]: name for name, protocol in record.cell.suites.items()}
        if reason := record.failures.get(named.get(metric, "")):
            raise _Missing(f"{whose} could not be measured: {reason}")
        raise _Missing(f"{whose} has no {metric}")
    return record.metrics[metric]


def _windows(
    suite: str,
    metric: str,
    base: tuple[Record | None, Record],
    now: tuple[Record | None, Record],
) -> Change:
    """Nats per token: of the quantized model less the unquantized one's, or of the divergence."""
    samples = "window_kl" if suite == "divergence" else "window_nll"

    def cost(pair: tuple[Record | None, Record], whose: str) -> list[float]:
        unquantized, quantized = pair
        if suite == "divergence" and metric not in quantized.metrics and unquantized is None:
            raise _Missing("it takes the unquantized model: give it with --source")
        own = _metric(quantized, metric, f"the quantized model {whose}")[samples]
        if suite == "divergence" or base[0] is None:
            return list(own)
        if unquantized is None:
            raise _Missing(f"there is no unquantized model {whose}")
        other = _metric(unquantized, metric, f"the unquantized model {whose}")[samples]
        return [a - b for a, b in zip(own, other, strict=True)]

    before, after = cost(base, "of the baseline"), cost(now, "measured now")
    if len(before) != len(after):
        raise _Missing(f"{len(after)} windows where the baseline has {len(before)}")
    values = _finite([b - a for a, b in zip(before, after, strict=True)])
    mean = sum(_finite(before)) / len(before)
    return Change(
        values=values,
        shares=[one / mean for one in before] if mean > 0 else None,
        arithmetic=ARITHMETIC[base[1].cell.dtype][suite],
    )


def _items(
    suite: str, base: tuple[Record | None, Record], now: tuple[Record | None, Record]
) -> Change:
    """Outcomes lost: of the quantized model against the unquantized one, now and before."""

    def columns(record: Record, whose: str) -> Mapping[str, list[Any]]:
        metrics = task_suites(record)
        if reason := record.reasons.get(suite):
            raise _Missing(f"{whose} could not be measured: {reason}")
        if suite not in metrics:
            raise _Missing(f"{whose} has no {suite}")
        if none_fits(metrics[suite]):
            raise _Missing(f"no prompt of {suite} fits the context")
        held = valued(metrics[suite]["columns"])
        if not held["value"]:
            raise _Missing(f"items of {suite} carry no value of their own")
        return held

    def lost(pair: tuple[Record | None, Record], whose: str) -> tuple[list[Any], list[float]]:
        quantized = columns(pair[1], f"the quantized model {whose}")
        if base[0] is None:
            return quantized["id"], [-value for value in quantized["value"]]
        if pair[0] is None:
            raise _Missing(f"there is no unquantized model {whose}")
        own = columns(pair[0], f"the unquantized model {whose}")
        if own["id"] != quantized["id"]:
            raise _Missing(f"both models {whose} were asked other items")
        values = zip(own["value"], quantized["value"], strict=True)
        return quantized["id"], [a - b for a, b in values]

    ids, before = lost(base, "of the baseline")
    again, after = lost(now, "measured now")
    if ids != again:
        raise _Missing(f"the items of {suite} are not the baseline's")
    held = columns(base[1], "the baseline")
    return Change(
        values=_finite([b - a for a, b in zip(before, after, strict=True)]),
        clusters=held["source"],
        flips=True,
        most=sum(held["value"]) / len(held["value"]),
        arithmetic=ARITHMETIC[base[1].cell.dtype]["items"],
    )


def _speed(base: Record, now: Record, metric: str) -> Change:
    """Logarithm of the decoding speed-up lost, round by round."""
    from suites.throughput import Run, ratios

    def logarithms(record: Record, whose: str) -> list[float]:
        found = _metric(record, metric, whose)
        models = found["backends"]
        if not models:
            raise _Missing(f"{whose} was timed on no backend")
        runs, other = (
            [Run(**{**run, "step_s": tuple(run["step_s"])}) for run in model["runs"]]
            for model in (next(iter(models.values())), found["unquantized"])
        )
        return [math.log(one) for many in ratios(runs, other).values() for one in many]

    before, after = logarithms(base, "the baseline"), logarithms(now, "the model measured now")
    if len(before) != len(after):
        raise _Missing(f"{len(after)} runs where the baseline has {len(before)}")
    return Change(values=_finite([a - b for a, b in zip(before, after, strict=True)]))


def _finite(values: list[float]) -> list[float]:
    if not values:
        raise _Missing("there are no samples")
    if not all(map(math.isfinite, values)):
        raise _Missing("a sample is NaN or infinite")
    return values


def judge(
    baseline: Baseline, path: Path, now: tuple[Record | None, Record], declared: Mapping[str, Any]
) -> Result:
    """Decide every gate that the baseline has a tolerance for.

    Args:
        baseline: as it was read.
        path: where it lies, for messages.
        now: the unquantized model (None: there is none) and the quantized one, measured now.
        declared: how the quantized one was made; see `declared_of`.
    """
    measured, wanted = key_of(now[1], declared), baseline.key
    # What was measured besides, a comparison's other suites, is nobody's concern here.
    measured = {k: v for k, v in measured.items() if k in wanted or not k.startswith("suite ")}
    if now[0] is None:
        for key in (wanted, measured):
            key.pop("suite divergence", None)  # a model alone has none: that gate says so
    differing = _differing(wanted, measured)
    if differing:
        return undecided(baseline, path, differing=differing)
    # A quantized model alone is held to the quantized one alone.
    before = None if now[0] is None else baseline.unquantized
    found = changes((before, baseline.quantized), now)
    if _timed_on(baseline.quantized) != _timed_on(now[1]) and SPEED in found:
        found[SPEED] = "measured on other hardware or versions than the baseline; see below"
    verdicts = []
    for name, allowed in baseline.tolerances.items():
        change = found.get(name, f"there is no {name} to compare")
        if isinstance(change, str):
            verdicts.append(Verdict(name=name, decision=None, why=change))
            continue
        decision = _decided(change, allowed.value, gates_of(baseline.tolerances))
        verdicts.append(Verdict(name=name, decision=decision))
    return Result(
        baseline=baseline,
        path=path,
        verdicts=tuple(verdicts),
        paired=before is not None,
        warnings=(*_moved(before, now[0]), *_warnings(baseline.quantized, now[1])),
    )


def undecided(
    baseline: Baseline,
    path: Path,
    *,
    why: str = "",
    differing: Mapping[str, tuple[Any, Any]] | None = None,
) -> Result:
    """No verdict on any gate: because of ``why``, or of these parts of the key."""
    if differing:
        why = f"the key differs: {', '.join(differing)}"
    return Result(
        baseline=baseline,
        path=path,
        verdicts=tuple(Verdict(name=n, decision=None, why=why) for n in baseline.tolerances),
        differing=dict(differing or {}),
    )


def differing_declaration(
    baseline: Baseline, declared: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Parts of the key that are known before anything is measured, and differ."""
    return _differing(_declaration(baseline.declared), _declaration(declared))


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    differing = {
        name: (wanted.get(name), found.get(name))
        for name in dict.fromkeys((*wanted, *found))
        if wanted.get(name) != found.get(name)
    }
    if None in differing.get(_CONFIGURATION, ()):  # it was not looked at before version 0.2
        del differing[_CONFIGURATION]
    return differing


def gates_of(names: Iterable[str]) -> int:
    """Gates that may err: a size is a figure, and nothing is inferred from it."""
    return max(1, len(set(names) - {"size"}))


def _decided(change: Change, allowed: float, gates: int) -> Decision:
    if change.exact:
        (value,) = change.values
        return Decision(
            outcome="pass" if value <= allowed else "fail",
            change=value,
            low=value,
            high=value,
            tolerance=allowed,
            units=1,
            units_needed=None,
        )
    return tolerance.decide(change.values, change.clusters, tolerance=allowed, gates=gates)


_HARDWARE = {"CPU": "cpu", "threads": "threads", "GPU": "gpu", "platform": "platform"}


def _timed_on(record: Record) -> dict[str, Any]:
    """What seconds depend on, by name: hardware, and versions of libraries."""
    where = record.environment
    hardware = {name: where.get(field) for name, field in _HARDWARE.items()}
    return {**hardware, "Python": where.get("python"), **where.get("packages", {})}


def _warnings(before: Record, now: Record) -> list[str]:
    """What differs beneath the declaration."""
    differing = _differing(_timed_on(before), _timed_on(now))
    return [
        f"{name}: the baseline's {one}, now {other}" for name, (one, other) in differing.items()
    ]


def _moved(before: Record | None, now: Record | None) -> list[str]:
    """Where the unquantized model itself is another than it was; which is not gated."""
    found = []
    if before is not None and now is not None:
        for name, suite in before.cell.suites.items():
            one, other = (r.metrics.get(suite["metric"], {}).get("value") for r in (before, now))
            if name == SPEED or one is None or other is None:
                continue
            if not math.isclose(one, other, rel_tol=1e-4):
                found.append(f"{name} of the unquantized model: was {one:.5g}, now {other:.5g}")
    return found


def write(baseline: Baseline, path: Path, *, force: bool) -> None:
    """Write a baseline, whole or not at all.

    Raises:
        InputError: there is one already, and ``force`` is not given; or it cannot be written.
    """
    if path.exists() and not force:
        raise InputError(
            f"{path} is there already; a baseline is written over only with --force, or by "
            "`awq-bench rebaseline`, which shows what changed first"
        )
    document = _document(baseline)
    with writing(path, "make room and give rights there, or name another file"):
        write_json(path, sealed(document))


def _document(baseline: Baseline) -> dict[str, Any]:
    def record(one: Record | None) -> dict[str, Any] | None:
        return None if one is None else one.document()

    return {
        "baseline_version": VERSION,
        "made": baseline.made,
        "declared": baseline.declared,
        "request": baseline.request,
        "tolerances": {name: asdict(one) for name, one in baseline.tolerances.items()},
        "reruns": [asdict(one) for one in baseline.reruns],
        "unquantized": record(baseline.unquantized),
        "quantized": record(baseline.quantized),
    }


def read(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InputError: not there, damaged, of another version, or edited by hand.
    """
    anew = "make it anew with `awq-bench baseline`"
    none = "name files that it wrote, or a folder that holds nothing else"
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
            f"kind of file; name one that `awq-bench baseline` wrote, or {anew}"
        ) from error
    version = document.get("baseline_version") if isinstance(document, dict) else None
    if version is None:
        raise InputError(f"baseline {path} was not written by `awq-bench baseline`; {none}")
    if version != VERSION:
        raise InputError(
            f"baseline {path} has version {version}, and this program reads {VERSION}; {anew}"
        )
    if document.pop(DIGEST, None) != digest(document):
        raise InputError(
            f"baseline {path} does not match its own sha256: it was edited by hand or damaged. "
            f"Tolerances are changed with `awq-bench rebaseline`; otherwise {anew}"
        )
    try:
        both = [
            None
            if document[name] is None
            else record_of(document[name], where=f"{path}: {name}", fix=anew)
            for name in ("unquantized", "quantized")
        ]
        if both[1] is None:
            raise ValueError("there is no quantized record")
        return Baseline(
            unquantized=both[0],
            quantized=both[1],
            declared=document["declared"],
            request=document["request"],
            tolerances={k: Tolerance(**v) for k, v in document["tolerances"].items()},
            reruns=tuple(Rerun(**one) for one in document["reruns"]),
            made=document["made"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"baseline {path} is no whole baseline ({error!r}); {anew}") from error
