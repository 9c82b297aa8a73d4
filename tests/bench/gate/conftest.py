"""One measurement, and one baseline with its reruns, for all tests of the gate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.comparison.request import Request
from bench.gate.baseline import Baseline, Tolerance
from bench.gate.kept_request import kept
from bench.gate.make import make
from bench.gate.measure import Measured
from bench.gate.parts import parts_folder
from bench.records import environment
from tests.bench.gate.changed import measure
from tests.bench.made import but


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and versions that are nobody's working copy."""
    monkeypatch.chdir(tmp_path)
    here = but(environment.describe(), dirty=False)
    monkeypatch.setattr(environment, "describe", lambda: here)


@pytest.fixture(scope="session")
def measured(asked: Request) -> Measured:
    return measure(asked)


@pytest.fixture
def base(measured: Measured, asked: Request) -> Baseline:
    return Baseline(
        unquantized=measured.unquantized,
        quantized=measured.quantized,
        declared=measured.declared,
        request=kept(asked, None),
        tolerances={
            "perplexity": Tolerance(value=0.01, reason="a test's"),
            "divergence": Tolerance(value=0.01, reason="a test's"),
            "size": Tolerance(value=0.0, reason="declared"),
        },
        made="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture(scope="session")
def made_in_parts(
    asked: Request, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Baseline, Path]:
    """A baseline, and the folder of what was measured on the way."""
    parts = tmp_path_factory.mktemp("baseline") / "parts"
    return make(asked, {}, parts=parts), parts


@pytest.fixture
def made(made_in_parts: tuple[Baseline, Path]) -> Baseline:
    return made_in_parts[0]


@pytest.fixture
def parts(made_in_parts: tuple[Baseline, Path], asked: Request) -> Path:
    """As if the command had been interrupted at the end: it goes on, and measures nothing."""
    folder = parts_folder(asked, None)
    assert folder is not None
    shutil.copytree(made_in_parts[1], folder)
    return folder
