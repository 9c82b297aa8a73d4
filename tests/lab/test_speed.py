"""Every benchmark of speed at toy size: what it writes, what it refuses."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.comparison.progress import quiet
from lab.speed import comparison, evaluation, gpu, large, reference, search, tasks, timing
from lab.speed.__main__ import BAD_INPUT, BENCHMARKS, main
from quantcore.errors import InputError

ROOT = Path(__file__).parents[2]


def run(what: str, *options: str, out: Path) -> dict[str, Any]:
    assert main([what, *options, "--out", str(out)]) == 0
    document: dict[str, Any] = json.loads((out / f"{what}.json").read_text("utf-8"))
    assert document["benchmark"] == what
    assert document["took_s"] > 0
    assert document["peak_bytes"]["host"] > 0
    assert document["environment"]["packages"]["torch"] == torch.__version__
    assert document["command"].startswith(f"python -m lab.speed {what} ")
    assert str(out) not in (out / f"{what}.json").read_text("utf-8"), "a path of this machine"
    return document


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == BAD_INPUT
    return capsys.readouterr().err


@pytest.mark.slow
def test_reference_takes_turns_and_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in peer (our RTN behind this very Python) goes through all a real one does."""
    stand_in = reference.Contestant(
        label="stand-in",
        file=ROOT / "tests" / "lab" / "stand_in_peer.py",
        variant="half",
        environment="stand-in",
        beside="rtn",
    )
    monkeypatch.setitem(reference.CONTESTANTS, "stand-in", stand_in)
    python = tmp_path / "peers" / "stand-in" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    document = run(
        "reference", "--rounds", "2", "--samples", "2", "--seqlen", "32", "--windows", "1",
        "--threads", "1", "--only", "rtn,stand-in", "--peers", str(tmp_path / "peers"),
        out=tmp_path / "out",
    )  # fmt: skip
    entries = document["contestants"]
    assert len(entries["rtn"]["seconds"]["samples"]) == 2
    pairs = zip(
        entries["stand-in"]["seconds"]["samples"], entries["rtn"]["seconds"]["samples"], strict=True
    )
    assert entries["stand-in"]["ratio"]["samples"] == pytest.approx([a / b for a, b in pairs])
    unquantized = document["unquantized"]["perplexity"]
    assert unquantized < entries["rtn"]["perplexity"] < 1.2 * unquantized
    # The stand-in changes nothing, and is evaluated by other code than `window_nll`.
    assert entries["stand-in"]["perplexity"] == pytest.approx(unquantized, rel=1e-5)
    assert document["calibration"]["samples"] == 2
    text = (tmp_path / "out" / "reference.md").read_text("utf-8")
    assert "| stand-in |" in text
    assert "x RTN" in text
    assert text == reference.table(document)


