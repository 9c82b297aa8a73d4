"""Foreign code runs where it can do no harm and cannot lie about its success.

Each piece runs in processes of its own (`suites.code.launcher`), with nothing of ours in reach: an
empty environment, no input, output that leads nowhere, limits on time and memory, no further
process, no byte written to any file, never as root; and where the system allows it, no network, no
signals to others, and no files but Python's standard library (nothing installed beside it, and of
the system the shared libraries that it is linked to). Which of these hold here is what
`protections` says.

Whether the code is right is not the code's to say:

- for *calls*, it gets arguments and hands back values, and never sees what is expected of them.
  The comparison is ours (`matches`). A lie would have to be the right answer.
- for *tests* (Python with ``assert``, as HumanEval's and MBPP's), they run in its process, after
  it. Success is a random word that is handed out after the last test: code that leaves early, or
  prints that all is well, has not got it. Code that searches the interpreter's own frames for the
  word would find it; a completion that does so is beyond what this guards against.
"""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantcore.errors import InputError

Kind = Literal["finished", "failed", "raised", "syntax_error", "timed_out", "out_of_limits"]

_LAUNCHER = Path(__file__).with_name("launcher.py")
_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
_NEEDED = ("unprivileged", "limits")
_LINUX_ONLY = ("namespaces", "landlock", "seccomp")
_MAY_LACK = ("memory", *_LINUX_ONLY)
_GRACE_S = 120.0
"""Beyond the supervisor's own deadlines: only a supervisor that hangs meets it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`Limits` say how much one piece of code may use."""

    timeout_s: float = 3.0
    """Processor time, rounded up to whole seconds; by the clock, three times as long, since the
    machine may be busy with others."""
    memory_bytes: int = 512 << 20
    """Address space, Python's own 20 MiB or so included."""


LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A `Job` is a piece of code and what is asked of it: calls, or tests."""

    source: str
    entry_point: str
    """The function that is called or tested."""
    calls: tuple[str, ...] = ()
    """Lists of arguments, each as JSON."""
    tests: str | None = None
    """Python that raises if the code is wrong; with it, ``calls`` are not made."""


@dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """A `ProgramRun` says what became of a program."""

    kind: Kind
    """``finished``: all calls returned (right or wrong), or all tests passed. ``failed``: an
    assertion did not hold. ``raised``: it ended by another exception, left early, or crashed.
    ``out_of_limits``: it met a limit on memory, files or processes, or said too much."""
    detail: str = ""
    """In words, for the log; partly the code's own, so never to be parsed."""
    values: tuple[Any, ...] = ()
    """What each call returned, as ``{"value": ...}``, or ``{"other": "<type>"}`` for what JSON
    does not have. As the code claims: of any shape."""


def run(job: Job, limits: Limits = LIMITS) -> ProgramRun:
    """Run one piece of code, in about 30 ms and what the code itself takes.

    Raises:
        InputError: this system cannot hold even the limits on time and processes, or keep the code
            from being root.
    """
    return _run(job, limits, _layers())


def run_many(
    jobs: Sequence[Job], limits: Limits = LIMITS, *, workers: int | None = None
) -> list[ProgramRun]:
    """Run each job, several at a time (as many as there are processors)."""
    layers = _layers()
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda job: _run(job, limits, layers), jobs))


def matches(returned: object, expected: object) -> bool:
    """Say whether a value that `run` handed back is the expected one: equal, of the same types.

    A whole number and a decimal one may stand for each other (2 and 2.0), up to rounding; true and
    1 may not.
    """
    if not isinstance(returned, dict) or "value" not in returned:
        return False
    return _same(returned["value"], expected)


def _same(left: object, right: object) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in right)
    if type(left) in (int, float) and type(right) in (int, float):
        if type(left) is type(right) is int:
            return left == right
        try:
            return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)  # type: ignore[arg-type]
        except OverflowError:  # a whole number beyond what decimals reach
            return False
    return type(left) is type(right) and left == right


