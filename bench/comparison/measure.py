"""The suites of one comparison, ready to be run on one model after the other."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.comparison.progress import Reporter
from bench.comparison.request import Request, choose_text, evaluation_windows
from bench.records import environment
from kernels import backends, install
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError, nearest
from quantcore.grid import QuantizedWeight
from suites import SUITES, TASK_SUITES, divergence, perplexity, throughput
from suites.code import sandbox
from suites.harness import TaskOptions, TaskSet, target_of
from suites.perplexity import Windows
from suites.texts import Text

TASK_BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
"""Tokens in a batch of task items, padding and answers included."""

_REFERENCE_SHARE = 0.1  # of memory that the unquantized model's hidden states may take

Metrics = dict[str, dict[str, Any]]


class PartFailed(Exception):
    """Of suites that are measured in one go, some failed."""

    def __init__(self, found: Metrics, reasons: Mapping[str, str]) -> None:
        """Keep what was measured, and why the suites of these names were not."""
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        self.found = found
        self.reasons = reasons


def reason_of(error: Exception) -> str:
    """Kind and text of an error, for a record."""
    return f"{type(error).__name__}: {error}"


class Suite(ABC):
    """What is measured on a model in one go."""

    protocols: dict[str, dict[str, Any]]
    """By the name that a user asks for: what decides the outcome, as a cell holds it."""

    @abstractmethod
    def measure(
        self, label: str, loaded: LoadedModel, say: Reporter, names: Collection[str]
    ) -> Metrics:
        """What `protocols` of these names say of the model as it is now, with every sample.

        Args:
            label: what the model is called.
            loaded: the model.
            say: who shows progress.
            names: of `protocols`; those of others are there already, from an earlier attempt.

        Returns:
            By metric name.

        Raises:
            PartFailed: some of them have no outcome; the others have.
            Exception: none has, for whatever reason; the cell's other suites go on.
        """

    def prepare(self, loaded: LoadedModel, say: Reporter) -> None:  # noqa: B027
        """Look at the unquantized model first, where others are compared with it."""

    def runs_on(self, scheme: str | None) -> bool:
        """Whether cells of this scheme (None: the unquantized model) run it."""
        return True

    @property
    @abstractmethod
    def about(self) -> str:
        """A line for the announcement."""


@dataclass(kw_only=True)
class TextSuite(Suite):
    """Perplexity and divergence: one pass over the same windows serves both."""

    windows: Windows
    text: Text
    batch_size: int
    asked: tuple[str, ...]
    """``perplexity``, ``divergence`` or both."""
    protocols: dict[str, dict[str, Any]] = field(init=False)
    _reference: divergence.Reference | None = None
    _no_reference: str | None = None
    """Why there is none and will be none."""

    def __post_init__(self) -> None:
        """Say what is measured."""
        versions = {"perplexity": perplexity.VERSION, "divergence": divergence.VERSION}
        metrics = {"perplexity": self.windows.metric, "divergence": self._divergence_metric}
        self.protocols = {
            name: {
                "version": versions[name],
                "metric": metrics[name],
                "text_sha256": self.text.sha256,
                "seqlen": self.windows.tokens.shape[1],
                "windows": len(self.windows.tokens),
            }
            for name in self.asked
        }

    @property
    def about(self) -> str:
        """A line for the announcement."""
        one = self.windows
        count, length = one.tokens.shape
        names = ", ".join(protocol["metric"] for protocol in self.protocols.values())
        windows = f"window{'s' if one.of > 1 else ''}"
        return f"{names}: {count} of {one.of} {windows} of {length} tokens"

    @property
    def _divergence_metric(self) -> str:
        return self.windows.metric.replace("_ppl_", "_kl_")

    def prepare(self, loaded: LoadedModel, say: Reporter) -> None:
        """Keep the unquantized model's hidden states, if divergence is asked for."""
        if "divergence" in self.asked and self._reference is None and self._no_reference is None:
            try:
                self._pass("unquantized, for divergence", loaded, say, compared=True)
            except Exception as error:  # `measure` says so; perplexity needs no reference
                self._no_reference = reason_of(error)

    def measure(
        self, label: str, loaded: LoadedModel, say: Reporter, names: Collection[str]
    ) -> Metrics:
        """See `Suite.measure`."""
        reasons: dict[str, str] = {}
        compared = "divergence" in names
        if compared and self._no_reference is not None:
            reasons["divergence"] = self._no_reference
            compared = False
            if "perplexity" not in names:
                raise PartFailed({}, reasons)
        try:
            scores = self._pass(f"{label}: evaluate", loaded, say, compared=compared)
        except Exception as error:
            if not compared or "perplexity" not in names:
                raise
            reasons["divergence"] = reason_of(error)
            if self._reference is None:
                self._no_reference = reasons["divergence"]
            compared = False
            scores = self._pass(f"{label}: perplexity alone", loaded, say, compared=False)
        shared = {
            "windows": len(self.windows.tokens),
            "of_windows": self.windows.of,
            "text_tokens": self.windows.text_tokens,
        }
        found: Metrics = {}
        if "perplexity" in names:
            value = float(torch.tensor(scores.nll, dtype=torch.float64).mean().exp())
            if math.isfinite(value):
                found[self.windows.metric] = {"value": value, **shared, "window_nll": scores.nll}
            else:
                reason = f"ArithmeticError: the perplexity is {value}: a likelihood underflowed"
                reasons["perplexity"] = reason
        if (one := scores.divergence) is not None:
            found[self._divergence_metric] = {
                "value": one.mean,
                "median": one.median,
                "p99": one.p99,
                "top1_agreement": one.agreement,
                **shared,
                "window_kl": one.window_kl,
                "window_agreement": one.window_agreement,
            }
        elif compared:  # the reference itself, which is 0 from itself
            count = len(self.windows.tokens)
            found[self._divergence_metric] = {
                "value": 0.0,
                "median": 0.0,
                "p99": 0.0,
                "top1_agreement": 1.0,
                **shared,
                "window_kl": [0.0] * count,
                "window_agreement": [1.0] * count,
            }
        if reasons:
            raise PartFailed(found, reasons)
        return found

    def _pass(
        self, label: str, loaded: LoadedModel, say: Reporter, *, compared: bool
    ) -> perplexity.WindowScores:
        """Over all windows; the first that is compared is the unquantized model's, and kept."""
        keep = None
        if compared and self._reference is None:
            keep = divergence.Reference(
                self.windows.tokens,
                memory_bytes=int(_REFERENCE_SHARE * environment.total_memory_bytes()),
                folder=Path(tempfile.gettempdir()),
            )
        with say.stage(label, len(self.windows.tokens)) as done:
            scores = perplexity.measure_windows(
                loaded.model,
                self.windows.tokens,
                batch_size=self.batch_size,
                reference=self._reference if compared else None,
                keep=keep,
                done=done,
            )
        self._reference = self._reference or keep
        return scores


