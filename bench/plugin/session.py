"""One run of pytest keeps what its options ask for, and what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from bench.comparison.request import Request
    from bench.report.grid import Grid

Seconds = dict[tuple[str, int], dict[str, list[float]]]
"""By dtype and tokens, and then by what the weights are: the seconds of each call of a linear."""

REQUEST: pytest.StashKey[Request] = pytest.StashKey()
"""What the options ask for."""
MACHINE: pytest.StashKey[list[str]] = pytest.StashKey()
"""What to know of this machine before its seconds are read."""
KERNELS: pytest.StashKey[Seconds] = pytest.StashKey()
"""What the kernels took."""
TABLES: pytest.StashKey[list[tuple[Path, list[Grid]]]] = pytest.StashKey()
"""Every comparison and gate that ran, with its tables."""
