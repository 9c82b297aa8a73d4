"""Making a baseline, and measuring a model against one: what `bench.gate.gate` judges."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.comparison import measure as measuring
from bench.comparison.cells import cell_of
from bench.comparison.compare import Comparison, begin
from bench.comparison.progress import Bars, Reporter, quiet
from bench.comparison.request import Request, build_calibration, open_model
from bench.comparison.run_folder import RUNS, InUse, OtherComparison, locked
from bench.comparison.workbench import Workbench
from bench.gate.gate import (
    OWN_REASON,
    SPEED,
    Baseline,
    Change,
    Rerun,
    Result,
    Tolerance,
    changes,
    declared_of,
    differing_declaration,
    gates_of,
    judge,
    noise_of,
    parsed_tolerance,
    read,
    shown,
    undecided,
    unit_of,
)
from bench.records import environment
from bench.records.record import Record
from bench.report import quantities
from bench.report.pair import open_cell
from bench.stats import tolerance
from quantcore import files
from quantcore.checkpoint import MANIFEST, LoadedModel, resolve
from quantcore.errors import InputError, nearest
from quantcore.structure import Structure

SEEDS = 5
"""Calibration seeds besides the baseline's own."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A quantized model, the unquantized one beside it, and how the first was declared."""

    unquantized: Record | None
    quantized: Record
    declared: dict[str, Any]
    request: Request
    """That measures it again: text and calibration by name, where a default had chosen them."""

    @property
    def pair(self) -> tuple[Record | None, Record]:
        """As `bench.gate.gate.changes` takes them."""
        return self.unquantized, self.quantized


_QUANTIZING = (
    "backend", "exclude", "tasks_schemes",
    "calibration", "calibration_samples", "calibration_seed", "calibration_seqlen",
)  # fmt: skip
"""Of a request, what says how to quantize, besides method and scheme."""


class Opened(Protocol):
    """A model that is loaded and checked; nothing is measured yet."""

    def check_seeds(self) -> None:
        """Refuse calibration that is the same by every seed: reruns would say nothing of it."""

    def declared(self, method: str | None, scheme: str | None) -> dict[str, Any]:
        """What the quantized model was declared to be; see `bench.gate.gate.declared_of`."""

    def measure(
        self, method: str | None, scheme: str | None, unquantized: Record | None = None
    ) -> Measured:
        """Measure it, and the unquantized model where its record is not given."""


@dataclass(kw_only=True)
class OnTheSpot:
    """A source model that is quantized here."""

    request: Request
    comparison: Comparison

    def check_seeds(self) -> None:
        """See `Opened`."""
        drawn = self.comparison.plan[-1][0].calibration
        if drawn is None or drawn["name"] == "self":  # text that is sampled is another each time
            return
        other = build_calibration(
            replace(self.request, calibration_seed=self.request.seed + 1),
            self.comparison.bench.loaded,
            None,
            quiet(),
        )
        if other.describe()["sha256"] == drawn["sha256"]:
            count = drawn["samples"]
            raise InputError(
                f"--calibration {drawn['name']} gives the same {count} sequences by every seed, so "
                "that reruns would not tell how much calibration varies; ask for fewer with "
                f"--calibration-samples {max(1, count // 2)}, or give more"
            )

    def declared(self, method: str | None, scheme: str | None) -> dict[str, Any]:
        """See `Opened`."""
        return declared_of(self._entry(method, scheme)[0])

    def measure(
        self, method: str | None, scheme: str | None, unquantized: Record | None = None
    ) -> Measured:
        """See `Opened`."""
        beside = unquantized or self.comparison.measure(self.comparison.plan[0])
        quantized = self.comparison.measure(self._entry(method, scheme))
        declared = declared_of(quantized.cell)
        request = _settled(self.request, self.comparison.bench.suites)
        if request.calibration is None and declared["calibration"] is not None:
            request = replace(request, calibration=declared["calibration"]["name"])
        return Measured(unquantized=beside, quantized=quantized, declared=declared, request=request)

    def _entry(self, method: str | None, scheme: str | None) -> Any:
        return next(
            entry
            for entry in self.comparison.plan
            if (entry[0].method, entry[0].scheme) == (method, scheme)
        )