@dataclass(kw_only=True)
class TasksSuite(Suite):
    """One row of tasks."""

    tasks: TaskSet
    schemes: tuple[str, ...] = ()
    """Those whose cells run it; empty: all."""
    protocols: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        """Say what is measured."""
        self.protocols = {self.tasks.name: self.tasks.protocol()}

    def runs_on(self, scheme: str | None) -> bool:
        """See `Suite.runs_on`."""
        return scheme is None or not self.schemes or scheme in self.schemes

    @property
    def about(self) -> str:
        """A line for the announcement."""
        items = f"{self.tasks.items:,} of {self.tasks.of_items:,} items"
        if self.tasks.items < self.tasks.of_items:
            items += f", drawn by seed {self.tasks.options.seed}"
        where = f" at {', '.join(self.schemes)}" if self.schemes else ""
        return f"{self.tasks.metric}: {items}{where}"

    def measure(
        self, label: str, loaded: LoadedModel, say: Reporter, names: Collection[str]
    ) -> Metrics:
        """See `Suite.measure`."""
        started = time.perf_counter()
        with say.stage(f"{label}: {self.tasks.name}", self.tasks.requests) as done:
            outcomes = self.tasks.run(
                loaded.model,
                loaded.tokenizer,
                context=loaded.context,
                batch_tokens=TASK_BATCH_TOKENS[loaded.device.type],
                done=done,
                say=say.warn,
            )
        if outcomes.too_long:
            say.warn(
                f"{label}: {outcomes.too_long} prompts of {self.tasks.name} do not fit the model's "
                f"context of {loaded.context} tokens and count as wrong"
            )
        return {
            outcomes.metric: {
                "value": outcomes.value,
                "items": len(outcomes.columns["id"]),
                "of_items": self.tasks.of_items,
                "cut_off": outcomes.cut_off,
                "too_long": outcomes.too_long,
                "seconds": time.perf_counter() - started,
                "columns": outcomes.columns,
                **({"aggregates": outcomes.aggregates} if outcomes.aggregates else {}),
            }
        }


