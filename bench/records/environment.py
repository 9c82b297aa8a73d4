"""Where and on what something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from bench.records import processors
from quantcore.versions import installed

PACKAGES = (
    "awq-bench", "torch", "transformers", "tokenizers", "safetensors", "scipy", "triton", "lm-eval",
    "jsonschema",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Versions, hardware and commit, for a record."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: installed(name) for name in PACKAGES},
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "waiting": processors.waiting(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **_commit(),
    }


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def total_memory_bytes() -> int:
    """Physical memory of this machine, or of its container if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def _commit() -> dict[str, Any]:
    """The commit of this source tree and whether it was changed; None outside a checkout."""
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
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