def protections() -> dict[str, str]:
    """Say what keeps foreign code from doing harm here: each danger, and what is against it.

    A text that begins with ``NOT HELD`` says what this system lacks.
    """
    layers = _layers()
    own_root, closed, filtered = (name in layers for name in ("namespaces", "landlock", "seccomp"))

    def by(*means: tuple[bool, str], lack: str) -> str:
        found = [text for held, text in means if held]
        return "; ".join(found) if found else f"NOT HELD: {lack}"

    root = os.geteuid() == 0
    return {
        "root": "a passing user of its own" if root else "your own user, without capabilities",
        "time": "limits on processor time and by the clock",
        "memory": by(
            ("memory" in layers, "limit on address space"), lack="memory has no limit here"
        ),
        "processes": "limit of none, threads included",
        "disk": "limit of 0 bytes a file",
        "environment": "empty",
        "output": "leads nowhere; the report has a limit",
        "network": by(
            (own_root, "an empty network namespace"),
            (filtered, "sockets refused (seccomp)"),
            lack="the code can reach the network; needs Linux with namespaces or seccomp",
        ),
        "signals": by(
            (own_root, "a process namespace of its own"),
            (filtered, "calls that reach another process refused (seccomp)"),
            (root, "another user"),
            lack="the code can end, stop and slow down your other processes; needs Linux with "
            "namespaces or seccomp",
        ),
        "files": by(
            (own_root, "an empty root with Python's standard library, read-only"),
            (closed, "nothing but Python's standard library can be opened (Landlock)"),
            (root, "another user: what others may not read or change is safe, the rest is not"),
            lack=f"the code can read {'' if filtered else 'and delete '}what you can; needs Linux "
            "with namespaces or Landlock",
        ),
        "attributes": by(
            (own_root, "an empty root, read-only"),
            (filtered, "calls that change files refused (seccomp)"),
            (root, "another user, who owns none"),
            lack="the code can change modes, owners, times and extended attributes of your files, "
            "and before Linux 6.2 cut them off; needs Linux with namespaces or seccomp",
        ),
        # Neither Landlock nor seccomp can help: Python looks up files whenever it imports.
        "names": by(
            (own_root, "an empty root, and a host name that tells nothing"),
            lack="the code can ask whether a file is there, for its size, owner and times, and for "
            "the names of Python's packages and of this machine; needs Linux with namespaces",
        ),
    }


def not_held() -> list[str]:
    """List what this system lacks, each danger with what it means; empty where all is held."""
    return [
        f"{danger}: {text.removeprefix('NOT HELD: ')}"
        for danger, text in protections().items()
        if text.startswith("NOT HELD")
    ]


@functools.cache
def _layers() -> tuple[str, ...]:
    """Find the layers that hold on this system, each tried once, then all together.

    Raises:
        InputError: a needed one does not hold.
    """
    if os.name != "posix":
        raise InputError(
            f"running generated code is not possible on {sys.platform}: it needs Linux (or a POSIX "
            "system, with fewer protections); leave out the tasks that run code"
        )
    held: list[str] = []
    for name in (*_NEEDED, *_MAY_LACK):
        if name in _LINUX_ONLY and sys.platform != "linux":
            continue
        # What is tried alone may lean on what is needed anyway: an unprivileged user has to be able
        # to read Python's library, and an empty root may be what lets it.
        setup = _setup((name,))
        if name == "unprivileged" and setup != "ready":
            setup = _setup(("namespaces", name))
        if setup == "ready":
            held.append(name)
        elif name in _NEEDED:
            raise InputError(
                f"generated code cannot be run safely here ({name}: {setup}); run as an ordinary "
                "user with a Python that other users can read, or leave out the tasks that run code"
            )
    setup = _setup(held)
    if setup != "ready":
        raise InputError(
            f"generated code cannot be run safely here: {setup} (with {', '.join(held)}); leave "
            "out the tasks that run code"
        )
    return tuple(held)


_TRIAL = Job(
    source="import ast, datetime, decimal, hashlib, random, uuid", entry_point="", tests=""
)
"""What has to go on working: a layer that takes it away would count right code as wrong."""


def _setup(layers: Sequence[str]) -> str:
    """Say ``ready``, or why these layers cannot be had."""
    outcome = _launch(_TRIAL, LIMITS, layers, nonce="")
    if outcome["setup"] != "ready":
        return str(outcome["setup"])
    trial = _judge(outcome, _TRIAL, LIMITS, nonce="")
    return "ready" if trial.kind == "finished" else f"Python cannot run: {trial.detail}"


