"""A user's request has parts: one model gives types, defaults, rules, messages and options.

Every leaf is an option with a name of its own (``calibration_samples`` is ``calibration.samples``):
that of the command line, of a configuration file, of a manifest and of a baseline. `Request.of`
makes a request of options by these names, wherever they come from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from bench import registry
from bench.comparison.rules import (
    Backend,
    Backends,
    Copies,
    DataFolder,
    Examples,
    Lengths,
    Methods,
    Names,
    Price,
    Refused,
    Schemes,
    Seed,
    Suites,
    TaskNames,
    Truth,
    Whole,
    Wholes,
    Words,
    WrongType,
    each_once,
    least,
    one_of,
)
from quantcore.errors import InputError, nearest, setting_name
from suites import SUITES, TASK_SUITES


@dataclass(frozen=True)
class Option:
    """An option name marks a field whose option is called otherwise."""

    name: str


class Part(BaseModel):
    """A part has options that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Load(Part):
    """Loading options say how the model is loaded."""

    revision: Words | None = None
    """Branch, tag or commit of a hub model; None: the hub's own."""
    dtype: Annotated[Words, one_of("auto", "float32", "float16", "bfloat16")] = "auto"
    """What the model runs in; auto: float32 on a CPU, the model's own on a GPU."""
    device: Annotated[Words, one_of("auto", "cpu", "cuda")] = "auto"
    """Where it runs; auto: on the GPU if there is one."""


class Text(Part):
    """Text options say what perplexity and divergence are measured on."""

    name: Annotated[Words | None, Option("text")] = None
    """A known text or a file; None: WikiText-2 if it can be had, else the embedded one."""
    seqlen: Whole | None = None
    """Tokens of a window; None: 2048, or the model's context, or 256 on the embedded text."""
    windows: Whole | None = None
    """Only so many, spread evenly over the text; None: all."""
    batch_size: Annotated[Whole, least(1)] | None = None
    """Windows in a forward pass; None: as many as make 2048 tokens, 16384 on a GPU."""


class Tasks(Part):
    """Task options say what is asked of the model, by lm-eval."""

    names: Annotated[TaskNames, Option("tasks")] = ()
    """Tasks of lm-eval by name, beside the suites."""
    source: Annotated[Words, one_of("embedded", "standard"), Option("tasks_source")] = "embedded"
    """Items that ship with the package, or the field's own sets."""
    schemes: Annotated[Names, Option("tasks_schemes")] = ()
    """Schemes whose cells run tasks, which take long; empty: all."""
    data: Annotated[Copies | None, Option("tasks_data")] = None
    """Local copies of data sets, each under its name on the hub."""
    limit: Annotated[Whole, least(1, " item of every task")] | None = None
    """Items of every task at most, drawn by seed; None: all."""
    num_fewshot: Examples | None = None
    """Worked examples in every prompt; None: as each task says."""
    chat_template: Truth = False
    """Whether prompts are put into the tokenizer's chat template."""
    lengths: Lengths = ()
    """Tokens of long_prompt's prompts; empty: powers of two from 256 to the context."""
    allow_code_execution: Truth = False
    """Whether programs that the model writes may run, in a sandbox."""


class CalibrationText(Part):
    """Calibration options say what methods are calibrated on."""

    name: Annotated[Words | None, Option("calibration")] = None
    """A known text, a file or ``self``; None: what fits the model and can be had."""
    samples: Annotated[Whole, Option("calibration_samples")] = 128
    """How many sequences."""
    seed: Annotated[Seed | None, Option("calibration_seed")] = None
    """Where its sequences start; None: the request's own."""
    seqlen: Annotated[Whole | None, Option("calibration_seqlen")] = None
    """Tokens of a sequence; None: 512, or the model's context if that is less."""


class Throughput(Part):
    """Throughput options say how speed is measured."""

    backends: Annotated[Backends, Option("throughput_backends")] = ()
    """What runs quantized linears, each in turn; none: that of the request, or ``auto``."""
    batch_sizes: Annotated[Wholes, each_once(1)] = (1, 4)
    """Sequences at once."""
    prompt_lengths: Annotated[Wholes, each_once(1)] = (128, 512)
    """Tokens of a prompt."""
    new_tokens: Annotated[Whole, least(2)] = 32
    """Tokens written after it."""
    rounds: Annotated[Whole, least(2)] = 5
    """Runs of each kind, in turn with the unquantized model."""
    price_per_hour: Price | None = None
    """What the machine costs; None: no cost is modelled."""


