"""What a user asks for, in parts: one model gives types, defaults, checks, messages and options.

Every leaf is an option with a name of its own (``calibration_samples`` is ``calibration.samples``):
that of the command line, of a configuration file, of a manifest and of a baseline. `Request.of`
makes a request of options by these names, wherever they come from.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from bench import registry
from kernels import backends
from quantcore.errors import InputError, nearest, setting_name
from quantcore.scheme import QuantScheme
from suites import SUITES, TASK_SUITES


class _WrongType(ValueError):
    """The value is of another kind; the text says which is wanted."""


class _Refused(ValueError):
    """The value breaks a rule; the text is the whole message, with ``{option}`` and ``{value}``."""


def _whole(value: object) -> object:
    if type(value) is not int:
        raise _WrongType("a whole number")
    return value


def _number(value: object) -> object:
    if type(value) not in (int, float):
        raise _WrongType("a number")
    return value


def _truth(value: object) -> object:
    if type(value) is not bool:
        raise _WrongType("true or false")
    return value


def _text(value: object) -> object:
    if not isinstance(value, str) or "\0" in value:
        raise _WrongType("a string without NUL")
    return value


def _place(value: object) -> object:
    return value if isinstance(value, Path) else _text(value)


def names_in(text: str) -> tuple[str, ...]:
    """Split names that commas separate."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _names(value: object) -> object:
    if isinstance(value, str):
        return names_in(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _WrongType("a list of names")


def _numbers(value: object) -> object:
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return tuple(value)
    raise _WrongType("a list of whole numbers")


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Words = Annotated[str, BeforeValidator(_text)]
Place = Annotated[Path, BeforeValidator(_place)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Wholes = Annotated[tuple[int, ...], BeforeValidator(_numbers)]


def _least(bound: int, of: str = "") -> AfterValidator:
    """No number below this one."""

    def check(value: int) -> int:
        if value < bound:
            raise _Refused(f"{{option}} {value}: must be at least {bound}{of}")
        return value

    return AfterValidator(check)


def _each_once(bound: int) -> AfterValidator:
    """Some numbers, none below this one, none twice."""

    def check(values: tuple[int, ...]) -> tuple[int, ...]:
        shown = ",".join(map(str, values))
        if len(set(values)) < len(values):
            raise _Refused(f"{{option}} {shown}: name each number once")
        if not values or min(values) < bound:
            raise _Refused(f"{{option}} {shown}: must be at least {bound}")
        return values

    return AfterValidator(check)


def _one_of(*known: str) -> AfterValidator:
    """No name but these."""

    def check(value: str) -> str:
        if value not in known:
            raise _Refused(f"unknown {{option}} {value!r}; {nearest(value, known)}")
        return value

    return AfterValidator(check)


def _repeated(names: Iterable[str]) -> list[str]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})


def _unrepeated(kind: str, names: Iterable[str]) -> None:
    if repeated := _repeated(names):
        raise _Refused(f"{kind} {', '.join(repeated)} is given twice; name each once")


def _methods(names: tuple[str, ...]) -> tuple[str, ...]:
    _unrepeated("method", (registry.method(name).name for name in names))
    return names


def _schemes(names: tuple[str, ...]) -> tuple[str, ...]:
    _unrepeated("scheme", (QuantScheme.parse(name).name for name in names))
    return names


