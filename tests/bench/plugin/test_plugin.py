"""``pytest --benchmark`` in a project of somebody else, as its user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.comparison.request import Request
from bench.gate.baseline import write
from bench.gate.make import make
from bench.plugin import options
from tests.bench.gate.changed import changed, shifted

pytest.importorskip("pytest_benchmark")

PROJECT = """
import pytest

def test_of_the_project():
    assert True

def test_speed_of_the_project(benchmark):
    benchmark.pedantic(lambda: None)

@pytest.mark.awq_bench
def test_NOTSET_is_a_name_too():
    pass

def test_quality(awq_bench):
    outcome = awq_bench.compare(methods=("rtn",), schemes=("int4-g128",), suites=("perplexity",))
    base, quantized = outcome.records
    name = "embedded_ppl_256@2"
    assert quantized.metrics[name].value > base.metrics[name].value
"""
CONFIG = """
methods = ["rtn"]
schemes = ["int4-g128"]
suites = ["perplexity", "throughput"]
windows = 2
prompt-lengths = [16]
new-tokens = 4
rounds = 2
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process and with a cache of its own; building the native kernel into it takes 3 s."""
    own = {"AWQ_BENCH_CACHE": str(folder / "cache"), "AWQ_BENCH_NATIVE": "0"}
    # pytest-benchmark takes the variables of a worker that runs this test for its own.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**inherited, **own},
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_mine.py").write_text(PROJECT, "utf-8")
    (tmp_path / "cells.toml").write_text(CONFIG, "utf-8")
    return tmp_path


def test_without_it_only_the_projects_own_tests_run(project: Path) -> None:
    done = run(project, "-q")
    assert done.returncode == 0, done.stdout
    assert "2 passed, 2 deselected" in done.stdout


def test_with_it_the_cells_run_and_the_tables_follow(project: Path) -> None:
    done = run(
        project,
        "--benchmark",
        "-v",
        "-k",
        "not kernel",
        "--awq-config=cells.toml",
        "--awq-out=out",
        "--benchmark-json=speed.json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (
        "reference-rtn-int4-g128-perplexity",
        "reference-unquantized-perplexity",
        "test_decode[reference-rtn-int4-g128-auto]",
        "test_mine.py::test_quality",
        "test_mine.py::test_speed_of_the_project",
    ):
        assert f"{name}] PASSED" in done.stdout or f"{name} PASSED" in done.stdout, done.stdout
    assert "test_of_the_project" not in done.stdout
    assert "embedded_ppl_256@2, lower is better" in done.stdout
    assert "reference: throughput" in done.stdout
    names = sorted(path.name for path in (project / "out" / "records").iterdir())
    assert names == ["rtn_int4-g128.json", "unquantized.json"]
    timed = json.loads((project / "speed.json").read_text("utf-8"))["benchmarks"]
    record = json.loads((project / "out/records/rtn_int4-g128.json").read_text("utf-8"))
    runs = record["metrics"]["throughput_decode_tokens_per_s"]["backends"]["auto"]["runs"]
    steps = [step for one in runs for step in one["step_s"]]
    found = next(one for one in timed if one["name"] == "test_decode[reference-rtn-int4-g128-auto]")
    assert found["stats"]["rounds"] == len(steps)
    assert found["stats"]["mean"] == pytest.approx(sum(steps) / len(steps))


BREAKS = """
from pathlib import Path
from bench.comparison.workbench import Workbench
from bench.comparison.suites.throughput import ThroughputSuite

def fails(*arguments):
    raise ArithmeticError("planted")

def counted(*arguments):
    with Path("cells.txt").open("a") as file:
        file.write("one\\n")
    return measure(*arguments)

