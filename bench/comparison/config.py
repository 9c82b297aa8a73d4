"""Options are read from a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.comparison.request import Request
from quantcore import files
from quantcore.errors import InputError, nearest


def config_values(path: Path) -> dict[str, Any]:
    """Read a config file's options as fields of `Request`, and ``out``.

    Raises:
        InputError: an unreadable file, an unknown key or a value of the wrong type.
    """
    kinds = {f.name: str(f.type) for f in fields(Request)} | {"out": "Path"}
    values = {}
    for key, value in _read_toml(path).items():
        name = key.replace("-", "_")
        if name not in kinds:
            known = [kind.replace("_", "-") for kind in kinds]
            raise InputError(f"{path}: unknown key {key!r}; {nearest(key, known)}")
        values[name] = _from_toml(path, key, value, kinds[name])
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise InputError(f"--config {path} is no file; name one that holds TOML")
    try:
        return tomllib.loads(files.read_text(path))
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of numbers and nesting beyond all use
        raise InputError(f"--config {path} is not TOML: {error}") from error


def _from_toml(path: Path, key: str, value: Any, kind: str) -> Any:
    """Give a TOML value as a field of `Request` of type ``kind`` holds it."""
    if kind == "bool":
        if type(value) is not bool:
            raise InputError(f"{path}: {key} must be true or false, not {value!r}")
        return value
    if kind == "tuple[int, ...]":
        if isinstance(value, list) and all(type(item) is int for item in value):
            return tuple(value)
        raise InputError(f"{path}: {key} must be a list of whole numbers, not {value!r}")
    if kind.startswith("tuple"):
        if isinstance(value, str):
            return names(value)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise InputError(f"{path}: {key} must be a list of names, not {value!r}")
    if kind.startswith("float"):
        if type(value) not in (int, float):
            raise InputError(f"{path}: {key} must be a number, not {value!r}")
        return float(value)
    if kind.startswith("int"):
        if type(value) is not int:
            raise InputError(f"{path}: {key} must be a whole number, not {value!r}")
        return value
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"{path}: {key} must be a string without NUL, not {value!r}")
    return Path(value) if kind.startswith("Path") else value


def names(value: str) -> tuple[str, ...]:
    """Split names that commas separate."""
    return tuple(name.strip() for name in value.split(",") if name.strip())
