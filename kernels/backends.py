"""A backend runs linear layers whose weight is in 4 bits; this module says which a place gets."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor

from kernels.place import Place
from quantcore.errors import nearest, refused, setting_name
from quantcore.grid import QuantizedWeight

NAMES = {
    "auto": "triton on a GPU, cpu on a CPU; dequant, with a notice, for what they do not take",
    "triton": "our W4A16 kernel: CUDA GPUs from compute capability 8.0 on; float16, bfloat16",
    "cpu": "INT4 on a CPU by the fastest of what is there, measured: our native kernel, PyTorch's "
    "own, dequantization in chunks",
    "dequant": "dequantized at every call, then the vendor's product: any bits, device and dtype",
}

_MODULES = {
    "triton": "kernels.triton_w4a16",
    "cpu": "kernels.cpu",
    "dequant": "kernels.dequant",
}


class Backend(Protocol):
    """A backend is a module that runs weights in a layout of its own.

    Packed tensors are integers, so that converting a model's dtype leaves them alone.
    """

    def reason_against(self, place: Place) -> str | None:
        """Say why it does not run there, as the end of a sentence about it; None: it does."""

    def pack(self, weight: QuantizedWeight, place: Place) -> dict[str, Tensor]:
        """Lay out a weight of consecutive groups, without input scales."""

    def unpack(self, packed: Mapping[str, Tensor], place: Place) -> QuantizedWeight:
        """Give back the weight that was packed."""

    def linear(
        self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, place: Place
    ) -> Tensor:
        """Give x [M, K] times the weight, plus the bias [N]: [M, N] of x's dtype."""


def backend(name: str) -> Backend:
    """Import the module of that name."""
    return cast(Backend, importlib.import_module(_MODULES[name]))


def choose(name: str, place: Place, *, setting: str = "backend") -> tuple[str, str | None]:
    """Name the backend that runs there, with a notice where something slower than could be runs.

    Args:
        name: of `NAMES`.
        place: where, and what.
        setting: the field of a request that gave the name.

    Raises:
        InputError: unknown, or it does not run there; says what would.
    """
    if name not in NAMES:
        raise refused(setting, name, f"unknown; {nearest(name, NAMES)}", allowed=tuple(NAMES))
    asked = name
    if name == "auto":
        asked = "triton" if place.device.type == "cuda" else "cpu"
    reason = backend(asked).reason_against(place)
    if reason is None:
        return asked, _without_native() if asked == "cpu" else None
    if name == "auto":
        return "dequant", f"backend {asked}: {reason}; dequantized at every call instead"
    others = [n for n in _MODULES if n != name and backend(n).reason_against(place) is None]
    rule = f"{reason}; here {setting_name(setting)} {' or '.join(others)} works"
    raise refused(setting, name, rule, allowed=others)


def _without_native() -> str | None:
    """Say what a user of backend cpu should know where the fastest of its ways is not there."""
    from kernels import native

    found = native.load()
    if isinstance(found, native.Native):
        return None
    return f"backend cpu: no native kernel ({found.reason}); PyTorch's own ways run them"