def _run(job: Job, limits: Limits, layers: Sequence[str]) -> ProgramRun:
    nonce = secrets.token_hex(16)
    outcome = _launch(job, limits, layers, nonce=nonce)
    if outcome["setup"] != "ready":
        # Said before any of the code ran: ours to mend, not the code's fault.
        raise RuntimeError(f"the sandbox could not be set up: {outcome['setup']}")
    return _judge(outcome, job, limits, nonce=nonce)


def _judge(outcome: dict[str, Any], job: Job, limits: Limits, *, nonce: str) -> ProgramRun:
    """Say what became of a job, by what the supervisor reported."""
    if outcome["flooded"]:
        return ProgramRun(kind="out_of_limits", detail="the report was too long")
    if outcome["report"] is not None:
        claimed = _believe(outcome["report"], job, nonce)
        if claimed is not None:
            return claimed
    killed = outcome["signal"]
    # The kernel counts time against the limit in ticks, which may run ahead of what was used.
    used_up = outcome["cpu_s"] >= math.ceil(limits.timeout_s) / 2
    if outcome["late"] or (killed in (signal.SIGKILL, signal.SIGXCPU) and used_up):
        return ProgramRun(kind="timed_out", detail=f"{outcome['cpu_s']:.1f} s of processor time")
    if killed == signal.SIGKILL and outcome["report"] is None:
        return ProgramRun(kind="out_of_limits", detail="killed by the system")
    if killed and outcome["report"] is None:
        return ProgramRun(kind="raised", detail=f"crashed: {signal.Signals(killed).name}")
    return ProgramRun(kind="raised", detail="left before it had been asked everything")


def _believe(report: str, job: Job, nonce: str) -> ProgramRun | None:
    """Read what a cell's report says, None if it is none; the report may be the code's own."""
    try:
        claim = json.loads(report)
    except (ValueError, RecursionError):
        return None
    if not isinstance(claim, dict):
        return None
    kind, values = claim.get("kind"), claim.get("values")
    if kind == "finished" and job.tests is not None:
        return ProgramRun(kind="finished") if claim.get("nonce") == nonce else None
    if kind == "finished" and isinstance(values, list) and len(values) == len(job.calls):
        return ProgramRun(kind="finished", values=tuple(values))
    if kind in ("failed", "raised", "syntax_error", "out_of_limits"):
        return ProgramRun(kind=kind, detail=str(claim.get("detail", ""))[:300])
    return None


def _launch(job: Job, limits: Limits, layers: Sequence[str], *, nonce: str) -> dict[str, Any]:
    """Start the supervisor with the job; give its report (`suites.code.launcher.supervise`)."""
    # Seen by nobody else; with an empty root, that root is put over it and nothing ever enters it.
    folder = tempfile.mkdtemp(prefix="code-")
    sees_files = "namespaces" in layers or "landlock" in layers
    request = {
        "source": job.source,
        "entry_point": job.entry_point,
        "calls": job.calls,
        "tests": job.tests,
        "nonce": nonce,
        "layers": list(layers),
        "folder": folder,
        "libraries": _shared_libraries() if sees_files else (),
        "cpu_s": math.ceil(limits.timeout_s),
        "wall_s": 3 * limits.timeout_s,
        "memory_bytes": limits.memory_bytes,
    }
    try:
        report: dict[str, Any] = _ask(request, 3 * limits.timeout_s + _GRACE_S)
    finally:
        _remove(folder)
    return report


@functools.cache
def _shared_libraries() -> tuple[str, ...]:
    """Give what `suites.code.launcher.shared_libraries` finds."""
    return tuple(_ask(None, _GRACE_S))


def _ask(request: object, timeout_s: float) -> Any:
    """Give what the launcher answers to a request, both in JSON."""
    # No function of ours runs between fork and exec: the caller may have threads.
    done = subprocess.run(
        [_PYTHON, "-I", "-S", "-B", "-X", "utf8", str(_LAUNCHER)],
        input=json.dumps(request).encode(),
        capture_output=True,
        env={},
        cwd="/",
        start_new_session=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the sandbox broke: {done.stderr.decode(errors='replace')[-500:]}")
    return json.loads(done.stdout)


def _remove(folder: str) -> None:
    """Delete a folder, whatever rights its content was given."""
    for base, folders, _ in os.walk(folder):
        for name in folders:
            if not os.path.islink(os.path.join(base, name)):
                os.chmod(os.path.join(base, name), 0o700)
    shutil.rmtree(folder)
