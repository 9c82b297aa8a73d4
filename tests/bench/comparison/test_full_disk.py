"""A disk that becomes full, at whichever file: that is said, and with room the command goes on.

The disk is a real one, a small tmpfs that only the process sees.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bench.cli import exit_codes
from bench.cli import main as cli
from quantcore.files import is_unfinished
from tests.bench import forked
from tests.bench.left import Alone, found, whole_records

_NEWNS, _NEWUSER = 0x20000, 0x10000000
_REC, _PRIVATE = 0x4000, 0x40000
DISK_BYTES = 4 << 20
PAGE = 4096
"""What a tmpfs gives out."""

ENDED = "-- ended with {} --"


def mount_disk(place: Path) -> None:
    """Have a small disk at a folder, seen by this process only.

    Raises:
        OSError: it may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(found: int, what: str) -> None:
        if found:
            code = ctypes.get_errno()
            raise OSError(code, f"{what}: {os.strerror(code)}")

    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEWNS):
        call(libc.unshare(_NEWNS | _NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny", "utf-8")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", "utf-8")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", "utf-8")
    call(libc.mount(b"none", b"/", None, _REC | _PRIVATE, None), "mount --make-rprivate")
    size = f"size={DISK_BYTES}".encode()
    call(libc.mount(b"tmpfs", bytes(place.absolute()), b"tmpfs", 0, size), "mount tmpfs")


def may_mount() -> int:
    """Work: whether `mount_disk` may."""
    Path("disk").mkdir()
    mount_disk(Path("disk"))
    return 0


@pytest.fixture(scope="module", autouse=True)
def _may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    ended = forked.run(may_mount, tmp_path_factory.mktemp("mount") / "place")
    if ended.code:
        pytest.skip(f"no file system may be mounted here: {ended.said.splitlines()[-1]}")


def fill_and_go_on(words: list[str], room: int) -> int:
    """Work: a command on a disk with so many bytes left, and again with room.

    What is on the disk after each goes into a folder, ``first`` and ``second``.
    """
    place = Path.cwd()
    disk = place / "disk"
    disk.mkdir()
    mount_disk(disk)
    os.chdir(disk)
    Path("others").write_bytes(bytes(DISK_BYTES - room))
    print(ENDED.format(forked.command(words, believe_in_room)), flush=True)
    Path("others").unlink()
    shutil.copytree(disk, place / "first")
    code = cli.main(words)
    shutil.copytree(disk, place / "second")
    os.chdir(place)
    return code


def believe_in_room() -> None:
    """As if others filled the disk after it was looked at."""
    room = shutil.disk_usage("/")._replace(free=1 << 40)
    shutil.disk_usage = lambda path: room


def becomes_full(words: list[str], room: int, place: Path, alone: Alone) -> bool:
    """Whether a disk with so many bytes left does; what is wanted then is checked."""
    ended = forked.run(partial(fill_and_go_on, words, room), place)
    before, full, _ = ended.said.partition(ENDED.format(exit_codes.BAD_INPUT))
    if not full:
        assert ENDED.format(exit_codes.DONE) in ended.said, ended.said
        return False
    said = " ".join(before.partition("error: ")[2].split())
    assert re.search(rf"({NAMED[words[0]]}).* cannot be written \(.*No space left", said), before
    assert "Traceback" not in before
    assert ended.code == exit_codes.DONE, ended.said
    first, second = place / "first", place / "second"
    assert not [path for path in first.rglob(".*") if path.name == ".lock" or is_unfinished(path)]
    assert words[0] != "quantize" or not list(first.iterdir())
    for path, was in whole_records(first).items():  # one that was measured again has other seconds
        again = second / path.relative_to(first)
        assert not again.exists() or again.read_bytes() == was
    (second / "tmp").mkdir()  # as without a disk
    assert found(second) == alone.found
    return True


NAMED = {"compare": "run", "quantize": "--out model", "baseline": r"awq-bench-runs|baseline\.json"}
"""What a command says cannot be written."""

SHORT_KIB = {"compare": (60,), "quantize": (100,), "baseline": (30,)}


@pytest.mark.parametrize("name", SHORT_KIB)
def test_a_disk_that_becomes_full_is_said_and_with_room_it_goes_on(
    name: str, alone: Callable[[str], Alone], commands: dict[str, list[str]], tmp_path: Path
) -> None:
    for kib in SHORT_KIB[name]:
        assert becomes_full(commands[name], kib << 10, tmp_path / f"{kib}", alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT_KIB)
def test_a_disk_that_becomes_full_at_any_page_is_said_and_with_room_it_goes_on(
    name: str, alone: Callable[[str], Alone], commands: dict[str, list[str]], tmp_path: Path
) -> None:
    room = 0
    while becomes_full(commands[name], room, tmp_path / f"{room}", alone(name)):
        room += PAGE
    # All that it left was written on a disk that was full just before.
    assert room >= sum(size_on_disk(path) for path in (tmp_path / f"{room}/second").rglob("*"))


def size_on_disk(path: Path) -> int:
    """In whole pages; folders take none."""
    return -(-path.stat().st_size // PAGE) * PAGE if path.is_file() else 0
