"""Which errors about files and folders are the user's to mend."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bench.cli import compare
from bench.cli import main as cli
from bench.cli.exit_codes import BAD_INPUT, INTERNAL_ERROR
from tests.bench.cli.conftest import Refused, raising


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "{out}"), BAD_INPUT),
        (FileNotFoundError(errno.ENOENT, "No such file", "{out}/records/a"), INTERNAL_ERROR),
        (FileNotFoundError(errno.ENOENT, "No such file", "{gone}/records/a"), BAD_INPUT),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "{out}/records"), BAD_INPUT),
        (OSError(errno.ENOSPC, "No space left on device", "/elsewhere"), BAD_INPUT),
        (PermissionError(errno.EACCES, "Permission denied", "/elsewhere"), BAD_INPUT),
        (FileNotFoundError(errno.ENOENT, "No such file", cli.__file__), INTERNAL_ERROR),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/elsewhere"), INTERNAL_ERROR),
        (OSError(errno.ENOSPC, "No space left on device"), BAD_INPUT),
        (OSError("no file is named"), INTERNAL_ERROR),
    ],
)
def test_an_error_of_the_system_is_bad_input_only_where_the_user_can_change_it(
    error: OSError,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if error.filename is not None:
        error.filename = error.filename.format(out=tmp_path, gone=tmp_path / "gone")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(compare, "run", raising(error))
    assert cli.main(["compare", "reference", "--out", str(tmp_path)]) == code
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) == (code == INTERNAL_ERROR)
    if code == BAD_INPUT:
        assert f"{error.filename or 'a file'}: {error.strerror}" in shown.replace("\n", " ")


def test_places_in_a_configuration_file_are_the_users_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine", "utf-8")
    (tmp_path / "c.toml").write_text(f'out = "{out}"', "utf-8")
    error = NotADirectoryError(errno.ENOTDIR, "Not a directory", f"{out}/records")
    monkeypatch.setattr(compare, "run", raising(error))
    assert cli.main(["compare", "--config", str(tmp_path / "c.toml")]) == BAD_INPUT
    assert f"{out}/records: Not a directory" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place that not even root can write")
@pytest.mark.parametrize("command", ["baseline", "gate", "quantize"])
def test_a_place_that_cannot_be_written(refused: Refused, model: Path, command: str) -> None:
    """Known before anything is measured, though the rights would allow it."""
    arguments = {
        "baseline": (model, "--out", "/proc/b.json"),
        "gate": ("--baseline", "b.json", "--report", "/proc/report"),
        "quantize": (model, "--method", "rtn", "--scheme", "int4-g32", "--out", "/proc/out"),
    }[command]
    printed = refused(
        *(command, *arguments),
        value=f"{arguments[-1]}",
        rule="cannot be written",
        fix="name another",
    )
    assert len(printed.splitlines()) == 1  # before any work
