"""What a comparison will take: methods state their work, and do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.rtn import RTN
from bench import registry
from bench.comparison import estimate
from bench.comparison.estimate import Pace
from quantcore.calibration import StatsStore, calibrate
from quantcore.discovery import discover
from quantcore.gram import symmetric_flop
from quantcore.method import Work
from quantcore.quantize import loss_work, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import LinearGroup, Structure
from tests.conftest import tiny_model

SCHEME = QuantScheme.parse("int4-g64")
SIZES = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 1}
"""640 x 2 rows race, those of q, k and v do not."""
PACE = Pace(forward_tokens_per_s=100.0, flop_per_s=1e9, rounded_per_s=1e6, steps_per_s=1e3)


def rows_of(structure: Structure) -> list[tuple[LinearGroup, dict[str, int]]]:
    return [
        (group, {name: len(block.weight(name)) for name in group.linears})
        for block in structure.blocks
        for group in block.groups
    ]


class Mine(RTN):
    """A method that the harness has never heard of, called like one that it has."""

    name = "awq-mine"

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        weights = sum(rows.values()) * group.in_features
        return Work(steps=5, product_flop=weights), Work(rounded=scheme.bits * weights)


def test_the_estimate_of_an_unknown_method_is_what_it_states() -> None:
    structure = discover(tiny_model("llama"))
    weights = sum(weight.numel() for _, weight in structure.quantized())
    losses = sum(loss_work(group, rows).product_flop for group, rows in rows_of(structure))
    seconds = estimate.quantization_s(structure, Mine(), SCHEME, PACE, calibration_tokens=0)
    groups = len(rows_of(structure))
    assert seconds == pytest.approx((weights + losses) / 1e9 + 4 * weights / 1e6 + 5 * groups / 1e3)


def test_a_method_that_follows_the_prefix_runs_every_block_twice() -> None:
    structure, tokens = discover(tiny_model("llama")), 1000
    plain, follows = (
        estimate.quantization_s(
            structure, registry.method(name), SCHEME, PACE, calibration_tokens=tokens
        )
        for name in ("gptq", "gptq+seq")
    )
    grams = sum(symmetric_flop(tokens, group.in_features) for group, _ in rows_of(structure))
    assert follows - plain == pytest.approx(2 * tokens / 100 + grams / 1e9)


class Counted(TorchDispatchMode):
    """Counts what reaches the device in the units of `Work`."""

    def __init__(self) -> None:
        super().__init__()
        self.product_flop = self.rounded = self.steps = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in ("mm", "bmm"):
            self.product_flop += 2 * output.numel() * args[0].shape[-1]
        elif name in ("addmm", "baddbmm"):
            self.product_flop += 2 * output.numel() * args[1].shape[-1]
        elif name == "addr":
            self.product_flop += 2 * output.numel()
            self.steps += 1
        elif name == "linalg_cholesky_ex":
            self.product_flop += len(args[0]) ** 3 / 3
        elif name == "linalg_solve_triangular":
            self.product_flop += output.numel() * len(args[0])
        elif name == "round":
            self.rounded += output.numel()
        return output


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", sorted({*registry.METHODS} - {"gptq+seq"}))
def test_methods_do_what_they_state(name: str, family: str) -> None:
    """To a few percent: zero points are rounded too, and small triangles inverted otherwise."""
    model, method = tiny_model(family, **SIZES), registry.method(name)
    structure = discover(model)
    stats = StatsStore()
    calibrate(model, structure, torch.arange(256).view(4, 64) % 160, stats, batch_size=4)
    stated = Work()
    for group, rows in rows_of(structure):
        fold, rounding = method.work(group, rows, SCHEME)
        stated += fold + rounding + loss_work(group, rows)
    with Counted() as counted:
        quantize_model(structure, method, SCHEME, stats=stats)
    assert stated.product_flop == pytest.approx(counted.product_flop, rel=0.02)
    assert stated.rounded == pytest.approx(counted.rounded, rel=0.05)
    assert stated.steps == counted.steps


def test_sequential_inputs_change_no_work_of_rounding() -> None:
    group, rows = rows_of(discover(tiny_model("llama")))[0]
    plain, follows = registry.method("gptq"), registry.method("gptq+seq")
    assert plain.work(group, rows, SCHEME) == follows.work(group, rows, SCHEME)
