"""Every benchmark measures with these tools: fresh processes, rounds in turn, medians, Markdown."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

T = TypeVar("T")
P = ParamSpec("P")


def now(device: torch.device | None = None) -> float:
    """Return the seconds of a clock, after all work queued on a CUDA device is done."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(work: Callable[[], object], device: torch.device | None = None) -> float:
    """Return the seconds that one call takes."""
    started = now(device)
    work()
    return now(device) - started


@contextmanager
def stopwatch(sums: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds inside to ``sums[name]``."""
    started = time.perf_counter()
    try:
        yield
    finally:
        sums[name] = sums.get(name, 0.0) + time.perf_counter() - started


def interleave(
    runs: Mapping[str, Callable[[int], T]],
    rounds: int,
    done: Callable[[str, int, T], None] = lambda name, number, result: None,
) -> dict[str, list[T]]:
    """Run A B C, A B C, ...: what the machine does meanwhile falls on all alike.

    Args:
        runs: by name; each is told the number of the round.
        rounds: how many.
        done: told of every result.
    """
    results: dict[str, list[T]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            result = run(number)
            results[name].append(result)
            done(name, number, result)
    return results


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Return median, smallest, largest, and every sample in the order they were taken."""
    return {
        "median": statistics.median(samples),
        "low": min(samples),
        "high": max(samples),
        "samples": list(samples),
    }


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Sum up ``above / below`` by round, as `summary`; rounds that only one has are left out."""
    return summary([a / b for a, b in zip(above, below, strict=False)])


def fresh(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a module's function in a new process, whose memory nothing else has touched."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments, **options).result()


def matmul_rate(
    device: torch.device, *, dtype: torch.dtype = torch.float32, size: int = 2048, trials: int = 5
) -> float:
    """Return operations per second of a square product, the best of a few: the bound quoted."""
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    seconds_of(lambda: left @ right, device)
    return 2 * size**3 / min(seconds_of(lambda: left @ right, device) for _ in range(trials))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay a table out; its first column is text, the others are figures."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def spread(samples: Mapping[str, Any], *, digits: int = 2) -> str:
    """Write median and range of a `summary`: ``1.23 [1.20, 1.31]``."""
    median, low, high = (f"{samples[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def mib(count: float) -> str:
    """Write bytes in MiB."""
    return f"{count / 2**20:,.0f} MiB"


def machine(document: Mapping[str, Any]) -> str:
    """Write the line under every table: on what, with what, from which commit it was measured."""
    where = document["environment"]
    hardware = where["gpu"] if document.get("device") == "cuda" else where["cpu"]
    commit = (where["commit"] or "no commit")[:9] + ("+" if where["dirty"] else "")
    return (
        f"{hardware}, {where['threads']} threads, torch {where['packages']['torch']}, "
        f"{commit}, load {document['load_before']:.1f} before. "
        f"Repeat with `{document['command']}`.\n"
    )
