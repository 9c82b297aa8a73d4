"""What people expect of a repository: it is there, and it agrees with the code."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from bench.cli import main as cli
from bench.gate.baseline import read as read_baseline

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""Of the text at https://www.apache.org/licenses/LICENSE-2.0.txt, its appendix included."""


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


GATE = yaml.safe_load(read(".github/workflows/gate.yml"))
WORKFLOW = yaml.safe_load(read(".github/workflows/ci.yml"))
HOOKS = yaml.safe_load(read(".pre-commit-config.yaml"))
TOX = configparser.ConfigParser(interpolation=None)
TOX.read_string(read("tox.ini"))


def test_the_licence_is_the_whole_apache_licence() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_SHA256
    # Of all that is installed; NOTICE says which part has which.
    assert PROJECT["project"]["license"] == "Apache-2.0 AND CC-BY-SA-3.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]


def test_the_weights_licence_is_the_same_wherever_it_is_stated() -> None:
    assert "license: cc-by-sa-3.0" in read("bench/reference/model/README.md")
    for name in ("README.md", "NOTICE", "bench/reference/model/README.md"):
        assert "CC BY-SA 3.0" in read(name), name
    for line in read("NOTICE").splitlines():
        if line.startswith("    bench/"):
            assert (ROOT / line.strip()).exists(), line


def readme_commands() -> list[str]:
    """The lines of the code block under "Two commands", without their comments."""
    section = read("README.md").partition("## Two commands")[2]
    block = re.findall(r"```\n(.*?)```", section, re.DOTALL)[0]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


def test_the_workflow_runs_the_readmes_two_commands_and_every_test() -> None:
    jobs = WORKFLOW["jobs"]
    ran = {
        name: [s["run"] for s in job["steps"] if "tox" in s.get("run", "")]
        for name, job in jobs.items()
        if "steps" in job
    }
    comparison, tests = readme_commands()
    assert ran == {
        "tests": [tests],
        "full": [f"{tests} -e full"],
        "comparison": [comparison],
    }


def test_only_the_default_command_leaves_slow_tests_out() -> None:
    check, full = (TOX[f"testenv:{name}"]["commands"].split() for name in ("check", "full"))
    command = "{[tests]command}"
    assert check[check.index(command) :] == [command, "-m", '"not', 'slow"', "{posargs}"]
    assert full == [command, "{posargs}"]
    assert "-m" not in TOX["tests"]["command"].split()


def test_the_workflow_tests_every_python_that_is_claimed() -> None:
    claimed = [
        c.rpartition(" ")[2]
        for c in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", c)
    ]
    assert WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"] == claimed
    assert PROJECT["project"]["requires-python"] == f">={claimed[0]}"


def test_the_workflow_may_only_read_and_gives_way_to_the_newer_run() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True
    assert GATE["permissions"] == {"contents": "read"}
    for job in (*WORKFLOW["jobs"].values(), *GATE["jobs"].values()):
        assert "permissions" not in job
        assert "uses" in job or job["timeout-minutes"] <= 60


def test_the_workflow_gates_the_reference_model_as_others_would() -> None:
    job = WORKFLOW["jobs"]["gate"]
    assert job["uses"] == "./.github/workflows/gate.yml"
    called = GATE[True]["workflow_call"]  # YAML 1.1 reads the word `on` as true
    assert set(job["with"]) <= set(called["inputs"])
    assert {name for name, one in called["inputs"].items() if one.get("required")} <= set(
        job["with"]
    )
    folder = ROOT / job["with"]["baselines"]
    declared = [read_baseline(path).declared for path in sorted(folder.glob("*.json"))]
    assert {(one["method"], one["scheme"]) for one in declared} == {
        (method, scheme) for method in ("awq+clip", "gptq") for scheme in ("int4-g128", "int3-g128")
    }


def test_the_gates_workflow_decides_by_the_exit_code_and_keeps_its_reports() -> None:
    (job,) = GATE["jobs"].values()
    decide = next(step for step in job["steps"] if "awq-bench gate" in step.get("run", ""))
    assert not {"continue-on-error", "if"} & set(decide)
    # What a caller writes reaches the shell as variables, never as text of the script.
    assert all("${{" not in step.get("run", "") for step in job["steps"])
    report = re.search(r"--report (\S+)", decide["run"])
    assert report
    assert job["steps"][-1]["with"]["path"] == report[1]
    assert job["steps"][-1]["if"] == "always()"
    env = GATE["jobs"]["gate"]["env"]
    assert env["PIP_EXTRA_INDEX_URL"] == WORKFLOW["env"]["PIP_EXTRA_INDEX_URL"]


@pytest.mark.parametrize(
    ("model", "source"), [("", ""), ("./my model", ""), ("./my model", "org/source")]
)
def test_the_gates_workflow_passes_on_what_it_is_given(
    tmp_path: Path, model: str, source: str
) -> None:
    (job,) = GATE["jobs"].values()
    (decide,) = [step["run"] for step in job["steps"] if "awq-bench gate" in step.get("run", "")]
    program = tmp_path / "awq-bench"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", "utf-8")
    program.chmod(0o755)
    given = {"BASELINES": "a.json b.json", "MODEL": model, "SOURCE": source}
    said = subprocess.run(
        ["bash", "-e", "-c", decide],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **given},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parsed = vars(cli._parser().parse_args(said.splitlines()))
    assert parsed.pop("command") == "gate"
    assert parsed.pop("baseline") == [Path("a.json"), Path("b.json")]
    assert parsed.pop("report").name
    given = {name: value for name, value in parsed.items() if value is not None}
    assert given == {k: v for k, v in (("model", model), ("source", source)) if v}