measure, Workbench.measure, ThroughputSuite.prepare = Workbench.measure, counted, fails
"""


@pytest.mark.slow
def test_a_suite_that_fails_fails_its_tests_and_the_tables_follow(project: Path) -> None:
    (project / "conftest.py").write_text(BREAKS, "utf-8")
    names = "-kreference and (cell or decode)"
    done = run(project, "--benchmark", "-v", names, "--awq-config=cells.toml", "--awq-out=out")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "test_cell[reference-rtn-int4-g128-perplexity] PASSED" in done.stdout
    assert "test_decode[reference-rtn-int4-g128-auto] FAILED" in done.stdout
    assert "planted" in done.stdout
    assert len((project / "cells.txt").read_text("utf-8").splitlines()) == 2, "once for each cell"
    assert "embedded_ppl_256@2, lower is better" in done.stdout
    assert (project / "out" / "report.md").is_file()


def test_tasks_have_cells_at_the_schemes_that_run_them_alone(project: Path) -> None:
    (project / "tasks.toml").write_text(
        'methods = ["rtn"]\nschemes = ["int4-g128", "int3-g128"]\nsuites = ["perplexity", "json"]\n'
        'tasks-schemes = ["int3-g128"]\nlimit = 1\n',
        "utf-8",
    )
    collect = ["--collect-only", "-q", "-o", "empty_parameter_set_mark=fail_at_collect"]
    done = run(project, "--benchmark", *collect, "--awq-config=tasks.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_decode" not in done.stdout, "no speed was asked for, which is no failure"
    assert "test_NOTSET_is_a_name_too" in done.stdout
    for name, there in {
        "unquantized-json": True,
        "rtn-int3-g128-json": True,
        "rtn-int4-g128-json": False,
        "rtn-int4-g128-perplexity": True,
    }.items():
        assert (f"test_cell[reference-{name}]" in done.stdout) is there, done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--awq-config=none.toml"], "awq-bench: --awq-config none.toml cannot be read"),
        (["--awq-config=bad.toml"], "unknown key 'metods'"),
        (["--awq-schemes=int5"], "unknown scheme 'int5'"),
        (["--awq-methods=awk"], "unknown method 'awk'"),
        (["--awq-suites=speed"], "unknown suite 'speed'"),
    ],
)
def test_bad_options_are_named(
    project: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: they are refused before anything is collected."""
    (project / "bad.toml").write_text('metods = ["rtn"]\n', "utf-8")
    monkeypatch.chdir(project)
    alone = ["-p", "no:cacheprovider", "-p", "no:faulthandler", "--capture=no"]
    code = pytest.main([*alone, "--benchmark", "-q", "-k", "perplexity", *arguments])
    assert code == pytest.ExitCode.USAGE_ERROR
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--awq-methods=awk"], "unknown method 'awk'"),
        (["--awq-model=./nowhere"], "./nowhere"),
    ],
)
def test_bad_options_end_the_run(project: Path, arguments: list[str], said: str) -> None:
    """Before anything is collected, and where only loading the model can tell."""
    done = run(project, "--benchmark", "-q", "-k", "perplexity", *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


GATED = """
def test_as_it_was(awq_bench):
    (result,) = awq_bench.gate("same.json")
    assert result.outcome == "pass"

def test_worse(awq_bench):
    awq_bench.gate("worse.json")

def test_other(awq_bench):
    awq_bench.gate("same.json", "other.json")
"""


def test_gates_fail_tests_and_end_with_their_tables(asked: Request, tmp_path: Path) -> None:
    request = asked.but(methods=("rtn",), calibration=None, suites=("perplexity",))
    made = make(request, {})
    write(made, tmp_path / "same.json", force=False)
    worse = replace(made, quantized=changed(made.quantized, shifted(-0.5)))
    write(worse, tmp_path / "worse.json", force=False)
    other = replace(made, declared={**made.declared, "source": "0" * 64})
    write(other, tmp_path / "other.json", force=False)
    (tmp_path / "test_gates.py").write_text(GATED, "utf-8")
    done = run(tmp_path, "--benchmark", "-k", "not kernel and not cell and not decode", "-rA")
    assert done.returncode == 1, done.stdout + done.stderr
    for name, outcome in (("as_it_was", "PASSED"), ("worse", "FAILED"), ("other", "FAILED")):
        assert f"{outcome} test_gates.py::test_{name}" in done.stdout, done.stdout
    assert "| FAIL |" in done.stdout
    assert "| no verdict |" in done.stdout
    assert "source weights is 0000" in " ".join(done.stdout.split())
    assert f"{asked.model}, rtn int4-g32: FAIL" in done.stdout
    assert f"{asked.model}, rtn int4-g32: pass" in done.stdout


def test_settings_are_called_as_the_project_gives_them() -> None:
    """It is an option of ours where there is one, else the key in the file of ``--awq-config``."""
    assert options.option_of("text") == "--awq-text"
    assert options.option_of("out") == "--awq-out"
    assert options.option_of("calibration_samples") == "calibration-samples"
