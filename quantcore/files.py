"""Files that are there whole or not at all, and stay once that was said."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BEGINNING, _END = ".", ".awq-bench.tmp"
"""What a file is called until it is whole: hidden, and known as ours to whoever comes after."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write that becomes ``path`` if all goes well; else nothing of it stays.

    It has a name that no other process has, so that two may write the same path: one of them wins,
    and both leave a whole file. On disk before it gets its name: after a power failure there is the
    old file or the new one.

    Args:
        path: where it is to be; folders above it are made.

    Raises:
        OSError: the system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_BEGINNING}{secrets.token_hex(8)}{_END}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `whole`."""
    with whole(path) as temporary:
        temporary.write_text(text, "utf-8")


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
