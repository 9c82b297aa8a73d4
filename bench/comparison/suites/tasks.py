"""A model answers tasks item by item; each task has a row of the table."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

from bench.comparison.estimate import Pace
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.suites.suite import Metrics, Subject, Suite
from bench.records.metrics import Answers, Columns
from bench.records.protocols import TasksProtocol
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError, setting_name
from suites import TASK_SUITES
from suites.code import sandbox
from suites.harness import TaskOptions, TaskSet, target_of

BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
"""A batch of items takes so many tokens, padding and answers included."""

_LEAST_LENGTH = 128
_SOURCES = ("embedded", "standard")


@dataclass(kw_only=True)
class TasksSuite(Suite):
    """A model is asked one row of tasks."""

    tasks: TaskSet
    schemes: tuple[str, ...] = ()
    """Cells of these run it; empty: all."""
    protocols: dict[str, TasksProtocol] = field(init=False)
    time_note = "that of the tasks is known after the first cell"

    def __post_init__(self) -> None:
        """Say what is measured."""
        self.protocols = {self.tasks.name: TasksProtocol.model_validate(self.tasks.protocol())}

    @classmethod
    def build(cls, request: Request, loaded: LoadedModel, say: Reporter) -> list[Self]:
        """See `Suite.build`."""
        options = TaskOptions(
            source="standard" if request.tasks.source == "standard" else "embedded",
            limit=request.tasks.limit,
            num_fewshot=request.tasks.num_fewshot,
            chat_template=request.tasks.chat_template,
            allow_code_execution=request.tasks.allow_code_execution,
            lengths=request.tasks.lengths,
            data_dir=request.tasks.data,
            seed=request.seed,
        )
        targets = {
            name: target_of(name, options.source) for name in TASK_SUITES if name in request.suites
        }
        targets |= {name: name for name in request.tasks.names}
        if targets:
            _check_template(request, loaded)
        _check_context(request, loaded)
        if "code" in targets:
            for danger in sandbox.not_held():
                say.warn(f"code runs without one of the sandbox's protections: {danger}")
        return [
            cls(
                tasks=TaskSet(
                    name, target, options, tokenizer_folder=loaded.folder, context=loaded.context
                ),
                schemes=request.tasks.schemes,
            )
            for name, target in targets.items()
        ]

    @property
    def about(self) -> str:
        """See `Suite.about`."""
        items = f"{self.tasks.items:,} of {self.tasks.of_items:,} items"
        if self.tasks.items < self.tasks.of_items:
            items += f", drawn by seed {self.tasks.options.seed}"
        where = f" at {', '.join(self.schemes)}" if self.schemes else ""
        return f"{self.tasks.metric}: {items}{where}"

    def seconds(self, loaded: LoadedModel, pace: Pace) -> None:
        """See `Suite.seconds`; it depends on how much the model answers."""

    def runs_on(self, scheme: str | None) -> bool:
        """See `Suite.runs_on`."""
        return scheme is None or not self.schemes or scheme in self.schemes

    def measure(self, subject: Subject, say: Reporter, names: Collection[str]) -> Metrics:
        """See `Suite.measure`."""
        loaded = subject.loaded
        started = time.perf_counter()
        with say.stage(f"{subject.label}: {self.tasks.name}", self.tasks.requests) as done:
            outcomes = self.tasks.run(
                loaded.model,
                loaded.tokenizer,
                context=loaded.context,
                batch_tokens=BATCH_TOKENS[loaded.device.type],
                done=done,
                say=say.warn,
            )
        if outcomes.too_long:
            say.warn(
                f"{subject.label}: {outcomes.too_long} prompts of {self.tasks.name} do not fit the "
                f"model's context of {loaded.context} tokens and count as wrong"
            )
        return {
            outcomes.metric: Answers(
                value=outcomes.value,
                items=len(outcomes.columns["id"]),
                of_items=self.tasks.of_items,
                cut_off=outcomes.cut_off,
                too_long=outcomes.too_long,
                seconds=time.perf_counter() - started,
                columns=Columns.model_validate(outcomes.columns),
                aggregates=outcomes.aggregates,
            )
        }


def _check_template(request: Request, loaded: LoadedModel) -> None:
    if request.tasks.chat_template and not getattr(loaded.tokenizer, "chat_template", None):
        raise InputError(
            f"{setting_name('chat_template')}: the tokenizer of {loaded.name} has no chat "
            "template; leave the option out, or add a chat_template to its tokenizer_config.json"
        )


def _check_context(request: Request, loaded: LoadedModel) -> None:
    longest = max(request.tasks.lengths, default=0)
    if loaded.context is not None and longest > loaded.context:
        raise InputError(
            f"{setting_name('lengths')} {longest}: {loaded.name} takes {loaded.context} tokens; "
            "give lengths up to that"
        )
