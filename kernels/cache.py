"""What was measured or built on this machine is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Give ``AWQ_BENCH_CACHE``, or awq-bench's folder in the user's cache, which may be missing."""
    named = os.environ.get("AWQ_BENCH_CACHE")
    return Path(named) if named else user_cache_path("awq-bench", appauthor=False)
