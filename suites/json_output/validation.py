"""Answers are held against JSON schemas, with a limit on the processor time that one may take.

The work is done by `suites.json_output.worker`, a process of its own that is started at first use,
serves all later requests, and is started anew after one that ran past its limit. Processor time
counts rather than time on the clock, so that a busy machine changes no outcome.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock

CPU_LIMIT_S = 10.0
"""A schema and an answer that belong to each other take milliseconds."""


class UnjudgedError(Exception):
    """The validator broke down or ran past its limit: nothing is known of the answer."""


class Validation:
    """A `Validation` is one worker process, which may be asked from any thread."""

    def __init__(self, *, cpu_limit_s: float = CPU_LIMIT_S) -> None:
        """Take ``cpu_limit_s``, the processor seconds for one request."""
        self.cpu_limit_s = cpu_limit_s
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        atexit.register(self.close)

    def why_unusable(self, schema_json: str) -> str | None:
        """Say what keeps a schema from being used, or None.

        Draft, form, patterns and references are looked at; a schema that cannot be judged within
        the limit cannot be used either.
        """
        try:
            return self._ask([schema_json])
        except UnjudgedError as error:
            return str(error)

    def why_refused(self, schema_json: str, answer_json: str) -> str | None:
        """Say how an answer breaks the schema, or None. Both must be JSON.

        Raises:
            UnjudgedError: the validator broke down or ran past its limit.
        """
        return self._ask([schema_json, answer_json])

    def close(self) -> None:
        """End the process; the next request starts another."""
        process, self._process = self._process, None
        # After a fork the process belongs to the parent, who still talks to it.
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _ask(self, request: list[str]) -> str | None:
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BaseException:
                # Interrupted: a reply still to come must not be read as that of the next request.
                self.close()
                raise
            if not line:
                self.close()
                raise UnjudgedError(f"no verdict within {self.cpu_limit_s:g} s of processor time")
        reply = json.loads(line)
        if "failed" in reply:
            raise UnjudgedError(reply["failed"])
        why: str | None = reply["why"]
        return why

    def _running(self) -> subprocess.Popen[str]:
        if self._process and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.close()  # what is left of one that was killed
        worker = Path(__file__).with_name("worker.py")
        # -P: the worker's folder holds modules of common names, which must not hide others.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(worker), str(self.cpu_limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # an interrupt at the keyboard is for the parent
        )
        self._owner = os.getpid()
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError(f"the validator {worker} did not start; see its message above")
        return self._process
