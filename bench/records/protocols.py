"""Protocols say what suites measure and how, as cells hold it: all that decides the outcome."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, Tag

from bench.records.document import Document, tag, told_by
from bench.records.metrics import Answers, Count, Counted, Divergence, Metric, Perplexity, Timings

Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class WindowsProtocol(Document):
    """A windows protocol says what perplexity or divergence is measured on, and how."""

    version: Counted
    """Version of the suite; it rises whenever the same model could come out with another number."""
    metric: str
    """The metric's name, a key of metrics."""
    text_sha256: Sha256
    """sha256 of the whole text in UTF-8."""
    seqlen: Annotated[int, Field(ge=2)]
    """Tokens of a window."""
    windows: Counted
    """Windows that are scored."""

    def check(self, metric: Metric) -> None:
        """Refuse what this protocol cannot have measured.

        Raises:
            ValueError: names the field, behind a dot, and what is wrong with it.
        """
        assert isinstance(metric, Perplexity | Divergence)
        if metric.windows != self.windows:
            raise ValueError(f".windows: {metric.windows}, where the protocol has {self.windows}")


class AskedTask(Document):
    """An asked task is one of lm-eval's tasks, as it is asked."""

    version: str
    """Version of the task; it rises whenever the same answers could be scored otherwise, or the
    items change."""
    items: Counted
    """Items that are asked."""
    num_fewshot: Count
    """Worked examples in every prompt."""


class TasksProtocol(Document):
    """A tasks protocol says which items are asked, and how."""

    metric: str
    """The metric's name, a key of metrics."""
    tasks: Annotated[dict[str, AskedTask], Field(min_length=1)]
    """lm-eval's tasks by name."""
    source: Literal["embedded", "standard"]
    """embedded: the items that ship with the program. standard: the field's own sets."""
    items: Counted
    """Items that are asked, over all tasks."""
    of_items: Counted
    """Items that there are."""
    items_sha256: Sha256
    """sha256 over the items that are asked."""
    chat_template: bool
    """Whether prompts go through the tokenizer's chat template."""
    lm_eval: str
    """Version of lm-eval, which builds the prompts."""

    def check(self, metric: Metric) -> None:
        """See `WindowsProtocol.check`."""
        assert isinstance(metric, Answers)
        if metric.items != self.items:
            raise ValueError(f".items: {metric.items}, where the protocol has {self.items}")


class ThroughputProtocol(Document):
    """A throughput protocol says what is timed."""

    version: Counted
    """Version of the suite."""
    metric: str
    """The metric's name, a key of metrics."""
    backends: Annotated[list[str], Field(min_length=1)]
    """As asked for, in the order of their runs."""
    batch_sizes: list[Counted]
    """Sequences at once."""
    prompt_lengths: list[Counted]
    """Tokens of a prompt."""
    new_tokens: Annotated[int, Field(ge=2)]
    """Tokens written after it."""
    rounds: Annotated[int, Field(ge=2)]
    """Runs of each kind."""
    seed: Count
    """Seed of the prompts."""

    def check(self, metric: Metric) -> None:
        """See `WindowsProtocol.check`: every kind of run is there once in every round."""
        assert isinstance(metric, Timings)
        count = len(metric.cases) * self.rounds  # compared first: a damaged one may be any number
        models = {f".backends.{name}": model for name, model in metric.backends.items()}
        for where, model in {**models, ".unquantized": metric.unquantized}.items():
            runs = {(*run.case, run.round) for run in model.runs}
            if not (
                len(model.runs) == len(runs) == count
                and all(run.case in metric.cases and run.round < self.rounds for run in model.runs)
            ):
                raise ValueError(
                    f"{where}.runs: not each kind once in each of the protocol's rounds"
                )
            if any(len(run.step_s) != self.new_tokens - 1 for run in model.runs):
                raise ValueError(f"{where}.runs: not as many steps as the protocol has new tokens")


MEASURED: dict[str, tuple[type[Document], type[Document]]] = {
    "perplexity": (WindowsProtocol, Perplexity),
    "divergence": (WindowsProtocol, Divergence),
    "throughput": (ThroughputProtocol, Timings),
}
"""By suite: its protocol and its metric. All others are task suites, or tasks of lm-eval."""

TASKS = (TasksProtocol, Answers)


SuiteProtocol: TypeAlias = Annotated[
    Annotated[WindowsProtocol, Tag(tag("WindowsProtocol"))]
    | Annotated[TasksProtocol, Tag(tag("TasksProtocol"))]
    | Annotated[ThroughputProtocol, Tag(tag("ThroughputProtocol"))],
    told_by(
        {"windows": WindowsProtocol, "tasks": TasksProtocol, "rounds": ThroughputProtocol},
        "a protocol has windows, tasks or rounds",
    ),
]
