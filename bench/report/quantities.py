"""Seconds and bytes are written as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Write seconds as ``45 s``, ``12 min`` or ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Write bytes as ``4.4 MiB`` or ``11.2 GiB``."""
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