@dataclass(kw_only=True)
class QuantizedFolder:
    """A folder that holds a quantized model: what was declared is written in it."""

    request: Request
    source: str | None
    loaded: LoadedModel
    """The unquantized model where there is a source; it makes way for the quantized one."""
    declaration: dict[str, Any]
    say: Reporter

    def check_seeds(self) -> None:
        """See `Opened`; a folder was calibrated already."""

    def declared(self, method: str | None, scheme: str | None) -> dict[str, Any]:
        """See `Opened`; method and scheme are the folder's own."""
        return self.declaration

    def measure(
        self, method: str | None, scheme: str | None, unquantized: Record | None = None
    ) -> Measured:
        """See `Opened`."""
        suites = measuring.build(self.request, self.loaded, self.say)
        with files.scratch() as folder:
            bench = Workbench(
                name=self.source or self.request.model,
                loaded=self.loaded,
                structure=Structure(blocks=(), exempt=(), notices=()),
                suites=suites,
                calibrator=None,
                unfinished=folder,
                say=self.say,
            )
            beside = None
            if self.source is not None:
                for suite in suites:
                    suite.prepare(self.loaded, self.say)
                cell = cell_of(self.request, self.loaded, suites)
                beside = unquantized or bench.measure(cell, None, None)
                bench.forget(cell)  # the same weights quantized are measured by themselves
                self.loaded = bench.loaded = open_model(self.request)
                bench.name = self.request.model
            quantized = bench.measure(cell_of(self.request, self.loaded, suites), None, None)
        stored = _manifest(self.loaded.folder).get("stored_bytes")
        if stored is not None:  # as its scheme packs it: the folder holds it dequantized
            quantized = replace(quantized, stored_bytes=stored)
        return Measured(
            unquantized=beside,
            quantized=quantized,
            declared=self.declaration,
            request=_settled(self.request, suites),
        )


def _settled(request: Request, suites: Sequence[measuring.Suite]) -> Request:
    """With the evaluation text by its name: what a default chooses depends on what can be had."""
    text = next((one.text for one in suites if isinstance(one, measuring.TextSuite)), None)
    return request if text is None or request.text else replace(request, text=text.name)


