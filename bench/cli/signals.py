"""Signals that ask a process to end are met here."""

from __future__ import annotations

import signal
import threading


class Ended(KeyboardInterrupt):
    """A signal has asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number
        """The exit code is the one that shells give."""


def end_as_interrupted() -> None:
    """Have SIGTERM and SIGHUP end a command as Ctrl-C does, with nothing half-written left."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: what cleans up is not ended
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # Who ignores one (nohup), or has taken it, keeps it so.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
