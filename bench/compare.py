"""The comparison: one model, every method, every scheme, one calibration pass.

One cell in a straight line: load -> structure -> calibrate (shared) -> quantize -> suites ->
record -> tables. The command line and Python both come through `compare`.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from bench import calibration as calibrations
from bench import environment, estimate, registry
from bench.progress import Reporter, quiet
from bench.records import Cell, Record, read_record
from bench.reference import MODEL_FOLDER
from bench.run_folder import RunFolder
from quantcore.calibration import BlockWalk, StatsStore, calibrate, stats_bytes
from quantcore.checkpoint import LoadedModel, load, resolve
from quantcore.errors import InputError, nearest
from quantcore.method import Method
from quantcore.quantize import Snapshot, bits_per_weight, quantize_model, stored_bytes
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure, discover
from suites import SUITES, perplexity, texts

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_STATS_SHARE = 0.25  # of memory that statistics may take before they go to disk


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; the defaults are the command line's."""

    model: str = "reference"
    methods: tuple[str, ...] = ("rtn", "gptq", "awq", "awq+clip")
    schemes: tuple[str, ...] = ("int4-g128", "int4-g32", "int3-g128")
    suites: tuple[str, ...] = ("perplexity",)
    calibration: str | None = None
    calibration_samples: int = 128
    calibration_seqlen: int = 512
    text: str | None = None
    seqlen: int | None = None
    windows: int | None = None
    batch_size: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    exclude: tuple[str, ...] = ()
    revision: str | None = None
    seed: int = 0
    data_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished comparison."""

    folder: Path
    records: tuple[Record, ...]

    @property
    def failed(self) -> tuple[Record, ...]:
        """Cells that could not be measured."""
        return tuple(record for record in self.records if record.status == "failed")


def compare(
    request: Request, *, out: Path | None = None, reporter: Reporter | None = None
) -> Outcome:
    """Measure the unquantized model and every method x scheme, and keep a record of each.

    A comparison that was interrupted goes on from its whole records when called again.

    Args:
        request: what to compare.
        out: folder for the records; default a new one under ``awq-bench-runs/``.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    say = reporter or quiet()
    methods = [registry.method(name) for name in _unique("method", request.methods)]
    schemes = [QuantScheme.parse(name) for name in _unique("scheme", request.schemes)]
    for suite in _unique("suite", request.suites):
        if suite not in SUITES:
            raise InputError(f"unknown suite {suite!r}; {nearest(suite, SUITES)}")
    if not request.suites:
        raise InputError(f"no suite given; known: {', '.join(SUITES)}")
    loaded = open_model(request)
    structure = discover(loaded.model, exclude=request.exclude)
    for scheme in schemes:
        structure.check_scheme(scheme)
    text = choose_text(request, say)
    windows = cut(request, loaded, text)
    calibrated = any(m.calibration != "none" for m in methods) and bool(schemes)
    calibration = build_calibration(request, loaded, text, say) if calibrated else None

    suites = {
        "perplexity": {
            "version": perplexity.VERSION,
            "metric": windows.metric,
            "text_sha256": text.sha256,
            "seqlen": windows.tokens.shape[1],
            "windows": len(windows.tokens),
        }
    }

    def cell(method: Method | None, scheme: QuantScheme | None) -> Cell:
        uses = calibration is not None and method is not None and method.calibration != "none"
        return Cell(
            model=loaded.weights_sha256,
            tokenizer=loaded.tokenizer_sha256,
            method=None if method is None else method.name,
            method_settings={} if method is None else method.settings(),
            scheme=None if scheme is None else scheme.name,
            exclude=() if method is None else request.exclude,
            calibration=calibration.describe() if calibration and uses else None,
            suites=suites,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=loaded.device.type,
            seed=request.seed,
        )

    plan: list[tuple[Cell, Method | None, QuantScheme | None]] = [(cell(None, None), None, None)]
    plan += [(cell(m, s), m, s) for s in schemes for m in methods]
    run = RunFolder.open(
        out or default_out(request), [c for c, _, _ in plan], request, search=out is None
    )
    if run.resumed:
        say.say(f"going on with {run.path}: {len(run.done)} of {len(plan)} cells are there")
    pending = [entry for entry in plan if entry[0].id not in run.done]
    batch_size = request.batch_size or max(
        1, (16384 if loaded.device.type == "cuda" else 2048) // windows.tokens.shape[1]
    )
    for notice in structure.notices:
        say.warn(notice)
    cache = _stats_folder(run.path, structure, loaded) if calibrated else None
    _announce(say, run.path, loaded, structure, windows, batch_size, calibration, pending, cache)

    bench = _Bench(
        loaded=loaded,
        structure=structure,
        windows=windows,
        batch_size=batch_size,
        calibration=calibration,
        cache=cache,
        model_name=request.model,
        say=say,
    )
    say.say(f"[bold]Running {len(pending)} of {len(plan)} cells[/bold]")
    for entry in pending:
        run.keep(bench.measure(*entry))
    if cache is not None:
        shutil.rmtree(cache, ignore_errors=True)
    records = tuple(read_record(run.path / one.file_name) for one, _, _ in plan)
    run.finish()
    return Outcome(folder=run.path, records=records)


