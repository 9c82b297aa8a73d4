"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import list_names
from bench.cli import main as cli
from bench.cli.exit_codes import INTERNAL_ERROR, INTERRUPTED
from bench.records import processors
from tests.bench.cli.conftest import Refused, raising


@pytest.mark.parametrize(
    ("arguments", "value", "rule", "fix"),
    [
        ([], "COMMAND", "required", "COMMAND"),
        (["comper"], "'comper'", "invalid choice", "compare"),
        (["compare", "--sceme", "int4-g32"], "--sceme", "unrecognized", "--sceme"),
        (["compare", "--seqlen", "many"], "'many'", "invalid int value", "--seqlen"),
        (["evaluate"], "MODEL", "needs", "a hub name, a local folder, or 'reference'"),
        (["quantize", "--method", "rtn"], "--scheme", "required", "--out"),
        (
            ["quantize", "--method", "rtn", "--scheme", "int4-g32", "--out", "out"],
            *("MODEL", "needs", "a hub name, a local folder, or 'reference'"),
        ),
    ],
    ids=[
        *("no-command", "command", "option", "no-number", "evaluate-nothing"),
        *("no-scheme-no-out", "quantize-nothing"),
    ],
)
def test_usage(refused: Refused, arguments: list[str], value: str, rule: str, fix: str) -> None:
    refused(*arguments, value=value, rule=rule, fix=fix)


def test_an_internal_error_names_releases_that_nobody_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(list_names, "run", raising(AttributeError("no attribute 'dtype'")))
    monkeypatch.setattr(cli, "untried", lambda: {"transformers": "transformers 9 is outside"})
    assert cli.main(["list"]) == INTERNAL_ERROR
    assert "transformers 9 is outside" in capsys.readouterr().err


def test_an_interruption_while_libraries_load_ends_as_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for at in ((processors, "share"), (cli, "_quiet_libraries")):
        with monkeypatch.context() as patch:
            patch.setattr(*at, raising(KeyboardInterrupt()))
            assert cli.main(["compare"]) == INTERRUPTED
        assert "interrupted" in capsys.readouterr().err


def test_help_waits_for_no_library() -> None:
    code = (
        "import sys; from bench.cli.main import main; main(['--help']); "
        "sys.exit([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stderr == "[]\n", done.stderr
