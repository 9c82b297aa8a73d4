"""A baseline file comes back whole, and guards what it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.gate.baseline import Baseline, read, write
from quantcore.errors import InputError


def test_a_file_comes_back_whole(base: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    assert read(path) == base
    with pytest.raises(InputError, match="is there already"):
        write(base, path, force=False)
    write(base, path, force=True)


def edited(text: str) -> str:
    return text.replace('"value": 0.01', '"value": 0.9', 1)


def older(text: str) -> str:
    return text.replace('"baseline_version": 1', '"baseline_version": 0')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edited, "edited by hand"),
        (older, "has version 0, and this program reads 1"),
        (lambda text: text[: len(text) // 2], "damaged, cut off"),
        (lambda text: "", "damaged, cut off"),
        (lambda text: "[]", "was not written by"),
        (lambda text: '{"schema_version": 1}', "was not written by"),
    ],
)
def test_a_damaged_file_is_refused(
    base: Baseline, tmp_path: Path, damage: Callable[[str], str], said: str
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(InputError, match=said):
        read(path)
    assert cli.main(["gate", "--baseline", str(path)]) == exit_codes.BAD_INPUT
