"""`awq-bench tables`: what a comparison draws, again, from whatever records there are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison.compare import Outcome
from bench.records.record import read_record
from tests.bench.conftest import another_process
from tests.bench.made import but


@pytest.fixture
def folder(compared: Outcome, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compared.folder, tmp_path / "run"))


def drawn(folder: Path) -> dict[str, bytes]:
    names = ("table.md", "table.csv", "table.json", "report.md", "perplexity_int4-g128.svg")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def test_what_was_drawn_is_drawn_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a kill between the last record and the tables."""
    before = drawn(folder)
    assert len(before) >= 4
    for name in before:
        (folder / name).unlink()
    assert cli.main(["tables", str(folder)]) == exit_codes.DONE
    assert drawn(folder) == before
    assert "lower is better" in capsys.readouterr().out


def test_a_damaged_record_is_left_out_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "records" / "gptq_int4-g32.json").write_text("{", "utf-8")
    (folder / "records" / "rtn_int4-g32.json").unlink()
    assert cli.main(["tables", str(folder)]) == exit_codes.CELL_FAILED
    said = capsys.readouterr()
    for name in ("gptq_int4-g32.json is not a record", "rtn_int4-g32.json is not there; its cell"):
        assert name in said.err.replace("\n", "")
    assert "AWQ" in said.out


def test_a_record_under_another_name_is_left_out_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied over another cell's, from this comparison or from another."""
    records = folder / "records"
    shutil.copy(records / "rtn_int4-g32.json", records / "awq_int4-g32.json")
    other = read_record(records / "gptq_int4-g32.json")
    but(other, cell=but(other.cell, seed=7)).write(folder)
    assert cli.main(["tables", str(folder)]) == exit_codes.CELL_FAILED
    said = capsys.readouterr().err.replace("\n", "")
    assert "awq_int4-g32.json holds what belongs into records/rtn_int4-g32.json" in said
    assert "gptq_int4-g32.json is of another comparison" in said
    assert cli.main(["pair", str(folder), "awq@int4-g32", "rtn@int4-g32"]) == exit_codes.BAD_INPUT
    assert "belongs into records/rtn_int4-g32.json" in capsys.readouterr().err.replace("\n", "")


def test_what_is_no_comparison_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        ([str(tmp_path / "nowhere")], "is no comparison; give a folder"),
        ([str(tmp_path)], "is no comparison; give a folder"),
        ([str(folder), "--price-per-hour", "0"], "--price-per-hour 0.0: must be more than 0"),
    ):
        assert cli.main(["tables", *arguments]) == exit_codes.BAD_INPUT
        assert said in capsys.readouterr().err
    with another_process(folder):
        assert cli.main(["tables", str(folder)]) == exit_codes.BAD_INPUT
        assert "is being written by another process" in capsys.readouterr().err
    (folder / "comparison.json").rename(folder / "kept.json")
    os.mkfifo(folder / "comparison.json")
    assert cli.main(["tables", str(folder)]) == exit_codes.BAD_INPUT
    assert "comparison.json is damaged" in capsys.readouterr().err
    os.replace(folder / "kept.json", folder / "comparison.json")
    shutil.rmtree(folder / "records")
    assert cli.main(["tables", str(folder)]) == exit_codes.BAD_INPUT
    assert "has no record of the unquantized model" in capsys.readouterr().err
