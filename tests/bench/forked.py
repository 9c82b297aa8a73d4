"""Work in processes of its own, which begin with everything imported, and may be killed.

Each is a fork of a server that never ran a model: one that did has threads, and locks that a fork
would wait for.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch

from bench.cli import main as cli
from bench.comparison import calibrator, compare
from bench.gate import make
from bench.records import environment
from tests.bench.made import HERE, but

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
_HERE = but(HERE, commit="0" * 40, dirty=False)
"""Of no checkout with changes: a baseline keeps its parts only then."""

_LATE = (
    "bench.gate.report",
    "bench.gate.null_runs",
    "bench.comparison.quantize",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
"""What commands import once they need it: seconds, in every process that was not forked of it."""

Work = Callable[[], int]
"""What a process does, to its exit code."""


def server() -> ForkServerContext:
    """Forks this module's imports; it ends with the process that asked for it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_LATE])
    return context


@dataclass(frozen=True, kw_only=True)
class Kill:
    """When a process is to end."""

    at_step: int = 0
    """With SIGKILL before this change to its folder, counted from 1; 0: never."""
    at_byte: int | None = None
    """With SIGXFSZ, which nobody handles here, in the middle of the first larger file."""


NO_KILL = Kill()


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process at work."""

    process: BaseProcess
    _output: Connection
    _steps: Synchronized[int]

    def ended(self) -> Ended:
        """Wait for its end."""
        with self._output, open(self._output.fileno(), "rb", closefd=False) as output:
            said = output.read().decode()
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        return Ended(code=code, said=said, steps=self._steps.value)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit code; -9 if it was killed by signal 9."""
    said: str
    """All that it printed."""
    steps: int
    """Changes to its folder that it made, or was killed before."""


def start(work: Work, place: Path, *, kill: Kill = NO_KILL) -> Started:
    """Begin work in a folder, with that folder's ``tmp`` for files that are passing.

    Args:
        work: what the process does; it is pickled.
        place: made if it is not there.
        kill: when it is to end.
    """
    context = server()
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    # A pipe: a file would count against `Kill.at_byte`.
    output, written = context.Pipe(duplex=False)
    steps: Synchronized[int] = context.Value("i", 0)
    process = context.Process(target=_run, args=(work, place, written, kill, steps))
    process.start()
    written.close()
    return Started(process=process, _output=output, _steps=steps)


def run(work: Work, place: Path, *, kill: Kill = NO_KILL) -> Ended:
    """`start`, and wait for its end."""
    return start(work, place, kill=kill).ended()


def command(words: Sequence[str], *before: Callable[[], object]) -> int:
    """Work: a command of ``awq-bench``, as it runs for a large model on any machine.

    Its statistics go to disk, and a baseline has two reruns.

    Args:
        words: of the command line.
        before: called first.
    """
    torch.set_num_threads(1)
    compare.announce = lambda *_, **__: None  # it times this machine
    environment.describe = lambda: but(_HERE, threads=torch.get_num_threads())
    calibrator._STATS_SHARE = 0.0
    variations = make.variations
    make.variations = lambda first, seeds: islice(variations(first, seeds), 2)
    for one in before:
        one()
    return cli.main(list(words))


def _run(work: Work, place: Path, output: Connection, kill: Kill, steps: Synchronized[int]) -> None:
    """The process."""
    with output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(place)
    tempfile.tempdir = str(place / "tmp")
    _count(place, kill.at_step, steps)
    if kill.at_byte is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python would have it ignored
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill.at_byte, kill.at_byte))
    sys.exit(work())


def _count(place: Path, kill_at: int, steps: Synchronized[int]) -> None:
    """Count the changes below a folder from now on, and end before the one of a number."""

    def step() -> None:
        steps.value += 1
        if steps.value == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and arguments[2] & _WRITING
        if not (opened or event in _CHANGES) or isinstance(arguments[0], int):
            return
        # A name that `shutil.rmtree` removes is relative to the folder that it is in.
        inside = isinstance(arguments[-1], int) and arguments[-1] >= 0 and event != "open"
        if inside or Path(os.fsdecode(arguments[0])).absolute().is_relative_to(place):
            step()

    fsync = os.fsync

    def counted(handle: Any) -> None:
        step()
        fsync(handle)

    sys.addaudithook(seen)
    os.fsync = counted
