"""Errors about files and folders that the user named are the user's to mend."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quantcore.errors import InputError

_OF_A_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
)
"""No room, no rights, a name too long: for the user to change, wherever it arises."""

_VARIABLES = ("AWQ_BENCH_CACHE", "AWQ_BENCH_DATA", "GITHUB_STEP_SUMMARY", "TMPDIR")


def named(given: argparse.Namespace) -> list[Path]:
    """List the files and folders that options or variables name, and our own."""
    variables = [os.environ.get(name) for name in _VARIABLES]
    values = [*vars(given).values(), *filter(None, variables), "awq-bench-runs"]
    return [Path(value).absolute() for value in values if isinstance(value, Path | str)]


def is_the_users(error: OSError, places: Sequence[Path]) -> bool:
    """Say whether an error is about a place that the user named, or what only the user can change.

    Any other is a defect of this program. So is a file that is not there, unless the user named
    it, or the place in which it should be is gone: what lies in such a place is our own.
    """
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # met while writing: no file is named
    path = Path(os.fsdecode(error.filename)).absolute()
    if error.errno == errno.ENOENT:
        holders = [place for place in places if path.is_relative_to(place)]
        return path in places or any(not place.exists() for place in holders)
    return error.errno in _OF_A_MACHINE or any(path.is_relative_to(place) for place in places)


def refuse_unwritable(option: str, path: Path) -> None:
    """Refuse, before anything is measured, a place where nothing could be written at the end.

    Raises:
        InputError: something above ``path`` is a file, or its folder cannot be written.
    """
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise InputError(f"{option} {path}: {place} is a file, not a folder; name another place")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:  # also where the rights would allow it
        raise InputError(
            f"{option} {path}: {place} cannot be written ({error.strerror}); name another place"
        ) from error
