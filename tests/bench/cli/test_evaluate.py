"""What `evaluate` refuses: machines, codes and places to write to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cli.main import main
from tests.bench.cli.conftest import SEQLEN, Refused, write
from tests.bench.conftest import another_process


@pytest.fixture(scope="session")
def evaluated(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished evaluation."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    options = ["--text", str(text), "--seqlen", "16", "--device", "cpu", "--out", str(out)]
    assert main(["evaluate", str(model), *options]) == 0
    return out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu(evaluate: Refused, model: Path) -> None:
    evaluate(
        *(model, "--device", "cuda"),
        value="--device cuda",
        rule="sees no CUDA GPU",
        fix="use --device cpu",
    )


def test_a_backend_for_a_folder_without_codes(evaluate: Refused, model: Path) -> None:
    evaluate(
        *(model, "--backend", "cpu"),
        value="awq_bench/codes.safetensors",
        rule="the codes that an INT4 backend runs",
        fix="write the folder with `awq-bench quantize`",
    )


def test_damaged_codes(evaluate: Refused, broken: Path) -> None:
    (broken / "awq_bench").mkdir()
    (broken / "awq_bench" / "codes.safetensors").write_bytes(b"no such thing")
    evaluate(
        *(broken, "--backend", "cpu"),
        value="awq_bench/codes.safetensors",
        rule="is damaged",
        fix="write the folder anew",
    )


@pytest.mark.parametrize("name", ["a[bold]b", "a[/]b", "a[/bold]b"])
def test_names_that_look_like_markup_are_names(
    model: Path, text: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(model, tmp_path / name)
    options = ["--text", str(text), "--device", "cpu", "--out", f"{name}-out"]
    assert main(["evaluate", str(folder), *options]) == 0
    assert f"{name}-out" in capsys.readouterr().err


def test_out_holds_another_comparison(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    evaluate(
        *(model, "--seqlen", SEQLEN + 1),
        value="out holds another comparison",
        rule=f"seqlen {SEQLEN}, now {SEQLEN + 1}",
        fix="name another --out",
    )


def test_out_holds_other_things(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "thesis.tex", "four years of work")
    evaluate(model, value="out exists", rule="is no comparison", fix="name another --out")


def test_out_is_a_file(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "out", "mine")
    evaluate(model, value="out exists", rule="is no comparison", fix="name another --out")


def test_out_below_a_file(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine", "mine")
    evaluate(
        model, "--out", "mine/out", value="--out mine/out", rule="cannot be written", fix="another"
    )


def test_out_that_another_process_writes(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    with another_process(tmp_path / "out"):
        evaluate(
            model,
            value="--out out",
            rule="is being written by another process",
            fix="wait until it ends, or name another --out",
        )


@pytest.mark.parametrize(
    "name",
    ["comparison.json", "unquantized.json", "table.md"],
    ids=["manifest", "record", "table"],
)
def test_a_disk_that_becomes_full(
    full: Callable[[str], None],
    model: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    command = ["evaluate", str(model), "--text", str(text), "--seqlen", "16", "--device", "cpu"]
    full(name)
    assert main([*command, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert f"error: out cannot be written (No space left on device: {name}" in said
    assert "make room" in said
    assert main([*command, "--out", "out"]) == 2  # it was no other comparison's
    assert "No space left on device" in capsys.readouterr().err
    full("")
    assert main([*command, "--out", "out"]) == 0
    assert not list(Path("out").rglob(".*"))


@pytest.mark.parametrize("content", ['{"key": ', "[]"], ids=["cut-off", "list"])
def test_out_with_a_damaged_manifest(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path, content: str
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    write(tmp_path / "out" / "comparison.json", content)
    evaluate(
        model,
        value="comparison.json is damaged",
        rule="damaged (",
        fix="remove its folder or name another",
    )


@pytest.mark.parametrize(
    ("changes", "value", "rule", "fix"),
    [
        ({"seed": 1}, "unquantized.json", "it was edited", "remove|another --out"),
        ({"colour": 1}, "unquantized.json", "not a record", "remove|another --out"),
    ],
    ids=["edited", "unknown-field"],
)
def test_out_with_a_damaged_record(
    evaluate: Refused,
    model: Path,
    evaluated: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    value: str,
    rule: str,
    fix: str,
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    path = tmp_path / "out" / "records" / "unquantized.json"
    record = json.loads(path.read_text("utf-8"))
    write(path, {**record, "cell": {**record["cell"], **changes}})
    evaluate(model, value=value, rule=rule, fix=fix)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ('"status": "done"', '"status": "dunno"', "dunno"),
        ('"value": ', '"value": NaN, "was": ', "NaN"),
    ],
)
def test_out_with_a_record_that_lies(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path, old: str, new: str, value: str
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    path = tmp_path / "out" / "records" / "unquantized.json"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    evaluate(model, value=value, rule="not a record", fix="remove|another --out")


def test_empty_names(refused: Refused, model: Path) -> None:
    """Of a shell's variable that is not set."""
    refused("evaluate", model, "--out", "", value="--out", rule="it is empty", fix="name a place")
    refused("evaluate", "", value="MODEL", rule="needs a MODEL", fix="a local folder")
