"""Task suites are run on lm-eval: tasks and items are chosen, and what came out is kept by item.

A suite is an lm-eval task group that `lm-eval --include_path` runs as well. Here its tasks are
loaded once, run on one model after the other, and every item's outcome is kept, since comparisons
are paired item by item.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantcore.errors import InputError, setting_name
from quantcore.hub import use_cache_if_unreachable
from quantcore.versions import need
from suites import TASK_SUITES, internals
from suites.long_prompt.items import LONGEST, default_lengths
from suites.multilingual.standard import source_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLDER = Path(__file__).parent
"""What ``lm-eval --include_path`` takes."""

FACETS = ("part", "language", "category", "kind", "length")
"""Fields of an item by which accuracy is broken down."""

Source = Literal["embedded", "standard"]


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """`TaskOptions` say how tasks are run, the same for all of them."""

    source: Source = "embedded"
    limit: int | None = None
    """At most so many items of every lm-eval task, drawn by ``seed``; None: all."""
    num_fewshot: int | None = None
    """Examples in the prompt; None: as each task says."""
    chat_template: bool = False
    allow_code_execution: bool = False
    lengths: tuple[int, ...] = ()
    """Tokens of long prompts; empty: powers of two from 256 to the context, at most 4,096."""
    data_dir: Path | None = None
    """Folder with local copies of data sets, each under its name on the hub."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """`Outcomes` say what one model did on every item; columns have one length and one order."""

    metric: str
    """The headline's name within lm-eval, such as ``acc``."""
    value: float
    """The metric's mean over the items that carry a value; lm-eval's aggregate where none does."""
    columns: dict[str, list[Any]]
    """``id``, ``task``, ``source``, ``answer``, ``outcome``, ``value``, the facets that items
    have, and what else is graded, such as ``strict``."""
    cut_off: int
    """Answers that ended at the token limit."""
    too_long: int
    """Items whose prompt does not fit the model's context; they count as wrong."""
    aggregates: dict[str, float]
    """By task whose items carry no value between 0 and 1, such as a BLEU: lm-eval's own figure."""