def test_search_is_the_same_search(tmp_path: Path) -> None:
    document = run(
        "search", "--rounds", "1", "--tokens", "512", "--size", "64", "--steps", "4",
        "--growth", "32,64", "--growth-tokens", "256", "--scheme", "int4-g32", out=tmp_path,
    )  # fmt: skip
    main_point = document["main"]
    assert main_point["scored"] == 9
    assert main_point["choice"]["exponent"] > 0, "the problem should have salient channels"
    for point in (main_point, *(p for sweep in document["sweeps"].values() for p in sweep)):
        assert point["same_choice"]
        assert point["relative_loss_difference"] < 1e-3
    assert [p["in_features"] for p in document["sweeps"]["K"]] == [32, 64]
    assert [p["out_features"] for p in document["sweeps"]["N"]] == [32, 64]
    assert [p["tokens"] for p in document["sweeps"]["tokens"]] == [512, 1024]
    assert (tmp_path / "search.png").stat().st_size > 10_000
    assert (tmp_path / "search.md").read_text("utf-8") == search.table(document)
    (tmp_path / "search.md").unlink()
    assert main(["search", "--redraw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "search.md").is_file()


def test_a_search_that_differs_is_seen() -> None:
    """The slow search has to find the winner by itself: with other statistics it finds another."""
    scheme = search.QuantScheme.parse("int4-g32")
    x, weight = search.problem(256, 64, 64)
    right = search.search_again(x, weight, search.statistics_of(x).mean_abs, scheme, steps=4)
    flat = search.search_again(x, weight, torch.ones(64), scheme, steps=4)
    assert right[2] < flat[2]


def test_evaluation_never_holds_all_logits(tmp_path: Path) -> None:
    document = run(
        "evaluation", "--rounds", "2", "--windows", "2", "--batch-size", "2",
        "--vocabulary", "30000", "--tokens", "1536", out=tmp_path,
    )  # fmt: skip
    assert set(document["seconds"]) == {"ours", "bare", "whole"}
    ours, whole = document["memory"]["ours"], document["memory"]["whole logits"]
    assert ours["nll"] == pytest.approx(whole["nll"], rel=1e-6)
    assert ours["added_bytes"] < ours["logits_bytes"] < whole["added_bytes"]
    assert (tmp_path / "evaluation.md").read_text("utf-8") == evaluation.table(document)


def test_comparison_counts_one_pass(tmp_path: Path) -> None:
    document = run(
        "comparison", "--rounds", "1", "--methods", "rtn,awq", "--schemes", "int4-g128,int3-g128",
        "--samples", "2", "--seqlen", "32", "--windows", "1", out=tmp_path,
    )  # fmt: skip
    (measured,) = document["runs"]
    assert measured["cells"] == 4
    assert measured["passes"] == 1
    assert measured["blocks_observed"] == 6
    assert measured["total_s"] > measured["after_load_s"] > sum(measured["own_s"].values())
    assert all(seconds > 0 for seconds in measured["beside_s"].values()), measured["beside_s"]
    # What was timed beside the cells has to fit between the parts and the total.
    gap = measured["total_s"] - sum(measured["own_s"].values())
    assert sum(measured["beside_s"].values()) < gap + 0.01
    assert (tmp_path / "comparison.md").read_text("utf-8") == comparison.table(document)


def test_large_reports_phases(tmp_path: Path) -> None:
    document = run(
        "large", "--shape", "tiny", "--blocks", "1", "--samples", "2", "--seqlen", "32",
        "--methods", "rtn,gptq,awq,awq+clip", "--scheme", "int4-g32", out=tmp_path,
    )  # fmt: skip
    assert set(document["methods"]) == {"rtn", "gptq", "awq", "awq+clip"}
    for name, measured in document["methods"].items():
        parts = measured["fold_s"] + measured["round_s"] + measured["besides_s"]
        assert parts == pytest.approx(measured["seconds"])
        by_group = sum(measured["round_by_group_s"].values())
        assert by_group == pytest.approx(measured["round_s"], abs=0.02)
        assert len(measured["fold_by_group_s"]) == 4
        assert (measured["mean_relative_loss"] is None) == (name == "rtn")
    count = document["operations"]
    # By hand: q (64), k and v (32 each) of 64 inputs, and so on; 41 candidates.
    folded = 41 * 2 * (128 * 64**2 + 64 * 64**2 + 256 * 64**2 + 64 * 128**2)
    assert count["awq"]["fold"] == folded
    assert count["calibrate"]["statistics"] == 2 * 64 * (3 * 64**2 + 128**2)
    assert (tmp_path / "large.md").read_text("utf-8") == large.table(document)


def test_operators_are_counted_by_group() -> None:
    """The phases of `gpu`, on the CPU: its table shows what one column of a method costs."""
    parser = argparse.ArgumentParser()
    gpu.add_options(parser)
    options = parser.parse_args(
        ["--shape=tiny", "--blocks=1", "--samples=2", "--seqlen=32", "--scheme=int4-g32",
         "--methods=rtn,gptq"]
    )  # fmt: skip
    document = large.quantize_random(
        options, quiet(), device=torch.device("cpu"), dtype=torch.float32, operators=True
    )
    rtn, gptq = (document["operators"][name]["groups"] for name in ("rtn", "gptq"))
    assert rtn["down_proj"]["columns"] == 128
    assert 0 < rtn["down_proj"]["round"] < 128, "RTN rounds a matrix, not columns"
    assert gptq["down_proj"]["round"] > rtn["down_proj"]["round"]
    document |= {
        "targets": gpu.TARGETS,
        "command": "python -m lab.speed gpu",
        "load_before": 0.0,
        "environment": {
            "cpu": "a CPU", "gpu": "a GPU", "threads": 1, "commit": None, "dirty": None,
            "packages": {"torch": "2"},
        },
    }  # fmt: skip
    text = gpu.table(document)
    assert "GPTQ" in text
    assert "target: under 90 s" in text
    assert "round, per column" in text


def test_unknown_and_missing_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean 'search'" in refused(capsys, "serach")
    assert main([]) == BAD_INPUT
    shown = capsys.readouterr().out
    assert all(name in shown for name in BENCHMARKS)
    out = ("--out", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA GPU here" in (error := refused(capsys, "gpu", *out))
    assert "lab.speed large" in error
    missing = refused(capsys, "reference", "--peers", str(tmp_path / "none"), *out)
    assert "there is no interpreter" in missing
    assert "peers/README.md" in missing
    assert "--peers DIR" in refused(capsys, "reference", "--only", "autoawq", *out)
    assert "'awk' is unknown" in refused(capsys, "reference", "--only", "awk", *out)
    assert "measure first" in refused(capsys, "search", "--redraw", *out)
    (tmp_path / "search.json").write_text('{"schema_version": 1, "benchmark": "large"}')
    assert "is not this program's search" in refused(capsys, "search", "--redraw", *out)
    assert "known: 1b" in refused(capsys, "large", "--shape", "2b", *out)
    assert "must be 1 to 2" in refused(capsys, "large", "--shape", "tiny", "--blocks", "3", *out)
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(capsys, "evaluation", "--out", str(tmp_path / "file" / "x"))
    assert "at least 1" in refused(capsys, "comparison", "--rounds", "0", *out)
    assert "at least 1" in refused(capsys, "search", "--rounds", "0", *out)
    assert "--tokens: invalid" in refused(capsys, "kernels", "--tokens", "4,a", *out)
    assert "--batch-sizes: invalid" in refused(capsys, "decode", "--batch-sizes", "x", *out)


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise SystemExit('no such library')")
    broken = reference.Contestant(label="broken", file=file, variant="any")
    tokens = tmp_path / "tokens.safetensors"
    timing_tokens = {"calibration": torch.zeros(1, 4, dtype=torch.int32)}
    reference.save_file(timing_tokens, tokens)
    with pytest.raises(RuntimeError, match=r"(?s)broken failed:.*no such library"):
        reference.run_once(broken, tokens, peers=None, threads=1, evaluate=False)


def test_statistics_of_samples() -> None:
    summary = timing.summary([3.0, 1.0, 2.0])
    assert (summary["median"], summary["low"], summary["high"]) == (2.0, 1.0, 3.0)
    assert timing.paired_ratio([2.0, 9.0], [1.0, 3.0, 5.0])["samples"] == [2.0, 3.0]
    order: list[str] = []
    timing.interleave(
        {"a": lambda n: order.append(f"a{n}"), "b": lambda n: order.append(f"b{n}")}, 2
    )
    assert order == ["a0", "b0", "a1", "b1"]
    assert timing.fresh(math.factorial, 5) == 120
    with pytest.raises(InputError):
        reference.chosen("gptqmodel", None)


def test_runners_need_nothing_of_ours() -> None:
    """They run under Pythons that do not have this project, and importing us imports no peer."""
    for file in (ROOT / "lab" / "speed" / "peers").glob("*.py"):
        lines = file.read_text("utf-8").splitlines()
        imported = [
            line.split()[1] for line in lines if line.strip().startswith(("import", "from"))
        ]
        ours = {"bench", "quantcore", "awq_impl", "baselines", "suites", "kernels"}
        assert not ours & {name.partition(".")[0] for name in imported}, file
    code = (
        "import sys, importlib; from lab.speed import __main__ as m; "
        "[importlib.import_module('lab.speed.' + n) for n in m.BENCHMARKS]; "
        "print([n for n in ('matplotlib', 'awq', 'llmcompressor', 'gptqmodel') "
        "if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_benchmark_of_tasks(tmp_path: Path) -> None:
    arguments = ["tasks", "--rounds", "1", "--prompts", "3", "--new-tokens", "9", "--items", "3"]
    arguments += ["--lengths", "30-60", "--until", " t", "--common", "35", "--out", str(tmp_path)]
    assert main(arguments) == 0
    document = json.loads((tmp_path / "tasks.json").read_text("utf-8"))
    writing, choosing = document["writing"], document["choosing"]
    assert set(writing["seconds"]) == set(choosing["seconds"])
    assert writing["same_answers"] == {"one by one": 3, "rows of 32": 3}
    assert 0 < writing["new_tokens"] < 27, "the text that ends them was found"
    assert choosing["largest_difference"] < 1e-4
    assert min(writing["least_s"], writing["least_alone_s"], choosing["least_s"]) > 0
    assert (tmp_path / "tasks.md").read_text("utf-8") == tasks.table(document)
    for wrong in (["--lengths", "60"], ["--rounds", "0"], ["--lengths", "30-1020"]):
        assert main(["tasks", *wrong, "--out", str(tmp_path)]) == BAD_INPUT
