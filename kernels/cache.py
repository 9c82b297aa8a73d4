"""What was measured or built on this machine, kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """``AWQ_BENCH_CACHE``, or awq-bench's folder in the user's cache; it may not be there yet."""
    named = os.environ.get("AWQ_BENCH_CACHE")
    return Path(named) if named else user_cache_path("awq-bench", appauthor=False)