@contextmanager
def opened(
    request: Request,
    *,
    source: str | None = None,
    parts: Path | None = None,
    reporter: Reporter | None = None,
) -> Iterator[Opened]:
    """Load and check what is to be measured.

    With methods ``request.model`` is quantized on the spot. Without, it is a quantized folder:
    beside ``source`` where that is given, else alone.

    Args:
        request: what to measure.
        source: the unquantized model of a quantized folder.
        parts: where records of what is quantized on the spot are kept, and found again.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    if request.methods:
        if source is not None:
            raise InputError(
                f"--source {source}: MODEL is the source already where --method says how to "
                "quantize it; leave one of them out"
            )
        with ExitStack() as held:
            out = parts or held.enter_context(files.scratch()) / "run"
            try:
                comparison = held.enter_context(begin(request, out=out, reporter=reporter))
            except OtherComparison:  # of weights or texts that have changed since
                shutil.rmtree(out)
                comparison = held.enter_context(begin(request, out=out, reporter=reporter))
            yield OnTheSpot(request=request, comparison=comparison)
        return
    if source is None and "divergence" in request.suites:
        raise InputError(
            "suite divergence compares with the unquantized model: give it with --source, or leave "
            "divergence out of --suites"
        )
    usual = Request()
    for name in _QUANTIZING:
        if getattr(request, name) != getattr(usual, name):
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(request, name)}: {request.model} is taken as "
                "quantized already; leave it out, or give --method and --scheme to quantize here"
            )
    if SPEED in request.suites:
        raise InputError(
            "suite throughput times a model beside its unquantized form, from codes; gate a folder "
            "on other suites, and speed with --method and --scheme"
        )
    measuring.check(request, paired=source is not None)
    loaded = open_model(replace(request, model=source or request.model))
    declaration = _declared_in(loaded.folder if source is None else resolve(request.model))
    if source is not None:
        declaration["source"] = loaded.weights_sha256
        declaration["configuration"] = loaded.configuration_sha256
    yield QuantizedFolder(
        request=request,
        source=source,
        loaded=loaded,
        declaration=declaration,
        say=reporter or quiet(),
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """What ``quantize`` wrote into a folder; empty for one of another program."""
    return _json(folder / MANIFEST)


def _declared_in(folder: Path) -> dict[str, Any]:
    """What a quantized folder says of itself; of another program's, what its configuration says.

    Where nothing names the source, the architecture stands for it.
    """
    manifest, config = _manifest(folder), _json(folder / "config.json")
    if manifest:
        try:
            return {
                "source": manifest["source"]["weights_sha256"],
                "configuration": manifest["source"].get("configuration_sha256"),
                "method": manifest["method"],
                "scheme": manifest["scheme"],
                "calibration": _without_draw(manifest["calibration"]),
                "exclude": list(manifest.get("exclude", [])),  # not there before version 0.2
                "exclude_version": manifest.get("exclude_version"),
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder / MANIFEST} is damaged ({error!r}); write the folder anew"
            ) from error
    sizes = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    own = config.get("quantization_config")
    own = own if isinstance(own, dict) else {}
    return {
        "source": f"not named; {', '.join(f'{name} {config.get(name)}' for name in sizes)}",
        "configuration": None,
        "method": own.get("quant_method"),
        "scheme": {k: own[k] for k in ("bits", "w_bit", "group_size", "q_group_size") if k in own}
        or None,
        "calibration": None,
        "exclude": [],
        "exclude_version": None,
    }


def _json(path: Path) -> dict[str, Any]:
    """An object; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(files.read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); write the folder anew") from error
    return dict(found) if isinstance(found, dict) else {}


