"""A suite is one interface: what it needs, what it measures, and what that will take.

Its table is no part of it. Measuring does not import presentation, so a table is a function of
records in `bench.report`, which finds a suite's outcome by the suite's name or its metric's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import ValidationError
from torch import Tensor, nn

from bench.comparison.estimate import Pace
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.records.document import told
from bench.records.metrics import Metric
from bench.records.protocols import SuiteProtocol
from quantcore.checkpoint import LoadedModel
from quantcore.grid import QuantizedWeight
from suites import divergence
from suites.texts import Text

Metrics = dict[str, Metric]
"""Outcomes by metric name, as a record holds them."""


class PartFailed(Exception):
    """A part of what a suite measures in one go failed."""

    def __init__(self, metrics: Metrics, reasons: Mapping[str, str]) -> None:
        """Keep what was measured, and why the names that were not have no outcome."""
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        self.metrics = metrics
        self.reasons = reasons


def reason_of(error: Exception) -> str:
    """Give kind and text of an error, for a record; what no record may hold is an error too."""
    if isinstance(error, ValidationError):
        return f"ArithmeticError: {told(error)}"
    return f"{type(error).__name__}: {error}"


@dataclass(kw_only=True)
class Unquantized:
    """The unquantized model leaves results here for the models that are measured beside it."""

    hidden_states: divergence.Reference | None = None
    """Divergence compares with these."""
    no_hidden_states: str | None = None
    """This is why there are none and will be none."""
    twin: nn.Module | None = None
    """Throughput puts quantized linears in the place of its ordinary ones."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A subject is the model that a suite measures, as it is now."""

    label: str
    """People call the model so."""
    loaded: LoadedModel
    is_unquantized: bool
    """The others are compared with it."""
    unquantized: Unquantized
    """The unquantized model fills it, the others read it."""
    codes: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    """These are its quantized linears, where something needs them."""


class Suite(ABC):
    """A suite is loaded once, and measured on one model after the other."""

    protocols: Mapping[str, SuiteProtocol]
    """They say, by the name that a user asks for, what decides the outcome, as a cell holds it."""
    text: Text | None = None
    """It is measured on this text, which calibration must not overlap."""
    needs_codes: bool = False
    """It takes the codes of quantized linears, not only the weights that they decode to."""
    backends: tuple[str, ...] = ()
    """It times these."""
    time_note: str | None = None
    """The announcement says this where `seconds` cannot be known before."""

    @classmethod
    @abstractmethod
    def build(cls, request: Request, loaded: LoadedModel, say: Reporter) -> list[Self]:
        """Load and cut what is asked for of this kind; nothing if nothing is.

        Raises:
            InputError: a text, task or data set that cannot be had, or that the model cannot take.
        """

    @property
    @abstractmethod
    def about(self) -> str:
        """Give a line for the announcement."""

    @abstractmethod
    def seconds(self, loaded: LoadedModel, pace: Pace) -> float | None:
        """Estimate what one model will take; None: that is not known before, see `time_note`."""

    @property
    def trial_batch(self) -> Tensor | None:
        """Give a batch as the model will run it, int64 [batch, tokens], to measure the pace with.

        It is None for a suite that has no one kind of batch.
        """
        return None

    def runs_on(self, scheme: str | None) -> bool:
        """Say whether cells of this scheme (None: the unquantized model) run it."""
        return True

    def prepare(self, subject: Subject, say: Reporter) -> None:  # noqa: B027
        """Keep of the unquantized model, in ``subject.unquantized``, what the others will need."""

    @abstractmethod
    def measure(self, subject: Subject, say: Reporter, names: Collection[str]) -> Metrics:
        """Measure what `protocols` of these names say, and keep every sample.

        Args:
            subject: the model.
            say: who shows progress.
            names: of `protocols`; those of others are there already, from an earlier attempt.

        Returns:
            Outcomes by metric name.

        Raises:
            PartFailed: some of them have no outcome; the others have.
            Exception: none has, for whatever reason; the cell's other suites go on.
        """
