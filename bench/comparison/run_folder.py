"""A comparison's folder says which cells it holds, which are done, and who writes it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, SoftFileLock, Timeout

from bench.comparison.progress import Reporter
from bench.records.cell import Cell
from bench.records.document import write_json
from bench.records.record import Record, read_record
from quantcore import files
from quantcore.errors import InputError, setting_name, writing

if TYPE_CHECKING:
    from bench.comparison.request import Request

RUNS = Path("awq-bench-runs")
"""It holds the folders that nobody named."""

_MANIFEST = "comparison.json"
_LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_PLACES = ("data_dir", "tasks_data")  # where copies lie on this machine decides no outcome


class OtherComparison(InputError):
    """The folder holds a comparison that is not this one."""


class InUse(InputError):
    """Another process is writing the folder."""


@contextmanager
def locked(folder: Path, say: Reporter) -> Iterator[None]:
    """Keep other processes from writing a folder; a process that is killed keeps nobody from it.

    Args:
        folder: made if it is not there. A file in it carries the lock, and goes with it.
        say: told if the file system has no locks.

    Raises:
        InUse: another process writes it.
        InputError: it cannot be written.
    """
    path = folder.absolute() / _LOCK
    lock = FileLock(path, timeout=0, thread_local=False)  # one thread may begin, another end
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(action="ignore"):
            lock.acquire()
        if isinstance(lock, SoftFileLock):  # a file that would outlive a process that is killed
            lock.release()
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    except Timeout:
        raise InUse(f"{folder} is being written by another process; wait until it ends") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise InputError(f"{folder} cannot be written ({error.strerror}); mend that") from error
        say.warn(f"{folder} cannot be locked ({error}): let no other process write it meanwhile")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever comes next makes another
        lock.release()


class RunFolder:
    """A folder holds whole records only; its manifest says which comparison they belong to."""

    def __init__(self, path: Path, manifest: dict[str, Any], done: dict[str, Record]) -> None:
        """Use `RunFolder.open`."""
        self.path = path
        self.done = done
        self._manifest = manifest

    @classmethod
    @contextmanager
    def open(
        cls, out: Path | None, cells: Sequence[Cell], request: Request, say: Reporter
    ) -> Iterator[RunFolder]:
        """Begin a comparison, or go on with one that was interrupted; locked until the end.

        Args:
            out: the folder; made if it is not there. None: one under `RUNS` that holds this
                comparison, unfinished, and that nobody is writing; else a new one there.
            cells: all cells of the comparison; their ids are its key.
            request: what was asked for, for the manifest.
            say: told of folders that are passed over.

        Raises:
            OtherComparison: the folder holds another one.
            InUse: another process is writing it.
            InputError: it holds other things, or cannot be written.
        """
        key = hashlib.sha256("".join(cell.id for cell in cells).encode()).hexdigest()[:16]
        with ExitStack() as held:
            if out is None:
                path = _unfinished(key, held, say) or _new(request, held, say)
            else:
                path = _named(out, held, say)
            yield cls._begun(path, key, cells, request)

    @classmethod
    def _begun(cls, path: Path, key: str, cells: Sequence[Cell], request: Request) -> RunFolder:
        """Write the manifest of a locked folder, and read its records."""
        for left in filter(files.is_unfinished, path.rglob(".*")):
            left.unlink(missing_ok=True)  # of a process that was killed: nobody else writes here
        if (path / _MANIFEST).is_file():
            there = _read_manifest(path / _MANIFEST)
            if there.get("key") != key:
                raise OtherComparison(
                    f"{path} holds another comparison ({_differences(there, request)}); "
                    f"{_another()}"
                )
        found = (_whole_record(path, cell) for cell in cells)
        done = {record.cell.id: record for record in found if record is not None}
        manifest = {
            "key": key,
            "finished": False,
            "request": _declared(request),
            "cells": {cell.file_name: cell.id for cell in cells},
        }
        with writing(path, _room()):
            write_json(path / _MANIFEST, manifest)
        return cls(path, manifest, done)

    def keep(self, record: Record) -> None:
        """Write one record; one that is whole is never replaced by one that is not.

        Raises:
            InputError: the folder can no longer be written.
        """
        if record.status != "done" and _whole_record(self.path, record.cell) is not None:
            return
        with writing(self.path, _room()):
            record.write(self.path)

    def finish(self) -> None:
        """Mark the comparison as finished: it is not picked up again by itself.

        Raises:
            InputError: the folder can no longer be written.
        """
        self._manifest["finished"] = True
        with writing(self.path, _room()):
            write_json(self.path / _MANIFEST, self._manifest)


def _whole_record(folder: Path, cell: Cell) -> Record | None:
    """Read a folder's record of a cell; None if it has none on which every suite was measured."""
    file = folder / cell.file_name
    if not file.exists():
        return None
    record = read_record(file)
    return record if record.cell.id == cell.id and record.status == "done" else None


