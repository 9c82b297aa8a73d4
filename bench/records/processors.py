"""Threads wait for each other as suits what else this machine runs, set before torch is there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import psutil

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which OpenMP is told how threads wait; they count only before torch is imported."""

_IDLE = 0.25  # of a processor: what every system runs in passing
_HELD = 0.5  # processors from which on waiting threads would meet one that is taken


def share(say: Callable[[str], None]) -> None:
    """Have threads of OpenMP wait as suits this machine now, unless the user says how.

    Threads that wait for each other spin, by default for so long that beside another process they
    spin for one that is not running, call after call. Where processors are idle they spin for a
    fraction of a millisecond, which loses nothing; where another process holds some, they give up
    theirs at once. One that is held is enough: all threads wait for the one on it. The number of
    threads stays: codes of GPTQ depend on it.

    Args:
        say: told where threads give way.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    shares = psutil.cpu_percent(interval=0.2, percpu=True)
    # macOS and Windows do not tie a process to some of the processors without being asked.
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(shares))
    loads = [load / 100 for which, load in enumerate(shares) if which in mine]
    held = sum(load for load in loads if load > _IDLE)
    if held > _HELD:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # of Intel's OpenMP too
        say(
            f"other processes hold {held:.1f} of {len(mine)} processors: threads give way "
            "while they wait; this takes longer than alone, and speeds come out lower"
        )
        return
    os.environ["GOMP_SPINCOUNT"] = "10000"  # GNU's OpenMP, with which torch is built for Linux
    os.environ["KMP_BLOCKTIME"] = "1"  # ms; Intel's


def waiting() -> dict[str, str]:
    """Give what the variables say now, those that are set."""
    return {name: os.environ[name] for name in WAITING if name in os.environ}
