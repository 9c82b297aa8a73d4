"""What was measured on the way is kept, taken up again, and gone at the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison import calibrator
from bench.comparison.cells import PlannedCell
from bench.comparison.compare import Comparison
from bench.comparison.progress import quiet
from bench.comparison.request import Request
from bench.gate.baseline import Baseline, read
from bench.gate.make import make
from bench.gate.parts import discard, parts_folder
from bench.records.record import Record
from tests.bench.conftest import another_process
from tests.bench.gate.changed import command


def test_an_interrupted_one_goes_on(
    asked: Request,
    made: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Comparison.measure
    new = []

    def measure(self: Comparison, planned: PlannedCell) -> Record:
        if planned.cell.id not in self.run.done:
            new.append(planned)
            if len(new) == 5:
                raise KeyboardInterrupt
        return real(self, planned)

    monkeypatch.setattr(Comparison, "measure", measure)
    path = tmp_path / "b.json"
    assert cli.main(command(asked, "--out", path)) == exit_codes.INTERRUPTED
    assert "goes on from there" in capsys.readouterr().err
    assert not path.exists()
    # The first takes two cells, calibration seeds one each, batches and threads two, backends one.
    assert cli.main(command(asked, "--out", path)) == exit_codes.DONE
    assert len(new) == 5 + (2 + 5 + 2 + 2 + 1) - 4
    assert read(path).reruns == made.reruns
    assert not list(tmp_path.glob("awq-bench-runs/*"))


def test_the_same_baseline_is_not_made_twice_at_a_time(
    asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = parts_folder(asked, None)
    assert parts is not None
    path = tmp_path / "b.json"
    with another_process(parts):
        assert cli.main(command(asked, "--out", path)) == exit_codes.BAD_INPUT
        assert f"{parts} is being written by another process" in capsys.readouterr().err
        discard(parts, quiet())
        assert parts.is_dir(), "the other process is writing it"
    assert not path.exists()


def test_statistics_on_disk_go_with_the_rerun_that_made_them(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a 7 B model take 11 GB; what is interrupted leaves none either."""
    monkeypatch.setattr(calibrator, "_STATS_SHARE", 0.0)
    real = Comparison.measure
    together = []

    def measure(self: Comparison, planned: PlannedCell) -> Record:
        record = real(self, planned)
        if planned.cell.method is not None:
            together.append(len(list(tmp_path.rglob("calibration-cache"))))
        if len(together) == 3:
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(Comparison, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        make(asked, {}, parts=tmp_path / "parts")
    assert together == [1, 1, 1]
    assert not list(tmp_path.rglob("calibration-cache"))
    assert list((tmp_path / "parts").rglob("records/*.json"))


def test_what_was_kept_of_other_texts_is_measured_anew(
    asked: Request,
    made_in_parts: tuple[Baseline, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = Path(shutil.copy(str(asked.text.name), tmp_path))
    request = asked.but(text=str(text))
    place = parts_folder(request, None)
    assert place is not None
    shutil.copytree(made_in_parts[1], place)
    low = ["--tolerance", "perplexity=0.0001%:too strict"]
    words = [str(text) if word == asked.text.name else word for word in command(asked, *low)]
    assert cli.main([*words, "--out", "b.json"]) == exit_codes.BAD_INPUT
    said = capsys.readouterr().err
    assert "error: --tolerance perplexity: +0.0001 % is below the noise floor" in said
    assert not Path("b.json").exists()
    assert list(tmp_path.glob("awq-bench-runs/*/00/records/*.json"))
    text.write_text(text.read_text("utf-8")[:-200], "utf-8")
    assert cli.main([*words[:-2], "--out", "b.json"]) == exit_codes.DONE
    assert read(Path("b.json")).quantized.cell.suites["perplexity"].windows < 36
