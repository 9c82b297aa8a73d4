"""A format packs one linear's weight into named tensors, and reads it back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight
from quantcore.method import Extra
from quantcore.scheme import QuantScheme

SCALES = (torch.float16, torch.bfloat16, torch.float32)
"""Scales are stored in one of these, which a weight's scheme then names."""


class Format(Protocol):
    """A module of this package is a format: N outputs, K inputs, G inputs to a scale."""

    METHOD: str
    """What ``quant_method`` says in config.json."""
    ABOUT: str
    """A line on what it holds."""
    SUFFIXES: tuple[str, ...]
    """These tensors a packed linear has, behind its name and a dot; the first tells that it is."""

    EXTRAS: frozenset[Extra]
    """It has a place for these of a weight's fields that not every method fills."""

    def refusal(self, scheme: QuantScheme, out_features: int, in_features: int) -> str | None:
        """Say why the format cannot hold a weight of this shape; None: it can."""

    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """Give a weight's tensors by suffix.

        Raises:
            InputError: the format cannot hold it.
        """

    def unpack(
        self, tensors: Mapping[str, Tensor], scheme: QuantScheme, shape: tuple[int, int]
    ) -> QuantizedWeight:
        """Read a weight [N, K] from its tensors by suffix.

        Raises:
            InputError: names the tensor that is missing or of another shape or dtype.
        """

    def config(
        self, scheme: QuantScheme, left_out: Sequence[str], extras: Collection[Extra] = ()
    ) -> dict[str, Any]:
        """Write the ``quantization_config`` of config.json.

        Args:
            scheme: of all packed linears.
            left_out: full names of linears that are not packed.
            extras: what the weights keep besides.
        """

    def scheme(self, config: Mapping[str, Any]) -> QuantScheme:
        """Read the scheme of a ``quantization_config``.

        Raises:
            InputError: names a field that is missing, or that nothing here decodes.
        """


def take(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], *dtypes: object
) -> Tensor:
    """Take a tensor that must have this shape and one of these dtypes.

    Raises:
        InputError: names it, what is there and what should be.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise InputError(f"{name} is missing")
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        held = str(tensor.dtype).removeprefix("torch.")
        raise InputError(
            f"{name} is {held} {list(tensor.shape)}, and must be {wanted} {list(shape)}"
        )
    return tensor


def check_extras(weight: QuantizedWeight, layout: str, held: Collection[Extra]) -> None:
    """Refuse a weight with a field for which a format has no place.

    Raises:
        InputError: names it.
    """
    kept: tuple[Extra, ...] = ("group_index", "input_scales")
    if why := extra_refusal([n for n in kept if getattr(weight, n) is not None], layout, held):
        raise InputError(why)


def extra_refusal(extras: Collection[Extra], layout: str, held: Collection[Extra]) -> str | None:
    """Say for which field a format has no place; None: for all of them."""
    what = {
        "group_index": "a group for every input (an activation order)",
        "input_scales": "scales of inputs, kept beside the weight,",
    }
    missing = sorted(set(extras) - set(held))
    return f"{layout} has no place for {what[missing[0]]}" if missing else None


def number(config: Mapping[str, Any], *names: str) -> int:
    """Read a whole number under the first of these names that is there.

    Raises:
        InputError: there is none, or it is no whole number.
    """
    name = next((name for name in names if name in config), None)
    value = None if name is None else config[name]
    if type(value) is not int:
        raise InputError(
            f"quantization_config has {name or names[0]} {value!r}; it must be a whole number"
        )
    return value


def scheme_of(bits: int, group_size: int, *, symmetric: bool) -> QuantScheme:
    """Make a scheme of a configuration's numbers; -1 is one group an output.

    Raises:
        InputError: no such widths or groups.
    """
    return QuantScheme(
        bits=bits, group_size=None if group_size == -1 else group_size, symmetric=symmetric
    )