def test_the_workflow_gets_torch_without_cuda_through_tox() -> None:
    """A local version in the constraint would refuse the build that a GPU's owner wants."""
    assert WORKFLOW["env"]["PIP_EXTRA_INDEX_URL"] == "https://download.pytorch.org/whl/cpu"
    assert "PIP_*" in TOX["testenv"]["pass_env"].split()
    assert re.search(r"^torch==[0-9.]+$", read("constraints.txt"), re.MULTILINE)


def test_the_workflow_shows_and_keeps_what_the_comparison_writes() -> None:
    steps = WORKFLOW["jobs"]["comparison"]["steps"]
    out = re.search(r"--out \{tox_root\}/(\S+)", TOX["testenv:compare"]["commands"])
    assert out
    assert f'cat {out[1]}/table.md >> "$GITHUB_STEP_SUMMARY"' in [s.get("run") for s in steps]
    assert steps[-1]["with"]["path"] == out[1]
    assert steps[-1]["if"] == "always()"


def test_tox_installs_pinned_tools() -> None:
    pinned = {line.partition("==")[0] for line in read("constraints.txt").splitlines()}
    names = [line.partition(";")[0] for line in TOX["testenv:check"]["deps"].split("\n") if line]
    names.remove("triton")  # torch's builds for CUDA name the one version that they need
    for name in names:
        assert name in pinned, f"{name} has no line in constraints.txt; add one"


def test_commits_are_checked_with_the_tools_of_tox() -> None:
    """Nothing is fetched, so that versions cannot differ; all that tox lints is linted."""
    (repository,) = HOOKS["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    entries = [hook["entry"] for hook in repository["hooks"]]
    for command in TOX["testenv:check"]["commands"].strip().splitlines():
        words = command.split()
        start = " ".join(words[:2]) if words[0] == "ruff" else words[0]
        if words[0] not in ("{[tests]command}", "pre-commit"):
            assert any(entry.startswith(start) for entry in entries), command


def test_only_the_reference_weights_and_records_of_answers_are_large() -> None:
    (hook,) = [h for h in HOOKS["repos"][0]["hooks"] if h["id"] == "check-added-large-files"]
    limit = 1024 * int(hook["entry"].partition("--maxkb=")[2])
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    large = {n for n in filter(None, listed.split("\0")) if (ROOT / n).stat().st_size > limit}
    assert {n for n in large if not re.search(hook["exclude"], n)} == set()
    records = {n for n in large if n.startswith("results/reference/tasks/records/")}
    assert large - records == {"bench/reference/model/model.safetensors"}
    assert max((ROOT / n).stat().st_size for n in records) < 2**20


def _declared() -> dict[str, Requirement]:
    """What pyproject.toml requires, with all extras of `all`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    (every,) = map(Requirement, extras["all"])
    listed = [*project["dependencies"], *(line for name in every.extras for line in extras[name])]
    return {one.name: one for one in map(Requirement, listed)}


def _listed(name: str) -> dict[str, Requirement]:
    lines = (ROOT / "tests" / "releases" / name).read_text("utf-8").splitlines()
    return {one.name: one for one in map(Requirement, [n for n in lines if not n.startswith("#")])}


def test_the_oldest_releases_are_the_lower_bounds() -> None:
    declared, oldest = _declared(), _listed("oldest.txt")
    (torch,) = re.findall(r"\{env:AWQ_BENCH_TORCH:torch==(\S+)\}", TOX["testenv:oldest"]["deps"])
    assert Version(torch) == _lowest(declared.pop("torch"))
    assert set(oldest) == set(declared)
    for name, requirement in oldest.items():
        (pinned,) = requirement.specifier
        assert pinned.operator == "=="
        assert Version(pinned.version) == _lowest(declared[name]), name


def test_the_newest_releases_are_bound_by_nothing() -> None:
    newest = _listed("newest.txt")
    assert set(newest) == set(_declared()) - {"torch"}
    assert all(not requirement.specifier for requirement in newest.values())
    assert "{env:AWQ_BENCH_TORCH:torch}" in TOX["testenv:newest"]["deps"]
    for name in ("newest", "oldest"):  # no constraints file, and the wheel
        settings = TOX["releases"]["set_env"]
        assert "constraints.txt" not in settings + TOX[f"testenv:{name}"].get("install_command", "")
        assert TOX[f"testenv:{name}"]["skip_install"] == "true"
    assert "pip wheel" in TOX["releases"]["commands_pre"]


def test_what_breaks_with_every_release_has_an_upper_bound() -> None:
    """And what is pinned for development lies within the bounds."""
    declared = _declared()
    for name in ("transformers", "lm-eval", "datasets", "torch"):
        assert any(one.operator == "<" for one in declared[name].specifier), name
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {
        one.name: one for one in map(Requirement, [n for n in lines if not n.startswith("#")])
    }
    for name in declared.keys() & pinned.keys():
        (exact,) = pinned[name].specifier
        assert declared[name].specifier.contains(exact.version), name


def _lowest(requirement: Requirement) -> Version:
    (least,) = (one for one in requirement.specifier if one.operator == ">=")
    return Version(least.version)
