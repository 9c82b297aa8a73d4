"""The environment is where, and with which program, something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bench.records import processors
from bench.records.document import Document
from bench.records.metrics import Counted
from quantcore.versions import installed

PACKAGES = (
    "awq-bench", "torch", "transformers", "tokenizers", "safetensors", "scipy", "triton", "lm-eval",
    "jsonschema",
)  # fmt: skip


class Environment(Document):
    """The environment says where, and with which program, a cell was measured."""

    python: str
    """Version of Python."""
    platform: str
    """Operating system and machine type."""
    packages: dict[str, str | None]
    """Versions of the packages that can change a number; null: not installed."""
    cpu: str
    """The processor's name."""
    threads: Counted
    """Threads that PyTorch computes with."""
    waiting: dict[str, str] | None = None
    """Variables that say how threads of OpenMP wait for each other, those that are set; not there
    before version 0.2."""
    gpu: str | None
    """The GPU's name; null without one."""
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")] | None
    """Commit of the program's checkout; null if it was installed from a package."""
    dirty: bool | None
    """Whether tracked files differed from the commit; null outside a checkout."""


def describe() -> Environment:
    """Name versions, hardware and commit, for a record."""
    import torch  # records are read without it

    commit, dirty = _commit()
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: installed(name) for name in PACKAGES},
        cpu=cpu_name(),
        threads=torch.get_num_threads(),
        waiting=processors.waiting(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        commit=commit,
        dirty=dirty,
    )


def cpu_name() -> str:
    """Give the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def total_memory_bytes() -> int:
    """Count the bytes of physical memory of this machine, or of its container if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def _commit() -> tuple[str | None, bool | None]:
    """Read the commit of this source tree, and whether that was changed; None outside one."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside somebody else's repository: only our own counts.
    if git("ls-files", "--error-unmatch", "bench/records/environment.py") is None:
        return None, None
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
