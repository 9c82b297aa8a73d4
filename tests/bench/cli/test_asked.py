"""How options become a request, and which configuration files are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.cli import asked
from bench.cli import main as cli
from bench.comparison.request import Request
from tests.bench.cli.conftest import Refused, write


@pytest.mark.parametrize(
    ("lines", "value", "rule", "fix"),
    [
        (
            ["calibration-sample = 4"],
            *("unknown key 'calibration-sample'", "Known: ", "did you mean 'calibration-samples'"),
        ),
        (["[compare]", "seqlen = 4"], "unknown key 'compare'", "Known: model, methods", "seqlen"),
        (["seqlen = "], "mine.toml is not TOML", "line 1", "column"),
        (["seqlen = 4", "seqlen = 5"], "mine.toml is not TOML", "line 2", "column"),
        (["seqlen = '16'"], "'16'", "seqlen must be", "a whole number"),
        (["seqlen = 16.0"], "16.0", "seqlen must be", "a whole number"),
        (["batch-size = true"], "True", "batch-size must be", "a whole number"),
        (["methods = 3"], "3", "methods must be", "a list of names"),
        (["schemes = [4, 3]"], "[4, 3]", "schemes must be", "a list of names"),
        (["model = 3"], "3", "model must be", "a string"),
        (["text = ['a.txt']"], "['a.txt']", "text must be", "a string"),
        (["data-dir = 3"], "3", "data-dir must be", "a string"),
        (["out = 3"], "3", "out must be", "a string"),
        (['out = "a\\u0000b"'], "a\\x00b", "out must be", "a string without NUL"),
        (["seed = " + "9" * 5000], "mine.toml is not TOML", "limit", "digits"),
        (["a = " + "[" * 20_000], "mine.toml is not TOML", "recursion", "recursion"),
        (["data-dir = 'nowhere'"], "nowhere", "is not there", "--data-dir"),
    ],
    ids=[
        *("key", "table", "no-value", "key-twice", "int-as-string", "int-as-float", "int-as-bool"),
        *("list-as-int", "list-of-int", "string-as-int", "string-as-list", "path-as-int"),
        *("out-as-int", "out-with-nul", "number-too-long", "nested-too-deep", "no-data"),
    ],
)
def test_config(
    refused: Refused,
    model: Path,
    tmp_path: Path,
    lines: list[str],
    value: str,
    rule: str,
    fix: str,
) -> None:
    config = write(tmp_path / "mine.toml", *lines)
    refused("compare", model, "--config", config, value=value, rule=rule, fix=fix)


def test_config_that_is_not_there(refused: Refused) -> None:
    refused(
        *("compare", "--config", "nowhere.toml"),
        value="--config nowhere.toml",
        rule="cannot be read",
        fix="No such file",
    )


def test_config_that_is_not_utf8(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"text = 'caf\xe9.txt'\n")
    refused(
        *("compare", "--config", "mine.toml"),
        value="mine.toml is not TOML",
        rule="position 11",
        fix="utf-8",
    )


@pytest.mark.parametrize(
    ("lines", "value", "rule"),
    [
        (["methods = ['awk']"], "unknown method 'awk'", "Known: "),
        (["seqlen = 65"], "--seqlen 65", "context of 64"),
    ],
    ids=["method", "seqlen"],
)
def test_values_from_a_config_are_checked_like_options(
    refused: Refused,
    model: Path,
    text: Path,
    tmp_path: Path,
    lines: list[str],
    value: str,
    rule: str,
) -> None:
    config = write(tmp_path / "mine.toml", *lines, "schemes = ['int4-g32']")
    refused(
        *("compare", model, "--config", config, "--text", text, "--device", "cpu"),
        value=value,
        rule=rule,
        fix="did you mean 'awq'|of 64",
    )


@pytest.mark.parametrize("command", ["evaluate", "quantize"])
def test_config_without_a_model(refused: Refused, tmp_path: Path, command: str) -> None:
    # Should it ever load the reference model, it is not to run it: neither number fits.
    config = write(tmp_path / "mine.toml", "seqlen = 1", "text = 'embedded'")
    more = ["--method", "rtn", "--scheme", "int4-g7"] if command == "quantize" else []
    refused(
        *(command, "--config", config, "--out", "out", *more),
        value=f"{command} needs a MODEL",
        rule="needs a MODEL",
        fix="a hub name, a local folder, or 'reference'",
    )


def test_a_config_that_is_a_pipe(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    evaluate(model, "--config", "pipe", value="--config pipe", rule="is no file", fix="holds TOML")


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    lines = ["seed = 1", "seqlen = 8", "exclude = ['a']", "chat-template = true", "out = 'far'"]
    config = write(tmp_path / "mine.toml", *lines)
    words = ["compare", "--config", str(config), "--seed", "0", "--exclude", "b", "--exclude", "c"]
    given = asked.with_config(cli._parser().parse_args(words))
    request = asked.request(given, command="compare")
    assert given.out == Path("far")
    assert (request.seed, request.exclude) == (0, ("b", "c"))
    assert (request.text.seqlen, request.tasks.chat_template) == (8, True)
    assert request == Request.of(seed=0, exclude=("b", "c"), seqlen=8, chat_template=True)


def test_an_empty_variable_names_no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWQ_BENCH_DATA", "")
    for words in (["gate", "--baseline", "b.json"], ["doctor"], ["compare"]):
        assert asked.data_dir(cli._parser().parse_args(words)) is None
