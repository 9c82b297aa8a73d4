"""A tiny model folder with a tokenizer and texts, so that a comparison takes a second."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest

from bench.cli import exit_codes
from bench.comparison.compare import Outcome, compare
from bench.comparison.request import Request
from lab.reference.train import train_tokenizer
from tests.bench import forked
from tests.bench.left import Alone, found
from tests.conftest import tiny_model

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]


def prose(words: int, *, seed: int) -> str:
    """Random sentences that no two seeds share."""
    chooser = random.Random(seed)
    return " ".join(
        chooser.choice(WORDS) + ("." if chooser.random() < 0.1 else "") for _ in range(words)
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = train_tokenizer([prose(4000, seed=0)], 400)
    model = tiny_model("llama", vocab_size=len(tokenizer), intermediate_size=128)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "evaluation.txt").write_text(prose(600, seed=1), "utf-8")
    (folder / "calibration.txt").write_text(prose(3000, seed=2), "utf-8")
    return folder


@pytest.fixture(scope="session")
def request_for(tiny_folder: Path, text_folder: Path) -> Request:
    return Request.of(
        model=str(tiny_folder),
        methods=("rtn", "gptq", "gptq+seq", "awq", "awq+clip"),
        schemes=("int4-g32", "int3-g64"),
        calibration=str(text_folder / "calibration.txt"),
        calibration_samples=8,
        calibration_seqlen=32,
        text=str(text_folder / "evaluation.txt"),
        seqlen=32,
    )


@pytest.fixture(scope="session")
def compared(request_for: Request, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The comparison of `request_for`, finished; for reading only."""
    return compare(request_for, out=tmp_path_factory.mktemp("compared") / "run")


@pytest.fixture(scope="session")
def asked(tiny_folder: Path, text_folder: Path) -> Request:
    """One quantized cell, as a baseline has it."""
    return Request.of(
        model=str(tiny_folder),
        methods=("awq",),
        schemes=("int4-g32",),
        calibration=str(text_folder / "calibration.txt"),
        calibration_samples=8,
        calibration_seqlen=32,
        text=str(text_folder / "evaluation.txt"),
        seqlen=32,
        suites=("perplexity", "divergence"),
    )


@pytest.fixture(scope="session")
def commands(asked: Request) -> dict[str, list[str]]:
    """What writes, in the words of the command line; all into the folder that it runs in."""
    scheme = ["int4-g32", "--text", str(asked.text.name), "--seqlen", "32"]
    suites = ["--suites", "perplexity,divergence"]
    calibration = ["--calibration", str(asked.calibration.name), "--calibration-samples", "8"]
    calibration += ["--calibration-seqlen", "32"]
    compared = [asked.model, "--methods", "rtn,awq", "--schemes", *scheme, *suites, *calibration]
    return {
        "compare": ["compare", *compared, "--out", "run"],
        "compare without --out": ["compare", *compared],
        "quantize": [
            "quantize", asked.model, "--method", "awq", "--scheme", "int4-g32", *calibration,
            "--out", "model",
        ],
        # One that is killed after the file was whole is asked for again, so --force.
        "baseline": [
            "baseline", asked.model, "--method", "rtn", "--scheme", *scheme, *suites,
            "--out", "baseline.json", "--force",
        ],
    }  # fmt: skip


@pytest.fixture(scope="session")
def alone(
    commands: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Alone]:
    """By command, which is run once."""

    @cache
    def ran(name: str) -> Alone:
        place = tmp_path_factory.mktemp("alone") / "place"
        ended = forked.run(partial(forked.command, commands[name]), place)
        assert ended.code == exit_codes.DONE, ended.said
        largest = max(path.stat().st_size for path in place.rglob("*") if path.is_file())
        return Alone(ended.steps, found(place), largest)

    return ran


HOLD = """
import sys, time
from pathlib import Path
from bench.comparison.progress import quiet
from bench.comparison.run_folder import locked

with locked(Path(sys.argv[1]), quiet()):
    assert "torch" not in sys.modules
    print("locked", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A second process that is writing a folder."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.absolute())],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()
