"""The optional native CPU kernel is built once where a C++ compiler is, and called by ctypes.

Nothing depends on it: `load` says why it is not there, and `kernels.cpu` does without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels.cache import cache_folder
from kernels.dequant import as_bits
from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17")
PANEL, BLOCK = 16, 8
LEVELS = ("plain loops", "AVX2", "AVX512", "AVX512-BF16")
"""What `Native.level` counts."""


@dataclass(frozen=True, kw_only=True)
class Native:
    """A `Native` is the library, and what it was compiled for."""

    library: Any
    level: int
    """An index of `LEVELS`."""
    identity: str
    """Changes with the source, the compiler and the processor."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A `Missing` says why there is no native kernel."""

    reason: str


@cache
def load() -> Native | Missing:
    """Load the kernel, and compile it if this source was not yet compiled for this processor.

    The library lies in the user's cache. ``AWQ_BENCH_NATIVE=0`` does without.
    """
    if os.environ.get("AWQ_BENCH_NATIVE") == "0":
        return Missing(reason="AWQ_BENCH_NATIVE is 0")
    wanted = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for one in wanted if one and (found := shutil.which(one))), None)
    if compiler is None:
        return Missing(reason="there is no C++ compiler (c++, g++, clang++, or CXX)")
    about = (SOURCE.read_text("utf-8"), compiler, *FLAGS, platform.machine(), processor())
    identity = hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]
    library = cache_folder() / f"native-{identity}.so"
    try:
        if not library.is_file():
            _build(compiler, library)
        shared = ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["no message"]
        first = next((line for line in said if "error" in line), said[-1])
        return Missing(reason=f"{compiler} failed: {first}")
    except OSError as error:
        return Missing(reason=f"{library} cannot be built or loaded: {error}")
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    for dtype in ("bf16", "fp32"):
        call = getattr(shared, f"awq_bench_linear_{dtype}")
        call.argtypes, call.restype = [pointer] * 6 + [integer] * 4 + [ctypes.c_int], None
        call = getattr(shared, f"awq_bench_decode_{dtype}")
        call.argtypes, call.restype = [pointer] * 4 + [integer] * 5 + [ctypes.c_int], None
    return Native(library=shared, level=shared.awq_bench_level(), identity=identity)


def _build(compiler: str, library: Path) -> None:
    """Compile into place, whole or not at all."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", str(built)],
            capture_output=True,
            text=True,
            check=True,
        )
        built.replace(library)


def processor() -> str:
    """Name what -march=native goes by: the processor's name and flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def reason_against(dtype: torch.dtype, scheme: QuantScheme, in_features: int) -> str | None:
    """Say why the kernel does not take it; None: it does."""
    if dtype not in (torch.bfloat16, torch.float32):
        return f"it takes bfloat16 and float32, not {dtype}"
    if scheme.bits > 4:
        return f"it takes up to 4 bits, not {scheme.bits}"
    group = scheme.group_of(in_features)
    if group % BLOCK and group != in_features:
        return f"it takes group sizes that are multiples of {BLOCK}, not {group}"
    return None


def pack(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Pack panels of 16 outputs x 8 inputs.

    Returns:
        ``codes`` int16 [ceil(N/16), ceil(K/8), 32]: word 2 o + p holds the codes of output o and
        inputs p, 2 + p, 4 + p, 6 + p of the block, from the lowest bits up; ``scales`` and
        ``zeros``, the bits of float32 [ceil(N/16), groups, 16].
    """
    rows, columns = weight.codes.shape
    above, beside = -rows % PANEL, -columns % BLOCK
    codes = functional.pad(weight.codes, (0, beside, 0, above))
    blocks = codes.view(-1, PANEL, codes.shape[1] // BLOCK, 4, 2).permute(3, 0, 2, 1, 4)
    words = torch.zeros(blocks.shape[1:], dtype=torch.int16, device=codes.device)
    for place, plane in enumerate(blocks):
        words |= plane.to(torch.int16) << (4 * place)

    def spread(values: Tensor) -> Tensor:
        padded = functional.pad(values.float(), (0, 0, 0, above))
        return as_bits(padded.view(-1, PANEL, values.shape[1]).transpose(1, 2))

    return {
        "codes": words.flatten(2).contiguous(),
        "scales": spread(weight.scales),
        "zeros": spread(weight.zeros),
    }


def unpack(
    packed: Mapping[str, Tensor], scheme: QuantScheme, shape: tuple[int, int]
) -> QuantizedWeight:
    """Give back the weight [N, K] that was packed."""
    rows, columns = shape
    words = packed["codes"].unflatten(2, (PANEL, 2))
    planes = torch.stack([(words >> (4 * place)) & 15 for place in range(4)], dim=3)
    codes = planes.permute(0, 2, 1, 3, 4).reshape(len(words) * PANEL, -1)[:rows, :columns]

    def gathered(name: str) -> Tensor:
        values = packed[name].view(torch.float32).transpose(1, 2)
        return values.reshape(len(words) * PANEL, -1)[:rows]

    return QuantizedWeight(
        codes=codes.to(torch.uint8).contiguous(),
        scales=gathered("scales").to(scheme.scale_dtype),
        zeros=gathered("zeros").to(torch.uint8),
        scheme=scheme,
    )


def _group(packed: Mapping[str, Tensor], inputs: int) -> int:
    """Make the group size up to whole blocks where there is one group."""
    groups = packed["scales"].shape[1]
    return inputs // groups if groups > 1 else inputs + -inputs % BLOCK


def _suffix(dtype: torch.dtype) -> str:
    return "bf16" if dtype is torch.bfloat16 else "fp32"


def linear(
    native: Native, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, outputs: int
) -> Tensor:
    """Give x [M, K], bfloat16 or float32, times the weight: [M, N] of x's dtype.

    Sums are in float32 and rounded once. Codes are multiplied as they are, and what the zero point
    adds is taken off: ``s (sum(code x) - z sum(x))``.
    """
    group = _group(packed, x.shape[1])
    beside = -x.shape[1] % BLOCK
    x = functional.pad(x, (0, beside)) if beside else x.contiguous()
    y = x.new_empty((len(x), outputs))
    bias = None if bias is None else bias.float().contiguous()
    call = getattr(native.library, f"awq_bench_linear_{_suffix(x.dtype)}")
    call(
        x.data_ptr(), packed["codes"].data_ptr(), packed["scales"].data_ptr(),
        packed["zeros"].data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr(),
        len(x), outputs, x.shape[1], group, torch.get_num_threads(),
    )  # fmt: skip
    return y


def decode(
    native: Native, packed: Mapping[str, Tensor], first: int, out: Tensor, inputs: int
) -> None:
    """Decode outputs from ``first`` (a multiple of 16) on, as many as ``out`` has rows.

    Args:
        native: the library.
        packed: see `pack`.
        first: output.
        out: bfloat16 or float32 [rows, K made up to a multiple of 8]; each weight is rounded to its
            dtype once.
        inputs: K.
    """
    call = getattr(native.library, f"awq_bench_decode_{_suffix(out.dtype)}")
    call(
        packed["codes"].data_ptr(), packed["scales"].data_ptr(), packed["zeros"].data_ptr(),
        out.data_ptr(), first // PANEL, len(out), out.shape[1],
        _group(packed, inputs), packed["scales"].shape[1], torch.get_num_threads(),
    )  # fmt: skip
