"""Options mean the same in whatever order they come."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from bench.cli import main as cli
from bench.cli import options


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = [
        action
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(subparsers.choices)


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_takes_one_value_or_none(name: str) -> None:
    """More of them would swallow the MODEL that follows."""
    for action in COMMANDS[name]._actions:
        if action.option_strings:
            assert action.nargs in (None, 0), action.option_strings


def words_of(action: argparse.Action) -> list[str]:
    """An option as it is given."""
    if action.nargs == 0:
        return [action.option_strings[-1]]
    value = "7" if action.type in (int, float, options.numbers) else f"a-{action.dest}"
    return [action.option_strings[-1], value]


def parsed(name: str, words: list[str]) -> dict[str, Any]:
    return vars(cli._parser().parse_args([name, *words]))


@pytest.mark.parametrize("name", COMMANDS)
def test_options_mean_the_same_before_and_after_what_they_go_with(name: str) -> None:
    actions = [a for a in COMMANDS[name]._actions if a.dest != "help"]
    places: list[str] = []
    for action in actions:
        if not action.option_strings:
            count = action.nargs if isinstance(action.nargs, int) else 1
            places += [f"{action.dest}-{number}" for number in range(count)]
    given = [words_of(action) for action in actions if action.option_strings]
    every = [word for words in given for word in words]
    expected = parsed(name, [*places, *every])
    assert not [a.dest for a in actions if expected[a.dest] in (None, False)]
    assert parsed(name, [*every, *places]) == expected
    for words in given:  # the one before MODEL, the others after it
        rest = [word for other in given if other is not words for word in other]
        assert parsed(name, [*words, *places, *rest]) == expected
        assert parsed(name, [*rest, *places, *words]) == expected


def test_baselines_are_named_one_by_one() -> None:
    once, both = ["--baseline", "a.json"], ["--baseline", "a.json", "--baseline", "b.json"]
    for words, files in ((once, ["a.json"]), (both, ["a.json", "b.json"])):
        for line in ([*words, "model"], ["model", *words]):
            found = parsed("gate", line)
            assert found["model"] == "model"
            assert list(map(str, found["baseline"])) == files