class TaskSet:
    """A `TaskSet` has the tasks of one row of the table, cut to size, for any number of models."""

    def __init__(
        self,
        name: str,
        target: str,
        options: TaskOptions,
        *,
        tokenizer_folder: Path,
        context: int | None,
    ) -> None:
        """Load the tasks.

        Args:
            name: how the table calls them: a suite, or the name of an lm-eval task.
            target: lm-eval's name: a task, group or tag.
            options: how they are run.
            tokenizer_folder: of the model; tasks of a given length are measured with it.
            context: the most tokens the model takes; None if it does not say.

        Raises:
            InputError: no such task, a data set that cannot be loaded, or code to be run without
                permission; also where the extra ``tasks`` is not installed.
        """
        for package in ("lm-eval", "datasets"):
            need(package, extra="tasks", what=f"{name}, as every task,")
        self.name = name
        self.options = options
        loaded = _load(name, target, options, tokenizer_folder=tokenizer_folder, context=context)
        self._loaded = loaded
        self._tasks: dict[str, Any] = loaded["tasks"]
        self._refuse_unpermitted()
        for task in self._tasks.values():
            self._configure(task)
        self.samples = {
            task: _subset(len(one.eval_docs), options) for task, one in self._tasks.items()
        }

    def _refuse_unpermitted(self) -> None:
        unsafe = [name for name, task in self._tasks.items() if getattr(task, "UNSAFE_CODE", False)]
        if unsafe and not self.options.allow_code_execution:
            raise InputError(
                f"{self.name} runs programs that the model writes ({', '.join(unsafe)}); allow it "
                f"with {setting_name('allow_code_execution')} (they run in a sandbox), or leave "
                f"{self.name} out",
                setting="allow_code_execution",
            )

    def _configure(self, task: Any) -> None:
        shots = self.options.num_fewshot
        if shots is None:
            shots = task.get_config("num_fewshot") or 0
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=1234)  # lm-eval's own default

    @property
    def items(self) -> int:
        """Count the items that are run."""
        return sum(map(len, self.samples.values()))

    @property
    def of_items(self) -> int:
        """Count the items that there are."""
        return sum(len(task.eval_docs) for task in self._tasks.values())

    @property
    def requests(self) -> int:
        """Count the answers and options that the model is asked for."""
        return sum(
            len(task.doc_to_choice(task.eval_docs[index]))
            if task.OUTPUT_TYPE == "multiple_choice"
            else 1
            for name, task in self._tasks.items()
            for index in self.samples[name]
        )

    @property
    def metric(self) -> str:
        """Name the metric: ``json_acc``, with ``@<items>`` for a part; standard sets say so."""
        kind = "_standard" if self._is_suite and self.options.source == "standard" else ""
        part = f"@{self.items}" if self.items < self.of_items else ""
        headlines = dict.fromkeys(map(self._headline, self._tasks))
        if self._is_suite:  # whatever its tasks call it, items are right or wrong
            headlines = dict.fromkeys([next(iter(headlines))])
        return f"{self.name}{kind}_{'+'.join(headlines)}{part}"

    @property
    def _is_suite(self) -> bool:
        return self.name in TASK_SUITES

    def _headline(self, task: str) -> str:
        metrics = [str(metric) for metric in self._tasks[task].aggregation()]
        return "acc" if "acc" in metrics else metrics[0]

    def protocol(self) -> dict[str, Any]:
        """Give what decides the outcome, for a record."""
        digest = hashlib.sha256()
        for name, task in self._tasks.items():
            for index in self.samples[name]:
                item = json.dumps(task.eval_docs[index], sort_keys=True, default=str)
                digest.update(f"{name}\n{item}\n".encode())
        options = self.options
        return {
            "metric": self.metric,
            "tasks": {
                name: {
                    "version": str(task.VERSION),
                    "items": len(self.samples[name]),
                    "num_fewshot": task.get_config("num_fewshot"),
                }
                for name, task in self._tasks.items()
            },
            "source": options.source if self._is_suite else "standard",
            "items": self.items,
            "of_items": self.of_items,
            "items_sha256": digest.hexdigest(),
            "chat_template": options.chat_template,
            "lm_eval": _version(),
        }

    def run(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int | None,
        batch_tokens: int,
        done: Callable[[int], None] = lambda count: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> Outcomes:
        """Ask one model everything.

        Args:
            model: in evaluation mode.
            tokenizer: its own.
            context: the most tokens it takes.
            batch_tokens: tokens in a batch, padding and answers included; decides speed and
                memory, not the result.
            done: told how many requests were finished.
            say: told what a user should know.

        Raises:
            InputError: a chat template was asked for and the tokenizer has none.
        """
        from lm_eval import evaluator

        from suites.language_model import BatchedLM

        lm = BatchedLM(
            model, tokenizer, context=context, batch_tokens=batch_tokens, done=done, say=say
        )
        with _quietly():
            result: Any = evaluator.evaluate(
                lm,
                self._loaded,
                samples=self.samples,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=self.options.chat_template,
                fewshot_as_multiturn=self.options.chat_template,
                confirm_run_unsafe_code=self.options.allow_code_execution,
            )
        return self._outcomes(result)

    def _outcomes(self, result: Mapping[str, Any]) -> Outcomes:
        rows: list[dict[str, Any]] = []
        aggregates: dict[str, float] = {}
        cut_off = too_long = 0
        for name in self._tasks:
            headline = self._headline(name)
            logged = result["samples"][name]
            first = logged[0]["filter"]
            own = []
            for sample in (one for one in logged if one["filter"] == first):
                answer = sample["resps"][0][0]
                cut_off += bool(getattr(answer, "cut_off", False))
                too_long += bool(getattr(answer, "too_long", False))
                own.append(_row(name, headline, sample))
            if any(row["value"] is None for row in own):  # a metric of the whole set, such as BLEU
                aggregates[name] = _aggregate(result, name, headline)
                own = [row | {"value": None} for row in own]
            rows += own
        values = [row["value"] for row in rows if row["value"] is not None]
        value = sum(values) / len(values) if values else self._mean_of(aggregates)
        names = list(dict.fromkeys(key for row in rows for key in row))
        return Outcomes(
            metric=self.metric,
            value=value,
            columns={key: [row.get(key) for row in rows] for key in names},
            cut_off=cut_off,
            too_long=too_long,
            aggregates=aggregates,
        )

    def _mean_of(self, aggregates: Mapping[str, float]) -> float:
        """Take the mean of tasks with one metric by their items, as lm-eval does for a group.

        Raises:
            InputError: they have different ones.
        """
        headlines = dict.fromkeys(map(self._headline, aggregates))
        if len(headlines) > 1:
            raise InputError(
                f"the tasks of {self.name} have different metrics ({', '.join(headlines)}), and "
                f"none has a value for each item: they have no mean; name the tasks themselves: "
                f"{setting_name('tasks')} {','.join(aggregates)}",
                setting="tasks",
                found=self.name,
                allowed=tuple(aggregates),
            )
        items = {name: len(self.samples[name]) for name in aggregates}
        return sum(aggregates[name] * items[name] for name in aggregates) / sum(items.values())


def _row(task: str, headline: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Make one item's line: who it is, what was answered, what that is worth."""
    doc = sample["doc"]
    graded = {str(key): sample[key] for key in sample["metrics"]}
    if str(doc.get("max_length")) in graded:  # RULER names its metric by the item's length
        headline = str(doc["max_length"])
    shared = source_of(task, doc, sample["doc_id"])
    facets = {key: doc[key] for key in FACETS if isinstance(doc.get(key), (str, int))}
    if shared is not None:
        facets["language"] = shared.language
    flags = [key.removeprefix("is_") for key, on in graded.items() if key.startswith("is_") and on]
    value = _number(graded.get(headline))
    name = f"{task}/{sample['doc_id']}"
    row = {
        "id": str(doc["id"]) if task.startswith("awqbench_") and "id" in doc else name,
        "task": task,
        "source": shared.source if shared else str(doc.get("source", name)),
        "parallel": shared.parallel if shared else str(doc.get("source", name)),
        **facets,
        "value": value,
        "outcome": flags[0] if flags else {1.0: "right", 0.0: "wrong"}.get(value or 0.0, "partly"),
        "answer": _answer(sample["filtered_resps"]),
    }
    others = (key for key in graded if key != headline and not key.startswith("is_"))
    return row | {key: _number(graded[key]) for key in others}


def _number(value: Any) -> float | None:
    """Give a per-item number from 0 to 1, or None: only these can be paired as accuracies."""
    if isinstance(value, (bool, int, float)) and 0.0 <= float(value) <= 1.0:
        return float(value)
    return None


def _answer(responses: Sequence[Any]) -> str | list[float]:
    """Give the text that was generated, or the log-likelihood of every option."""
    if len(responses) == 1 and not isinstance(responses[0], tuple):
        return str(responses[0])
    return [float(one[0] if isinstance(one, (tuple, list)) else one) for one in responses]


def _aggregate(result: Mapping[str, Any], task: str, headline: str) -> float:
    scores = result["results"][task]
    found = [value for key, value in scores.items() if key.split(",")[0] == headline]
    return float(found[0])


def _subset(count: int, options: TaskOptions) -> list[int]:
    """Choose which items are run.

    Tasks of equal length get the same ones: what is parallel between them (translations) stays so.
    """
    if options.limit is None or options.limit >= count:
        return list(range(count))
    chosen = random.Random(f"{options.seed}:{count}").sample(range(count), options.limit)
    return sorted(chosen)


def target_of(suite: str, source: Source) -> str:
    """Give lm-eval's name of a suite's task group."""
    return f"awqbench_{suite}" + ("_standard" if source == "standard" else "")


def _load(
    name: str,
    target: str,
    options: TaskOptions,
    *,
    tokenizer_folder: Path,
    context: int | None,
) -> dict[str, Any]:
    """Load lm-eval's tasks by name, from data that lies here or on the hub."""
    with _quietly():
        from lm_eval.tasks import TaskManager

        data_sets: list[str] = []
        copies: list[bool] = []

        def local_first(config: dict[str, Any]) -> dict[str, Any]:
            """Take a data set from the user's folder where it holds one of that name."""
            if config.get("dataset_path"):
                data_sets.append(str(config["dataset_path"]))
            localized = _localized(config, options.data_dir)
            copies.append(localized is not config)
            return localized

        metadata = _metadata(target, options, tokenizer_folder, context)
        ours = target.startswith("awqbench_") and not target.endswith("_standard")
        manager = TaskManager(
            include_path=str(FOLDER), include_defaults=not ours, metadata=metadata
        )
        internals.rewrite_configurations(manager, local_first, metadata)
        if target not in manager.all_tasks:
            # Thousands are known: name the nearest, not all.
            near = difflib.get_close_matches(target, manager.all_tasks, n=3)
            raise InputError(
                f"unknown task {target!r}; "
                + (f"did you mean {' or '.join(map(repr, near))}? " if near else "")
                + "`lm-eval ls tasks` lists lm-eval's, `awq-bench list` the suites"
            )
        if re.match(r"ruler|niah_|awqbench_long_prompt_standard", target):
            _refuse_remote_code(tokenizer_folder)
        offline = use_cache_if_unreachable()
        try:
            loaded: dict[str, Any] = manager.load([target])
        except InputError:
            raise
        except Exception as error:  # lm-eval lets whatever a data set raised through
            reason = (str(error) or type(error).__name__).splitlines()[0]
            data_set = data_sets[-1] if data_sets else "its data set"
            if copies and copies[-1]:
                raise InputError(
                    f"the copy of {data_set} in {options.data_dir} cannot be used ({reason}); it "
                    "has to be the hub's repository, or files named by split such as test.jsonl"
                ) from error
            raise InputError(_cannot_load(name, target, data_set, offline or reason)) from error
    if not loaded["tasks"]:
        raise InputError(f"task {target!r} holds no tasks")
    return loaded


def _metadata(
    target: str, options: TaskOptions, tokenizer_folder: Path, context: int | None
) -> dict[str, Any]:
    """Give what lm-eval hands on to the functions that make a task's items."""
    metadata: dict[str, Any] = {"tokenizer": str(tokenizer_folder)}
    if target.startswith("awqbench_long_prompt"):
        longest = min(context or LONGEST, LONGEST)
        metadata["max_seq_lengths"] = list(options.lengths or default_lengths(longest))
    if options.num_fewshot is not None:
        metadata["num_fewshot"] = options.num_fewshot
    if options.data_dir is not None and (options.data_dir / "bfcl").is_dir():
        metadata["bfcl_data"] = str(options.data_dir / "bfcl")
    return metadata


def _refuse_remote_code(tokenizer_folder: Path) -> None:
    """Refuse a tokenizer with code of its own, which RULER would trust, whatever the user said."""
    path = tokenizer_folder / "tokenizer_config.json"
    if path.is_file() and "auto_map" in json.loads(path.read_text("utf-8")):
        raise InputError(
            f"{path} names code of its own (auto_map), and lm-eval's RULER would run it; remove "
            "auto_map if the tokenizer works without, or use "
            f"{setting_name('tasks_source')} embedded",
            setting="tasks_source",
            found="standard",
            allowed=("embedded",),
        )


def _localized(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Turn a configuration's data set's path to a local copy, if there is one."""
    path = config.get("dataset_path")
    if folder is None or not isinstance(path, str) or not (folder / path).is_dir():
        return config
    local, subset = folder / path, config.get("dataset_name")
    if subset and not (local / "README.md").is_file():  # not the hub's repository
        if not (local / str(subset)).is_dir():
            raise InputError(
                f"{local} is no copy of the hub's repository (no README.md) and has no folder "
                f"{subset!r} for that configuration; put its files, such as test.jsonl, there"
            )
        return config | {"dataset_path": str(local / str(subset)), "dataset_name": None}
    return config | {"dataset_path": str(local)}


def _cannot_load(name: str, target: str, data_set: str, reason: str) -> str:
    ours = f", or use the items that ship: {setting_name('tasks_source')} embedded"
    return (
        f"task {target!r} needs {data_set}, which cannot be loaded ({reason}); put a copy of it "
        f"at DIR/{data_set} and give {setting_name('tasks_data')} DIR"
        + (ours if name in TASK_SUITES else "")
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence lm-eval and its bars, which talk over our own."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with internals.no_bars():
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _version() -> str:
    from importlib import metadata

    return metadata.version("lm-eval")
