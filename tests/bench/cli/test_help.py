"""The help teaches: every option with its default, 80 columns, examples that work."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import datasets.config
import huggingface_hub.constants
import pytest

from bench import registry
from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison.request import Request
from lab.reference.train import train_tokenizer
from quantcore import hub
from quantcore.scheme import QuantScheme
from suites import SUITES
from tests.bench.conftest import prose
from tests.conftest import tiny_model

ROOT = Path(__file__).parents[3]


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The program's parser, and those of its commands, by name."""
    program = cli._parser()
    (commands,) = [a for a in program._actions if isinstance(a, argparse._SubParsersAction)]
    return {"awq-bench": program, **commands.choices}


def examples(text: str) -> list[list[str]]:
    """The arguments of every line that calls the program; lines may go on after a backslash."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "awq-bench " in line[:12]]
    return [words[1:] for words in found if words and words[0] == "awq-bench"]


PARSERS = parsers()
EXAMPLES = {name: examples(parser.epilog or "") for name, parser in PARSERS.items()}


def options() -> Iterator[tuple[str, argparse.Action]]:
    for name, parser in PARSERS.items():
        for action in parser._actions:
            if action.dest not in ("help", "command"):
                yield name, action


@pytest.mark.parametrize(
    "action", [pytest.param(a, id=f"{name} {a.metavar}:{a.dest}") for name, a in options()]
)
def test_every_option_says_what_it_is_and_its_default(action: argparse.Action) -> None:
    assert action.help not in (None, argparse.SUPPRESS)
    required = action.required and action.option_strings
    assert re.search(r"\(required\)$" if required else r"\((default: .+|required)\)$", action.help)


@pytest.mark.parametrize("name", [n for n in PARSERS if n != "awq-bench"])
def test_stated_defaults_are_the_requests(name: str) -> None:
    defaults = Request().options()
    for action in PARSERS[name]._actions:
        default = defaults.get(action.dest)
        if name.endswith("gate") and action.dest == "model":
            continue  # the baseline's own
        if default in (None, ()) or "(required)" in str(action.help):
            continue
        stated = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert re.search(rf"\(default: {re.escape(stated)}[,)]", str(action.help)), action.dest


@pytest.mark.parametrize("name", [n for n in PARSERS if n not in ("awq-bench", "list", "doctor")])
def test_options_come_in_groups(name: str) -> None:
    """Only -h is in argparse's own group; groups come in the order of the work."""
    groups = [g for g in PARSERS[name]._action_groups if g._group_actions]
    order = [
        "options", "model", "cells", "what to compare", "how to quantize", "evaluation", "tasks",
        "throughput", "calibration", "gate", "running", "output",
    ]  # fmt: skip
    titles = [str(group.title) for group in groups]
    assert titles == [title for title in order if title in titles]
    assert [a.dest for a in groups[0]._group_actions] == ["help"]


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_80_columns(name: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = PARSERS[name].format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r" $", text, re.MULTILINE)
    assert "exit codes:\n  0    done\n" in text
    assert "awq-bench-\n" not in text


def test_every_exit_code_is_told() -> None:
    codes = {v for k, v in vars(exit_codes).items() if k.isupper() and isinstance(v, int)}
    told = {int(c) for c in re.findall(r"^  (\d+) +\S", exit_codes.listed(), re.MULTILINE)}
    assert told == codes


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{name} {number}")
        for name, found in {
            **EXAMPLES,
            "README.md": examples((ROOT / "README.md").read_text("utf-8")),
            "results": examples(
                "\n".join(re.findall(r"`(.*)`", (ROOT / "results/README.md").read_text("utf-8")))
            ),
        }.items()
        for number, words in enumerate(found)
    ],
)
def test_examples_parse_and_name_what_there_is(words: list[str]) -> None:
    parsed = vars(cli._parser().parse_args(words))
    for method in (*(parsed.get("methods") or ()), *filter(None, [parsed.get("method")])):
        registry.method(method)
    for scheme in (*(parsed.get("schemes") or ()), *filter(None, [parsed.get("scheme")])):
        QuantScheme.parse(scheme)
    assert set(parsed.get("suites") or ()) <= set(SUITES)


def test_every_command_has_an_example_of_itself() -> None:
    for name, found in EXAMPLES.items():
        assert found, name
        assert name in ("awq-bench", *[words[0] for words in found])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.endswith(("gate", "baseline")))
        for name in EXAMPLES
        if name != "awq-bench"
    ],
)
def test_examples_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one folder, one after the other, as a reader would; without a hub.

    What asks the hub, takes the shipped model's minutes or prompts longer than the tiny one's
    context is only parsed, above.
    """
    tokenizer = train_tokenizer([prose(4000, seed=0)], 400)
    model = tiny_model("llama", vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256)
    model.save_pretrained(tmp_path / "my-model")
    tokenizer.save_pretrained(tmp_path / "my-model")
    (tmp_path / "traffic.txt").write_text(prose(2000, seed=1), "utf-8")
    prompts = "".join(f'{{"text": "{prose(200, seed=seed)}"}}\n' for seed in range(2, 162))
    (tmp_path / "prompts.jsonl").write_text(prompts, "utf-8")
    (tmp_path / "texts").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    before = []
    if name in ("gate", "rebaseline", "baseline"):
        before = [words for words in EXAMPLES["quantize"] if "./my-model-int4" in words][:1]
    if name in ("gate", "rebaseline"):
        before += EXAMPLES["baseline"]
    try:
        ran = 0
        for words in [*before, *EXAMPLES[name]]:
            local = [word.replace("~", str(tmp_path)) for word in words]
            far = {"embedded", "wikitext2", "standard"} & set(words)
            if not far and "long_prompt" not in " ".join(words):
                assert cli.main(local) == exit_codes.DONE, capsys.readouterr().err
                ran += 1
        assert ran
    finally:
        hub.unreachable.cache_clear()
