"""A comparison's folder: found again, left alone, never shared."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench.progress import Reporter
from bench.records import Cell
from bench.request import Request
from bench.run_folder import RunFolder

CELL = Cell(
    model="0" * 64,
    tokenizer="1" * 64,
    method=None,
    method_settings={},
    scheme=None,
    exclude=(),
    calibration=None,
    suites={},
    dtype="float32",
    device="cpu",
    seed=0,
)


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def say(said: io.StringIO) -> Reporter:
    return Reporter(Console(file=said, width=200))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "[" * 100_000, "folder"], ids=["empty", "cut", "list", "deep", "dir"]
)
def test_a_damaged_neighbour_is_passed_over_and_named(
    damage: str, say: Reporter, said: io.StringIO
) -> None:
    manifest = Path("awq-bench-runs/reference-damaged/comparison.json")
    manifest.parent.mkdir(parents=True)
    if damage == "folder":
        manifest.mkdir()
    else:
        manifest.write_text(damage, "utf-8")
    first = RunFolder.open(Path("awq-bench-runs/a-1"), [CELL], Request(), search=True, say=say)
    assert str(manifest) in said.getvalue()
    assert "passed over" in said.getvalue()
    # One that can be gone on with is found beside it all the same.
    again = RunFolder.open(Path("awq-bench-runs/a-2"), [CELL], Request(), search=True, say=say)
    assert again.path == first.path
