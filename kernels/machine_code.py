"""``python -m kernels.machine_code`` shows what the compiler makes of the kernel, without a GPU.

It compiles the small-M configurations ahead of time for sm_80 and sm_90 and reads the machine code:
registers, spills, and the instructions of the main loop. A loop of I instructions that handles
``BN * 128`` weights with ``warps * 32`` threads takes I * warps * 32 / (BN * 128) instructions a
weight. An H200 can issue about 3.7 in the time in which its memory delivers one, an A100 about 6.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.layout import TILE
from kernels.triton_kernels import w4a16
from kernels.triton_w4a16 import Config, default_plan

CAPABILITIES = (80, 90)
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True, kw_only=True)
class MachineCode:
    """A `MachineCode` describes one configuration on one generation of GPUs."""

    capability: int
    dtype: str
    config: Config
    per_tile: int
    instructions_per_weight: float
    """Of the main loop."""
    registers: int
    spills: int
    """Loads and stores of local memory anywhere, and bytes of stack."""
    conversions: int
    """From integers to floats, in the main loop."""
    wide_copies: int
    """Asynchronous copies of 16 bytes in the main loop."""
    narrow_copies: int
    """Shorter asynchronous copies there: the grid's words are 4 bytes."""
    plain_loads: int
    """Loads from global memory in the main loop that are not asynchronous copies."""
    shared_bytes: int
    classes: dict[str, int]
    """The main loop's instructions."""


def compiled(
    config: Config, *, capability: int, dtype: str = "fp16", per_tile: int = 1
) -> MachineCode:
    """Compile one configuration and read its machine code.

    Args:
        config: tile, split, stages, warps.
        capability: 80 (A100) or 90 (H100, H200).
        dtype: of x, ``fp16`` or ``bf16``.
        per_tile: grid words of an output in a tile: 1 (groups of 128 and more), 2, 4.
    """
    types = {
        "x_ptr": f"*{dtype}", "codes_ptr": "*i16", "grid_ptr": "*i32", "bias_ptr": f"*{dtype}",
        "y_ptr": f"*{dtype}", "partial_ptr": "*fp32", "count_ptr": "*i32",
        "M": "i32", "N": "i32", "K": "i32", "stride_x": "i32", "tiles_k": "i32", "groups": "i32",
    }  # fmt: skip
    constants = {
        "BN": config.outputs, "BM": config.tokens, "SPLIT": config.split, "STAGES": config.stages,
        "PER_TILE": per_tile, "TILES_PER_GROUP": 1, "EVEN_K": True, "BIAS": False,
        "PRESCALE": config.prescale, "BF16": dtype == "bf16", "ASM": True,
    }  # fmt: skip
    names = [*types, *constants]
    source = ASTSource(
        w4a16,
        types | dict.fromkeys(constants, "constexpr"),
        {(names.index(name),): value for name, value in constants.items()},
        {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(types)
            if name.endswith("_ptr") or name in ("N", "K", "stride_x")
        },
    )
    found = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={
            "num_warps": config.warps,
            "num_stages": config.stages,
            "enable_fp_fusion": True,
        },
    )
    everything, loop, usage = _read(found.asm["cubin"])
    kinds = Counter(_opcode(line) for line in loop)
    copies = [line for line in loop if "LDGSTS" in line]
    return MachineCode(
        capability=capability,
        dtype=dtype,
        config=config,
        per_tile=per_tile,
        instructions_per_weight=len(loop) * config.warps * 32 / (config.outputs * TILE),
        registers=int(usage["REG"]),
        spills=int(usage["STACK"]) + sum(_opcode(line) in ("STL", "LDL") for line in everything),
        conversions=sum(kinds[name] for name in ("I2F", "I2FP", "I2HP")),
        wide_copies=sum(".128" in line for line in copies),
        narrow_copies=sum(".128" not in line for line in copies),
        plain_loads=sum(_opcode(line) in ("LDG", "LD") for line in loop),
        shared_bytes=found.metadata.shared,
        classes=dict(kinds.most_common()),
    )


def _opcode(line: str) -> str:
    return re.sub(r"^@!?U?P\d+ ", "", line).split()[0].split(".")[0]


def _read(cubin: bytes) -> tuple[list[str], list[str], dict[str, str]]:
    """Read all instructions, those of the main loop, and what `cuobjdump` says of resources."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def tool(name: str, *options: str) -> str:
            run = subprocess.run(
                [str(_TOOLS / name), *options, str(path)],
                capture_output=True,
                text=True,
                check=True,
            )
            return run.stdout + run.stderr

        listing, resources = tool("nvdisasm", "-c"), tool("cuobjdump", "-res-usage")
    labels: dict[str, int] = {}
    lines: list[str] = []
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            lines.append(instruction[1])
    loops = []
    for end, line in enumerate(lines):
        back = re.search(r"BRA.*?`\((\.L_x_\d+)\)", line)
        if back and labels.get(back[1], len(lines)) < end:
            loops.append(lines[labels[back[1]] : end + 1])
    main = max((one for one in loops if any("MMA" in line for line in one)), key=len)
    return lines, main, dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", resources))


def small_m(words: int) -> list[Config]:
    """List what `triton_w4a16.default_plan` gives up to 16 tokens, and tuning gives small layers.

    Args:
        words: of the grid for an output and tile: 1 (groups of 128 and more), 2 (64) or 4 (32).
    """
    plans = [default_plan(m, n, 4096, 132, words) for m in (8, 16) for n in (4096, 28672)]
    cut = {(plan.outputs, plan.tokens, plan.warps) for plan in plans if isinstance(plan, Config)}
    cut |= {(64, 8, 1)} if words == 1 else set()
    return [
        Config(outputs=bn, tokens=bm, split=4, stages=4, warps=warps)
        for bn, bm, warps in sorted(cut)
    ]


MOST_INSTRUCTIONS = {80: 2.2, 90: 2.5}
"""Most instructions for a weight in groups of 128 or more, by capability; see the module."""


def faults(code: MachineCode) -> list[str]:
    """Say in words what makes a small-M configuration slower than memory."""
    most = MOST_INSTRUCTIONS[code.capability]
    found = {
        f"{code.instructions_per_weight:.2f} instructions a weight, more than {most}": (
            code.per_tile == 1 and code.instructions_per_weight > most
        ),
        f"{code.spills} spills": code.spills > 0,
        f"{code.conversions} conversions from integers": code.conversions > 0,
        f"{code.plain_loads} loads that are not asynchronous": code.plain_loads > 0,
        "no copies of 16 bytes": code.wide_copies == 0,
    }
    return [text for text, wrong in found.items() if wrong]


def main(arguments: list[str] | None = None) -> int:
    """Print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m kernels.machine_code", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON too")
    options = parser.parse_args(arguments)
    rows = [
        compiled(config, capability=capability, dtype=dtype, per_tile=per_tile)
        for capability in CAPABILITIES
        for dtype in ("fp16", "bf16")
        for per_tile in (1, 2, 4)
        for config in small_m(per_tile)
    ]
    print("sm  x     BN x BM  warps  words  instructions/weight  registers  spills  shared")
    for code in rows:
        cut = f"{code.config.outputs} x {code.config.tokens}"
        print(
            f"{code.capability}  {code.dtype}  {cut:>8}  {code.config.warps:5}  {code.per_tile:5}  "
            f"{code.instructions_per_weight:19.2f}  {code.registers:9}  {code.spills:6}  "
            f"{code.shared_bytes:6}"
        )
    if options.out is not None:
        document = {"triton": triton.__version__, "configurations": [asdict(code) for code in rows]}
        options.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
