"""The command line: what it reads from its arguments, in whatever order they come."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cli import asked, compare, list_names, options
from bench.cli import main as cli
from bench.cli.exit_codes import BAD_INPUT, DONE, INTERNAL_ERROR, INTERRUPTED
from bench.comparison.request import Request
from bench.records import processors
from tests.bench.cli.test_bad_input import write


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = [
        action
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(subparsers.choices)


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_takes_one_value_or_none(name: str) -> None:
    """More of them would swallow the MODEL that follows."""
    for action in COMMANDS[name]._actions:
        if action.option_strings:
            assert action.nargs in (None, 0), action.option_strings


def words_of(action: argparse.Action) -> list[str]:
    """An option as it is given."""
    if action.nargs == 0:
        return [action.option_strings[-1]]
    value = "7" if action.type in (int, float, options.numbers) else f"a-{action.dest}"
    return [action.option_strings[-1], value]


def parsed(name: str, words: list[str]) -> dict[str, Any]:
    return vars(cli._parser().parse_args([name, *words]))


@pytest.mark.parametrize("name", COMMANDS)
def test_options_mean_the_same_before_and_after_what_they_go_with(name: str) -> None:
    actions = [a for a in COMMANDS[name]._actions if a.dest != "help"]
    places: list[str] = []
    for action in actions:
        if not action.option_strings:
            count = action.nargs if isinstance(action.nargs, int) else 1
            places += [f"{action.dest}-{number}" for number in range(count)]
    given = [words_of(action) for action in actions if action.option_strings]
    every = [word for words in given for word in words]
    expected = parsed(name, [*places, *every])
    assert not [a.dest for a in actions if expected[a.dest] in (None, False)]
    assert parsed(name, [*every, *places]) == expected
    for words in given:  # the one before MODEL, the others after it
        rest = [word for other in given if other is not words for word in other]
        assert parsed(name, [*words, *places, *rest]) == expected
        assert parsed(name, [*rest, *places, *words]) == expected


def test_baselines_are_named_one_by_one() -> None:
    once, both = ["--baseline", "a.json"], ["--baseline", "a.json", "--baseline", "b.json"]
    for words, files in ((once, ["a.json"]), (both, ["a.json", "b.json"])):
        for line in ([*words, "model"], ["model", *words]):
            found = parsed("gate", line)
            assert found["model"] == "model"
            assert list(map(str, found["baseline"])) == files


def raising(error: BaseException) -> Callable[..., int]:
    def command(*_: Any) -> int:
        raise error

    return command


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


def test_an_internal_error_names_releases_that_nobody_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(list_names, "run", raising(AttributeError("no attribute 'dtype'")))
    monkeypatch.setattr(cli, "untried", lambda: {"transformers": "transformers 9 is outside"})
    assert cli.main(["list"]) == INTERNAL_ERROR
    assert "transformers 9 is outside" in capsys.readouterr().err


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


def test_an_interruption_while_libraries_load_ends_as_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for at in ((processors, "share"), (cli, "_quiet_libraries")):
        with monkeypatch.context() as patch:
            patch.setattr(*at, raising(KeyboardInterrupt()))
            assert cli.main(["compare"]) == INTERRUPTED
        assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_that_end_a_process_end_a_command_as_an_interruption_does(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number, cleaned = getattr(signal, name), []

    def command(*_: Any) -> int:
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("the signal did nothing")
        finally:
            os.kill(os.getpid(), number)  # a second one does not end what cleans up
            cleaned.append(True)

    monkeypatch.setattr(list_names, "run", command)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert cli.main(["list"]) == code
    finally:
        signal.signal(number, before)
    assert cleaned
    assert "interrupted" in capsys.readouterr().err


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """By nohup, or by a program that calls `main` and has taken it."""
    monkeypatch.setattr(list_names, "run", lambda *_: DONE)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli.main(["list"]) == DONE
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_help_waits_for_no_library() -> None:
    code = (
        "import sys; from bench.cli.main import main; main(['--help']); "
        "sys.exit([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stderr == "[]\n", done.stderr


def test_options_win_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWQ_BENCH_DATA", raising=False)
    lines = ["seed = 1", "seqlen = 8", "exclude = ['a']", "chat-template = true", "out = 'far'"]
    config = write(tmp_path / "mine.toml", *lines)
    words = ["compare", "--config", str(config), "--seed", "0", "--exclude", "b", "--exclude", "c"]
    given = asked.with_config(cli._parser().parse_args(words))
    request = asked.request(given, command="compare")
    assert given.out == Path("far")
    assert (request.seed, request.exclude) == (0, ("b", "c"))
    assert (request.seqlen, request.chat_template) == (8, True)
    assert request == Request(seed=0, exclude=("b", "c"), seqlen=8, chat_template=True)


def test_an_empty_variable_names_no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWQ_BENCH_DATA", "")
    for words in (["gate", "--baseline", "b.json"], ["doctor"], ["compare"]):
        assert asked.data_dir(cli._parser().parse_args(words)) is None
