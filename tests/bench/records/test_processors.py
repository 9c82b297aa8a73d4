"""How threads wait for each other, by what else the machine runs."""

from __future__ import annotations

import os
import sys

import psutil
import pytest

from bench.records import environment, processors


@pytest.mark.parametrize(
    ("shares", "said", "expected"),
    [
        ([3.0, 2.0], {}, {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}),
        ([100.0, 2.0], {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ([2.0, 3.0, 100.0], {}, {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}),  # not ours
        ([100.0, 2.0], {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ([100.0, 2.0], {"KMP_BLOCKTIME": "7"}, {"KMP_BLOCKTIME": "7"}),
        ([3.0, 2.0], {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_give_way_where_others_hold_processors_unless_the_user_says_how(
    shares: list[float],
    said: dict[str, str],
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    environ = dict(said)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: shares)
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(sys, "modules", {"torch": None})
    processors.share(told.append)
    assert environ == said  # too late to count
    monkeypatch.setattr(sys, "modules", {})
    processors.share(told.append)
    assert environ == expected
    passive = expected == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert any("other processes hold 1.0 of 2 processors" in one for one in told) == passive


def test_systems_that_tie_no_process_to_processors_count_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ: dict[str, str] = {}
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: [2.0, 3.0, 100.0])
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(sys, "modules", {})
    processors.share(print)
    assert environ == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_what_every_system_does_in_passing_holds_no_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 processors with 3 % each are idle; one that is held among them makes all others wait."""
    for loads, passive in (([3.0] * 64, False), ([3.0] * 63 + [90.0], True)):
        environ: dict[str, str] = {}
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
        monkeypatch.setattr(psutil, "cpu_percent", lambda loads=loads, **_: loads)
        monkeypatch.setattr(os, "environ", environ)
        monkeypatch.setattr(sys, "modules", {})
        processors.share(print)
        assert ("OMP_WAIT_POLICY" in environ) == passive


def test_records_say_how_threads_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processors.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert environment.describe().waiting == {"OMP_WAIT_POLICY": "PASSIVE"}
