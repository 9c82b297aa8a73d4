"""A comparison's folder: found again, left alone, never shared."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from rich.console import Console

from bench.comparison import run_folder
from bench.comparison.progress import Reporter, quiet
from bench.comparison.request import Request
from bench.comparison.run_folder import InUse, OtherComparison, RunFolder, default_names
from bench.records.record import read_record
from quantcore.errors import InputError
from tests.bench.conftest import another_process
from tests.bench.made import but, cell

RECORDS = Path(__file__).parents[3] / "results/reference/embedded/records"
CELL = cell()


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def say(said: io.StringIO) -> Reporter:
    return Reporter(Console(file=said, width=200))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "[" * 100_000, "folder"], ids=["empty", "cut", "list", "deep", "dir"]
)
def test_a_damaged_neighbour_is_passed_over_and_named(
    damage: str, say: Reporter, said: io.StringIO
) -> None:
    manifest = Path("awq-bench-runs/reference-damaged/comparison.json")
    manifest.parent.mkdir(parents=True)
    if damage == "folder":
        manifest.mkdir()
    else:
        manifest.write_text(damage, "utf-8")
    with RunFolder.open(None, [CELL], Request(), say) as first:
        assert str(manifest) in said.getvalue()
        assert "passed over" in said.getvalue()
    # One that can be gone on with is found beside it all the same.
    with RunFolder.open(None, [CELL], Request(), say) as again:
        assert again.path == first.path


def begun(say: Reporter, out: Path | None = None) -> Path:
    """The folder of a comparison that was interrupted."""
    with RunFolder.open(out, [CELL], Request(), say) as run:
        return run.path


def test_what_another_process_writes_is_left_alone_until_it_is_killed(
    say: Reporter, said: io.StringIO
) -> None:
    folder = begun(say)
    with another_process(folder) as process:
        other = begun(say)
        assert other != folder
        assert f"passed over: {folder} is being written by another process" in said.getvalue()
        shutil.rmtree(other)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(folder.glob(".lock")), "it had no time to remove it"
        assert begun(say) == folder
    assert [path.name for path in folder.iterdir()] == ["comparison.json"]


def test_a_named_folder_that_another_process_writes_is_refused(say: Reporter) -> None:
    folder = begun(say, Path("out"))
    before = (folder / "comparison.json").read_bytes()
    with another_process(folder) as process:
        wanted = "^out out is being written by another process.*wait.*or name another out$"
        with pytest.raises(InUse, match=wanted):
            begun(say, folder)
        process.kill()
    assert (folder / "comparison.json").read_bytes() == before
    assert begun(say, folder) == folder


def test_a_folder_that_is_new_to_both_goes_to_one(say: Reporter) -> None:
    """The other process has made it, and has written nothing into it yet."""
    with another_process(Path("out")), pytest.raises(InUse):
        begun(say, Path("out"))


def test_a_folder_that_another_process_is_just_beginning_is_a_comparison(
    say: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest comes before anything else is there, and after it was first looked for."""
    Path("out").mkdir()
    real = Path.iterdir

    def slow(folder: Path) -> Iterator[Path]:
        monkeypatch.setattr(Path, "iterdir", real)
        begun(say, folder)
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", slow)
    assert begun(say, Path("out")) == Path("out")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ArithmeticError])
def test_an_exception_ends_the_lock(say: Reporter, error: type[BaseException]) -> None:
    def broken() -> None:
        with RunFolder.open(Path("out"), [CELL], Request(), say):
            assert Path("out/.lock").exists()
            with pytest.raises(InUse):
                begun(say, Path("out"))
            raise error

    with pytest.raises(error):
        broken()
    assert not Path("out/.lock").exists()
    assert begun(say, Path("out")) == Path("out")


def test_what_is_refused_is_unlocked_and_untouched(say: Reporter) -> None:
    begun(say, Path("out"))
    other = cell(seed=1)
    with pytest.raises(OtherComparison), RunFolder.open(Path("out"), [other], Request(), say):
        raise AssertionError
    assert [path.name for path in Path("out").iterdir()] == ["comparison.json"]


def test_another_comparison_is_told_by_its_options_as_they_are_typed(say: Reporter) -> None:
    asked = Request.of(schemes="int4-g128,int4-g32", windows=4)
    with RunFolder.open(Path("out"), [CELL], asked, say):
        pass
    now = asked.but(schemes="int3-g128", windows=None)
    told = "(schemes int4-g128,int4-g32, now int3-g128; windows 4, now not given)"
    with (
        pytest.raises(OtherComparison, match=re.escape(told)),
        RunFolder.open(Path("out"), [cell(seed=1)], now, say),
    ):
        raise AssertionError


