"""Metrics are what suites measured: a figure, and every sample behind it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Any, Self, TypeAlias

from pydantic import ConfigDict, Field, Tag, model_validator

from bench.records.document import Document, tag, told_by

_CLOSE = 1e-9  # of a value: sums of doubles in another order
_LEAST_NATS = -1e-6
"""KL divergence and likelihoods are sums of rounded numbers: what is 0 may come out below it."""

Count: TypeAlias = Annotated[int, Field(ge=0)]
Counted: TypeAlias = Annotated[int, Field(ge=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Seconds: TypeAlias = Annotated[float, Field(ge=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class _OfWindows(Document):
    """A metric over a text's windows has one sample a window."""

    value: float
    windows: Counted
    """Windows that were scored: as many as there are samples."""
    of_windows: Counted
    """Windows of the whole text."""
    text_tokens: Annotated[int, Field(ge=2)]
    """Tokens of the whole text, with the tail that fills no window."""

    def _check_samples(self, name: str) -> None:
        """Refuse samples that are not one a window."""
        samples = getattr(self, name)
        if len(samples) != self.windows:
            raise ValueError(f".{name}: {len(samples)} samples, of {self.windows} windows")
        if min(samples) < _LEAST_NATS:
            raise ValueError(f".{name}: {min(samples)} nats, below 0")


class Perplexity(_OfWindows):
    """Perplexity is kept with the likelihood of every window behind it."""

    value: Positive
    """exp of the mean of window_nll."""
    window_nll: Annotated[list[float], Field(min_length=1)]
    """Mean negative log-likelihood of every window, in nats per scored token, in the text's order.
    The same windows of two models make pairs."""

    @model_validator(mode="after")
    def _follows_from_samples(self) -> Self:
        self._check_samples("window_nll")
        _check_value(self, "value", _exp(statistics.fmean(self.window_nll)))
        return self


class Divergence(_OfWindows):
    """Divergence compares next-token distributions with the unquantized model's, by position."""

    value: Annotated[float, Field(ge=0)]
    """Mean of KL(unquantized || this model) over positions, in nats."""
    median: Annotated[float, Field(ge=0)]
    """Median over positions, in nats."""
    p99: Annotated[float, Field(ge=0)]
    """99th percentile over positions, in nats."""
    top1_agreement: Share
    """Share of positions where both models find the same token likeliest."""
    window_kl: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """Mean KL divergence of every window, in the text's order."""
    window_agreement: Annotated[list[Share], Field(min_length=1)]
    """Top-1 agreement of every window."""

    @model_validator(mode="after")
    def _follows_from_samples(self) -> Self:
        self._check_samples("window_kl")
        self._check_samples("window_agreement")
        _check_value(self, "value", statistics.fmean(self.window_kl))
        _check_value(self, "top1_agreement", statistics.fmean(self.window_agreement))
        return self


Facet: TypeAlias = list[str | int | float | None]
"""What part of a suite each item belongs to, or a grade of its answer."""


class Columns(Document):
    """Every column has one entry for every item, in the same order for every model asked the same.

    This makes pairs. Besides those named here there are facets (part, language, category, kind,
    length) and further grades between 0 and 1.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Facet] = Field(init=False)

    id: list[str]
    """The item."""
    task: list[str]
    """lm-eval's task."""
    source: list[str]
    """What it was made from; items that share one are not independent."""
    parallel: list[str]
    """The item it is a translation of; the same for all its languages."""
    value: list[Annotated[float, Field(ge=0, le=1)] | None]
    """What the answer is worth: 1 right, 0 wrong; null where that is no number between them."""
    outcome: list[str]
    """right, or the class of failure."""
    answer: list[str | list[float]]
    """The text that the model wrote, or the log-likelihood of every option in nats."""

    def facet(self, name: str) -> Sequence[Any]:
        """Give the entries of a facet, a grade or a column by its name; none if it is not there."""
        return self.every.get(name, [])

    @property
    def every(self) -> dict[str, list[Any]]:
        """Give all columns by their names."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {**named, **self.__pydantic_extra__}

    def valued(self, *, beside: Columns | None = None) -> Columns:
        """Keep the items that have a value of their own, ``beside`` too: those that make pairs."""
        pairs = zip(self.value, (beside or self).value, strict=True)
        kept = [index for index, pair in enumerate(pairs) if None not in pair]
        if len(kept) == len(self.value):
            return self
        return self.model_copy(
            update={
                name: [entries[index] for index in kept] for name, entries in self.every.items()
            }
        )

    @property
    def values(self) -> list[float]:
        """Give what the answers are worth, of items that have a value."""
        return [value for value in self.value if value is not None]


class Answers(Document):
    """Answers are those to the items of one suite or task, with what they are worth."""

    value: float
    """Mean of the column value over the items that have one; lm-eval's own aggregate where none
    has."""
    items: Counted
    """Length of every column."""
    of_items: Counted
    """Items that there are."""
    cut_off: Count
    """Answers that ended at the limit of tokens."""
    too_long: Count
    """Prompts that do not fit the model's context; they count as wrong."""
    seconds: Seconds
    """Asking and scoring all items."""
    columns: Columns
    """One entry for every item."""
    aggregates: dict[str, float] = Field(default={})
    """By task whose items have no value between 0 and 1: lm-eval's own figure. Absent if all
    have."""

    @property
    def none_fits(self) -> bool:
        """Say whether no prompt fitted the context: then nothing was measured."""
        return self.too_long == self.items

    @model_validator(mode="after")
    def _follows_from_items(self) -> Self:
        for name, entries in self.columns.every.items():
            if len(entries) != self.items:
                raise ValueError(f".columns.{name}: {len(entries)} entries, of {self.items} items")
        if self.columns.values:
            _check_value(self, "value", statistics.fmean(self.columns.values))
        elif not self.aggregates:
            raise ValueError(".columns.value: no item has a value, and there is no aggregate")
        return self


