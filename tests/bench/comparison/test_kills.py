"""A command that is killed at any of its steps goes on; two at once leave each other alone.

A step is a change to the folder that a command runs in: something made, opened for writing, synced,
renamed or removed there. By default a few are tried, and many in the tests marked slow: every one
takes 13 minutes, with ``STRIDE`` at 1.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from bench.cli import exit_codes
from bench.comparison.workbench import Workbench
from bench.records.record import Record
from tests.bench import forked
from tests.bench.forked import NO_KILL, Ended, Kill
from tests.bench.left import Alone, found, runs, whole_records

NOTHING_NAMED = "compare without --out"


def run(words: list[str], place: Path, kill: Kill = NO_KILL) -> Ended:
    return forked.run(partial(forked.command, words), place, kill=kill)


def check_it_goes_on(words: list[str], place: Path, kill: Kill, alone: Alone) -> None:
    """Kill a command: it leaves what is whole, and nothing else once it is given again."""
    ended = run(words, place, kill)
    assert ended.code == -(signal.SIGKILL if kill.at_step else signal.SIGXFSZ), ended.said
    if not (place / "model").exists():  # else it is whole, and no second is written over it
        before = whole_records(place)
        again = run(words, place)
        assert again.code == exit_codes.DONE, again.said
        # A record holds the seconds that it took, so one that is measured again is another.
        assert all(path.read_bytes() == was for path, was in before.items() if path.exists())
    assert found(place) == alone.found


# Steps beside each other leave much the same.
STRIDE = {"compare": 3, NOTHING_NAMED: 3, "quantize": 1, "baseline": 11}

SHORT = {
    # By command: at which steps it is killed by default, in percent; in files of which size.
    "compare": ([60], []),
    "quantize": ([50, 75], [50_000]),
    "baseline": ([50], []),
}


@pytest.mark.parametrize("name", SHORT)
def test_killed_at_some_steps_it_goes_on(
    name: str, alone: Callable[[str], Alone], commands: dict[str, list[str]], tmp_path: Path
) -> None:
    percents, sizes = SHORT[name]
    kills = [Kill(at_step=alone(name).steps * percent // 100) for percent in percents]
    kills += [Kill(at_byte=size) for size in sizes]
    for number, kill in enumerate(kills):
        check_it_goes_on(commands[name], tmp_path / f"{number}", kill, alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_killed_at_many_steps_it_goes_on(
    name: str, alone: Callable[[str], Alone], commands: dict[str, list[str]], tmp_path: Path
) -> None:
    for step in range(1, alone(name).steps + 1, STRIDE[name]):
        check_it_goes_on(commands[name], tmp_path / f"{step}", Kill(at_step=step), alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_killed_in_the_middle_of_a_file_it_goes_on(
    name: str, alone: Callable[[str], Alone], commands: dict[str, list[str]], tmp_path: Path
) -> None:
    """Of the first that has more bytes than so many, from one byte to those of the largest."""
    size = 1
    while size < alone(name).largest:
        check_it_goes_on(commands[name], tmp_path / f"{size}", Kill(at_byte=size), alone(name))
        size += 1 + 2 * size


@pytest.mark.slow
def test_killed_at_many_steps_a_folder_that_nobody_named_is_found_again(
    alone: Callable[[str], Alone], commands: dict[str, list[str]], tmp_path: Path
) -> None:
    start = "awq-bench-runs/0/"
    undisturbed = {
        name.removeprefix(start): says
        for name, says in alone(NOTHING_NAMED).found.items()
        if name.startswith(start)
    }
    for step in range(1, alone(NOTHING_NAMED).steps + 1, STRIDE[NOTHING_NAMED]):
        place = tmp_path / f"{step}"
        ended = run(commands[NOTHING_NAMED], place, Kill(at_step=step))
        assert ended.code == -signal.SIGKILL, ended.said
        finished = [folder for folder in runs(place) if is_finished(folder)]
        before = whole_records(place)
        again = run(commands[NOTHING_NAMED], place)
        assert again.code == exit_codes.DONE, again.said
        assert all(path.read_bytes() == was for path, was in before.items())
        assert len(runs(place)) == len(finished) + 1
        for folder in finished:  # killed before it was unlocked: nobody comes back to it
            (folder / ".lock").unlink(missing_ok=True)
        for folder in (place / "awq-bench-runs").iterdir():
            left = found(folder)
            # Killed before its manifest was there, it is known to nobody, and as good as empty.
            known = folder in runs(place)
            assert left == undisturbed if known else all(name.startswith(".") for name in left)
        assert not list((place / "tmp").iterdir())


def is_finished(folder: Path) -> bool:
    """Whether a comparison's folder says that it is finished."""
    return bool(json.loads((folder / "comparison.json").read_text("utf-8"))["finished"])


