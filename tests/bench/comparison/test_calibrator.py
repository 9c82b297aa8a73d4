"""One calibration pass, and where its statistics go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from bench.comparison import calibrator, compare
from bench.comparison.compare import Outcome
from bench.comparison.request import Request
from bench.comparison.run_folder import RunFolder
from quantcore.errors import InputError, Unwritable

METRIC = "evaluation_ppl_32"


def test_one_calibration_pass_serves_every_cell(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    real = calibrator.calibrate

    def counted(*args: object, **kwargs: object) -> None:
        passes.append(1)
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrator, "calibrate", counted)
    without = request_for.but(methods=("rtn", "gptq", "awq", "awq+clip"))
    compare.compare(without, out=tmp_path / "run")
    assert len(passes) == 1


def test_statistics_go_to_disk_when_memory_is_short(
    request_for: Request, compared: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(calibrator, "_STATS_SHARE", 0.0)
    real = calibrator.StatsStore

    def watched(folder: Path | None = None) -> object:
        seen.append(folder)
        return real(folder)

    monkeypatch.setattr(calibrator, "StatsStore", watched)
    records = compare.compare(request_for, out=tmp_path / "disk").records
    assert seen == [tmp_path / "disk" / "calibration-cache"]
    assert not seen[0].exists()  # removed when all cells are done
    for one, other in zip(records, compared.records, strict=True):
        assert one.metrics[METRIC].value == pytest.approx(other.metrics[METRIC].value, rel=1e-5)


def test_statistics_on_disk_are_gone_before_the_folder_is_finished(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody comes back to a finished folder: what a killed process left there would stay."""
    cache = tmp_path / "run" / "calibration-cache"
    real = RunFolder.finish

    def finish(run: RunFolder) -> None:
        assert not cache.exists()
        real(run)

    monkeypatch.setattr(RunFolder, "finish", finish)
    with monkeypatch.context() as patch:
        patch.setattr(calibrator, "_STATS_SHARE", 0.0)
        compare.compare(asked, out=tmp_path / "run")
    cache.mkdir()  # as of one that was killed when memory was short, and now it is not
    compare.compare(asked, out=tmp_path / "run")
    assert not cache.exists()


@pytest.mark.parametrize("method", ["rtn", "awq"])
def test_statistics_for_which_the_disk_is_too_full_end_the_comparison(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """No failed cell is made of it, nor one of RTN without its losses."""

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(calibrator, "_STATS_SHARE", 0.0)
    request = asked.but(methods=(method, "awq+clip"))
    with monkeypatch.context() as patch:
        patch.setattr("quantcore.calibration.save_file", full)
        with pytest.raises(Unwritable, match=r"calibration-cache cannot be written \(.*No space"):
            compare.compare(request, out=tmp_path / "run")
    assert os.listdir(tmp_path / "run" / "records") == ["unquantized.json"]
    records = compare.compare(request, out=tmp_path / "run").records
    assert all(one.quantization.relative_losses for one in records[1:])


def test_too_little_disk_is_refused_before_any_work(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrator, "_STATS_SHARE", 0.0)
    monkeypatch.setattr(calibrator, "stats_bytes", lambda structure, on_disk: 10**18)
    with pytest.raises(InputError, match="are free"):
        compare.compare(request_for, out=tmp_path / "run")
    assert not list(tmp_path.glob("run/records/*"))
