"""The GPU's column loop, without a GPU: in Triton's interpreter, and compiled ahead of time.

Each in a process of its own, because Triton reads its environment when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SEGMENTS = """
import torch
from baselines import gptq, gptq_triton

torch.manual_seed(0)
for columns, rows in ((128, 100), (32, 7), (96, 33), (5, 1), (1, 5)):
    x = torch.randn(4 * columns + 8, columns)
    factor, _ = gptq.inverse_factor(x.t() @ x, 0.01)
    remaining = torch.randn(columns, rows)
    remaining[0, 0] = 1e9  # far off the grid
    for grids in (1, columns):
        scales = torch.rand(grids, rows) * 0.2 + 0.05
        zeros = torch.randint(0, 16, (grids, rows)).float()
        codes, errors = gptq.round_segment(remaining, factor, scales, zeros, 15)
        found, found_errors = gptq_triton.round_segment(remaining, factor, scales, zeros, 15)
        differing = int((codes != found).any(0).sum())
        # Sums are taken in another order: a weight halfway between codes may go the other way,
        # and then so do those that make up for it.
        assert differing <= max(1, rows // 50), (columns, rows, grids, differing)
        same = (codes == found).all(0)
        assert torch.allclose(errors[:, same], found_errors[:, same], rtol=1e-4, atol=1e-4)
halves = torch.tensor([[0.5, 1.5, 2.5, -0.5, 3.49999]])
codes, _ = gptq_triton.round_segment(
    halves, torch.ones(1, 1), torch.ones(1, 5), torch.full((1, 5), 4.0), 15
)
assert codes.tolist() == [[4.0, 6.0, 6.0, 4.0, 7.0]], codes
"""

MATRICES = """
import torch
from baselines import gptq, gptq_triton
from quantcore.scheme import QuantScheme

torch.manual_seed(0)
weight, x = torch.randn(24, 256), torch.randn(2048, 256) * torch.logspace(-1, 1, 256)
for name in ("int4-g128", "int3-g32", "int4-channel", "int4-g64-sym"):
    for order in ("off", "on", "static", "group"):
        scheme = QuantScheme.parse(name)
        plain, _ = gptq.gptq(weight, x.t() @ x, scheme, order=order)
        loop, gptq.round_segment = gptq.round_segment, gptq_triton.round_segment
        fused, _ = gptq.gptq(weight, x.t() @ x, scheme, order=order)
        gptq.round_segment = loop
        assert float((plain.codes == fused.codes).float().mean()) > 0.99, (name, order)
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from baselines.gptq_triton import _segment

names = [p.name for p in _segment.params]
types = dict.fromkeys(names, "*fp32") | {"rows": "i32", "grid_stride": "i32", "top_code": "i32"}
for columns in (128, 32):
    constants = {"columns": columns, "padded": columns, "tile_rows": 32}
    for capability in (80, 90):
        source = ASTSource(
            fn=_segment,
            signature=types | dict.fromkeys(constants, "constexpr"),
            constexprs={(names.index(name),): value for name, value in constants.items()},
        )
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert ".entry _segment" in made.asm["ptx"]
        assert "local_depot" not in made.asm["ptx"]  # the tile stays in registers
"""


def run(program: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(SEGMENTS, id="segments", marks=pytest.mark.slow),
        pytest.param(MATRICES, id="matrices"),
    ],
)
def test_the_kernel_rounds_as_the_loop_does(program: str) -> None:
    run(program, TRITON_INTERPRET="1")


def test_the_kernel_compiles_for_gpus() -> None:
    run(COMPILED)
