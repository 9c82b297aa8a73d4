"""What `gate` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.cli.conftest import Refused, write


def test_a_model_in_the_place_of_a_baseline(refused: Refused, model: Path) -> None:
    refused(
        *("gate", "--baseline", model),
        value=str(model),
        rule="is a model's folder",
        fix="give it as MODEL",
    )


@pytest.mark.parametrize(
    ("arguments", "value", "rule"),
    [
        (["--baseline", "a.json", "b.json"], "MODEL b.json", "a folder with config.json"),
        (["--baseline", "a.json", "folder"], "MODEL folder", "a folder with config.json"),
        (["--baseline", "a.json", "b.json", "c.json"], "c.json", "unrecognized arguments"),
        (["./model", "--baseline", "a.json", "b.json"], "b.json", "unrecognized arguments"),
    ],
    ids=["two", "folder", "three", "model"],
)
def test_several_baselines_after_one_option(
    refused: Refused, tmp_path: Path, arguments: list[str], value: str, rule: str
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.json", "b.json", "folder/c.json"):
        write(tmp_path / name, "{}")
    refused("gate", *arguments, value=value, rule=rule, fix="--baseline A --baseline B")


@pytest.mark.parametrize(
    ("arguments", "value", "rule", "fix"),
    [
        (["--baseline", "none.json"], "none.json", "cannot be read", "name a file that"),
        (["--baseline", "empty"], "empty", "holds no .json file", "name a baseline"),
        (
            ["--baseline", "b.json", "--report", "file"],
            *("--report file", "is a file", "name a folder"),
        ),
        (
            ["--baseline", "b.json", "--report", "file/report"],
            *("--report file/report", "is a file, not a folder", "name another place"),
        ),
        (
            ["--baseline", "b.json", "--data-dir", "nowhere"],
            *("nowhere", "is not there", "--data-dir or AWQ_BENCH_DATA"),
        ),
    ],
    ids=["none", "folder", "report", "below-a-file", "data"],
)
def test_gates(
    refused: Refused, tmp_path: Path, arguments: list[str], value: str, rule: str, fix: str
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file", "mine")
    refused("gate", *arguments, value=value, rule=rule, fix=fix)
