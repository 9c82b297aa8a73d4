"""Options become a `Request`: they win over the configuration file, and it over the defaults."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from quantcore.errors import InputError

if TYPE_CHECKING:
    from bench.comparison.request import Request


def with_config(given: argparse.Namespace) -> argparse.Namespace:
    """Fill in from the file of ``--config`` what was not given as an option.

    Raises:
        InputError: an unreadable file, an unknown key or a value of the wrong type.
    """
    if getattr(given, "config", None) is None:
        return given
    from bench.comparison.config import config_values

    options = {name: value for name, value in vars(given).items() if value is not None}
    return argparse.Namespace(**{**vars(given), **config_values(given.config), **options})


def request(given: argparse.Namespace, *, command: str, **fixed: object) -> Request:
    """Build what the options of a command ask for.

    Args:
        given: the options.
        command: its name.
        fixed: options that the command decides itself.

    Raises:
        InputError: no model, or options that cannot work.
    """
    from bench.comparison.request import Request, option_paths

    values = {
        name: value for name in option_paths() if (value := getattr(given, name, None)) is not None
    }
    if not values.get("model") and command != "compare":
        raise InputError(f"{command} needs a MODEL: a hub name, a local folder, or 'reference'")
    return Request.of(**{**values, "data_dir": data_dir(given), **fixed})


def named_data_dir(given: argparse.Namespace) -> Path | None:
    """Read which folder ``--data-dir`` names, or else AWQ_BENCH_DATA; it need not be there."""
    named = given.data_dir or os.environ.get("AWQ_BENCH_DATA")
    return Path(named) if named else None


def data_dir(given: argparse.Namespace) -> Path | None:
    """Find the folder with local copies of the texts.

    Raises:
        InputError: it is named, and not there.
    """
    folder = named_data_dir(given)
    if folder is not None and not folder.is_dir():
        raise InputError(f"data folder {folder} (--data-dir or AWQ_BENCH_DATA) is not there")
    return folder
