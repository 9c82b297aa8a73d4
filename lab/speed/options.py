"""Several benchmarks share options, and read their texts in one way."""

from __future__ import annotations

import argparse

from lab.speed.random_llama import SHAPES


def add_random_llama(parser: argparse.ArgumentParser, *, shape: str = "1b") -> None:
    """Add which random Llama is made."""
    parser.add_argument("--shape", default=shape, help=f"one of {', '.join(SHAPES)}")
    parser.add_argument("--blocks", type=int, help="fewer blocks, to try it out")


def add_calibration(parser: argparse.ArgumentParser, *, samples: int) -> None:
    """Add how many calibration sequences are taken, and of how many tokens."""
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--seqlen", type=int, default=512)


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Add how much of the embedded text is evaluated."""
    parser.add_argument("--windows", type=int, help="of the embedded text; default all")


def integers(text: str) -> tuple[int, ...]:
    """Read numbers that are separated by commas."""
    return tuple(int(part) for part in text.split(","))
