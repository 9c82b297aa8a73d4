"""Files that are there whole or not at all, and stay once that was said."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BEGINNING, _END = ".", ".awq-bench.tmp"
"""What a file is called until it is whole: hidden, and known as ours to whoever comes after."""


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def whole(path: Path, *, takes: int | None = None) -> Iterator[Path]:
    """A file to write that becomes ``path`` if all goes well; else nothing of it stays.

    It has a name that no other process has, so that two may write the same path: one of them wins,
    and both leave a whole file. On disk before it gets its name: after a power failure there is the
    old file or the new one.

    Args:
        path: where it is to be; folders above it are made.
        takes: bytes, where they are known.

    Raises:
        OSError: the system refuses; of a full disk it names the file and what is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_BEGINNING}{secrets.token_hex(8)}{_END}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _full(error, path, takes) from error
        raise
    sync(path.parent)


def _full(error: OSError, path: Path, takes: int | None) -> OSError:
    """The same, with what a user has to know to make room."""
    free = f"{shutil.disk_usage(path.parent).free / 1024:,.0f} KiB are free"
    need = ";" if takes is None else f" takes {takes / 1024:,.0f} KiB,"
    assert error.errno is not None, "it was compared"
    return OSError(error.errno, f"{os.strerror(error.errno)}: {path.name}{need} {free}", str(path))


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
