"""Signals that ask a process to end."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from bench.cli import list_names
from bench.cli import main as cli
from bench.cli.exit_codes import DONE


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
