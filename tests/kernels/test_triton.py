"""The Triton kernels: interpreted, compiled ahead of time, and on a GPU where there is one.

Each in a process of its own, because Triton reads its environment when it is imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

# Triton 3.6's interpreter counts loops by one-element arrays, which numpy 2.4 no longer takes for
# numbers.
PATCH = """
import triton.runtime.interpreter as interpreter
patch = interpreter._patch_lang_tensor
def patched(tensor, *rest):
    patch(tensor, *rest)
    tensor.__index__ = lambda self: int(self.handle.data.item())
interpreter._patch_lang_tensor = patched
"""

CASES = (
    PATCH
    + """
import sys
import torch
from kernels import reference
from kernels.layout import tile
from kernels.triton_w4a16 import Config, Decode, multiply
from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme

torch.manual_seed(0)
torch.set_num_threads(1)
device = torch.device(sys.argv[1])
interpreted = device.type == "cpu"

def weight_of(rows, columns, name):
    scheme = QuantScheme.parse(name)
    groups = columns // scheme.group_of(columns)
    zeros = torch.randint(0, 16, (rows, groups))
    if scheme.symmetric:
        zeros.fill_(8)
    else:
        zeros[0, 0], zeros[-1, -1] = 0, 15
    scales = torch.rand(rows, groups) * 0.1 + 0.01
    scales[0, 0], scales[-1, -1] = 2.0**-24, 50.0
    if scheme.symmetric:
        scales[::2] *= -1
    return QuantizedWeight(
        codes=torch.randint(0, 16, (rows, columns)).to(device, torch.uint8),
        scales=scales.to(device).half(), zeros=zeros.to(device, torch.uint8), scheme=scheme,
    )

def config(outputs, tokens, split, prescale=False):
    return Config(outputs=outputs, tokens=tokens, split=split, stages=2, warps=4, prescale=prescale)

fp16, bf16 = torch.float16, torch.bfloat16
cases = [
    (200, 256, "int4-g128", 3, fp16, config(128, 8, 1)),
    (200, 256, "int4-g128", 3, bf16, config(128, 8, 2)),
    (200, 256, "int4-g32", 9, fp16, config(128, 8, 2)),
    (128, 352, "int4-g32", 5, bf16, config(128, 8, 1)),
    (300, 384, "int4-g64", 17, bf16, config(256, 16, 3)),
    (300, 384, "int4-g64-sym", 1, fp16, config(64, 16, 3)),
    (130, 384, "int4-g96", 2, fp16, config(128, 8, 1)),
    (130, 200, "int4-channel", 2, fp16, config(128, 8, 1)),
    (130, 640, "int4-channel", 2, bf16, config(128, 8, 5)),
    (260, 384, "int4-g192", 2, fp16, config(128, 8, 2, True)),
    (260, 384, "int4-g128", 35, bf16, config(128, 32, 1, True)),
    (128, 512, "int4-g256-sym", 2, fp16, config(128, 8, 4)),
    (1, 32, "int4-g32", 1, fp16, config(128, 8, 1)),
    (200, 352, "int4-g32", 5, fp16, Decode(rows=128)),
    (300, 384, "int4-g64", 3, bf16, Decode(rows=256)),
    (130, 200, "int4-channel", 2, fp16, Decode(rows=128)),
    (130, 384, "int4-g128", 2, bf16, Decode(rows=128)),
]
for rows, columns, name, tokens, dtype, plan in cases:
    weight = weight_of(rows, columns, name)
    tiled = tile(weight)
    x = torch.randn(tokens, columns).to(device, dtype)
    bias = torch.randn(rows).to(device, dtype) if tokens % 2 else None
    counter = torch.zeros(8 * len(tiled.codes), dtype=torch.int32, device=device)
    y = multiply(x, tiled, bias, counter, plan)
    assert y.dtype is dtype and y.shape == (tokens, rows)
    expected = reference.linear(x, weight, bias)
    decoded = isinstance(plan, Decode)
    allowed = reference.tolerance(
        x, weight, expected, rounded_weights=decoded or plan.prescale,
        rounded_scales=not decoded and plan.prescale,
    )
    if decoded and bias is not None:
        allowed += torch.finfo(dtype).eps * (expected.abs() + 2 * bias.float().abs())
    if dtype is bf16 and interpreted:
        allowed += 2.0**-8 * expected.abs()  # the interpreter cuts float32 off instead of rounding
        if decoded:
            allowed += 2.0**-7 * (x.float().abs() @ weight.dequantize().abs().T)
    excess = float(((y.float() - expected).abs() / allowed).max())
    assert excess <= 1, (rows, columns, name, tokens, dtype, plan, excess)
    assert not counter.any(), "the counters are left as they were"
    for _ in range(1 if interpreted else 50):
        assert torch.equal(y, multiply(x, tiled, bias, counter, plan)), "not repeatable"
    if not interpreted:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = multiply(x, tiled, bias, counter, plan)
        for _ in range(3):
            captured.zero_()
            graph.replay()
            assert torch.equal(y, captured), "not the same in a CUDA graph"
print(len(cases), "cases")

from kernels.linear import QuantizedLinear
weight = weight_of(48, 64, "int4-g32")
layer = QuantizedLinear(weight, torch.randn(48).to(device), backend="triton", dtype=fp16)
x = torch.randn(3, 64).to(device, fp16)
expected = reference.linear(x, weight, layer.bias)
assert torch.allclose(layer(x).float(), expected, rtol=1e-2, atol=1e-1)
assert torch.equal(layer.quantized().scales, weight.scales)
"""
)

COMPILED = """
import sys
from kernels.machine_code import CAPABILITIES, compiled, faults, small_m

wrong = {}
for capability in CAPABILITIES:
    for words in (1, 2, 4):
        for config in small_m(words):
            code = compiled(config, capability=capability, dtype=sys.argv[1], per_tile=words)
            print(
                f"sm_{capability} {sys.argv[1]}, groups of {128 // words}, "
                f"{config.outputs} x {config.tokens}: {code.instructions_per_weight:.2f} "
                f"instructions a weight, {code.registers} registers, {code.spills} spills"
            )
            if found := faults(code):
                wrong[capability, words, config] = found
assert not wrong, wrong
"""


def run(program: str, *arguments: str, command: tuple[str, ...] = (), **environment: str) -> str:
    done = subprocess.run(
        [*command, sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


def test_the_kernels_give_the_oracles_answer_in_the_interpreter(tmp_path: Path) -> None:
    said = run(CASES, "cpu", TRITON_INTERPRET="1", AWQ_BENCH_CACHE=str(tmp_path))
    assert "17 cases" in said


gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="no CUDA GPU of compute capability 8.0 or more",
)


@gpu
def test_the_kernels_give_the_oracles_answer_on_a_gpu(tmp_path: Path) -> None:
    assert "17 cases" in run(CASES, "cuda", AWQ_BENCH_CACHE=str(tmp_path))


@gpu
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_compute_sanitizer_finds_nothing(tool: str, tmp_path: Path) -> None:
    watched = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9")
    assert "17 cases" in run(CASES, "cuda", command=watched, AWQ_BENCH_CACHE=str(tmp_path))


@pytest.mark.parametrize("dtype", [pytest.param("fp16", marks=pytest.mark.slow), "bf16"])
def test_the_machine_code_keeps_up_with_memory(
    dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(COMPILED, dtype)
    with capsys.disabled():
        print(f"\n{said}", end="")