def _without_draw(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if not calibration else {k: v for k, v in calibration.items() if k != "sha256"}


def make(
    request: Request,
    tolerances: Mapping[str, Tolerance],
    *,
    source: str | None = None,
    seeds: int = SEEDS,
    parts: Path | None = None,
    reporter: Reporter | None = None,
) -> Baseline:
    """Measure a baseline and its reruns.

    Args:
        request: what to measure; see `opened`. At most one method and one scheme.
        tolerances: by gate; those that are not named get what `bench.gate.gate.Noise` says.
        source: see `opened`.
        seeds: calibration seeds besides the baseline's own, at least 5 where there is calibration.
        parts: folder for what is measured on the way, from which a second call goes on; see
            `parts_folder`. None: nothing is kept.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: see `opened`; also a tolerance for no gate, or below what reruns showed.
    """
    say = reporter or quiet()
    if seeds < SEEDS:
        raise InputError(f"--seeds {seeds}: at least {SEEDS}; fewer say nothing of their spread")
    gates = (*request.suites, *request.tasks, "size")
    for name in tolerances:
        if name not in gates:
            raise InputError(f"--tolerance {name}: no such gate here; {nearest(name, gates)}")
    if len(request.methods) > 1 or len(request.schemes) > 1:
        raise InputError("a baseline is of one method and one scheme; make one for each")
    with _kept_if_measured(parts, say):
        first, reruns = _measured(request, source, seeds, parts, say)
    found = changes(first.pair, first.pair)
    count = gates_of(found)
    kept = {
        name: _tolerance(name, tolerances.get(name), reruns, change, gates=count)
        for name, change in found.items()
        if isinstance(change, Change)
    }
    return Baseline(
        unquantized=first.unquantized,
        quantized=first.quantized,
        declared=first.declared,
        request=_kept(first.request, source),
        tolerances=kept,
        reruns=tuple(reruns),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _measured(
    request: Request, source: str | None, seeds: int, parts: Path | None, say: Reporter
) -> tuple[Measured, list[Rerun]]:
    """The baseline's own measurement, and everything that may vary of it."""
    cell = (*request.methods, None)[0], (*request.schemes, None)[0]
    started = time.perf_counter()
    with opened(request, source=source, parts=parts and parts / "00", reporter=say) as model:
        model.check_seeds()
        first = model.measure(*cell)
    took = time.perf_counter() - started
    _refuse_failed(first, "the first measurement")
    for name, change in changes(first.pair, first.pair).items():
        _refuse_idle(name, change)
    reruns = []
    planned = list(_variations(first, seeds))
    bars = Bars(say.console)
    for number, again in enumerate(planned):
        left = quantities.duration(took * (len(planned) - number))
        say.say(
            f"Rerun {number + 1} of {len(planned)}: {again.what}; about {left} left", style="bold"
        )
        part = parts and parts / f"{number + 1:02}"
        with (
            _threads(again.threads),
            opened(again.request, source=source, parts=part, reporter=bars) as model,
        ):
            second = model.measure(*cell, unquantized=again.unquantized)
        _refuse_failed(second, f"rerun {again.what!r}")
        reruns.append(rerun(again.what, first, second, drawn=again.drawn, gates=again.gates))
    return first, reruns


@contextmanager
def _kept_if_measured(parts: Path | None, say: Reporter) -> Iterator[None]:
    """Parts that nobody else writes; what is refused before it is measured leaves none."""
    if parts is None:
        yield
        return
    with locked(parts, say):
        try:
            yield
        except BaseException:
            if not any(parts.rglob("records/*.json")):
                _remove(parts)
            raise


def discard(parts: Path | None, say: Reporter) -> None:
    """Remove what was kept on the way, once it is of no more use.

    Args:
        parts: see `make`.
        say: who is told what `bench.comparison.run_folder.locked` tells.
    """
    if parts is not None:
        with suppress(InUse), locked(parts, say):  # whoever makes the same removes it
            _remove(parts)


def _remove(parts: Path) -> None:
    shutil.rmtree(parts, ignore_errors=True)
    with suppress(OSError):  # others are in it
        parts.parent.rmdir()


def _refuse_idle(name: str, change: Change | str) -> None:
    """A gate that is not there, or cannot fail, would pass by accident."""
    why = change if isinstance(change, str) else ""
    if isinstance(change, Change) and not change.exact:
        units = tolerance.spread(change.values, change.clusters).units
        if units < 2:
            why = f"{units} window or item says nothing of how much it varies; measure more"
        elif change.most <= 0:
            why = "the quantized model has nothing right that it could lose"
    if why:
        raise InputError(f"{name} cannot be gated: {why}, or leave it out of --suites")


def _refuse_failed(measured: Measured, when: str) -> None:
    for record in measured.pair:
        if record is not None and record.status != "done":
            raise InputError(
                f"{record.model_name} could not be measured ({when}): {record.problem}; a baseline "
                "needs every measurement"
            )


def parts_folder(request: Request, source: str | None) -> Path | None:
    """Where the command keeps what is measured on the way, for this request and these versions.

    None in a checkout with changes, which the next call might not share.
    """
    here = dict(environment.describe())
    if here["dirty"]:
        return None
    del here["waiting"]  # as this machine is busy now; it decides seconds and no outcome
    content = json.dumps([_kept(request, source), here], sort_keys=True)
    return RUNS / f"baseline-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class _Again:
    what: str
    request: Request
    drawn: bool = False
    threads: int | None = None
    unquantized: Record | None = None
    """Its record, where the variation does not reach it."""
    gates: frozenset[str] | None = None
    """That it says something of; None: all."""


def _variations(first: Measured, seeds: int) -> Iterator[_Again]:
    """What is declared alike and still gives other numbers."""
    request = first.request
    quality = tuple(name for name in request.suites if name != SPEED)
    if SPEED in request.suites:  # seconds vary by themselves, whatever the weights are
        for number in range(1, SEEDS + 1):
            yield _Again(
                what=f"timed again, {number}",
                drawn=True,
                request=replace(request, suites=(SPEED,), tasks=()),
                gates=frozenset([SPEED]),
            )
    if not quality and not request.tasks:
        return
    request = replace(request, suites=quality, throughput_backends=(), price_per_hour=None)
    if first.declared["calibration"] is not None and request.methods:
        for number in range(1, seeds + 1):
            yield _Again(
                what=f"calibration seed {number}",
                drawn=True,
                request=replace(request, calibration_seed=request.seed + number),
                unquantized=first.unquantized,
            )
    yield _Again(what="batches of 1", request=replace(request, batch_size=1))
    threads = torch.get_num_threads()
    other = 1 if threads > 1 else 2
    yield _Again(what=f"{other} thread{'s' if other > 1 else ''}", request=request, threads=other)
    if request.methods and request.backend is None:
        yield _Again(
            what="backend auto",
            request=replace(request, backend="auto"),
            unquantized=first.unquantized,
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rerun(
    what: str,
    first: Measured,
    second: Measured,
    *,
    drawn: bool,
    gates: frozenset[str] | None = None,
) -> Rerun:
    """What measuring again changed, gate by gate."""
    found = changes(first.pair, second.pair)
    return Rerun(
        what=what,
        drawn=drawn,
        samples={
            name: list(change.values)
            for name, change in found.items()
            if isinstance(change, Change) and not change.exact and (gates is None or name in gates)
        },
    )


def _tolerance(
    name: str, asked: Tolerance | None, reruns: Sequence[Rerun], own: Change, *, gates: int
) -> Tolerance:
    """What was asked for, if it is not below the noise floor; else what reruns ask for."""
    if own.exact:
        return asked or Tolerance(value=0.0, reason="the size is declared by the scheme")
    noise = noise_of(name, own, reruns)
    assert noise is not None, "every variation measures every gate, or times it again"
    if asked is None:
        return Tolerance(value=noise.tolerance(gates), reason=OWN_REASON)
    if asked.value < noise.floor:
        raise InputError(
            f"--tolerance {name}: {shown(name, asked.value, written=True)} is below the noise "
            f"floor of {shown(name, noise.floor)}, below which reruns of the same declaration, "
            "here or on another machine, stay 95 times in 100; give "
            # Above the floor however it is rounded: two digits are off by 5 % at most.
            f"{shown(name, 1.1 * noise.floor)} or more (what was measured is kept for the same "
            "command)"
        )
    return asked


_PLACES = ("data_dir", "tasks_data")  # where copies lie on this machine


def _kept(request: Request, source: str | None) -> dict[str, Any]:
    """What was asked for otherwise than by default, as JSON holds it."""
    usual = asdict(Request(model=request.model))
    asked = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(request).items()
        if name not in _PLACES and (value != usual[name] or name in ("model", "methods", "schemes"))
    }
    return {**asked, "source": source}


def _again(
    baseline: Baseline,
    *,
    model: str | None,
    source: str | None,
    data_dir: Path | None,
    tasks_data: Path | None,
) -> tuple[Request, str | None]:
    """The request that measures what a baseline declares, on this model."""
    kept: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in baseline.request.items()
    }
    own_source = kept.pop("source", None)
    request = Request(**{**kept, "data_dir": data_dir, "tasks_data": tasks_data})
    if model is None:
        return request, source or own_source
    request = replace(request, model=model)
    if source is not None or is_quantized(model):
        # What would quantize it falls away, and so does what a model alone has not.
        beyond = {SPEED} if source is not None else {SPEED, "divergence"}
        request = replace(
            request,
            methods=(),
            schemes=(),
            **{name: getattr(Request(), name) for name in _QUANTIZING},
            suites=tuple(name for name in request.suites if name not in beyond),
        )
    return request, source


def is_quantized(model: str) -> bool:
    """Whether a folder or hub name says of itself that it is quantized."""
    if model == "reference":
        return False
    folder = resolve(model)
    return bool(_manifest(folder) or _json(folder / "config.json").get("quantization_config"))


def gate(
    baselines: Sequence[Path],
    *,
    model: str | None = None,
    source: str | None = None,
    run: Path | None = None,
    data_dir: Path | None = None,
    tasks_data: Path | None = None,
    reporter: Reporter | None = None,
) -> list[Result]:
    """Measure again what baselines declare, and decide.

    Baselines that differ in method and scheme alone share the model, its outcomes and calibration.

    Args:
        baselines: files, or folders of them; all are read before anything is measured.
        model: to quantize as declared, or a quantized folder; None: the baseline's own.
        source: the unquantized model of a quantized folder.
        run: a finished comparison to judge instead of measuring.
        data_dir: local copies of texts.
        tasks_data: local copies of data sets of tasks.
        reporter: who shows progress; default nobody.

    Returns:
        One for each baseline, in their order.

    Raises:
        InputError: a baseline, model or comparison that cannot be used.
    """
    if run is not None and (model is not None or source is not None):
        raise InputError(f"--run {run} is measured already; leave MODEL and --source out")
    read_ones = {path: read(path) for path in _files(baselines)}
    if run is not None:
        return [_judge_run(baseline, path, run) for path, baseline in read_ones.items()]
    results: dict[Path, Result] = {}
    for request, beside, together in _groups(
        read_ones, model=model, source=source, data_dir=data_dir, tasks_data=tasks_data
    ):
        with opened(request, source=beside, reporter=reporter) as opened_model:
            unquantized = None
            for path in together:
                baseline = read_ones[path]
                cell = baseline.declared["method"], baseline.declared["scheme"]
                declared = opened_model.declared(*cell)
                differing = differing_declaration(baseline, declared)
                if differing:  # known before anything is measured
                    results[path] = undecided(baseline, path, differing=differing)
                    continue
                found = opened_model.measure(*cell, unquantized=unquantized)
                unquantized = found.unquantized
                results[path] = judge(baseline, path, found.pair, found.declared)
    return [results[path] for path in read_ones]


def _files(baselines: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in baselines:
        if (path / "config.json").is_file():
            raise InputError(
                f"--baseline {path} is a model's folder; give it as MODEL, and what `awq-bench "
                "baseline` wrote with --baseline"
            )
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"--baseline {path} holds no .json file; name a baseline, or a folder")
        found += inside
    if not found:
        raise InputError("no baseline given; name a file that `awq-bench baseline` wrote")
    return found


def _groups(
    baselines: Mapping[Path, Baseline],
    *,
    model: str | None,
    source: str | None,
    data_dir: Path | None,
    tasks_data: Path | None,
) -> list[tuple[Request, str | None, list[Path]]]:
    """Baselines that one loaded model serves, with the request for all of their cells."""
    groups: dict[tuple[Request, str | None, Path | None], list[tuple[Path, Request]]] = {}
    for path, baseline in baselines.items():
        request, beside = _again(
            baseline, model=model, source=source, data_dir=data_dir, tasks_data=tasks_data
        )
        shared = replace(request, methods=(), schemes=())
        # A folder makes its source way when it is measured: each has a group of its own.
        alone = None if request.methods else path
        groups.setdefault((shared, beside, alone), []).append((path, request))
    return [
        (
            replace(
                shared,
                methods=tuple(dict.fromkeys(m for _, one in members for m in one.methods)),
                schemes=tuple(dict.fromkeys(s for _, one in members for s in one.schemes)),
            ),
            beside,
            [path for path, _ in members],
        )
        for (shared, beside, _), members in groups.items()
    ]


def _judge_run(baseline: Baseline, path: Path, folder: Path) -> Result:
    """Decide on the cell of a finished comparison that a baseline declares."""
    if not folder.is_dir():
        raise InputError(f"--run {folder}: no such folder; name one that `awq-bench compare` wrote")
    method, scheme = baseline.declared["method"], baseline.declared["scheme"]
    if method is None or baseline.request["source"] is not None:
        raise InputError(
            f"{path} is of a quantized folder, and a comparison's cells are quantized on the spot; "
            "give the folder as MODEL instead of --run"
        )
    records = []
    for name in ("unquantized", f"{method}@{scheme}"):
        try:
            records.append(open_cell(name, folder))
        except InputError as error:  # not there, failed or damaged: never a pass by absence
            return undecided(baseline, path, why=str(error))
    unquantized, quantized = records
    return judge(baseline, path, (unquantized, quantized), declared_of(quantized.cell))


def remake(
    path: Path,
    tolerances: Mapping[str, Tolerance],
    *,
    data_dir: Path | None = None,
    tasks_data: Path | None = None,
    keep: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Baseline, Result, Path | None]:
    """Measure a baseline anew, and how it changed against the one that is there.

    Tolerances that were named stay, unless they are named anew or reruns no longer stay below them.

    Args:
        path: of the baseline.
        tolerances: see `make`.
        data_dir: local copies of texts.
        tasks_data: local copies of data sets of tasks.
        keep: keep what is measured in `parts_folder`.
        reporter: who shows progress; default nobody.

    Returns:
        The new baseline, its changes against the old one, and the folder of what was kept.

    Raises:
        InputError: see `make` and `bench.gate.gate.read`.
    """
    before = read(path)
    request, source = _again(
        before, model=None, source=None, data_dir=data_dir, tasks_data=tasks_data
    )
    parts = parts_folder(request, source) if keep else None
    kept = {k: v for k, v in before.tolerances.items() if v.reason != OWN_REASON}
    seeds = sum(one.what.startswith("calibration seed") for one in before.reruns)
    made = make(
        request,
        {**kept, **tolerances},
        source=source,
        seeds=max(seeds, SEEDS),
        parts=parts,
        reporter=reporter,
    )
    return made, judge_made(before, path, made), parts


def judge_made(before: Baseline, path: Path, made: Baseline) -> Result:
    """A baseline's own measurement against another, or against itself for its table."""
    return judge(before, path, (made.unquantized, made.quantized), made.declared)


def parse_tolerances(given: Sequence[str]) -> dict[str, Tolerance]:
    """``GATE=VALUE:REASON`` each.

    Raises:
        InputError: one that is not of that form, or a gate named twice.
    """
    found: dict[str, Tolerance] = {}
    for text in given:
        name, _, rest = text.partition("=")
        value, _, reason = rest.partition(":")
        try:
            number = parsed_tolerance(name.strip(), value)
        except ValueError:
            most = " and below 100" if name.strip() == SPEED else ""  # no speed is less than none
            raise InputError(
                f"--tolerance {text}: expected GATE=VALUE:REASON with a value of 0 or more{most} "
                f"in {unit_of(name.strip())}, such as 'perplexity=0.5%:what users accept'"
            ) from None
        if not reason.strip():
            raise InputError(f"--tolerance {text}: a tolerance has a reason; add it after a colon")
        if name.strip() in found:
            raise InputError(f"--tolerance {name.strip()} is given twice; name each gate once")
        found[name.strip()] = Tolerance(value=number, reason=reason.strip())
    return found
