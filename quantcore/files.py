"""Files that are there whole or not at all, and stay once that was said."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_BEGINNING, _END = ".", ".awq-bench.tmp"
"""What a file is called until it is whole: hidden, and known as ours to whoever comes after."""


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def whole(path: Path, *, takes: int | None = None) -> Iterator[Path]:
    """A file to write that becomes ``path`` if all goes well; else nothing of it stays.

    It has a name that no other process has, so that two may write the same path: one of them wins,
    and both leave a whole file. On disk before it gets its name: after a power failure there is the
    old file or the new one. What killed processes left in the folder goes.

    Args:
        path: where it is to be; folders above it are made.
        takes: bytes, where they are known.

    Raises:
        OSError: the system refuses; of a full disk it names the file and what is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    temporary, held = _begun(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _full(error, path, takes) from error
        raise
    finally:
        held.close()
    sync(path.parent)


def _full(error: OSError, path: Path, takes: int | None) -> OSError:
    """The same, with what a user has to know to make room."""
    free = f"{shutil.disk_usage(path.parent).free / 1024:,.0f} KiB are free"
    need = ";" if takes is None else f" takes {takes / 1024:,.0f} KiB,"
    assert error.errno is not None, "it was compared"
    return OSError(error.errno, f"{os.strerror(error.errno)}: {path.name}{need} {free}", str(path))


def _begun(path: Path) -> tuple[Path, IO[bytes]]:
    """An empty file beside ``path``, locked for as long as it is open."""
    while True:
        temporary = path.with_name(f"{_BEGINNING}{secrets.token_hex(8)}{_END}")
        held = temporary.open("xb")
        with suppress(OSError):  # a file system without locks, where nobody sweeps either
            fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.exists():  # else another process swept it before it was locked
            return temporary, held
        held.close()


def _sweep(folder: Path) -> None:
    """Remove what killed processes were writing; one that lives has its file locked."""
    for left in filter(is_unfinished, folder.glob(f"{_BEGINNING}*{_END}")):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `whole`."""
    content = text.encode()
    with whole(path, takes=len(content)) as temporary:
        temporary.write_bytes(content)


def is_unfinished(path: Path) -> bool:
    """Whether a file is what a process left that was killed while it wrote with `whole`."""
    return path.name.startswith(_BEGINNING) and path.name.endswith(_END)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on disk; what has no such notion is passed over.

    Raises:
        OSError: the disk failed, or is full.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written, and not listed
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
