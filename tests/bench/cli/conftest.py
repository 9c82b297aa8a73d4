"""A tiny model, texts, and commands that would work but for what a test adds to them."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import datasets.config
import huggingface_hub.constants
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.cli.main import main
from quantcore import files, hub

CONTEXT = 64
VOCABULARY = 512
SEQLEN = 16


class Refused(Protocol):
    """Runs the command line on bad input, checks how it is refused, returns the message."""

    def __call__(self, *arguments: object, value: str, rule: str, fix: str) -> str:
        """``value`` and ``rule`` are in the message as they are, ``fix`` matches as a pattern."""


def prose(words: int, seed: int) -> str:
    """Words in random order: two seeds have no run of 13 words in common."""
    draw = random.Random(seed)
    lexicon = ["".join(draw.choices("abcdefghijklmnop", k=n % 5 + 2)) for n in range(400)]
    return " ".join(draw.choices(lexicon, k=words)) + ".\n"


def write(path: Path, *lines: object) -> Path:
    """A file of lines; what is no string is written as JSON."""
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text), "utf-8")
    return path


def listing(*folders: Path) -> dict[Path, tuple[int, int] | None]:
    """Everything in some folders, with size and time of the files."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and a byte-level tokenizer of its own."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([prose(2000, seed=0)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>").save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=False,
            )
        )
    llama.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("calibration") / "mine.txt", prose(300, seed=2))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("text") / "short.txt", prose(60, seed=1))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, no hub, no data."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWQ_BENCH_DATA", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    cache = tmp_path.parent / f"{tmp_path.name}-hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    hub.unreachable.cache_clear()
    yield
    hub.unreachable.cache_clear()


@pytest.fixture
def refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: object, value: str, rule: str, fix: str) -> str:
        before = listing(tmp_path, model)
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert code == 2, printed.err
        assert "Traceback" not in printed.err
        assert printed.out == ""
        assert listing(tmp_path, model) == before
        found = re.search(r"^(?:awq-bench[\w ]*: )?error: (.*)", printed.err, re.M | re.S)
        assert found, printed.err
        message = found[1].replace(str(tmp_path), "TMP")  # its name is the test's
        assert value in message
        assert rule in message
        assert re.search(fix, message), f"no fix ({fix}) in: {message}"
        return printed.err

    return run


@pytest.fixture
def compare(refused: Refused, model: Path, text: Path, calibration: Path) -> Refused:
    """A comparison that would work, but for what is added to it."""

    def run(*arguments: object, **message: str) -> str:
        return refused(
            *("compare", model, "--methods", "rtn,awq", "--schemes", "int4-g32", "--text", text),
            *("--seqlen", SEQLEN, "--device", "cpu", "--calibration", calibration),
            *("--calibration-samples", 4, "--calibration-seqlen", SEQLEN, "--out", "out"),
            *arguments,
            **message,
        )

    return run


@pytest.fixture
def evaluate(refused: Refused, text: Path) -> Refused:
    """As `compare`, but a MODEL comes first."""

    def run(folder: object, *arguments: object, **message: str) -> str:
        usual = ("--text", text, "--seqlen", SEQLEN, "--device", "cpu", "--out", "out")
        return refused("evaluate", folder, *usual, *arguments, **message)

    return run


@pytest.fixture
def broken(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be broken."""
    return Path(shutil.copytree(model, tmp_path / "broken"))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on the disk is full for files of this name: as it is, the error names none."""
    real = files.write_text

    def fill(name: str) -> None:
        def write_text(path: Path, text: str) -> None:
            if path.name != name:
                return real(path, text)
            with files.whole(path) as temporary:
                temporary.write_text(text[: len(text) // 2], "utf-8")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "write_text", write_text)

    return fill


def raising(error: BaseException) -> Callable[..., int]:
    def command(*_: Any) -> int:
        raise error

    return command
