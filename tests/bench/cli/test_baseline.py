"""What `baseline` refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.gate.baseline import write as write_baseline
from quantcore.errors import InputError
from tests.bench.cli.conftest import SEQLEN, Refused, write


@pytest.fixture
def baseline(refused: Refused, model: Path, text: Path, calibration: Path) -> Refused:
    """A baseline that would work, but for what is added to it."""

    def run(*arguments: object, **message: str) -> str:
        return refused(
            *("baseline", model, "--method", "awq", "--scheme", "int4-g32", "--text", text),
            *("--seqlen", SEQLEN, "--device", "cpu", "--calibration", calibration),
            *("--calibration-samples", 4, "--calibration-seqlen", SEQLEN, "--out", "b.json"),
            *arguments,
            **message,
        )

    return run


BASELINE = {
    "seeds": (["--seeds", "4"], "--seeds 4", "at least 5", "at least 5"),
    "no-value": (
        ["--tolerance", "perplexity=much:why"],
        *("perplexity=much:why", "GATE=VALUE:REASON", "such as 'perplexity=0.5%:"),
    ),
    "negative": (
        ["--tolerance", "perplexity=-1%:why"],
        *("perplexity=-1%:why", "a value of 0 or more", "such as 'perplexity=0.5%:"),
    ),
    "nan": (
        ["--tolerance", "perplexity=nan:why"],
        *("perplexity=nan:why", "a value of 0 or more", "such as 'perplexity=0.5%:"),
    ),
    "speed": (
        ["--tolerance", "throughput=100%:why"],
        *("throughput=100%:why", "a value of 0 or more and below 100 in %", "such as"),
    ),
    "no-reason": (
        ["--tolerance", "perplexity=1%"],
        *("perplexity=1%", "a tolerance has a reason", "add it after a colon"),
    ),
    "twice": (
        ["--tolerance", "size=1%:a", "--tolerance", "size=2%:b"],
        *("--tolerance size", "is given twice", "name each gate once"),
    ),
    "no-gate": (
        ["--tolerance", "perplexty=1%:why"],
        *("--tolerance perplexty", "no such gate", "did you mean 'perplexity'"),
    ),
    "not-measured": (
        ["--tolerance", "json=1:why"],
        *("--tolerance json", "no such gate", "Known: perplexity, size"),
    ),
    "scheme-alone": (["--method", "", "--scheme", "int4-g32"], "''", "unknown method", "Known"),
    "source": (
        ["--source", "./source"],
        *("--source ./source", "MODEL is the source already", "leave one of them out"),
    ),
    "suite": (["--suites", "perplexty"], "'perplexty'", "unknown suite", "did you mean"),
}


@pytest.mark.parametrize(("arguments", "value", "rule", "fix"), BASELINE.values(), ids=BASELINE)
def test_baselines(
    baseline: Refused, arguments: list[str], value: str, rule: str, fix: str
) -> None:
    baseline(*arguments, value=value, rule=rule, fix=fix)


def test_a_method_without_a_scheme(refused: Refused, model: Path) -> None:
    refused(
        *("baseline", model, "--method", "rtn", "--out", "b.json"),
        value="--method",
        rule="go together",
        fix="give both, or neither",
    )


def test_a_baseline_that_is_there(baseline: Refused, tmp_path: Path) -> None:
    write(tmp_path / "b.json", "mine")
    baseline(value="b.json", rule="is there already", fix="give --force")


def test_a_baseline_forced_over_another_file(baseline: Refused, tmp_path: Path) -> None:
    write(tmp_path / "report.md", "mine")
    baseline(
        "--out", "report.md", "--force", value="report.md", rule="was not written by", fix="another"
    )
    assert (tmp_path / "report.md").read_text("utf-8") == "mine\n"


def test_a_baseline_below_a_file(baseline: Refused, tmp_path: Path) -> None:
    write(tmp_path / "file", "mine")
    baseline("--out", "file/b.json", value="file/b.json", rule="is a file", fix="name another")


def test_a_baseline_in_the_place_of_a_folder(baseline: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    baseline("--out", "folder", "--force", value="folder", rule="is a folder", fix="name a file")


def test_a_disk_that_becomes_full_for_a_baseline(
    full: Callable[[str], None], tmp_path: Path
) -> None:
    made = SimpleNamespace(
        made="", declared={}, request={}, tolerances={}, reruns=(), unquantized=None, quantized=None
    )
    full("b.json")
    with pytest.raises(InputError, match=r"b\.json cannot be written \(No space left"):
        write_baseline(made, tmp_path / "b.json", force=False)  # type: ignore[arg-type]
    assert not (tmp_path / "b.json").exists()