@dataclass(kw_only=True)
class ThroughputSuite(Suite):
    """Speed and memory of the quantized linears on every backend, beside the unquantized model."""

    load: throughput.Load
    backends: tuple[str, ...]
    """As asked for."""
    protocols: dict[str, dict[str, Any]] = field(init=False)
    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    """Of the cell that is measured; none if it is the unquantized model."""
    _unquantized: torch.nn.Module | None = None
    _roofline: throughput.Roofline | None = None

    def __post_init__(self) -> None:
        """Say what is measured."""
        declared = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.load).items()}
        self.protocols = {
            "throughput": {
                "version": throughput.VERSION,
                "metric": throughput.METRIC,
                "backends": list(self.backends),
                **declared,
            }
        }

    @property
    def about(self) -> str:
        """A line for the announcement."""
        batches = ", ".join(map(str, self.load.batch_sizes))
        lengths = ", ".join(map(str, self.load.prompt_lengths))
        return (
            f"throughput: batches of {batches}, prompts of {lengths} tokens, "
            f"{self.load.new_tokens} new ones; backend {', '.join(self.backends)}"
        )

    def prepare(self, loaded: LoadedModel, say: Reporter) -> None:
        """Keep a model with ordinary linears: their values decide no time."""
        if self._unquantized is None:
            self._unquantized = install.twin(loaded.model)

    def measure(
        self, label: str, loaded: LoadedModel, say: Reporter, names: Collection[str]
    ) -> Metrics:
        """See `Suite.measure`."""
        models, linears = self._models(label, loaded, say)
        total = throughput.runs_of(self.load, loaded.context, models=len(models))
        with say.stage(f"{label}: throughput", total) as done:
            found = throughput.measure(
                models,
                self.load,
                context=loaded.context,
                vocabulary=loaded.model.get_input_embeddings().num_embeddings,
                done=done,
            )
        base = models[_UNQUANTIZED]
        self._roofline = self._roofline or throughput.roofline(loaded.device, loaded.dtype)

        def document(name: str) -> dict[str, Any]:
            contender = found[name]
            for notice in contender.notices:
                say.warn(f"{label}: {notice}")
            return {
                "linears": linears.get(name, {}),
                "weight_bytes": throughput.weight_bytes(models[name]),
                "read_bytes": throughput.read_bytes(models[name]),
                **asdict(contender),
            }

        first = (self.load.batch_sizes[0], self.load.fits(loaded.context)[0])
        speeds = [
            run.decode_tokens_per_s
            for run in found[next(iter(models))].runs
            if (run.batch_size, run.prompt_tokens) == first
        ]
        return {
            throughput.METRIC: {
                "value": statistics.median(speeds),
                "backends": {name: document(name) for name in models if name != _UNQUANTIZED},
                "unquantized": document(_UNQUANTIZED),
                "weights": throughput.read_bytes(base) // loaded.dtype.itemsize,
                "rates": asdict(self._roofline),
            }
        }

    def _models(
        self, label: str, loaded: LoadedModel, say: Reporter
    ) -> tuple[dict[str, torch.nn.Module], dict[str, dict[str, int]]]:
        """The cell's weights on every backend, and the unquantized model; which linears run where.

        All share what is no linear.
        """
        if not self.weights or self._unquantized is None:
            return {_UNQUANTIZED: loaded.model}, {}
        models: dict[str, torch.nn.Module] = {}
        linears: dict[str, dict[str, int]] = {}
        for name in self.backends:
            models[name] = install.twin(self._unquantized)
            done = install.install(models[name], self.weights, backend=name)
            linears[name] = dict(done.backends)
            for notice in done.notices:
                say.warn(f"{label}: throughput: {notice}")
        models[_UNQUANTIZED] = self._unquantized
        return models, linears


