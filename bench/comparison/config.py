"""Options are read from a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bench.comparison.request import option_paths, typed
from quantcore import files
from quantcore.errors import InputError, nearest, setting_name


def config_values(path: Path) -> dict[str, Any]:
    """Read a config file's options by their names, and ``out``.

    Raises:
        InputError: an unreadable file, an unknown key or a value of the wrong type.
    """
    names = [*option_paths(), "out"]
    values = {}
    for key, value in _read_toml(path).items():
        name = key.replace("-", "_")
        if name not in names:
            known = [name.replace("_", "-") for name in names]
            raise InputError(f"{path}: unknown key {key!r}; {nearest(key, known)}")
        # The folder for what comes out is no part of a request, and a place as its others are.
        typed("data_dir" if name == "out" else name, value, where=f"{path}: {key}")
        values[name] = Path(value) if name in ("out", "data_dir", "tasks_data") else value
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    asked = f"{setting_name('config')} {path}"
    if path.exists() and not path.is_file():
        raise InputError(f"{asked} is no file; name one that holds TOML")
    try:
        return tomllib.loads(files.read_text(path))
    except OSError as error:
        raise InputError(f"{asked} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of numbers and nesting beyond all use
        raise InputError(f"{asked} is not TOML: {error}") from error
