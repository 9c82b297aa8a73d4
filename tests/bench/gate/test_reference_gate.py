"""The reference model against its committed baselines: it passes, and real faults are caught.

Faults are planted beneath the declaration: what is declared stays, what is done is another thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from awq_impl import method as awq
from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison import calibrator, set_up
from bench.comparison.calibration import Calibration
from bench.gate import null_runs
from bench.gate.baseline import read
from bench.gate.run import gate
from bench.stats import tolerance
from quantcore.grid import QuantizedWeight, grouped
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure

FOLDER = Path(__file__).parents[3] / "results/baselines"
BASELINE = FOLDER / "reference-awq+clip-int4-g128.json"


def decided() -> dict[str, str]:
    (result,) = gate([BASELINE])
    assert result.differing == {}, "the fault is beneath the declaration"
    return {verdict.name: verdict.outcome for verdict in result.verdicts}


def after(monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]) -> None:
    """Let something happen to the weights once they are quantized."""
    real = calibrator.quantize_model

    def quantize_model(structure: Structure, *rest: Any, **options: Any) -> Any:
        kept: dict[str, QuantizedWeight] = {}
        report = real(structure, *rest, **{**options, "keep": kept.__setitem__})
        change(structure, kept)
        return report

    monkeypatch.setattr(calibrator, "quantize_model", quantize_model)


def put(structure: Structure, name: str, weight: QuantizedWeight) -> None:
    for block in structure.blocks:
        if name.startswith(f"{block.name}."):
            target = block.weight(name.removeprefix(f"{block.name}."))
            target.copy_(weight.dequantize().to(target.dtype))


def three_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    real = calibrator.quantize_model

    def quantize_model(structure: Any, method: Any, scheme: Any, **options: Any) -> Any:
        return real(structure, method, QuantScheme.parse("int3-g128"), **options)

    monkeypatch.setattr(calibrator, "quantize_model", quantize_model)


def scales_of_one_block_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(structure: Structure, kept: dict[str, QuantizedWeight]) -> None:
        for name, weight in kept.items():
            if name.startswith(f"{structure.blocks[2].name}."):
                put(structure, name, replace(weight, scales=weight.scales.roll(1, 1)))

    after(monkeypatch, change)


def zero_points_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(structure: Structure, kept: dict[str, QuantizedWeight]) -> None:
        for name, weight in kept.items():
            put(structure, name, replace(weight, zeros=(weight.zeros + 1).clamp(max=15)))

    after(monkeypatch, change)


def clipped_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = awq.search_ranges

    def search_ranges(weight: Tensor, stats: Any, scheme: Any, **rest: Any) -> tuple[Tensor, ...]:
        low, high = real(weight, stats, scheme, **rest)
        groups = grouped(weight, scheme)
        full = groups.amin(-1), groups.amax(-1)
        return tuple(
            one * torch.where(all_ == 0, 1.0, one / all_)
            for one, all_ in zip((low, high), full, strict=True)
        )

    monkeypatch.setattr(awq, "search_ranges", search_ranges)


def calibrated_on_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    real = set_up.build_calibration

    def build_calibration(*arguments: Any, **options: Any) -> Calibration:
        found = real(*arguments, **options)
        seeded = torch.Generator().manual_seed(0)
        top = int(found.tokens.max()) + 1
        noise = torch.randint(0, top, found.tokens.shape, generator=seeded)
        return replace(found, tokens=noise)

    monkeypatch.setattr(set_up, "build_calibration", build_calibration)


def a_norm_folded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = calibrator.quantize_model

    def quantize_model(structure: Structure, *rest: Any, **options: Any) -> Any:
        block = structure.blocks[1]
        (name,) = [n for n, _ in block.module.named_parameters() if n == "input_layernorm.weight"]
        norm = block.module.get_parameter(name)
        before = norm.detach().clone()
        report = real(structure, *rest, **options)
        with torch.no_grad():
            norm.mul_(norm / before)
        return report

    monkeypatch.setattr(calibrator, "quantize_model", quantize_model)


FAULTS = [
    three_bits,
    scales_of_one_block_shifted,
    zero_points_off_by_one,
    clipped_twice,
    calibrated_on_noise,
    a_norm_folded_twice,
]


@pytest.mark.slow
def test_without_a_fault_all_pass(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["gate", "--baseline", str(FOLDER)])
    assert code == exit_codes.DONE, capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_null_runs_hardly_fail_and_regressions_do(path: Path) -> None:
    """1,000 runs of real windows, resampled, of real reruns by ten calibration seeds."""
    rates = null_runs.null_runs(read(path))
    assert rates is not None
    assert rates.runs == 1000
    assert rates.outcomes["fail"] <= tolerance.ALPHA * rates.runs
    assert set(rates.caught) == {"perplexity", "divergence"}
    for name, (one, two) in rates.caught.items():
        assert one >= tolerance.POWER * rates.runs, name
        assert two >= 0.99 * rates.runs, name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_real_windows_at_the_tolerance_fail_at_most_at_the_nominal_rate(path: Path) -> None:
    """The hardest null: windows as reruns spread them, and their mean at the tolerance."""
    made = read(path)
    random = np.random.default_rng(0)
    names = [name for name in made.tolerances if name != "size"]
    drawn = [one for one in made.reruns if one.drawn]
    failed = 0
    for number in range(1000):
        found = []
        for name in names:
            samples = np.asarray(drawn[number % len(drawn)].samples[name])
            allowed = made.tolerances[name].value
            samples = random.choice(samples - samples.mean() + allowed, len(samples))
            found.append(tolerance.decide(samples, None, tolerance=allowed, gates=len(names)))
        failed += any(one.outcome == "fail" for one in found)
    assert failed <= stats.binom.isf(0.001, 1000, tolerance.ALPHA)


def test_the_published_rates_are_those_of_the_baselines() -> None:
    published = (FOLDER / "README.md").read_text("utf-8")
    assert null_runs.table(sorted(FOLDER.glob("*.json"))) in published


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    fault(monkeypatch)
    assert "fail" in decided().values()


def test_gates_are_on_what_was_declared() -> None:
    key = read(BASELINE).key
    assert (key["method"], key["scheme"]) == ("awq+clip", "int4-g128")