_UNQUANTIZED = "unquantized"


def check(request: Request, *, paired: bool | None = None) -> None:
    """Refuse what cannot be measured before anything is loaded.

    Args:
        request: what to measure.
        paired: whether an unquantized model is measured beside another; None: if there are methods.

    Raises:
        InputError: an unknown suite, scheme or source, or options that do not go together.
    """
    for suite in request.suites:
        if suite not in SUITES:
            raise InputError(f"unknown suite {suite!r}; {nearest(suite, SUITES)}")
    if not request.suites and not request.tasks:
        raise InputError(f"no suite given; known: {', '.join(SUITES)}")
    for task in request.tasks:
        if task in SUITES:
            raise InputError(f"--tasks {task}: that is a suite; give it with --suites")
    if request.tasks_source not in ("embedded", "standard"):
        hint = nearest(request.tasks_source, ["embedded", "standard"])
        raise InputError(f"unknown --tasks-source {request.tasks_source!r}; {hint}")
    for scheme in request.tasks_schemes:
        if scheme not in request.schemes:
            raise InputError(
                f"--tasks-schemes {scheme}: not among the schemes of this comparison "
                f"({', '.join(request.schemes) or 'none'})"
            )
    if request.tasks_schemes and not request.tasks and not set(TASK_SUITES) & set(request.suites):
        raise InputError(
            f"--tasks-schemes {','.join(request.tasks_schemes)}: no tasks are asked for; add a "
            "task suite to --suites, or leave it out"
        )
    idle = [one for one in request.schemes if one not in request.tasks_schemes]
    if request.tasks_schemes and idle and set(request.suites) <= set(TASK_SUITES):
        raise InputError(
            f"--tasks-schemes leaves nothing to measure at {', '.join(idle)}; leave these schemes "
            "out, or add perplexity to --suites"
        )
    if request.limit is not None and request.limit < 1:
        raise InputError(f"--limit {request.limit}: must be at least 1 item of every task")
    if request.num_fewshot is not None and request.num_fewshot < 0:
        raise InputError(f"--num-fewshot {request.num_fewshot}: must be 0 or more")
    for option, names in (
        ("--backend", filter(None, [request.backend])),
        ("--throughput-backends", request.throughput_backends),
    ):
        for name in names:
            if name not in backends.NAMES:
                raise InputError(f"{option} {name}: unknown; {nearest(name, backends.NAMES)}")
    for option, given in (
        ("--throughput-backends", ",".join(request.throughput_backends)),
        ("--price-per-hour", request.price_per_hour),
    ):
        if given and "throughput" not in request.suites:
            raise InputError(f"{option} {given}: speed is not measured; add throughput to --suites")
    if len(set(request.throughput_backends)) < len(request.throughput_backends):
        given = ",".join(request.throughput_backends)
        raise InputError(f"--throughput-backends {given}: name each once")
    for name in ("batch_sizes", "prompt_lengths", "new_tokens", "rounds"):
        values = getattr(request, name)
        least = {"new_tokens": 2, "rounds": 2}.get(name, 1)
        values = values if isinstance(values, tuple) else (values,)
        if len(set(values)) < len(values):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {','.join(map(str, values))}: name each number once")
        if not values or min(values) < least:
            raise InputError(
                f"--{name.replace('_', '-')} {','.join(map(str, values))}: must be at least {least}"
            )
    check_price(request.price_per_hour)
    if any(length < 128 for length in request.lengths):
        raise InputError(
            f"--lengths {min(request.lengths)}: a long prompt takes at least 128 tokens"
        )
    if request.tasks_data is not None and not request.tasks_data.is_dir():
        raise InputError(
            f"--tasks-data {request.tasks_data}: no such folder; name the one with the copies"
        )
    if "code" in request.suites and not request.allow_code_execution:
        raise InputError(
            "suite code runs programs that the model writes; allow it with "
            "--allow-code-execution (they run in a sandbox), or leave code out"
        )
    alone = not request.methods if paired is None else not paired
    if "divergence" in request.suites and alone:
        raise InputError(
            "suite divergence compares with the unquantized model, and `evaluate` has only one "
            "model; use `awq-bench compare`, or leave divergence out"
        )