class Request(Part):
    """A request says what a user asks for; the defaults are the command line's."""

    model: Words = "reference"
    """A folder, a name on the hub, or ``reference``."""
    methods: Methods = ("rtn", "gptq", "awq", "awq+clip")
    """How the model is quantized, each in turn."""
    schemes: Schemes = ("int4-g128", "int4-g32", "int3-g128")
    """How weights are stored, each with every method."""
    exclude: Names = ()
    """Linears left unquantized, by patterns of their names."""
    backend: Backend | None = None
    """What runs quantized linears; None: exactly the dequantized weights."""
    suites: Suites = ("perplexity",)
    """What is measured."""
    text: Text = Text()
    tasks: Tasks = Tasks()
    throughput: Throughput = Throughput()
    calibration: CalibrationText = CalibrationText()
    load: Load = Load()
    seed: Seed = 0
    """Of everything random."""
    data_dir: DataFolder | None = None
    """Local copies of texts."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        """Refuse options that contradict each other."""
        if self.schemes and not self.methods:
            raise Refused(f"no method given; known: {', '.join(registry.METHODS)}")
        if self.methods and not self.schemes:
            raise Refused("no scheme given; name at least one, for example int4-g128")
        if not self.suites and not self.tasks.names:
            raise Refused(f"no suite given; known: {', '.join(SUITES)}")
        self._check_tasks()
        for name, given in (
            ("throughput_backends", ",".join(self.throughput.backends)),
            ("price_per_hour", self.throughput.price_per_hour),
        ):
            if given and "throughput" not in self.suites:
                raise Refused(
                    f"{setting_name(name)} {given}: speed is not measured; add throughput to "
                    f"{setting_name('suites')}"
                )
        revision = self.load.revision
        if revision is not None and (self.model == "reference" or Path(self.model).exists()):
            raise Refused(
                f"{setting_name('revision')} {revision}: {self.model} is local and has no "
                "revisions; leave it out"
            )
        return self

    def _check_tasks(self) -> None:
        """Refuse tasks that could not run as asked."""
        own, asked = set(self.suites), set(TASK_SUITES)
        schemes, suites = setting_name("tasks_schemes"), setting_name("suites")
        for scheme in self.tasks.schemes:
            if scheme not in self.schemes:
                raise Refused(
                    f"{schemes} {scheme}: not among the schemes of this comparison "
                    f"({', '.join(self.schemes) or 'none'})"
                )
        if self.tasks.schemes and not self.tasks.names and not asked & own:
            raise Refused(
                f"{schemes} {','.join(self.tasks.schemes)}: no tasks are asked for; add a "
                f"task suite to {suites}, or leave it out"
            )
        idle = [scheme for scheme in self.schemes if scheme not in self.tasks.schemes]
        if self.tasks.schemes and idle and own <= asked:
            raise Refused(
                f"{schemes} leaves nothing to measure at {', '.join(idle)}; leave these "
                f"schemes out, or add perplexity to {suites}"
            )
        if "code" in self.suites and not self.tasks.allow_code_execution:
            raise Refused(
                "suite code runs programs that the model writes; allow it with "
                f"{setting_name('allow_code_execution')} (they run in a sandbox), or leave code out"
            )

    @classmethod
    def of(cls, /, **options: object) -> Self:
        """Make a request of options by their names; what is not given has its default.

        Args:
            options: ``calibration_samples=64``; lists of names may be one string with commas.

        Raises:
            InputError: an unknown name, a value of the wrong type, or one that breaks a rule.
        """
        nested: dict[str, Any] = {}
        for name, value in options.items():
            path = option_paths().get(name)
            if path is None:
                raise InputError(f"unknown option {name!r}; {nearest(name, option_paths())}")
            *parts, last = path
            inner = nested
            for part in parts:
                inner = inner.setdefault(part, {})
            inner[last] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise InputError(_message(error)) from error

    def options(self) -> dict[str, Any]:
        """Give every option by its name, with its value."""
        return {
            name: functools.reduce(getattr, path, self) for name, path in option_paths().items()
        }

    def but(self, **changes: object) -> Self:
        """Ask the same with other values of these options.

        Raises:
            InputError: see `of`.
        """
        return self.of(**{**self.options(), **changes})


@functools.cache
def option_paths() -> dict[str, tuple[str, ...]]:
    """Say where the option of each name stands in a `Request`: ``("calibration", "samples")``."""
    return dict(_leaves(Request, ()))


def _leaves(part: type[Part], above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for field, info in part.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Part):
            yield from _leaves(info.annotation, (*above, field))
        else:
            named = (mark.name for mark in info.metadata if isinstance(mark, Option))
            yield next(named, field), (*above, field)


def check_price(price_per_hour: float | None) -> None:
    """Refuse a price that is none, of tables that are drawn again.

    Raises:
        InputError: it is 0 or less, or not finite.
    """
    Request.of(suites=("throughput",), price_per_hour=price_per_hour)


def typed(name: str, value: object, *, where: str) -> object:
    """Refuse a value of the wrong type, whatever else is asked for; rules are for the whole.

    Args:
        name: of the option.
        value: as a file holds it.
        where: names file and key, for the message.

    Raises:
        InputError: it has another type than the option.
    """
    try:
        _adapter(name).validate_python(value)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0].get("ctx", {}).get("error")
        if isinstance(reason, WrongType):
            raise InputError(f"{where} must be {reason}, not {value!r}") from error
    return value


@functools.cache
def _adapter(name: str) -> TypeAdapter[Any]:
    """Make what validates the option of one name alone."""
    *parts, field = option_paths()[name]
    part: type[Part] = Request
    for step in parts:
        kind = part.model_fields[step].annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Part)
        part = kind
    info = part.model_fields[field]
    # The annotation is known only here, and to no type checker.
    return TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]


def _message(error: ValidationError) -> str:
    """Say the first thing that is wrong to a user: option, value, rule and fix."""
    found = error.errors(include_url=False)[0]
    path = tuple(step for step in found["loc"] if isinstance(step, str))
    name = next((name for name, place in option_paths().items() if place == path), "")
    reason = found.get("ctx", {}).get("error")
    if isinstance(reason, WrongType):
        return f"{setting_name(name)} must be {reason}, not {found['input']!r}"
    if isinstance(reason, Refused):
        return str(reason).replace("{option}", setting_name(name))
    return str(reason or found["msg"])
