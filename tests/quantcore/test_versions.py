"""Which releases were tried, and what is said of others."""

from __future__ import annotations

import runpy
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from bench.cli import machine
from quantcore import versions
from quantcore.errors import InputError
from suites import internals


def declare(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: list(requirements))


def test_a_release_outside_of_the_bounds_is_named_with_what_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = versions.installed("numpy")
    declare(
        monkeypatch, "numpy<1", "torch>=1.0", "no-such-thing>=3", 'pytest<1; extra == "benchmark"'
    )
    sentence, of_an_extra = versions.untried().values()
    assert "pip install 'pytest<1'" in of_an_extra
    assert f"numpy {found} is outside" in sentence
    assert "pip install 'numpy<1'" in sentence
    line = next(one for one in machine._untried() if not one.there)
    assert line.detail == sentence


def test_doctor_says_where_nothing_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    (line,) = machine._untried()
    assert not line.there
    assert "pip install" in line.detail


def test_what_is_installed_here_was_tried() -> None:
    assert versions.untried() == {}


@pytest.mark.parametrize(("requirement", "code"), [("numpy>=1", 0), ("numpy<1", 3)])
def test_its_exit_code_is_what_the_checks_of_releases_ask_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    requirement: str,
    code: int,
) -> None:
    """`.ci/run` excuses a break of the newest releases on 3 alone: a crash would be 1."""
    declare(monkeypatch, requirement)
    monkeypatch.delitem(sys.modules, "quantcore.versions")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("quantcore.versions", run_name="__main__", alter_sys=True)
    assert stop.value.code == code
    assert ("is outside of" in capsys.readouterr().out) == (code == 3)
    script = (Path(__file__).parents[2] / ".ci" / "run").read_text("utf-8")
    assert "-m quantcore.versions" in script
    assert '[ "$outside" -eq 3 ]' in script


def test_another_task_manager_is_an_error_that_names_the_releases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(monkeypatch, "lm-eval>=0.4.12,<0.4.14")
    with pytest.raises(InputError, match=r"lm-eval \S+ loads tasks in another way") as caught:
        internals.rewrite_configurations(object(), lambda config: config, {})  # type: ignore[arg-type]
    assert "<0.4.14,>=0.4.12" in str(caught.value)


def test_bars_that_cannot_be_silenced_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    with internals.no_bars():
        assert tqdm(()).disable
    initialize = tqdm.__init__

    class Loud:
        disable = False

        def __init__(self, *arguments: Any, **options: Any) -> None:
            """Whatever it is told."""

    monkeypatch.setattr("tqdm.tqdm", Loud)
    with pytest.raises(InputError, match="tqdm"), internals.no_bars():
        pass
    monkeypatch.undo()
    assert tqdm.__init__ is initialize
