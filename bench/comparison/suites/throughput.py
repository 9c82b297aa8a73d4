"""Speed and memory of the quantized linears are measured on every backend."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from torch import nn

from bench.comparison.estimate import Pace
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.suites.suite import Metrics, Subject, Suite
from bench.records.metrics import DeviceRates, PeakBytes, TimedModel, TimedRun, Timings
from bench.records.protocols import ThroughputProtocol
from kernels import install
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError, setting_name
from suites import throughput

_LEAST = {"batch_sizes": 1, "prompt_lengths": 1, "new_tokens": 2, "rounds": 2}
_UNQUANTIZED = "unquantized"


@dataclass(kw_only=True)
class ThroughputSuite(Suite):
    """Each backend runs a cell's codes in turn with the unquantized model."""

    load: throughput.Load
    backends: tuple[str, ...] = field()  # required: the interface's () is no default
    """They are as asked for."""
    protocols: dict[str, ThroughputProtocol] = field(init=False)
    needs_codes = True
    time_note = "throughput comes on top, with a bar of its own"
    _roof: throughput.Roofline | None = None

    def __post_init__(self) -> None:
        """Say what is measured."""
        self.protocols = {
            "throughput": ThroughputProtocol(
                version=throughput.VERSION,
                metric=throughput.METRIC,
                backends=list(self.backends),
                batch_sizes=list(self.load.batch_sizes),
                prompt_lengths=list(self.load.prompt_lengths),
                new_tokens=self.load.new_tokens,
                rounds=self.load.rounds,
                seed=self.load.seed,
            )
        }

    @classmethod
    def build(cls, request: Request, loaded: LoadedModel, say: Reporter) -> list[Self]:
        """See `Suite.build`."""
        if "throughput" not in request.suites:
            return []
        load = throughput.Load(
            batch_sizes=request.throughput.batch_sizes,
            prompt_lengths=request.throughput.prompt_lengths,
            new_tokens=request.throughput.new_tokens,
            rounds=request.throughput.rounds,
            seed=request.seed,
        )
        if not load.fits(loaded.context):
            prompts, new = setting_name("prompt_lengths"), setting_name("new_tokens")
            raise InputError(
                f"{prompts} {min(load.prompt_lengths)} with {new} {load.new_tokens}: "
                f"{loaded.name} takes {loaded.context} tokens; give shorter prompts"
            )
        left_out = sorted(set(load.prompt_lengths) - set(load.fits(loaded.context)))
        if left_out:
            say.warn(
                f"throughput: prompts of {', '.join(map(str, left_out))} tokens are left out; "
                f"{loaded.name} takes {loaded.context} tokens, answers included"
            )
        return [cls(load=load, backends=backends_of(request))]

    @property
    def about(self) -> str:
        """See `Suite.about`."""
        batches = ", ".join(map(str, self.load.batch_sizes))
        lengths = ", ".join(map(str, self.load.prompt_lengths))
        return (
            f"throughput: batches of {batches}, prompts of {lengths} tokens, "
            f"{self.load.new_tokens} new ones; backend {', '.join(self.backends)}"
        )

    def seconds(self, loaded: LoadedModel, pace: Pace) -> None:
        """See `Suite.seconds`; it is what is to be measured."""

    def prepare(self, subject: Subject, say: Reporter) -> None:
        """Keep a model with ordinary linears: their values decide no time."""
        if subject.unquantized.twin is None:
            subject.unquantized.twin = install.twin(subject.loaded.model)

    def measure(self, subject: Subject, say: Reporter, names: Collection[str]) -> Metrics:
        """See `Suite.measure`."""
        loaded = subject.loaded
        models, linears = self._models(subject, say)
        total = throughput.runs_of(self.load, loaded.context, models=len(models))
        with say.stage(f"{subject.label}: throughput", total) as done:
            contenders = throughput.measure(
                models,
                self.load,
                context=loaded.context,
                vocabulary=loaded.model.get_input_embeddings().num_embeddings,
                done=done,
            )
        self._roof = self._roof or throughput.roofline(loaded.device, loaded.dtype)
        for contender in contenders.values():
            for notice in contender.notices:
                say.warn(f"{subject.label}: {notice}")
        timed = {
            name: TimedModel(
                linears=linears.get(name, {}),
                weight_bytes=throughput.weight_bytes(models[name]),
                read_bytes=throughput.read_bytes(models[name]),
                runs=[TimedRun(**asdict(run)) for run in contender.runs],
                joules_per_token=contender.joules_per_token,
                peak_bytes=PeakBytes(**contender.peak_bytes),
                notices=contender.notices,
            )
            for name, contender in contenders.items()
        }
        unquantized = timed.pop(_UNQUANTIZED)
        return {
            throughput.METRIC: Timings(
                value=self._first_speed(next(iter(contenders.values())), loaded),
                backends=timed,
                unquantized=unquantized,
                weights=throughput.read_bytes(models[_UNQUANTIZED]) // loaded.dtype.itemsize,
                rates=DeviceRates(**asdict(self._roof)),
            )
        }

    def _first_speed(self, contender: throughput.Contender, loaded: LoadedModel) -> float:
        """Take the median of decoding on the first batch size and prompt length."""
        first = (self.load.batch_sizes[0], self.load.fits(loaded.context)[0])
        return statistics.median(
            run.decode_tokens_per_s
            for run in contender.runs
            if (run.batch_size, run.prompt_tokens) == first
        )

    def _models(
        self, subject: Subject, say: Reporter
    ) -> tuple[dict[str, nn.Module], Mapping[str, dict[str, int]]]:
        """Put the codes on every backend, beside the unquantized model; say which runs how many.

        All share what is no linear.
        """
        plain = subject.unquantized.twin
        if not subject.codes or plain is None:
            return {_UNQUANTIZED: subject.loaded.model}, {}
        models: dict[str, nn.Module] = {}
        linears: dict[str, dict[str, int]] = {}
        for name in self.backends:
            models[name] = install.twin(plain)
            installed = install.install(models[name], subject.codes, backend=name)
            linears[name] = dict(installed.backends)
            for notice in installed.notices:
                say.warn(f"{subject.label}: throughput: {notice}")
        models[_UNQUANTIZED] = plain
        return models, linears


def backends_of(request: Request) -> tuple[str, ...]:
    """Name the backends whose speed is measured."""
    return request.throughput.backends or (request.backend or "auto",)
