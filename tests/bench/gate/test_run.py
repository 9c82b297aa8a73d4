"""The command measures again what baselines declare, or takes what was measured."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison.compare import Comparison, compare
from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from bench.gate import make as making
from bench.gate import measure as measuring
from bench.gate import run as running
from bench.gate.baseline import Baseline, Tolerance, write
from bench.gate.kept_request import kept
from bench.gate.make import remake
from bench.gate.run import gate
from bench.plugin.fixture import AwqBench
from quantcore.errors import InputError
from tests.bench.gate.changed import measure, never


def test_the_command_measures_again_and_a_finished_comparison_serves(
    base: Baseline, asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    assert cli.main(["gate", "--baseline", str(path)]) == exit_codes.DONE
    assert "pass" in capsys.readouterr().out
    compare(asked, out=tmp_path / "run")
    assert (
        cli.main(["gate", "--baseline", str(path), "--run", str(tmp_path / "run")])
        == exit_codes.DONE
    )


def test_a_quantized_folder_beside_its_source(
    base: Baseline, asked: Request, tmp_path: Path
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    folder = quantize(asked, method="awq", scheme="int4-g32", out=tmp_path / "folder")
    command = ["gate", str(folder), "--source", asked.model, "--baseline", str(path)]
    assert cli.main(command) == exit_codes.DONE
    other = quantize(asked, method="awq", scheme="int3-g32", out=tmp_path / "other")
    command[1] = str(other)
    assert cli.main(command) == exit_codes.NO_VERDICT


def test_every_file_that_is_named_is_read(
    base: Baseline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(base, tmp_path / "b.json", force=False)
    (tmp_path / "damaged.json").write_text("{", "utf-8")
    once = ["--baseline", str(tmp_path / "damaged.json"), "--baseline", str(tmp_path / "b.json")]
    assert cli.main(["gate", *once]) == exit_codes.BAD_INPUT
    assert "damaged.json is no JSON document" in capsys.readouterr().err


def test_a_pipe_is_no_baseline(tmp_path: Path) -> None:
    """Reading one would wait for ever, in the folder that CI names too."""
    os.mkfifo(tmp_path / "pipe.json")
    for place in (tmp_path / "pipe.json", tmp_path):
        with pytest.raises(InputError, match=r"baseline .*pipe\.json cannot be read \(it is a fo"):
            gate([place])
    with pytest.raises(InputError, match=r"baseline .*pipe\.json cannot be read"):
        remake(tmp_path / "pipe.json", {})


def test_another_models_baseline_is_no_verdict_before_anything_is_measured(
    base: Baseline,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(Comparison, "measure", never)
    assert cli.main(["gate", str(other), "--baseline", str(path)]) == exit_codes.NO_VERDICT
    assert "source weights" in capsys.readouterr().out


def test_a_run_without_the_cell_is_no_verdict_and_no_folder_is_bad_input(
    base: Baseline, asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.json"
    write(base, path, force=False)
    command = ["gate", "--baseline", str(path), "--run", str(tmp_path / "run")]
    assert cli.main(command) == exit_codes.BAD_INPUT
    (tmp_path / "run").mkdir()
    assert cli.main(command) == exit_codes.NO_VERDICT
    assert "holds no records" in capsys.readouterr().out
    compare(asked, out=tmp_path / "nan")
    record = tmp_path / "nan/records/awq_int4-g32.json"
    text = record.read_text("utf-8")
    record.write_text(re.sub(r'("window_nll": \[\s*)[0-9.]+', r"\1NaN", text, count=1), "utf-8")
    assert cli.main([*command[:-1], str(tmp_path / "nan")]) == exit_codes.NO_VERDICT
    assert "NaN" in capsys.readouterr().out
    compare(asked.but(methods=("rtn",), suites=("perplexity",)), out=tmp_path / "rtn")
    assert cli.main([*command[:-1], str(tmp_path / "rtn")]) == exit_codes.NO_VERDICT
    assert "no cell 'awq@int4-g32'" in capsys.readouterr().out


def test_baselines_of_one_model_share_it(
    base: Baseline, asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = asked.but(schemes=("int3-g32",))
    found = measure(other)
    third = replace(
        base,
        unquantized=found.unquantized,
        quantized=found.quantized,
        declared=found.declared,
        request=kept(other, None),
    )
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for one, path in zip((base, third), paths, strict=True):
        write(one, path, force=False)
    begun = []
    real = measuring.begin
    monkeypatch.setattr(
        measuring,
        "begin",
        lambda *a, **k: begun.append(a) or real(*a, **k),  # type: ignore[func-returns-value]
    )
    results = gate(paths)
    assert [result.outcome for result in results] == ["pass", "pass"]
    assert [result.path for result in results] == paths
    assert len(begun) == 1


def test_a_folder_alone_is_held_to_its_own_outcomes(
    base: Baseline, asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quantize(asked, method="awq", scheme="int4-g32", out=tmp_path / "folder")
    whole, text_only = tmp_path / "whole.json", tmp_path / "text.json"
    write(base, whole, force=False)
    assert cli.main(["gate", str(folder), "--baseline", str(whole)]) == exit_codes.NO_VERDICT
    said = capsys.readouterr().out
    assert "give it with --source" in said
    kept = {name: base.tolerances[name] for name in ("perplexity", "size")}
    write(replace(base, tolerances=kept), text_only, force=False)
    assert cli.main(["gate", str(folder), "--baseline", str(text_only)]) == exit_codes.DONE
    assert "the model's own outcomes" in " ".join(capsys.readouterr().out.split())


class Asked(Exception):
    """Stands for the measurement: only what is asked for is looked at."""


@pytest.mark.parametrize("way", ["gate", "rebaseline", "pytest"])
def test_local_copies_reach_what_is_measured(
    base: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    way: str,
) -> None:
    path, texts, sets = tmp_path / "b.json", tmp_path / "texts", tmp_path / "sets"
    write(base, path, force=False)
    texts.mkdir()
    sets.mkdir()
    asked = []

    def opened(request: Request, **_: object) -> object:
        asked.append((request.data_dir, request.tasks.data))
        raise Asked

    monkeypatch.setattr(making if way == "rebaseline" else running, "opened", opened)
    monkeypatch.chdir(tmp_path)
    if way == "pytest":
        fixture = AwqBench(request.config, tmp_path)
        with pytest.raises(Asked):
            fixture.gate(path, data_dir=texts, tasks_data=sets)
    else:
        words = ["gate", "--baseline", str(path)] if way == "gate" else ["rebaseline", str(path)]
        copies = ["--data-dir", str(texts), "--tasks-data", str(sets)]
        assert cli.main([*words, *copies]) == exit_codes.INTERNAL_ERROR  # `Asked`
    assert asked == [(texts, sets)]


def test_a_baseline_on_local_copies_is_gated_offline(
    asked: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """HumanEval's columns in a folder."""
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def add(x):\n",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
        "entry_point": "add",
    }
    folder = tmp_path / "sets/openai/openai_humaneval"
    folder.mkdir(parents=True)
    rows = [{**row, "task_id": f"HumanEval/{number}"} for number in range(3)]
    (folder / "test.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows), "utf-8")
    monkeypatch.setattr("quantcore.hub.unreachable", lambda: "no network here")
    on_sets = asked.but(
        methods=("rtn",),
        calibration=None,
        suites=(),
        tasks=("awqbench_humaneval",),
        allow_code_execution=True,
        tasks_data=tmp_path / "sets",
    )
    found = measure(on_sets)
    path = tmp_path / "b.json"
    made = Baseline(
        unquantized=found.unquantized,
        quantized=found.quantized,
        declared=found.declared,
        request=kept(on_sets, None),
        tolerances={"awqbench_humaneval": Tolerance(value=0.1, reason="a test's")},
    )
    write(made, path, force=False)
    command = ["gate", "--baseline", str(path)]
    assert cli.main(command) == exit_codes.BAD_INPUT
    assert "give --tasks-data DIR" in capsys.readouterr().err
    assert cli.main([*command, "--tasks-data", str(tmp_path / "sets")]) == exit_codes.DONE