def test_a_folder_in_a_records_place_is_refused_before_the_cell_is_measured(say: Reporter) -> None:
    begun(say, Path("out"))
    Path("out", CELL.file_name).mkdir(parents=True)
    with (
        pytest.raises(InputError, match=r"unquantized\.json cannot be read \(.*folder"),
        RunFolder.open(Path("out"), [CELL], Request(), say),
    ):
        raise AssertionError


def test_one_that_is_finished_while_it_is_looked_at_is_no_more_gone_on_with(
    say: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(say)
    real = run_folder.locked

    @contextmanager
    def slow(place: Path, say: Reporter) -> Iterator[None]:
        if place == folder:
            with real(folder, say):
                RunFolder(folder, {"key": "any"}, {}).finish()
        with real(place, say):
            yield

    monkeypatch.setattr(run_folder, "locked", slow)
    assert begun(say) != folder
    assert [path.name for path in folder.iterdir()] == ["comparison.json"]


class Stopped(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Stopped:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)


LEFT = ".0123456789abcdef.awq-bench.tmp"


def test_what_a_killed_process_was_writing_blocks_nobody_and_goes(say: Reporter) -> None:
    """Killed before its first manifest was whole, or while it wrote a record."""
    Path("out/records").mkdir(parents=True)
    for place in (Path("out"), Path("out/records")):
        (place / LEFT).write_text("{", "utf-8")
    shutil.rmtree("out/records")
    begun(say, Path("out"))
    assert [path.name for path in Path("out").iterdir()] == ["comparison.json"]
    Path("out/records").mkdir()
    (Path("out/records") / LEFT).write_text("{", "utf-8")
    begun(say, Path("out"))
    assert not list(Path("out/records").iterdir())


def test_a_whole_record_is_never_replaced_by_one_that_is_not(say: Reporter) -> None:
    done = read_record(RECORDS / "unquantized.json")
    failed = but(done, status="failed", error="planted", metrics={})
    with RunFolder.open(Path("out"), [done.cell], Request(), say) as run:
        run.keep(failed)
        assert read_record(run.path / done.cell.file_name).status == "failed"
        run.keep(done)
        run.keep(failed)
        assert read_record(run.path / done.cell.file_name) == done


def test_two_runs_within_a_second_get_a_folder_each(
    say: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "datetime", Stopped)
    with ExitStack() as held:
        paths = [
            held.enter_context(RunFolder.open(None, [CELL], Request.of(model="./mine"), say)).path
            for _ in range(3)
        ]
    assert [path.name for path in paths] == [
        f"mine-20260102-030405{end}" for end in ("", "-2", "-3")
    ]


def test_a_name_that_another_process_takes_first_is_not_shared(
    say: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "datetime", Stopped)
    Path("awq-bench-runs/reference-20260102-030405").mkdir(parents=True)  # and nothing in it yet
    assert begun(say).name == "reference-20260102-030405-2"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_it_goes_on_and_says_so(
    say: Reporter, said: io.StringIO, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    folder = begun(say)
    assert os.strerror(code) in said.getvalue()
    assert "let no other process write it" in said.getvalue()
    assert begun(say) == folder
    assert [path.name for path in folder.iterdir()] == ["comparison.json"]


def test_a_place_that_cannot_be_written_is_bad_input(say: Reporter) -> None:
    Path("file").write_text("mine", "utf-8")
    with pytest.raises(InputError, match=r"^out file/out cannot be written .*name another out$"):
        begun(say, Path("file/out"))
    Path("awq-bench-runs").write_text("mine", "utf-8")
    with pytest.raises(InputError, match=r"awq-bench-runs cannot be written .*name a folder"):
        begun(say)


@pytest.mark.parametrize(
    ("model", "name"),
    [("a/Qwen3-0.6B/", "Qwen3-0.6B"), ("x/script>\n`y", "script-y"), (".", "model"), ("../é", "é")],
)
def test_a_default_name_can_be_copied_from_a_terminal(model: str, name: str) -> None:
    first = next(default_names(Request.of(model=model)))
    assert re.fullmatch(rf"{re.escape(name)}-\d{{8}}-\d{{6}}", first.name)


def test_a_link_that_leads_nowhere_is_no_folder(request_for: Request, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(InputError, match="run is a link that leads nowhere; name another"),
        RunFolder.open(tmp_path / "run", [], request_for, quiet()),
    ):
        pass