def default_names(request: Request) -> Iterator[Path]:
    """Name new folders under `RUNS` by model and time; numbers tell those of one second."""
    name = request.model.rstrip("/").rsplit("/", 1)[-1]
    name = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "model"  # to be copied from a terminal
    first = RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    yield first
    yield from (first.with_name(f"{first.name}-{number}") for number in count(2))


def _named(out: Path, held: ExitStack, say: Reporter) -> Path:
    """Lock the folder that the user named."""
    if out.is_symlink() and not out.exists():
        rule = "is a link that leads nowhere; name another, or mend it"
        raise InputError(f"{setting_name('out')} {out} {rule}", setting="out", found=out)
    strangers = out.is_dir() and not all(
        path.name == _LOCK or files.is_unfinished(path) for path in out.iterdir()
    )
    # Looked for after what lies beside it: another process may be just beginning.
    strangers = strangers and not (out / _MANIFEST).is_file()
    if strangers or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} exists and is no comparison; {_another()}")
    try:
        held.enter_context(locked(out, say))
    except InputError as error:
        raise type(error)(f"{setting_name('out')} {error}, or {_another()}") from error
    return out


def _unfinished(key: str, held: ExitStack, say: Reporter) -> Path | None:
    """Find and lock the latest unfinished folder with this key that nobody else writes."""
    for manifest in sorted(RUNS.glob(f"*/{_MANIFEST}"), reverse=True):
        try:
            if not _goes_on(manifest, key):
                continue
            with ExitStack() as own:
                own.enter_context(locked(manifest.parent, say))
                if _goes_on(manifest, key):  # it may have been finished just before
                    held.enter_context(own.pop_all())
                    return manifest.parent
        except InputError as error:
            say.warn(f"passed over: {error}")
    return None


def _goes_on(manifest: Path, key: str) -> bool:
    document = _read_manifest(manifest)
    return document.get("key") == key and not document.get("finished")


def _new(request: Request, held: ExitStack, say: Reporter) -> Path:
    """Make and lock a folder that was not there before."""
    try:
        RUNS.mkdir(exist_ok=True)
        path = next(path for path in default_names(request) if _made(path))
    except OSError as error:
        raise InputError(
            f"{RUNS} cannot be written ({error.strerror}); name a folder with {setting_name('out')}"
        ) from error
    held.enter_context(locked(path, say))
    return path


def _made(path: Path) -> bool:
    """Make a folder, and say whether it was made; not if another run was faster."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _another() -> str:
    return f"name another {setting_name('out')}"


def _room() -> str:
    """Say what to do where a folder takes no more."""
    return f"make room and give rights there, or {_another()}"


def _declared(request: Request) -> dict[str, Any]:
    """Give what was asked for, as JSON holds it, without where texts lie on this machine."""
    values = {name: value for name, value in request.options().items() if name not in _PLACES}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _differences(manifest: dict[str, Any], request: Request) -> str:
    """Name what a comparison in a folder asked for otherwise."""
    there, here = manifest.get("request"), _declared(request)
    there = there if isinstance(there, dict) else {}
    others = [
        f"{setting_name(name)} {_written(there.get(name))}, now {_written(value)}"
        for name, value in here.items()
        if there.get(name) != value
    ]
    return "; ".join(others) or "the same request, but other weights, text or program version"


def _written(value: object) -> str:
    """Write an option's value as it is typed."""
    if value is None or value == []:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a folder says of its comparison: key, request, cells, whether it is finished.

    Raises:
        InputError: it holds none, or a damaged one.
    """
    if not (folder / _MANIFEST).exists():
        raise InputError(f"{folder} is no comparison; give a folder that `awq-bench compare` wrote")
    return _read_manifest(folder / _MANIFEST)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); remove its folder or name another"
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is damaged (not an object); remove its folder or name another")
    return document