def check_price(price_per_hour: float | None) -> None:
    """Refuse a price that is none.

    Raises:
        InputError: it is 0 or less, or not finite.
    """
    if price_per_hour is not None and not 0 < price_per_hour < math.inf:
        raise InputError(f"--price-per-hour {price_per_hour}: must be more than 0")


def build(request: Request, loaded: LoadedModel, say: Reporter) -> list[Suite]:
    """Load and cut everything that is asked for, in the order of `suites.SUITES`.

    Raises:
        InputError: a text, task or data set that cannot be had.
    """
    suites: list[Suite] = []
    asked = tuple(name for name in ("perplexity", "divergence") if name in request.suites)
    if asked:
        text = choose_text(request, say)
        windows = evaluation_windows(request, loaded, text)
        budget = 16384 if loaded.device.type == "cuda" else 2048
        suites.append(
            TextSuite(
                windows=windows,
                text=text,
                batch_size=min(  # more than there are is all of them
                    request.batch_size or max(1, budget // windows.tokens.shape[1]),
                    len(windows.tokens),
                ),
                asked=asked,
            )
        )
    if "throughput" in request.suites:
        load = throughput.Load(
            batch_sizes=request.batch_sizes,
            prompt_lengths=request.prompt_lengths,
            new_tokens=request.new_tokens,
            rounds=request.rounds,
            seed=request.seed,
        )
        if not load.fits(loaded.context):
            raise InputError(
                f"--prompt-lengths {min(load.prompt_lengths)} with --new-tokens {load.new_tokens}: "
                f"{loaded.name} takes {loaded.context} tokens; give shorter prompts"
            )
        left_out = sorted(set(load.prompt_lengths) - set(load.fits(loaded.context)))
        if left_out:
            say.warn(
                f"throughput: prompts of {', '.join(map(str, left_out))} tokens are left out; "
                f"{loaded.name} takes {loaded.context} tokens, answers included"
            )
        names = request.throughput_backends or (request.backend or "auto",)
        suites.append(ThroughputSuite(load=load, backends=names))
    options = TaskOptions(
        source="standard" if request.tasks_source == "standard" else "embedded",
        limit=request.limit,
        num_fewshot=request.num_fewshot,
        chat_template=request.chat_template,
        allow_code_execution=request.allow_code_execution,
        lengths=request.lengths,
        data_dir=request.tasks_data,
        seed=request.seed,
    )
    targets = {
        name: target_of(name, options.source) for name in TASK_SUITES if name in request.suites
    }
    targets |= {name: name for name in request.tasks}
    if targets and request.chat_template and not getattr(loaded.tokenizer, "chat_template", None):
        raise InputError(
            f"--chat-template: the tokenizer of {loaded.name} has no chat template; leave the "
            "option out, or add a chat_template to its tokenizer_config.json"
        )
    context = loaded.context
    if context is not None and max(request.lengths, default=0) > context:
        raise InputError(
            f"--lengths {max(request.lengths)}: {loaded.name} takes {context} tokens; give lengths "
            "up to that"
        )
    if "code" in targets:
        for danger in sandbox.not_held():
            say.warn(f"code runs without one of the sandbox's protections: {danger}")
    for name, target in targets.items():
        tasks = TaskSet(
            name, target, options, tokenizer_folder=loaded.folder, context=loaded.context
        )
        suites.append(TasksSuite(tasks=tasks, schemes=request.tasks_schemes))
    return suites


def trial_tokens(suites: Sequence[Suite], loaded: LoadedModel) -> torch.Tensor:
    """int64 [batch, tokens]: a batch as evaluation runs it, to measure this machine's rate with."""
    for suite in suites:
        if isinstance(suite, TextSuite):
            return suite.windows.tokens[: suite.batch_size]
    return torch.zeros(8, min(256, loaded.context or 256), dtype=torch.int64)