def hold(reached: Event, go: Event) -> None:
    """Have a process wait before it measures its first cell."""
    measure = Workbench.measure

    def later(*arguments: Any) -> Record:
        reached.set()
        assert go.wait(60)
        return measure(*arguments)

    Workbench.measure = later  # type: ignore[method-assign]


def second_while_first_measures(words: list[str], place: Path) -> tuple[Ended, Ended]:
    """A command begun and ended while the same is at its first cell."""
    context = forked.server()
    reached, go = context.Event(), context.Event()
    first = forked.start(partial(forked.command, words, partial(hold, reached, go)), place)
    assert reached.wait(60)
    second = run(words, place)
    go.set()
    return first.ended(), second


@pytest.mark.parametrize("name", ["compare", pytest.param("baseline", marks=pytest.mark.slow)])
def test_of_two_with_one_folder_the_second_is_refused(
    name: str, alone: Callable[[str], Alone], commands: dict[str, list[str]], tmp_path: Path
) -> None:
    first, second = second_while_first_measures(commands[name], tmp_path / "both")
    assert second.code == exit_codes.BAD_INPUT, second.said
    assert "is being written by another process" in " ".join(second.said.split())
    assert first.code == exit_codes.DONE, first.said
    assert found(tmp_path / "both") == alone(name).found


def test_two_of_which_nobody_named_a_folder_get_one_each(
    commands: dict[str, list[str]], tmp_path: Path
) -> None:
    both = second_while_first_measures(commands[NOTHING_NAMED], tmp_path / "both")
    assert [one.code for one in both] == [exit_codes.DONE, exit_codes.DONE], both
    folders = runs(tmp_path / "both")
    assert sorted((tmp_path / "both" / "awq-bench-runs").iterdir()) == folders
    first, second = map(found, folders)
    assert first == second
    assert ".lock" not in first


RACES = {
    # What two say of which one comes too late.
    "compare": "is being written by another process",
    NOTHING_NAMED: None,
    "quantize": "is not empty|not empty any more|is being written by another process",
    "baseline": "is being written by another process",
}


@pytest.mark.parametrize(
    ("name", "times"),
    [("quantize", 2), *(pytest.param(name, 15, marks=pytest.mark.slow) for name in RACES)],
)
def test_of_two_that_begin_at_once_one_ends_well_and_the_other_says_why_not(
    name: str,
    times: int,
    alone: Callable[[str], Alone],
    commands: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    for number in range(times):
        place = tmp_path / f"{number}"
        meet = forked.server().Barrier(2).wait
        work = partial(forked.command, commands[name], meet)
        both = [forked.start(work, place) for _ in range(2)]
        first, second = sorted((one.ended() for one in both), key=lambda one: one.code)
        assert first.code == exit_codes.DONE, first.said
        if second.code != exit_codes.DONE:
            late = RACES[name]
            assert late is not None, second.said
            assert second.code == exit_codes.BAD_INPUT, second.said
            assert re.search(late, " ".join(second.said.split())), second.said
        if name == NOTHING_NAMED:
            first_found, second_found = map(found, runs(place))
            assert first_found == second_found
        else:
            assert found(place) == alone(name).found
