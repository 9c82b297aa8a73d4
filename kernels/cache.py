"""What was measured or built on this machine, kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """``AWQ_BENCH_CACHE``, or awq-bench's folder in the user's cache; it may not be there yet."""
    named = os.environ.get("AWQ_BENCH_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "awq-bench"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "awq-bench"
