"""What is measured on the way to a baseline is kept in parts until the baseline is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.run_folder import RUNS, InUse, locked
from bench.gate.kept_request import kept
from bench.records import environment


def parts_folder(request: Request, source: str | None) -> Path | None:
    """Say where the command keeps its parts, for this request and these versions.

    Args:
        request: what measures the baseline.
        source: the unquantized model of a quantized folder.

    Returns:
        None in a checkout with changes, which the next call might not share.
    """
    here = environment.describe()
    if here.dirty:
        return None
    # How threads wait is as this machine is busy now; it decides seconds and no outcome.
    where = here.model_dump(exclude={"waiting"})
    content = json.dumps([kept(request, source), where], sort_keys=True)
    return RUNS / f"baseline-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@contextmanager
def held(parts: Path | None, say: Reporter) -> Iterator[None]:
    """Let nobody else write the parts; what is refused before it is measured leaves none."""
    if parts is None:
        yield
        return
    with locked(parts, say):
        try:
            yield
        except BaseException:
            if not any(parts.rglob("records/*.json")):
                _remove(parts)
            raise


def discard(parts: Path | None, say: Reporter) -> None:
    """Remove what was kept on the way, once it is of no more use.

    Args:
        parts: see `bench.gate.make.make`.
        say: who is told what `bench.comparison.run_folder.locked` tells.
    """
    if parts is not None:
        with suppress(InUse), locked(parts, say):  # whoever makes the same removes it
            _remove(parts)


def _remove(parts: Path) -> None:
    shutil.rmtree(parts, ignore_errors=True)
    with suppress(OSError):  # others are in it
        parts.parent.rmdir()