def _suites(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in SUITES:
            raise _Refused(f"unknown suite {name!r}; {nearest(name, SUITES)}")
    _unrepeated("suite", names)
    return names


def _tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name in SUITES:
            suites = setting_name("suites")
            raise _Refused(f"{{option}} {name}: that is a suite; give it with {suites}")
    _unrepeated("task", names)
    return names


def _backend(name: str) -> str:
    if name not in backends.NAMES:
        raise _Refused(f"{{option}} {name}: unknown; {nearest(name, backends.NAMES)}")
    return name


def _backends(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        _backend(name)
    if _repeated(names):
        raise _Refused(f"{{option}} {','.join(names)}: name each once")
    return names


def _fewshot(count: int) -> int:
    if count < 0:
        raise _Refused(f"{{option}} {count}: must be 0 or more")
    return count


def _long(lengths: tuple[int, ...]) -> tuple[int, ...]:
    if lengths and min(lengths) < 128:
        raise _Refused(f"{{option}} {min(lengths)}: a long prompt takes at least 128 tokens")
    return lengths


def _price(price: float) -> float:
    if not 0 < price < math.inf:
        raise _Refused(f"{{option}} {price}: must be more than 0")
    return price


def _seed(number: int) -> int:
    if not 0 <= number < 2**63:
        raise _Refused(f"{{option}} {number}: must be a whole number from 0 to 2^63 - 1")
    return number


def _copies(folder: Path) -> Path:
    if not folder.is_dir():
        raise _Refused(f"{{option}} {folder}: no such folder; name the one with the copies")
    return folder


def _data(folder: Path) -> Path:
    if not folder.is_dir():
        raise _Refused(f"data folder {folder} ({{option}} or AWQ_BENCH_DATA) is not there")
    return folder


Seed = Annotated[Whole, AfterValidator(_seed)]
Price = Annotated[Number, AfterValidator(_price)]


@dataclass(frozen=True)
class Option:
    """Marks a field whose option has another name than the field."""

    name: str


class Part(BaseModel):
    """Options that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Load(Part):
    """How the model is loaded."""

    revision: Words | None = None
    """Branch, tag or commit of a hub model; None: the hub's own."""
    dtype: Annotated[Words, _one_of("auto", "float32", "float16", "bfloat16")] = "auto"
    """What the model runs in; auto: float32 on a CPU, the model's own on a GPU."""
    device: Annotated[Words, _one_of("auto", "cpu", "cuda")] = "auto"
    """Where it runs; auto: on the GPU if there is one."""


class Text(Part):
    """What perplexity and divergence are measured on."""

    name: Annotated[Words | None, Option("text")] = None
    """A known text or a file; None: WikiText-2 if it can be had, else the embedded one."""
    seqlen: Whole | None = None
    """Tokens of a window; None: 2048, or the model's context, or 256 on the embedded text."""
    windows: Whole | None = None
    """Only so many, spread evenly over the text; None: all."""
    batch_size: Annotated[Whole, _least(1)] | None = None
    """Windows in a forward pass; None: as many as make 2048 tokens, 16384 on a GPU."""


class Tasks(Part):
    """What is asked of the model, by lm-eval."""

    names: Annotated[Names, AfterValidator(_tasks), Option("tasks")] = ()
    """Tasks of lm-eval by name, beside the suites."""
    source: Annotated[Words, _one_of("embedded", "standard"), Option("tasks_source")] = "embedded"
    """Items that ship with the package, or the field's own sets."""
    schemes: Annotated[Names, Option("tasks_schemes")] = ()
    """Schemes whose cells run tasks, which take long; empty: all."""
    data: Annotated[Annotated[Place, AfterValidator(_copies)] | None, Option("tasks_data")] = None
    """Local copies of data sets, each under its name on the hub."""
    limit: Annotated[Whole, _least(1, " item of every task")] | None = None
    """Items of every task at most, drawn by seed; None: all."""
    num_fewshot: Annotated[Whole, AfterValidator(_fewshot)] | None = None
    """Worked examples in every prompt; None: as each task says."""
    chat_template: Truth = False
    """Whether prompts are put into the tokenizer's chat template."""
    lengths: Annotated[Wholes, AfterValidator(_long)] = ()
    """Tokens of long_prompt's prompts; empty: powers of two from 256 to the context."""
    allow_code_execution: Truth = False
    """Whether programs that the model writes may run, in a sandbox."""


class CalibrationText(Part):
    """What methods are calibrated on."""

    name: Annotated[Words | None, Option("calibration")] = None
    """A known text, a file or ``self``; None: what fits the model and can be had."""
    samples: Annotated[Whole, Option("calibration_samples")] = 128
    """How many sequences."""
    seed: Annotated[Seed | None, Option("calibration_seed")] = None
    """Where its sequences start; None: the request's own."""
    seqlen: Annotated[Whole | None, Option("calibration_seqlen")] = None
    """Tokens of a sequence; None: 512, or the model's context if that is less."""


class Throughput(Part):
    """How speed is measured."""

    backends: Annotated[Names, AfterValidator(_backends), Option("throughput_backends")] = ()
    """What runs quantized linears, each in turn; none: that of the request, or ``auto``."""
    batch_sizes: Annotated[Wholes, _each_once(1)] = (1, 4)
    """Sequences at once."""
    prompt_lengths: Annotated[Wholes, _each_once(1)] = (128, 512)
    """Tokens of a prompt."""
    new_tokens: Annotated[Whole, _least(2)] = 32
    """Tokens written after it."""
    rounds: Annotated[Whole, _least(2)] = 5
    """Runs of each kind, in turn with the unquantized model."""
    price_per_hour: Price | None = None
    """What the machine costs; None: no cost is modelled."""


class Request(Part):
    """What a user asks for; the defaults are the command line's."""

    model: Words = "reference"
    """A folder, a name on the hub, or ``reference``."""
    methods: Annotated[Names, AfterValidator(_methods)] = ("rtn", "gptq", "awq", "awq+clip")
    """How the model is quantized, each in turn."""
    schemes: Annotated[Names, AfterValidator(_schemes)] = ("int4-g128", "int4-g32", "int3-g128")
    """How weights are stored, each with every method."""
    exclude: Names = ()
    """Linears left unquantized, by patterns of their names."""
    backend: Annotated[Words, AfterValidator(_backend)] | None = None
    """What runs quantized linears; None: exactly the dequantized weights."""
    suites: Annotated[Names, AfterValidator(_suites)] = ("perplexity",)
    """What is measured."""
    text: Text = Text()
    tasks: Tasks = Tasks()
    throughput: Throughput = Throughput()
    calibration: CalibrationText = CalibrationText()
    load: Load = Load()
    seed: Seed = 0
    """Of everything random."""
    data_dir: Annotated[Place, AfterValidator(_data)] | None = None
    """Local copies of texts."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        """Refuse options that contradict each other."""
        if self.schemes and not self.methods:
            raise _Refused(f"no method given; known: {', '.join(registry.METHODS)}")
        if self.methods and not self.schemes:
            raise _Refused("no scheme given; name at least one, for example int4-g128")
        if not self.suites and not self.tasks.names:
            raise _Refused(f"no suite given; known: {', '.join(SUITES)}")
        self._check_tasks()
        for name, given in (
            ("throughput_backends", ",".join(self.throughput.backends)),
            ("price_per_hour", self.throughput.price_per_hour),
        ):
            if given and "throughput" not in self.suites:
                raise _Refused(
                    f"{setting_name(name)} {given}: speed is not measured; add throughput to "
                    f"{setting_name('suites')}"
                )
        revision = self.load.revision
        if revision is not None and (self.model == "reference" or Path(self.model).exists()):
            raise _Refused(
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
                raise _Refused(
                    f"{schemes} {scheme}: not among the schemes of this comparison "
                    f"({', '.join(self.schemes) or 'none'})"
                )
        if self.tasks.schemes and not self.tasks.names and not asked & own:
            raise _Refused(
                f"{schemes} {','.join(self.tasks.schemes)}: no tasks are asked for; add a "
                f"task suite to {suites}, or leave it out"
            )
        idle = [scheme for scheme in self.schemes if scheme not in self.tasks.schemes]
        if self.tasks.schemes and idle and own <= asked:
            raise _Refused(
                f"{schemes} leaves nothing to measure at {', '.join(idle)}; leave these "
                f"schemes out, or add perplexity to {suites}"
            )
        if "code" in self.suites and not self.tasks.allow_code_execution:
            raise _Refused(
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
        if isinstance(reason, _WrongType):
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
    if isinstance(reason, _WrongType):
        return f"{setting_name(name)} must be {reason}, not {found['input']!r}"
    if isinstance(reason, _Refused):
        return str(reason).replace("{option}", setting_name(name))
    return str(reason or found["msg"])
