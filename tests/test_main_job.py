"""The main job in its short form, every suite and every command: what users run, as they run it.

`tox run -e newest` and `-e oldest` run it from the wheel, with other releases of all dependencies.
A warning is an error here, so that what a library is about to remove is seen before it is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench.cli import exit_codes
from bench.cli import main as cli
from bench.records.record import Record, read_record
from suites import SUITES

SHORT = ("--text", "embedded", "--seqlen", "128", "--windows", "4", "--limit", "2")

CELLS = """
methods = ["rtn"]
schemes = ["int4-g128"]
suites = ["perplexity", "json", "throughput"]
windows = 2
limit = 2
prompt-lengths = [16]
new-tokens = 4
rounds = 2
"""
CALIBRATION = ("--calibration-samples", "8", "--calibration-seqlen", "64")
SPEED = ("--batch-sizes", "1", "--prompt-lengths", "16", "--new-tokens", "4", "--rounds", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main-job")


@pytest.fixture(scope="module", autouse=True)
def own_cache(place: Path) -> object:
    """Timings of this machine and builds of the native kernel, made anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWQ_BENCH_CACHE", str(place / "cache"))
        yield


def run(*arguments: str) -> None:
    assert cli.main(arguments) == exit_codes.DONE, arguments


def records(folder: Path) -> dict[str, Record]:
    return {path.stem: read_record(path) for path in (folder / "records").glob("*.json")}


@pytest.mark.skipif("AWQ_BENCH_INSTALLED" not in os.environ, reason="only from the wheel")
def test_it_is_the_wheel() -> None:
    assert "site-packages" in Path(bench.__file__).parts


@pytest.fixture(scope="module")
def compared(place: Path) -> Path:
    """A comparison with every suite there is."""
    out = place / "compare"
    run(
        *("compare", "reference", "--methods", "rtn,gptq,awq+clip", "--schemes", "int4-g128"),
        *("--suites", ",".join(SUITES), "--lengths", "256", "--allow-code-execution"),
        *SHORT, *CALIBRATION, *SPEED, "--out", str(out),
    )  # fmt: skip
    return out


def test_compare_measures_every_suite(compared: Path) -> None:
    found = records(compared)
    assert set(found) == {"unquantized", *(f"{m}_int4-g128" for m in ("rtn", "gptq", "awq+clip"))}
    for record in found.values():
        assert record.status == "done", record.problem
        assert set(record.cell.suites) == set(SUITES)
        metrics = {protocol.metric for protocol in record.cell.suites.values()}
        assert metrics == set(record.metrics)
    base = found["unquantized"]
    answers = base.metrics[base.cell.suites["json"].metric].columns.answer
    assert any("{" in answer for answer in answers)  # it wrote JSON, not nothing
    for name in ("report.md", "table.md", "tasks.md", "throughput.md", "perplexity_int4-g128.png"):
        assert (compared / name).stat().st_size


def test_pair(compared: Path) -> None:
    run("pair", str(compared), "awq+clip@int4-g128", "rtn@int4-g128")


def test_text_that_the_model_writes_itself_calibrates(place: Path) -> None:
    out = place / "self"
    run(
        *("compare", "reference", "--methods", "awq", "--schemes", "int3-g128"),
        *("--calibration", "self"), *CALIBRATION, *SHORT, "--out", str(out),
    )  # fmt: skip
    assert records(out)["awq_int3-g128"].cell.calibration is not None


def test_quantize_and_evaluate(place: Path) -> None:
    folder, out = place / "int4", place / "evaluated"
    run(
        *("quantize", "reference", "--method", "gptq", "--scheme", "int4-g128"),
        *CALIBRATION, "--out", str(folder),
    )  # fmt: skip
    run(
        *("evaluate", str(folder), "--suites", "perplexity,tool_calls,throughput"),
        *("--backend", "auto"), *SHORT, *SPEED, "--out", str(out),
    )  # fmt: skip
    (record,) = records(out).values()
    assert record.backends


def test_standard_sets_from_a_local_copy(place: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    rows = [{"unique_id": f"o{n}", "json_schema": json.dumps(schema)} for n in range(3)]
    for level in ("easy", "medium", "hard"):
        folder = place / "sets" / "epfl-dlab" / "JSONSchemaBench" / f"Github_{level}"
        folder.mkdir(parents=True)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        for split in ("train", "val", "test"):
            (folder / f"{split}.jsonl").write_text(text, "utf-8")
    out = place / "standard"
    run(
        *("evaluate", "reference", "--suites", "json", "--tasks-source", "standard"),
        *("--tasks-data", str(place / "sets"), "--limit", "2", "--out", str(out)),
    )  # fmt: skip
    (metric,) = records(out)["unquantized"].metrics
    assert metric.startswith("json_standard_acc@")


@pytest.mark.slow
def test_gate(place: Path) -> None:
    """A baseline with its reruns, and a gate that measures it again and passes."""
    baseline = place / "baseline.json"
    run(
        *("baseline", "reference", "--method", "awq", "--scheme", "int4-g128"),
        *("--suites", "perplexity,divergence,tool_calls"), *SHORT, *CALIBRATION,
        *("--out", str(baseline)),
    )  # fmt: skip
    run("gate", "--baseline", str(baseline), "--report", str(place / "gate"))
    assert (place / "gate" / "gate.xml").is_file()


@pytest.mark.slow
def test_pytest_benchmark(place: Path) -> None:
    folder = place / "project"
    folder.mkdir()
    (folder / "cells.toml").write_text(CELLS, "utf-8")
    # A cell of each kind; kernels are timed by themselves, and take longest.
    command = (
        *(sys.executable, "-W", "error::FutureWarning", "-m", "pytest", "--benchmark"),
        *("-p", "no:cacheprovider", "--awq-config", "cells.toml", "-k", "not test_kernel"),
    )
    # pytest-benchmark takes the variables of a worker that runs this test for its own.
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=own, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_list_and_doctor() -> None:
    run("list")
    run("doctor")