class _Bench:
    """The loaded model on the bench: measures one cell after the other and puts things back."""

    def __init__(
        self,
        *,
        loaded: LoadedModel,
        structure: Structure,
        windows: perplexity.Windows,
        batch_size: int,
        calibration: calibrations.Calibration | None,
        cache: Path | None,
        model_name: str,
        say: Reporter,
    ) -> None:
        self._loaded = loaded
        self._structure = structure
        self._windows = windows
        self._batch_size = batch_size
        self._calibration = calibration
        self._model_name = model_name
        self._say = say
        self._snapshot: Snapshot | None = None
        self._store = StatsStore(cache)
        self._calibration_s: float | None = None
        self._calibration_error: Exception | None = None

    def measure(self, cell: Cell, method: Method | None, scheme: QuantScheme | None) -> Record:
        """One cell; a failure is a record too, and leaves the model as it was."""
        label = _label(cell)
        environment.reset_peak_memory()
        result: dict[str, Any] = {}
        try:
            if method is not None and scheme is not None:
                result |= self._quantize(label, method, scheme)
            else:
                result["stored_bytes"] = self._stored_bytes(None)
            started = time.perf_counter()
            with self._say.stage(f"{label}: evaluate", len(self._windows.tokens)) as done:
                nll = perplexity.window_nll(
                    self._loaded.model,
                    self._windows.tokens,
                    batch_size=self._batch_size,
                    done=done,
                )
            result.setdefault("seconds", {})["evaluate"] = time.perf_counter() - started
            value = float(torch.tensor(nll, dtype=torch.float64).mean().exp())
            if not math.isfinite(value):
                raise ArithmeticError(f"the perplexity is {value}: a likelihood underflowed")
            result["metrics"] = {
                self._windows.metric: {
                    "value": value,
                    "windows": len(nll),
                    "of_windows": self._windows.of,
                    "text_tokens": self._windows.text_tokens,
                    "window_nll": nll,
                }
            }
        except Exception as error:  # a failed cell must not cost the others
            self._say.warn(f"{label} failed: {type(error).__name__}: {error}")
            result = {"error": f"{type(error).__name__}: {error}"}
        finally:
            if self._snapshot is not None:
                self._snapshot.restore()
        return Record(
            cell=cell,
            status="failed" if "error" in result else "done",
            model_name=self._model_name,
            parameters=self._loaded.model.num_parameters(),
            peak_bytes=environment.peak_memory_bytes(),
            environment=environment.describe(),
            **result,
        )

    def _quantize(self, label: str, method: Method, scheme: QuantScheme) -> dict[str, Any]:
        # Losses are reported where the shared statistics exist; RTN itself never waits for them.
        stats = self._shared_stats() if self._calibration is not None else None
        self._snapshot = self._snapshot or Snapshot(self._structure)
        walk = None
        started = time.perf_counter()
        if method.calibration == "sequential" and self._calibration is not None:
            walk = BlockWalk(
                self._loaded.model,
                self._structure,
                self._calibration.tokens,
                batch_size=self._calibration_batch,
            )
        embed_s = time.perf_counter() - started
        with self._say.stage(f"{label}: quantize", len(self._structure.blocks)) as done:
            report = quantize_model(
                self._structure,
                method,
                scheme,
                stats=stats,
                walk=walk,
                done=lambda index: done(1),
            )
        for notice in report.notices:
            self._say.warn(f"{label}: {notice}")
        seconds = {
            "quantize": report.quantize_s + (embed_s if walk is not None else 0.0),
            "fold": report.fold_s,
            "round": report.round_s,
            "own_calibration": report.calibrate_s + (embed_s if walk is not None else 0.0),
        }
        if self._calibration_s is not None and method.calibration == "shared":
            seconds["shared_calibration"] = self._calibration_s
        return {
            "seconds": seconds,
            "stored_bytes": self._stored_bytes(scheme),
            "bits_per_weight": bits_per_weight(self._structure, scheme),
            "quantization": {
                "scale_dtype": str(scheme.scale_dtype).removeprefix("torch."),
                "calibration_passes": {"none": 0, "shared": 1, "sequential": 1}[method.calibration],
                "relative_losses": report.relative_losses,
                "notices": [*self._structure.notices, *report.notices],
                "exempt": list(self._structure.exempt),
            },
        }

    def _stored_bytes(self, scheme: QuantScheme | None) -> int:
        loaded = self._loaded
        return stored_bytes(loaded.model, self._structure, scheme, item_bytes=loaded.item_bytes)

    @property
    def _calibration_batch(self) -> int:
        assert self._calibration is not None
        budget = 65536 if self._loaded.device.type == "cuda" else 4096
        return max(1, budget // self._calibration.tokens.shape[1])

    def _shared_stats(self) -> StatsStore:
        """The one pass over the calibration text, made when the first cell needs it."""
        assert self._calibration is not None
        if self._calibration_error is not None:
            raise self._calibration_error
        if self._calibration_s is None:
            started = time.perf_counter()
            try:
                with self._say.stage("calibrate", len(self._structure.blocks)) as done:
                    calibrate(
                        self._loaded.model,
                        self._structure,
                        self._calibration.tokens,
                        self._store,
                        batch_size=self._calibration_batch,
                        done=lambda index: done(1),
                    )
            except Exception as error:
                self._calibration_error = error
                raise
            self._calibration_s = time.perf_counter() - started
        return self._store


def open_model(request: Request) -> LoadedModel:
    """Find, check and load the model.

    Raises:
        InputError: see `quantcore.checkpoint.load`; also an unknown dtype or an absent device.
    """
    if request.dtype != "auto" and request.dtype not in DTYPES:
        raise InputError(f"unknown --dtype {request.dtype!r}; {nearest(request.dtype, DTYPES)}")
    device = request.device
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown --device {device!r}; {nearest(device, ['auto', 'cpu', 'cuda'])}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA GPU here; use --device cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES.get(request.dtype)
    if request.dtype == "auto" and device == "cpu":
        dtype = torch.float32
    if request.batch_size is not None and request.batch_size < 1:
        raise InputError(f"--batch-size {request.batch_size}: must be at least 1")
    folder = MODEL_FOLDER
    if request.model != "reference":
        folder = resolve(request.model, revision=request.revision)
    return load(request.model, folder=folder, dtype=dtype, device=torch.device(device))


def choose_text(request: Request, say: Reporter) -> texts.Text:
    """The evaluation text asked for; with none named, WikiText-2 if it can be had, else embedded.

    Raises:
        InputError: the text that was named cannot be had.
    """
    if request.text is not None:
        return texts.evaluation_text(request.text, data_dir=request.data_dir)
    try:
        text = texts.evaluation_text("wikitext2", data_dir=request.data_dir)
    except InputError as error:
        say.warn(f"evaluating on the embedded text, because {error}")
        return texts.embedded()
    say.say(f"Evaluating on WikiText-2, as no --text was named: {text.source}")
    return text


def cut(request: Request, loaded: LoadedModel, text: texts.Text) -> perplexity.Windows:
    """The evaluation windows: min(2048, context) tokens unless asked otherwise.

    Raises:
        InputError: a window longer than the context, or too little text.
    """
    seqlen = request.seqlen or min(2048, loaded.context or 2048)
    if request.seqlen is None and text.name == "embedded":
        seqlen = min(seqlen, 256)  # a short text: many short windows say more than few long ones
    if loaded.context is not None and seqlen > loaded.context:
        raise InputError(
            f"--seqlen {seqlen} is longer than the model's context of {loaded.context}"
        )
    return perplexity.cut_windows(
        text.name, text.content, loaded.tokenizer, seqlen=seqlen, count=request.windows
    )


def build_calibration(
    request: Request, loaded: LoadedModel, text: texts.Text | None, say: Reporter
) -> calibrations.Calibration:
    """The calibration sequences asked for.

    With none named: ``embedded`` for the reference model, else WikiText-2's training split if it
    can be had, else ``self``.

    Raises:
        InputError: see `bench.calibration.build`; also a text that overlaps the evaluation's.
    """

    def build(name: str) -> calibrations.Calibration:
        total = request.calibration_samples
        if name != "self":
            return _build(name, lambda count: None)
        with say.stage("sample calibration text", total) as done:
            return _build(name, done)

    def _build(name: str, done: Callable[[int], None]) -> calibrations.Calibration:
        return calibrations.build(
            name,
            loaded,
            samples=request.calibration_samples,
            seqlen=request.calibration_seqlen,
            seed=request.seed,
            data_dir=request.data_dir,
            done=done,
        )

    if request.calibration is not None:
        calibration = build(request.calibration)
    elif request.model == "reference":
        calibration = build("embedded")
    else:
        try:
            calibration = build("wikitext2")
        except InputError as error:
            say.warn(f"calibrating on text sampled from the model itself, because {error}")
            calibration = build("self")
    if text is not None:
        calibrations.refuse_overlap(calibration, text, loaded)
    return calibration


def default_out(request: Request) -> Path:
    """A new folder under ``awq-bench-runs/``, named by model and time."""
    name = request.model.rstrip("/").rsplit("/", 1)[-1] or "model"
    return Path("awq-bench-runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _unique(kind: str, names: Sequence[str]) -> Sequence[str]:
    repeated = {name for name in names if list(names).count(name) > 1}
    if repeated:
        raise InputError(f"{kind} {', '.join(sorted(repeated))} is given twice")
    return names


def _label(cell: Cell) -> str:
    if cell.method is None:
        return cell.dtype
    return f"{cell.scheme} {registry.METHODS[cell.method].label}"


def _stats_folder(out: Path, structure: Structure, loaded: LoadedModel) -> Path | None:
    """Where statistics go: None for memory, a folder if they would take too much of it.

    Raises:
        InputError: not enough free disk either.
    """
    available = environment.total_memory_bytes()
    if loaded.device.type == "cuda":
        available = torch.cuda.mem_get_info(loaded.device)[0]
    if stats_bytes(structure, on_disk=False) <= _STATS_SHARE * available:
        return None
    need = stats_bytes(structure, on_disk=True)
    free = shutil.disk_usage(out).free
    if need > 0.95 * free:
        raise InputError(
            f"calibration statistics take {estimate.size_in_words(need)} on disk and "
            f"{estimate.size_in_words(free)} are free at {out}; choose an --out with more room"
        )
    return out / "calibration-cache"


def _announce(
    say: Reporter,
    out: Path,
    loaded: LoadedModel,
    structure: Structure,
    windows: perplexity.Windows,
    batch_size: int,
    calibration: calibrations.Calibration | None,
    pending: Sequence[tuple[Cell, Method | None, QuantScheme | None]],
    cache: Path | None,
) -> None:
    """What will be done, and what it will take."""
    rates = estimate.measure_rates(loaded, windows.tokens[:batch_size])
    calibration_tokens = 0 if calibration is None else calibration.tokens.numel()
    methods = [method for _, method, _ in pending if method is not None]
    calibrate_s = (
        estimate.calibration_s(structure, calibration_tokens, rates)
        if any(method.calibration == "shared" for method in methods)
        else 0.0
    )
    quantize_s = sum(
        estimate.quantization_s(structure, method, rates, calibration_tokens=calibration_tokens)
        for method in methods
    )
    evaluate_s = len(pending) * estimate.evaluation_s(windows.tokens.numel(), loaded, rates)
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    statistics = stats_bytes(structure, on_disk=cache is not None) if calibration else 0
    memory = 2 * weights + (0 if cache else statistics)
    size = estimate.size_in_words
    count = loaded.model.num_parameters()
    say.say(
        f"[bold]{loaded.name}[/bold]: {count / 1e6:,.1f} M parameters in "
        f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device.type}"
    )
    say.say(
        f"  evaluation   {windows.metric}: {len(windows.tokens)} of {windows.of} windows of "
        f"{windows.tokens.shape[1]} tokens"
    )
    if calibration is not None:
        samples, seqlen = calibration.tokens.shape
        say.say(
            f"  calibration  {calibration.name}: {samples} x {seqlen} tokens, {calibration.source}"
        )
    say.say(
        f"  time         about {estimate.in_words(calibrate_s + quantize_s + evaluate_s)} "
        f"(calibrate {estimate.in_words(calibrate_s)}, quantize {estimate.in_words(quantize_s)}, "
        f"evaluate {estimate.in_words(evaluate_s)})"
    )
    kept = f"{size(statistics)} of statistics on disk" if cache else "records only on disk"
    say.say(f"  memory       about {size(memory)} for weights and statistics; {kept}")
    say.say(f"  output       {out}")
