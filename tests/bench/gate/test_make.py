"""Baselines are made where they can be gated, and changed with a look first."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison.request import Request
from bench.comparison.workbench import Workbench
from bench.gate import make as making
from bench.gate.baseline import Baseline, Tolerance, read, write
from bench.gate.changes import Change, own_changes
from bench.gate.make import make
from bench.gate.noise import noise_of
from bench.gate.null_runs import null_runs
from bench.gate.run import gate
from bench.records.record import Record
from quantcore.errors import InputError
from tests.bench.gate.changed import command, never
from tests.bench.made import but


def test_a_tolerance_below_the_floor_is_refused_with_the_figure(
    asked: Request, made: Baseline, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = noise_of("perplexity", own_changes(made)["perplexity"], made.reruns)
    assert noise is not None
    monkeypatch.setattr(Workbench, "measure", never)
    low = {"perplexity": Tolerance(value=noise.floor * 0.9, reason="too strict")}
    said = rf"below the noise floor of \+{100 * math.expm1(noise.floor):.2f} %"
    with pytest.raises(InputError, match=said):
        make(asked, low, parts=parts)
    enough = {"perplexity": Tolerance(value=noise.floor * 1.1, reason="strict")}
    again = make(asked, enough, parts=parts)
    assert again.tolerances["perplexity"] == enough["perplexity"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 4}, "^seeds 4: at least 5"),
        ({"tolerances": {"perplexty": Tolerance(value=1.0, reason="r")}}, "did you mean"),
        (
            {"tolerances": {"json": Tolerance(value=1.0, reason="r")}},
            "^tolerances json: no such gate here",
        ),
        ({"methods": ("rtn", "awq")}, "one method and one scheme"),
        ({"source": "elsewhere"}, "^source elsewhere: model is the source already where methods"),
        ({"methods": (), "schemes": ()}, "give it with source, or leave divergence out of suites"),
        (
            {"methods": (), "schemes": (), "suites": ("perplexity",)},
            "^calibration .*is taken as quantized already; .* give methods and schemes",
        ),
        (
            {"calibration_samples": 6},
            "gives the same 6 sequences by every seed.* calibration_samples 3",
        ),
    ],
)
def test_what_cannot_be_a_baseline_is_refused_before_anything_is_measured(
    asked: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    said: str,
) -> None:
    rest = {name: options.pop(name) for name in ("seeds", "source") if name in options}
    tolerances = options.pop("tolerances", {})
    if "calibration_samples" in options:  # exactly the lines that there are
        lines = "".join(f'{{"input_ids": {list(range(n, n + 32))}}}\n' for n in range(6))
        (tmp_path / "six.jsonl").write_text(lines, "utf-8")
        options["calibration"] = str(tmp_path / "six.jsonl")
    monkeypatch.setattr(Workbench, "measure", never)
    with pytest.raises(InputError, match=said):
        make(asked.but(**options), tolerances, **rest)  # type: ignore[arg-type]


def test_one_window_is_no_baseline(asked: Request) -> None:
    with pytest.raises(InputError, match=r"perplexity cannot be gated: 1 window .* measure more"):
        make(asked.but(windows=1), {})


def test_items_of_which_none_is_right_are_no_baseline() -> None:
    right = Change(values=[0.0] * 10, flips=True, most=0.1)
    making._refuse_idle("json", right)
    with pytest.raises(InputError, match=r"json cannot be gated: .*nothing right"):
        making._refuse_idle("json", replace(right, most=0.0))


def test_methods_without_calibration_and_folders_have_baselines_too(
    asked: Request, tmp_path: Path
) -> None:
    rtn = asked.but(methods=("rtn",), calibration=None)
    made = make(rtn, {})
    assert [one.drawn for one in made.reruns] == [False] * 3
    path = tmp_path / "rtn.json"
    write(made, path, force=False)
    (result,) = gate([path])
    assert result.outcome == "pass"
    assert null_runs(made) is None
    folder = tmp_path / "folder"
    quantize = ["quantize", asked.model, "--method", "rtn", "--scheme", "int4-g32"]
    assert cli.main([*quantize, "--out", str(folder)]) == exit_codes.DONE
    request = Request.of(model=str(folder), methods=(), schemes=(), text=asked.text.name, seqlen=32)
    request = request.but(suites=asked.suites)
    of_folder = make(request, {}, source=asked.model)
    beside = tmp_path / "folder.json"
    write(of_folder, beside, force=False)
    (result,) = gate([beside])
    assert result.outcome == "pass"
    assert of_folder.declared["scheme"] == "int4-g32"
    # The folder and what is quantized on the spot are one declaration.
    (result,) = gate([path], model=str(folder), source=asked.model)
    assert result.outcome == "pass"


@pytest.mark.usefixtures("parts")
def test_the_command_shows_and_never_writes_over(
    asked: Request, made: Baseline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "b.json"
    assert cli.main(command(asked, "--out", path)) == exit_codes.DONE
    said = capsys.readouterr()
    assert "detected from" in said.out
    assert "1,000 null runs" in said.out
    assert "Rerun 8 of 8" in said.err
    assert "left" in said.err
    assert read(path).declared == made.declared
    before = path.read_bytes()
    assert cli.main(command(asked, "--out", path)) == exit_codes.BAD_INPUT
    assert "give --force" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert not list(tmp_path.glob("awq-bench-runs/*"))


@pytest.mark.usefixtures("parts")
def test_changing_a_baseline_shows_the_difference_first(
    made: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {"perplexity": Tolerance(value=0.9, reason="nobody minds")}
    path = tmp_path / "b.json"
    write(replace(made, tolerances={**made.tolerances, **named}), path, force=False)
    before = path.read_bytes()
    assert cli.main(["rebaseline", str(path)]) == exit_codes.DONE
    assert "Nothing was written" in capsys.readouterr().out
    assert path.read_bytes() == before
    # What was shown is what is written: nothing is measured twice.
    capsys.readouterr()
    monkeypatch.setattr(Workbench, "measure", never)
    wide = ["--tolerance", "divergence=0.5:nobody looks"]
    assert cli.main(["rebaseline", str(path), *wide]) == exit_codes.DONE
    said = " ".join(capsys.readouterr().out.split())
    assert "+0.5000 nats: nobody looks" in said
    assert "1,000 null runs" in said
    assert cli.main(["rebaseline", str(path), "--accept"]) == exit_codes.DONE
    assert "nobody minds" in " ".join(capsys.readouterr().out.split())
    again = read(path)
    assert again.made > made.made
    assert again.tolerances["perplexity"] == named["perplexity"]
    assert again.tolerances["divergence"] == made.tolerances["divergence"]


def test_a_rerun_that_fails_is_no_baseline(
    asked: Request, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(parts / "07")  # the one with other threads; those before it are read
    real = Workbench.measure

    def measure(self: Workbench, *arguments: Any) -> Record:
        record = real(self, *arguments)
        if torch.get_num_threads() == other:
            return but(record, status="failed", error="out of memory", metrics={})
        return record

    other = 1 if torch.get_num_threads() > 1 else 2
    monkeypatch.setattr(Workbench, "measure", measure)
    with pytest.raises(InputError, match=r"rerun '. threads?'\): out of memory"):
        make(asked, {}, parts=parts)


def test_a_suite_that_cannot_be_gated_is_no_part_of_a_baseline(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = making.changes

    def changes(*pairs: Any) -> dict[str, Any]:
        return {**real(*pairs), "divergence": "no prompt of divergence fits the context"}

    monkeypatch.setattr(making, "changes", changes)
    with pytest.raises(InputError, match=r"divergence cannot be gated.*leave it out of suites"):
        make(asked, {})
