"""Files are written that are there whole or not at all, and stay once that was said."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BEGINNING, UNFINISHED = ".", ".awq-bench.tmp"
"""What is called so is not whole: hidden, and known as ours to whoever comes after."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def whole(path: Path, *, takes: int | None = None) -> Iterator[Path]:
    """Give a file to write that becomes ``path`` if all goes well; else nothing of it stays.

    It has a name that no other process has, so that two may write the same path: one of them wins,
    and both leave a whole file. It is on disk before it gets its name: after a power failure there
    is the old file or the new one. What killed processes left in the folder goes.

    Args:
        path: where it is to be; folders above it are made.
        takes: bytes, where they are known.

    Raises:
        OSError: the system refuses; of a full disk it names the file and what is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(filter(is_unfinished, path.parent.glob(f"{_BEGINNING}*{UNFINISHED}")))

    def make() -> Path:
        new = path.with_name(f"{_BEGINNING}{secrets.token_hex(8)}{UNFINISHED}")
        new.touch(exist_ok=False)
        return new

    temporary, held = begun(make)
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
        os.close(held)
    sync(path.parent)


def _full(error: OSError, path: Path, takes: int | None) -> OSError:
    """Make the same error, with what a user has to know to make room."""
    free = f"{shutil.disk_usage(path.parent).free / 1024:,.0f} KiB are free"
    need = ";" if takes is None else f" takes {takes / 1024:,.0f} KiB,"
    assert error.errno is not None, "it was compared"
    return OSError(error.errno, f"{os.strerror(error.errno)}: {path.name}{need} {free}", str(path))


def begun(make: Callable[[], Path]) -> tuple[Path, int]:
    """Make a new file or folder, locked until its handle is closed.

    Args:
        make: makes one of a name that no other has; called again if another process sweeps it just
            then.
    """
    while True:
        path = make()
        with suppress(FileNotFoundError):
            handle = _opened(path)
            with suppress(OSError):  # a file system without locks, where nobody sweeps either
                fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists():
                return path, handle
            os.close(handle)


def sweep(left: Iterable[Path]) -> list[Path]:
    """Remove files and folders that killed processes were writing; those that live hold others.

    Returns:
        what a living process holds.
    """
    held = []
    for path in left:
        with suppress(OSError):  # gone meanwhile, another user's, or on a file system without locks
            handle = _opened(path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except BlockingIOError:
                held.append(path)
            finally:
                os.close(handle)
    return held


def _opened(path: Path) -> int:
    """Open a handle to lock; some file systems lock only files that are open for writing."""
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `whole`."""
    content = text.encode()
    with whole(path, takes=len(content)) as temporary:
        temporary.write_bytes(content)


def read_text(path: Path) -> str:
    """Read the text of a file, without a byte order mark.

    A pipe or a device is refused: reading one may never end.

    Raises:
        OSError: it cannot be read, or is no regular file.
        UnicodeDecodeError: it is not UTF-8.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, and no file", str(path))
    with open(handle, "rb") as file:
        return file.read().decode("utf-8-sig")


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder for temporary files, removed at the end.

    What processes left that were killed goes first: its name says whose it was.
    """
    place = Path(tempfile.gettempdir())
    sweep(place.glob(f"{_BEGINNING}*{UNFINISHED}"))
    folder, held = begun(
        lambda: Path(tempfile.mkdtemp(prefix=_BEGINNING, suffix=UNFINISHED, dir=place))
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def is_unfinished(path: Path) -> bool:
    """Say whether a file is what a process left that was killed while it wrote with `whole`."""
    return path.name.startswith(_BEGINNING) and path.name.endswith(UNFINISHED)


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
