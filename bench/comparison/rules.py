"""Options have types and keep rules, whatever request their values are part of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from bench import registry
from kernels import backends
from quantcore.errors import nearest, setting_name
from quantcore.scheme import QuantScheme
from suites import SUITES


class WrongType(ValueError):
    """A value is of another kind than its option; the text says which is wanted."""


class Refused(ValueError):
    """A value breaks a rule; the text is the whole message, with ``{option}`` for the option."""


def _whole(value: object) -> object:
    if type(value) is not int:
        raise WrongType("a whole number")
    return value


def _number(value: object) -> object:
    if type(value) not in (int, float):
        raise WrongType("a number")
    return value


def _truth(value: object) -> object:
    if type(value) is not bool:
        raise WrongType("true or false")
    return value


def _text(value: object) -> object:
    if not isinstance(value, str) or "\0" in value:
        raise WrongType("a string without NUL")
    return value


def _place(value: object) -> object:
    return value if isinstance(value, Path) else _text(value)


def _names(value: object) -> object:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise WrongType("a list of names")


def _numbers(value: object) -> object:
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return tuple(value)
    raise WrongType("a list of whole numbers")


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Words = Annotated[str, BeforeValidator(_text)]
Place = Annotated[Path, BeforeValidator(_place)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Wholes = Annotated[tuple[int, ...], BeforeValidator(_numbers)]


def least(bound: int, of: str = "") -> AfterValidator:
    """Make a validator that refuses numbers below ``bound``."""

    def check(value: int) -> int:
        if value < bound:
            raise Refused(f"{{option}} {value}: must be at least {bound}{of}")
        return value

    return AfterValidator(check)


def each_once(bound: int) -> AfterValidator:
    """Make a validator that refuses numbers below ``bound`` or named twice, and an empty list."""

    def check(values: tuple[int, ...]) -> tuple[int, ...]:
        shown = ",".join(map(str, values))
        if len(set(values)) < len(values):
            raise Refused(f"{{option}} {shown}: name each number once")
        if not values or min(values) < bound:
            raise Refused(f"{{option}} {shown}: must be at least {bound}")
        return values

    return AfterValidator(check)


def one_of(*known: str) -> AfterValidator:
    """Make a validator that refuses names other than ``known``."""

    def check(value: str) -> str:
        if value not in known:
            raise Refused(f"unknown {{option}} {value!r}; {nearest(value, known)}")
        return value

    return AfterValidator(check)


def _repeated(names: Iterable[str]) -> list[str]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})


def _unrepeated(kind: str, names: Iterable[str]) -> None:
    if repeated := _repeated(names):
        raise Refused(f"{kind} {', '.join(repeated)} is given twice; name each once")


def _methods(names: tuple[str, ...]) -> tuple[str, ...]:
    _unrepeated("method", (registry.method(name).name for name in names))
    return names


def _schemes(names: tuple[str, ...]) -> tuple[str, ...]:
    _unrepeated("scheme", (QuantScheme.parse(name).name for name in names))
    return names


def _suites(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in SUITES:
            raise Refused(f"unknown suite {name!r}; {nearest(name, SUITES)}")
    _unrepeated("suite", names)
    return names


def _tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name in SUITES:
            suites = setting_name("suites")
            raise Refused(f"{{option}} {name}: that is a suite; give it with {suites}")
    _unrepeated("task", names)
    return names


def _backend(name: str) -> str:
    if name not in backends.NAMES:
        raise Refused(f"{{option}} {name}: unknown; {nearest(name, backends.NAMES)}")
    return name


def _backends(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        _backend(name)
    if _repeated(names):
        raise Refused(f"{{option}} {','.join(names)}: name each once")
    return names


def _fewshot(count: int) -> int:
    if count < 0:
        raise Refused(f"{{option}} {count}: must be 0 or more")
    return count


def _long(lengths: tuple[int, ...]) -> tuple[int, ...]:
    if lengths and min(lengths) < 128:
        raise Refused(f"{{option}} {min(lengths)}: a long prompt takes at least 128 tokens")
    return lengths


def _price(price: float) -> float:
    if not 0 < price < math.inf:
        raise Refused(f"{{option}} {price}: must be more than 0")
    return price


def _seed(number: int) -> int:
    if not 0 <= number < 2**63:
        raise Refused(f"{{option}} {number}: must be a whole number from 0 to 2^63 - 1")
    return number


def _copies(folder: Path) -> Path:
    if not folder.is_dir():
        raise Refused(f"{{option}} {folder}: no such folder; name the one with the copies")
    return folder


def _data(folder: Path) -> Path:
    if not folder.is_dir():
        raise Refused(f"data folder {folder} ({{option}} or AWQ_BENCH_DATA) is not there")
    return folder


Seed = Annotated[Whole, AfterValidator(_seed)]
Price = Annotated[Number, AfterValidator(_price)]

Methods = Annotated[Names, AfterValidator(_methods)]
Schemes = Annotated[Names, AfterValidator(_schemes)]
Suites = Annotated[Names, AfterValidator(_suites)]
TaskNames = Annotated[Names, AfterValidator(_tasks)]
Backend = Annotated[Words, AfterValidator(_backend)]
Backends = Annotated[Names, AfterValidator(_backends)]
Examples = Annotated[Whole, AfterValidator(_fewshot)]
Lengths = Annotated[Wholes, AfterValidator(_long)]
Copies = Annotated[Place, AfterValidator(_copies)]
DataFolder = Annotated[Place, AfterValidator(_data)]
