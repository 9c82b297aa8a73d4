"""Throughput is how fast a model reads a prompt and writes an answer, beside a baseline.

One *run* is a prompt and the tokens after it, for one batch size and prompt length: the seconds to
the first token (the prefill), and the seconds of every further one. Runs of all models take turns,
A B A B, so that whatever else the machine does meets them alike; ratios are of neighbours. The
first runs of each warm up and are not kept.

On a GPU the cache is static and a decoding step is one CUDA graph: Python's own time, which a
server does not spend either, would otherwise hide the kernels'. On a CPU steps run as they are.

Token ids are random: their values decide no time. Every sample is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from suites import memory
from suites.kv_cache import Forward

if TYPE_CHECKING:
    from transformers import Cache

VERSION = 1
METRIC = "throughput_decode_tokens_per_s"
_WARMUP = 1


@dataclass(frozen=True, kw_only=True)
class Load:
    """A `Load` says what is run."""

    batch_sizes: tuple[int, ...] = (1, 4)
    prompt_lengths: tuple[int, ...] = (128, 512)
    new_tokens: int = 32
    rounds: int = 5
    """Kept runs of each model for every batch size and prompt length."""
    seed: int = 0

    def fits(self, context: int | None) -> tuple[int, ...]:
        """List the prompt lengths that leave room for the new tokens."""
        if context is None:
            return self.prompt_lengths
        return tuple(n for n in self.prompt_lengths if n + self.new_tokens <= context)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A `Run` is one prompt and the tokens after it."""

    batch_size: int
    prompt_tokens: int
    round: int
    first_token_s: float
    step_s: tuple[float, ...]
    """Of every token after the first, for the whole batch at once."""

    @property
    def decode_tokens_per_s(self) -> float:
        """Give the decoding speed of the whole batch."""
        return self.batch_size * len(self.step_s) / sum(self.step_s)

    @property
    def prefill_tokens_per_s(self) -> float:
        """Give the prefill speed of the whole batch."""
        return self.batch_size * self.prompt_tokens / self.first_token_s


@dataclass
class Contender:
    """A `Contender` has all runs of one model."""

    runs: list[Run] = field(default_factory=list)
    joules_per_token: float | None = None
    """Of decoding, by the GPU's own counter."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """Weights, and the most that a run took besides, on the host and the GPU."""
    notices: list[str] = field(default_factory=list)


def measure(
    models: Mapping[str, nn.Module],
    load: Load,
    *,
    context: int | None,
    vocabulary: int,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, Contender]:
    """Run every model on every load, all in turn.

    Args:
        models: causal language models of the same sizes on one device, by name.
        load: what is run.
        context: the most tokens the models take.
        vocabulary: token ids are drawn below it.
        done: told after every run.
    """
    found = {name: Contender() for name in models}
    device = next(next(iter(models.values())).parameters()).device
    generator = torch.Generator().manual_seed(load.seed)
    meters = {name: EnergyMeter(device) for name in models}
    peaks = {name: memory.RunPeaks(device) for name in models}
    for batch_size in load.batch_sizes:
        for length in load.fits(context):
            ids = torch.randint(vocabulary, (batch_size, length), generator=generator).to(device)
            total = length + load.new_tokens
            decoders = {
                name: _decoder(model, batch_size, total, found[name].notices)
                for name, model in models.items()
            }
            for number in range(-_WARMUP, load.rounds):
                for name, decoder in decoders.items():
                    if number < 0:
                        with peaks[name].over():  # counting would disturb a run that counts
                            _run(decoder, ids, load.new_tokens, number, EnergyMeter(None))
                    else:
                        run = _run(decoder, ids, load.new_tokens, number, meters[name])
                        found[name].runs.append(run)
                    done(1)
    for name, contender in found.items():
        contender.notices = list(dict.fromkeys(contender.notices))
        contender.joules_per_token = meters[name].joules_per_token
        contender.peak_bytes = peaks[name].with_weights(weight_bytes(models[name]))
    return found


def runs_of(load: Load, context: int | None, *, models: int) -> int:
    """Tell how many times ``done`` is told."""
    return len(load.batch_sizes) * len(load.fits(context)) * (load.rounds + _WARMUP) * models


def ratios(runs: Sequence[Run], baseline: Sequence[Run]) -> dict[tuple[int, int], list[float]]:
    """Divide decoding speed by the baseline's, by batch size and prompt length, for every round."""
    across: dict[tuple[int, int], list[float]] = {}
    for one, other in zip(runs, baseline, strict=True):
        ratio = one.decode_tokens_per_s / other.decode_tokens_per_s
        across.setdefault((one.batch_size, one.prompt_tokens), []).append(ratio)
    return across


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """A `Roofline` is what the device reaches at best, which bounds the speed of every linear."""

    bytes_per_s: float
    """Read from a buffer beyond the caches."""
    operations_per_s: float
    """Of a large matrix product in the dtype of the model."""


