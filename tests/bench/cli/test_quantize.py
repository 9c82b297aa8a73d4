"""What `quantize` refuses."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors import SafetensorError
from transformers import LlamaForCausalLM

from tests.bench.cli.conftest import Refused, write


@pytest.fixture
def quantize(refused: Refused, model: Path) -> Refused:
    def run(*arguments: object, **message: str) -> str:
        usual = ("--method", "rtn", "--scheme", "int4-g32", "--device", "cpu", "--out", "out")
        return refused("quantize", model, *usual, *arguments, **message)

    return run


@pytest.mark.parametrize(
    ("option", "name", "value", "fix"),
    [
        ("--method", "awq+clp", "unknown method 'awq+clp'", r"did you mean 'awq\+clip'"),
        ("--checkpoint-format", "hff", "unknown --checkpoint-format 'hff'", "did you mean 'hf'"),
    ],
    ids=["method", "checkpoint-format"],
)
def test_unknown_name_to_quantize(
    quantize: Refused, option: str, name: str, value: str, fix: str
) -> None:
    quantize(option, name, value=value, rule="Known: ", fix=fix)


def test_group_size_that_does_not_divide_to_quantize(quantize: Refused) -> None:
    quantize(
        "--scheme", "int4-g128", value="groups of 128", rule="fit", fix="any other divisor of 64"
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=["file", "weights"],
)
def test_a_disk_that_becomes_full_to_quantize(
    quantize: Refused, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def save_pretrained(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_pretrained)
    quantize(value="--out out", rule="No space left on device", fix="make room.*another --out")


def test_quantize_into_the_folder_that_one_is_in(
    quantize: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    printed = quantize("--out", ".", value="--out .", rule="that you are in", fix="another --out")
    assert len(printed.splitlines()) == 1  # before any work


def test_quantize_onto_a_mount_point(quantize: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of a container: the finished folder could not take its place."""
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    printed = quantize(value="--out out", rule="is a mount point", fix="name a folder in it")
    assert len(printed.splitlines()) == 1


def test_quantize_leaves_no_folder_that_it_made(quantize: Refused, tmp_path: Path) -> None:
    quantize("--out", "deep/er/out", "--exclude", "*", value="*", rule="no linear", fix="fewer")
    assert not (tmp_path / "deep").exists()


def test_quantize_onto_a_link_that_leads_nowhere(quantize: Refused, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    printed = quantize("--out", "link", value="link", rule="leads nowhere", fix="another|mend")
    assert len(printed.splitlines()) == 1


def test_quantize_without_room(quantize: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**20, 2**20 - 1, 1))
    printed = quantize(value="0 MiB are free", rule="--out out takes about", fix="make room")
    assert "quantize " not in printed  # before any work


@pytest.mark.parametrize("occupant", ["folder", "file"])
def test_quantize_into_an_occupied_folder(quantize: Refused, tmp_path: Path, occupant: str) -> None:
    if occupant == "folder":
        (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "config.json" if occupant == "folder" else tmp_path / "out", "{}")
    rule = "is not empty" if occupant == "folder" else "is a file"
    printed = quantize(value="out exists", rule=rule, fix="name another --out, or remove|a folder")
    assert len(printed.splitlines()) == 1  # before any work


def test_quantize_below_a_file(quantize: Refused, tmp_path: Path) -> None:
    write(tmp_path / "mine", "mine")
    printed = quantize("--out", "mine/out", value="mine/out", rule="cannot be written", fix="--out")
    assert "quantize " not in printed  # before any work
