"""Perplexity and divergence over a text's windows come of one pass."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from bench.comparison import estimate
from bench.comparison.calibration import check_vocabulary
from bench.comparison.estimate import Pace
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.suites.suite import Metrics, PartFailed, Subject, Suite, reason_of
from bench.records import environment
from bench.records.metrics import Divergence, Perplexity
from bench.records.protocols import WindowsProtocol
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError, setting_name
from suites import divergence, perplexity, texts
from suites.perplexity import Windows
from suites.texts import Text

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""A forward pass takes so many tokens, unless asked otherwise."""

_VERSIONS = {"perplexity": perplexity.VERSION, "divergence": divergence.VERSION}
_REFERENCE_SHARE = 0.1  # of memory that the unquantized model's hidden states may take


@dataclass(kw_only=True)
class WindowsSuite(Suite):
    """A text is read in windows: perplexity, divergence or both come of it."""

    windows: Windows
    text: Text = field()  # required: the interface's None is no default
    batch_size: int
    asked: tuple[str, ...]
    """It is ``perplexity``, ``divergence`` or both."""
    protocols: dict[str, WindowsProtocol] = field(init=False)

    def __post_init__(self) -> None:
        """Say what is measured."""
        metrics = {"perplexity": self.windows.metric, "divergence": self._divergence_metric}
        self.protocols = {
            name: WindowsProtocol(
                version=_VERSIONS[name],
                metric=metrics[name],
                text_sha256=self.text.sha256,
                seqlen=self.windows.tokens.shape[1],
                windows=len(self.windows.tokens),
            )
            for name in self.asked
        }

    @classmethod
    def build(cls, request: Request, loaded: LoadedModel, say: Reporter) -> list[Self]:
        """See `Suite.build`."""
        asked = tuple(name for name in _VERSIONS if name in request.suites)
        if not asked:
            return []
        text = choose_text(request, say)
        windows = evaluation_windows(request, loaded, text)
        count, length = windows.tokens.shape
        usual = max(1, BATCH_TOKENS[loaded.device.type] // length)
        batch_size = min(
            request.text.batch_size or usual, count
        )  # more than there are is all of them
        return [cls(windows=windows, text=text, batch_size=batch_size, asked=asked)]

    @property
    def about(self) -> str:
        """See `Suite.about`."""
        count, length = self.windows.tokens.shape
        names = ", ".join(protocol.metric for protocol in self.protocols.values())
        windows = f"window{'s' if self.windows.of > 1 else ''}"
        return f"{names}: {count} of {self.windows.of} {windows} of {length} tokens"

    def seconds(self, loaded: LoadedModel, pace: Pace) -> float:
        """See `Suite.seconds`."""
        return estimate.evaluation_s(self.windows.tokens.numel(), loaded, pace)

    @property
    def trial_batch(self) -> Tensor:
        """See `Suite.trial_batch`."""
        return self.windows.tokens[: self.batch_size]

    @property
    def _divergence_metric(self) -> str:
        return self.windows.metric.replace("_ppl_", "_kl_")

    def prepare(self, subject: Subject, say: Reporter) -> None:
        """Keep the unquantized model's hidden states, if divergence is asked for."""
        kept = subject.unquantized
        there = kept.hidden_states is not None or kept.no_hidden_states is not None
        if "divergence" in self.asked and not there:
            try:
                self._pass("unquantized, for divergence", subject, say, compared=True)
            except Exception as error:  # `measure` says so; perplexity needs no hidden states
                kept.no_hidden_states = reason_of(error)

    def measure(self, subject: Subject, say: Reporter, names: Collection[str]) -> Metrics:
        """See `Suite.measure`."""
        kept = subject.unquantized
        reasons: dict[str, str] = {}
        compared = "divergence" in names
        if compared and kept.no_hidden_states is not None:
            reasons["divergence"] = kept.no_hidden_states
            compared = False
            if "perplexity" not in names:
                raise PartFailed({}, reasons)
        try:
            scores = self._pass(f"{subject.label}: evaluate", subject, say, compared=compared)
        except Exception as error:
            if not compared or "perplexity" not in names:
                raise
            reasons["divergence"] = reason_of(error)
            if kept.hidden_states is None:
                kept.no_hidden_states = reasons["divergence"]
            compared = False
            label = f"{subject.label}: perplexity alone"
            scores = self._pass(label, subject, say, compared=False)
        metrics: Metrics = {}
        if "perplexity" in names:
            try:
                metrics[self.windows.metric] = self._perplexity(scores.nll)
            except ArithmeticError as error:
                reasons["perplexity"] = reason_of(error)
        if compared:
            try:
                metrics[self._divergence_metric] = self._divergence(scores.divergence)
            except ValueError as error:  # a number that no record may hold
                reasons["divergence"] = reason_of(error)
        if reasons:
            raise PartFailed(metrics, reasons)
        return metrics

    def _pass(
        self, label: str, subject: Subject, say: Reporter, *, compared: bool
    ) -> perplexity.WindowScores:
        """Read all windows; what the unquantized model leaves of them is kept."""
        reference = keep = None
        if compared and not subject.is_unquantized:
            reference = subject.unquantized.hidden_states
            if reference is None:
                raise ValueError("divergence needs the unquantized model's hidden states before")
        elif compared and subject.unquantized.hidden_states is None:
            keep = divergence.Reference(
                self.windows.tokens,
                memory_bytes=int(_REFERENCE_SHARE * environment.total_memory_bytes()),
                folder=Path(tempfile.gettempdir()),
            )
        with say.stage(label, len(self.windows.tokens)) as done:
            scores = perplexity.measure_windows(
                subject.loaded.model,
                self.windows.tokens,
                batch_size=self.batch_size,
                reference=reference,
                keep=keep,
                done=done,
            )
        if keep is not None:
            subject.unquantized.hidden_states = keep
        return scores

    def _perplexity(self, window_nll: list[float]) -> Perplexity:
        value = float(torch.tensor(window_nll, dtype=torch.float64).mean().exp())
        if not math.isfinite(value):
            raise ArithmeticError(f"the perplexity is {value}: a likelihood underflowed")
        return Perplexity(value=value, **self._shared, window_nll=window_nll)

    def _divergence(self, scores: divergence.Divergence | None) -> Divergence:
        """Give the outcome; None is the unquantized model, which is 0 from itself."""
        count = len(self.windows.tokens)
        return Divergence(
            value=0.0 if scores is None else scores.mean,
            median=0.0 if scores is None else scores.median,
            p99=0.0 if scores is None else scores.p99,
            top1_agreement=1.0 if scores is None else scores.agreement,
            **self._shared,
            window_kl=[0.0] * count if scores is None else scores.window_kl,
            window_agreement=[1.0] * count if scores is None else scores.window_agreement,
        )

    @property
    def _shared(self) -> dict[str, int]:
        return {
            "windows": len(self.windows.tokens),
            "of_windows": self.windows.of,
            "text_tokens": self.windows.text_tokens,
        }


def choose_text(request: Request, say: Reporter) -> Text:
    """Load the evaluation text: with none named WikiText-2 if it can be had, else the embedded.

    Raises:
        InputError: the text that was named cannot be had.
    """
    if request.text.name is not None:
        return texts.evaluation_text(request.text.name, data_dir=request.data_dir)
    try:
        text = texts.evaluation_text("wikitext2", data_dir=request.data_dir)
    except InputError as error:
        say.warn(f"evaluating on the embedded text, because {error}")
        return texts.embedded()
    say.say(f"Evaluating on WikiText-2, as no {setting_name('text')} was named: {text.source}")
    return text


def evaluation_windows(request: Request, loaded: LoadedModel, text: Text) -> Windows:
    """Cut the evaluation windows: min(2048, context) tokens unless asked otherwise.

    Raises:
        InputError: a window longer than the context, or too little text.
    """
    seqlen = request.text.seqlen
    if seqlen is None:
        seqlen = min(2048, loaded.context or 2048)
        if text.name == "embedded":
            seqlen = min(seqlen, 256)  # a short text: many short windows say more than few long
    if loaded.context is not None and seqlen > loaded.context:
        raise InputError(
            f"{setting_name('seqlen')} {seqlen} is longer than the model's context of "
            f"{loaded.context}; give a shorter window"
        )
    windows = perplexity.cut_windows(
        text.name, text.content, loaded.tokenizer, seqlen=seqlen, count=request.text.windows
    )
    check_vocabulary(windows.tokens, loaded)
    return windows


def check_paired(request: Request, *, paired: bool) -> None:
    """Refuse divergence where no unquantized model is measured beside another.

    Raises:
        InputError: says where it can be had.
    """
    if "divergence" in request.suites and not paired:
        raise InputError(
            "suite divergence compares with the unquantized model, and `evaluate` has only one "
            "model; use `awq-bench compare`, or leave divergence out"
        )