class TimedRun(Document):
    """A timed run is one prompt and the tokens after it."""

    batch_size: Counted
    """Sequences at once."""
    prompt_tokens: Counted
    """Tokens of each sequence's prompt."""
    round: Count
    """Counts from 0."""
    first_token_s: Positive
    """Seconds from the prompt to its first token."""
    step_s: Annotated[list[Positive], Field(min_length=1, strict=False)]
    """Seconds of every further token of the whole batch."""

    @property
    def case(self) -> tuple[int, int]:
        """Give batch size and prompt length."""
        return self.batch_size, self.prompt_tokens

    @property
    def decode_tokens_per_s(self) -> float:
        """Give the tokens per second when decoding, of the whole batch."""
        return self.batch_size * len(self.step_s) / sum(self.step_s)


class PeakBytes(Document):
    """Peak memory is counted in bytes."""

    host: Count
    """Resident memory of the process; its peak since the start where the system cannot reset
    it."""
    gpu: Count | None = None
    """What PyTorch allocated on the GPU; absent without one."""


class TimedModel(Document):
    """A timed model has one model's runs."""

    linears: dict[str, Counted]
    """How many quantized linears each backend ran."""
    weight_bytes: Counted
    """Bytes of all weights in memory, in every form that is held."""
    read_bytes: Counted
    """Of them, those that a pass reads: all but an embedding that is no output head as well."""
    runs: Annotated[list[TimedRun], Field(min_length=1)]
    """Every run."""
    joules_per_token: float | None
    """Spent by the GPU on a token when decoding; null where it does not count."""
    peak_bytes: PeakBytes
    """The weights and the most that a run took besides them; on the host of a GPU, the process's
    resident memory."""
    notices: list[str]
    """What a user should know, such as CUDA graphs that failed."""

    def of(self, case: tuple[int, int]) -> list[TimedRun]:
        """Give the runs of one batch size and prompt length."""
        return [run for run in self.runs if run.case == case]


class DeviceRates(Document):
    """Device rates are what the device reached at best, measured in this process."""

    bytes_per_s: Positive
    """Reading a buffer beyond the caches."""
    operations_per_s: Positive
    """In a large matrix product of the model's dtype."""


class Timings(Document):
    """Timings hold the speed of prefill and decoding, and memory."""

    value: Positive
    """Median decoding speed in tokens per second, of the first backend (of the unquantized model
    in its own cell), at the first batch size and prompt length."""
    backends: dict[str, TimedModel]
    """The cell's weights on every backend, by the name that was asked for; empty in the
    unquantized model's own cell."""
    unquantized: TimedModel
    """The unquantized model: its runs are in the same order, each in turn with the backends' of
    the same round."""
    weights: Counted
    """How many weights a pass of the unquantized model multiplies with."""
    rates: DeviceRates
    """The device's own bounds."""

    @property
    def cases(self) -> list[tuple[int, int]]:
        """List batch sizes and prompt lengths, in the order of their runs."""
        return list(dict.fromkeys(run.case for run in self.unquantized.runs))

    @property
    def first(self) -> TimedModel:
        """Give what ran on the first backend, or the unquantized model in its own cell."""
        return next(iter(self.backends.values()), self.unquantized)

    @model_validator(mode="after")
    def _follows_from_runs(self) -> Self:
        speeds = [run.decode_tokens_per_s for run in self.first.of(self.first.runs[0].case)]
        _check_value(self, "value", statistics.median(speeds))
        return self


Metric: TypeAlias = Annotated[
    Annotated[Perplexity, Tag(tag("Perplexity"))]
    | Annotated[Divergence, Tag(tag("Divergence"))]
    | Annotated[Answers, Tag(tag("Answers"))]
    | Annotated[Timings, Tag(tag("Timings"))],
    told_by(
        {
            "window_nll": Perplexity,
            "window_kl": Divergence,
            "columns": Answers,
            "unquantized": Timings,
        },
        "a metric has samples: window_nll, window_kl, columns or unquantized",
    ),
]


def _check_value(metric: Document, name: str, computed: float) -> None:
    value = getattr(metric, name)
    if not math.isclose(value, computed, rel_tol=_CLOSE, abs_tol=1e-12):
        raise ValueError(f".{name}: {value}, where its samples give {computed}")


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
