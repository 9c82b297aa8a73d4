"""Files that are there whole or not at all, whoever else writes them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantcore import files


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_what_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def fails(*_: Any) -> None:
        raise OSError("planted")

    with monkeypatch.context() as patch:
        where = (Path, "write_bytes") if step == "write" else (os, step)
        patch.setattr(*where, fails)
        with pytest.raises(OSError, match="planted"):
            files.write_text(path, "new")
    assert path.read_text("utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_names_the_file_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    usage = SimpleNamespace(free=512 * 1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"device: a\.json takes 1,000 KiB, 512") as caught:
        files.write_text(tmp_path / "a.json", "x" * 1024_000)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.json"))
    with (
        pytest.raises(OSError, match=r"device: a\.svg; 512 KiB are free"),
        files.whole(tmp_path / "a.svg"),
    ):
        full()
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with files.whole(tmp_path / "a") as temporary:
            temporary.write_text("half", "utf-8")
            assert files.is_unfinished(temporary)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_leaves_is_known_as_ours(tmp_path: Path) -> None:
    with files.whole(tmp_path / "a") as temporary:
        temporary.write_text("whole", "utf-8")
    assert not files.is_unfinished(tmp_path / "a")
    assert not files.is_unfinished(tmp_path / ".hidden")
    assert not files.is_unfinished(tmp_path / "a.tmp")


def test_what_a_killed_process_leaves_goes_and_what_one_writes_stays(tmp_path: Path) -> None:
    left = tmp_path / ".0123456789abcdef.awq-bench.tmp"
    left.write_text("{", "utf-8")
    (tmp_path / ".mine").write_text("mine", "utf-8")
    with files.whole(tmp_path / "a") as temporary:
        assert not left.exists()
        files.write_text(tmp_path / "b", "b")
        temporary.write_text("a", "utf-8")
    assert sorted(os.listdir(tmp_path)) == [".mine", "a", "b"]


def test_what_is_swept_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process begins a file there just then, and takes this one's for a killed one's."""
    real, swept = fcntl.flock, []

    def slow(file: Any, flags: int) -> None:
        if not swept:
            swept.append(file)
            files.write_text(tmp_path / "b", "b")
        real(file, flags)

    monkeypatch.setattr(fcntl, "flock", slow)
    with files.whole(tmp_path / "a") as temporary:
        assert temporary.exists()
        files.write_text(tmp_path / "c", "c")
        temporary.write_text("a", "utf-8")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_where_there_are_no_locks_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.whole(tmp_path / "a") as temporary:
        temporary.write_text("a", "utf-8")
        files.write_text(tmp_path / "b", "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_two_writers_and_a_reader_see_whole_files_only(tmp_path: Path) -> None:
    """300 writes by two threads: none fails, and no read is torn."""
    path = tmp_path / "a.json"
    texts = [json.dumps({"who": who, "fill": [who] * 2000}) for who in range(2)]
    files.write_text(path, texts[0])
    errors: list[BaseException] = []

    def write(text: str) -> None:
        try:
            for _ in range(150):
                files.write_text(path, text)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert path.read_text("utf-8") in texts
        reads += 1
    assert not errors
    assert reads
    assert os.listdir(tmp_path) == ["a.json"]


def test_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("", "utf-8")
    files.write_text(tmp_path / "deep" / "er", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "deep/er")]
    assert modes[0] == modes[1]


def test_a_long_name_stays_within_what_the_system_takes(tmp_path: Path) -> None:
    files.write_text(tmp_path / ("a" * 250), "long")
    assert os.listdir(tmp_path) == ["a" * 250]


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa")
    assert files.read_text(tmp_path / "a") == "a"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "nothing"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path(os.devnull)
    with pytest.raises(OSError, match="No such file" if kind == "nothing" else "and no file"):
        files.read_text(path)


def test_temporary_files_of_a_killed_process_go_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f".killed{files.UNFINISHED}"
    (left / "run").mkdir(parents=True)
    (tmp_path / "another's").mkdir()
    with files.scratch() as outer, files.scratch() as inner:
        assert {path.name for path in tmp_path.iterdir()} == {
            "another's", outer.name, inner.name,
        }  # fmt: skip
        (inner / "part").write_text("x", "utf-8")
    assert os.listdir(tmp_path) == ["another's"]
