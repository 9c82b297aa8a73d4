"""A folder that a user asked for is there whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from quantcore import files
from quantcore.errors import InputError, Unwritable
from quantcore.whole_folder import WholeFolder


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> None:
        with WholeFolder(tmp_path / "out") as place:
            (place / "half").write_text("half", "utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert not list(tmp_path.iterdir())
    with WholeFolder(tmp_path / "out") as place:
        (place / "whole").write_text("whole", "utf-8")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_what_another_process_wrote_meanwhile_stays(tmp_path: Path) -> None:
    def late() -> None:
        with WholeFolder(tmp_path / "out") as place:
            (place / "whole").write_text("late", "utf-8")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "first").write_text("first", "utf-8")

    with pytest.raises(InputError, match="not empty any more: another process wrote it"):
        late()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "first"]


def test_what_is_swept_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process begins just then, and takes this one's for a killed one's."""
    real, swept = tempfile.mkdtemp, []

    def slow(**options: Any) -> str:
        folder = real(**options)
        if not swept:
            swept.append(folder)
            assert files.sweep([Path(folder)]) == []
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", slow)
    with WholeFolder(tmp_path / "out") as place:
        (place / "whole").write_text("whole", "utf-8")
    assert swept
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]


def test_without_locks_a_killed_process_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left stays there: nobody can tell it from what is being written."""
    left = tmp_path / f".out.abc{files.UNFINISHED}"
    left.mkdir()

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with WholeFolder(tmp_path / "out") as place:
        (place / "whole").write_text("whole", "utf-8")
    assert left.is_dir()
    assert (tmp_path / "out" / "whole").is_file()


def test_a_link_to_an_empty_folder_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with WholeFolder(tmp_path / "link") as place:
        (place / "whole").write_text("whole", "utf-8")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "whole").is_file()


def test_a_disk_that_fills_up_is_told_by_the_name_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        with WholeFolder(tmp_path / "out"):
            raise OSError(28, "No space left on device")

    with pytest.raises(Unwritable, match=r"^out .*out cannot be written \(.*No space left"):
        full()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_under_a_tokenizer_is_told_too(tmp_path: Path) -> None:
    """Its library raises a bare Exception, with the system's words."""

    def full() -> None:
        with WholeFolder(tmp_path / "out") as place:
            (place / "tokenizer.json").symlink_to("/dev/full")
            Tokenizer(BPE()).save(str(place / "tokenizer.json"))

    with pytest.raises(Unwritable, match=r"^out .*out cannot be written \(No space left"):
        full()
    assert not list(tmp_path.iterdir())

    def ours() -> None:
        with WholeFolder(tmp_path / "out"):
            raise Exception("planted")

    with pytest.raises(Exception, match=r"^planted$"):
        ours()


HOLD = """
import sys, time
from pathlib import Path
from quantcore.whole_folder import WholeFolder

with WholeFolder(Path(sys.argv[1])) as place:
    (place / "half").write_text("half", "utf-8")
    print(place, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_is_swept_and_what_one_writes_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        assert left.is_dir()
        with pytest.raises(InputError, match="out is being written by another process"):
            WholeFolder(out).__enter__()
        assert left.is_dir()
        process.kill()
    assert left.is_dir(), "killed: it could not remove it"
    stranger = tmp_path / ".out.mine"
    stranger.mkdir()
    with WholeFolder(out) as place:
        assert not left.exists()
        (place / "whole").write_text("whole", "utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mine", "out"]