def roofline(device: torch.device, dtype: torch.dtype) -> Roofline:
    """Measure the roofline: the best of several, after one to warm up."""
    size = 2**30 if device.type == "cuda" else 2**28
    buffer = torch.ones(size // 4, device=device)
    side = 8192 if device.type == "cuda" else 1536
    square = torch.randn(side, side, device=device).to(dtype)
    return Roofline(
        bytes_per_s=size / _least(lambda: buffer.sum(), device),
        operations_per_s=2 * side**3 / _least(lambda: square @ square, device),
    )


def _least(call: Callable[[], Tensor], device: torch.device) -> float:
    seconds = []
    for _ in range(6):
        begin = _now(device)
        call()
        seconds.append(_now(device) - begin)
    return min(seconds[1:])


def bound(tokens: float, read: tuple[int, int], weights: int, roof: Roofline) -> float:
    """Tell how many times as fast as the baseline's a pass over ``tokens`` tokens can be at most.

    A pass takes at least as long as reading the weights, and as multiplying with them.

    Args:
        tokens: of all sequences, that are multiplied at once.
        read: bytes of weights that a pass takes, of the baseline and of the model.
        weights: how many numbers those are.
        roof: of the device.
    """
    product = 2 * weights * tokens / roof.operations_per_s
    base, model = (max(count / roof.bytes_per_s, product) for count in read)
    return base / model


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    """Give the median, the 95th and the 99th percentile."""
    if len(samples) == 1:
        return dict.fromkeys(("p50", "p95", "p99"), samples[0])
    cut = statistics.quantiles(samples, n=100, method="inclusive")
    return {"p50": cut[49], "p95": cut[94], "p99": cut[98]}


def weight_bytes(model: nn.Module) -> int:
    """Count bytes of the weights in memory, in every form that is held; shared ones count once."""
    tensors = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def read_bytes(model: nn.Module) -> int:
    """Count bytes of weights that a pass takes: all but an embedding that is no output head too.

    Of a linear that is held in several layouts, a pass reads one: a module says what it takes by
    ``read_bytes`` (see `kernels.linear.QuantizedLinear`).
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    table: Tensor = embedding.weight
    read = weight_bytes(model)
    for module in model.modules():
        if (own := getattr(module, "read_bytes", None)) is not None:
            read += own - weight_bytes(module)
    if head is not None and getattr(head, "weight", None) is table:
        return read
    return read - table.numel() * table.element_size()


class _Eager:
    """An eager decoder runs steps as they are, with a cache that grows."""

    def __init__(self, model: nn.Module) -> None:
        self._run = Forward.of(model)
        self._cache: Cache | None = None

    def first(self, ids: Tensor) -> Tensor:
        return self._pass(ids, None)

    def step(self, token: Tensor) -> Tensor:
        return self._pass(token, self._cache)

    def _pass(self, ids: Tensor, cache: Cache | None) -> Tensor:
        logits, self._cache = self._run(ids, cache=cache, keep=1)
        return logits.argmax(-1)


class _Graph:
    """A graph decoder has a static cache, and runs a step as one CUDA graph."""

    def __init__(self, model: nn.Module, batch_size: int, total: int) -> None:
        from transformers import StaticCache

        self._run = Forward.of(model)
        device = next(model.parameters()).device
        self._cache: Cache = StaticCache(config=model.config, max_cache_len=total)
        self._token = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._length = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._next: Tensor

    def first(self, ids: Tensor) -> Tensor:
        self._cache.reset()
        self._length = ids.shape[1]
        return self._pass(ids, torch.arange(self._length, device=ids.device))

    def step(self, token: Tensor) -> Tensor:
        self._token.copy_(token)
        self._at.fill_(self._length)
        self._length += 1
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()
        return self._next

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._next = self._forward()

    def _forward(self) -> Tensor:
        return self._pass(self._token, self._at)

    def _pass(self, ids: Tensor, at: Tensor) -> Tensor:
        logits, _ = self._run(ids, cache=self._cache, cache_position=at, keep=1)
        return logits.argmax(-1)


@torch.inference_mode()
def _decoder(model: nn.Module, batch_size: int, total: int, notices: list[str]) -> _Eager | _Graph:
    """Take CUDA graphs where they can be had, with a notice where they should, and cannot."""
    if not next(model.parameters()).is_cuda:
        return _Eager(model)
    try:
        graph = _Graph(model, batch_size, total)
        token = graph.first(torch.zeros(batch_size, 8, dtype=torch.int64, device="cuda"))
        graph.step(token)
        torch.cuda.synchronize()
        return graph
    # What a model's code raises where its cache or capture does not work (NotImplementedError is a
    # RuntimeError); the notice stands in the record and under the table.
    except (RuntimeError, TypeError, ValueError) as error:
        notices.append(f"decoded without CUDA graphs, as they failed: {str(error)[:200]}")
        return _Eager(model)


@torch.inference_mode()
def _run(
    decoder: _Eager | _Graph,
    ids: Tensor,
    new_tokens: int,
    number: int,
    meter: EnergyMeter,
) -> Run:
    """Run one prompt and the tokens after it."""
    begin = _now(ids.device)
    token = decoder.first(ids)
    marks = [_now(ids.device)]
    with meter.over(ids.shape[0] * (new_tokens - 1)):
        for _ in range(new_tokens - 1):
            token = decoder.step(token)
            marks.append(_now(ids.device))
    return Run(
        batch_size=ids.shape[0],
        prompt_tokens=ids.shape[1],
        round=number,
        first_token_s=marks[0] - begin,
        step_s=tuple(after - before for before, after in pairwise(marks)),
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class EnergyMeter:
    """An `EnergyMeter` reads joules off the GPU's own counter (NVML), where it has one."""

    def __init__(self, device: torch.device | None) -> None:
        """Open the counter of a CUDA device; on others nothing is counted."""
        self._handle: Any = None
        self._joules = 0.0
        self._tokens = 0
        if device is None or device.type != "cuda":
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except Exception:  # no package, no driver, no such counter: there is no figure
            return
        self._nvml, self._handle = pynvml, handle

    @contextmanager
    def over(self, tokens: int) -> Iterator[None]:
        """Count what is spent on so many tokens."""
        before = self._read()
        yield
        if before is not None:
            after = self._read()
            assert after is not None
            self._joules += after - before
            self._tokens += tokens

    def _read(self) -> float | None:
        if self._handle is None:
            return None
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    @property
    def joules_per_token(self) -> float | None:
        """Give joules per token over all that was counted; None if nothing was."""
        return self._joules / self._tokens if self._tokens else None
