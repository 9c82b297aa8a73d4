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

    def is_ordered(self, config: Mapping[str, Any]) -> bool:
        """Say whether groups may be of inputs that are no neighbours, as a group index tells."""


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


def group_index(
    tensors: Mapping[str, Tensor], name: str, inputs: int, groups: int
) -> Tensor | None:
    """Read the group of every input, int64 [K]; None where groups are consecutive inputs.

    Raises:
        InputError: an entry names no group, or groups are not of one size, as kernels need them.
    """
    if name not in tensors:
        return None
    index = take(tensors, name, (inputs,), torch.int32, torch.int64).to(torch.int64)
    if int(index.min()) < 0 or int(index.max()) >= groups:
        raise InputError(
            f"{name} names groups {int(index.min())} to {int(index.max())}, and there are {groups}"
        )
    sizes = torch.bincount(index, minlength=groups)
    if not bool((sizes == inputs // groups).all()):
        odd = int((sizes != inputs // groups).nonzero()[0])
        raise InputError(
            f"{name} gives {int(sizes[odd])} inputs to group {odd}, and every group has "
            f"{inputs // groups}"
        )
    return None if torch.equal(index, consecutive(inputs, groups)) else index


def consecutive(inputs: int, groups: int) -> Tensor:
    """Give the group of every input, int64 [K], where groups are consecutive inputs."""
    return torch.arange(inputs) // (inputs // groups)


def check_symmetric(zeros: Tensor, scheme: QuantScheme, name: str) -> None:
    """Refuse zero points that the scheme says are not there: readers would not agree.

    Raises:
        InputError: names the tensor, and the zero point found.
    """
    middle = 2 ** (scheme.bits - 1)
    if scheme.symmetric and bool((zeros != middle).any()):
        raise InputError(
            f"{name} holds a zero point of {int(zeros[zeros != middle][0])}, and "
            f"quantization_config says symmetric, which is {middle} everywhere"
        )


def refuse_settings(config: Mapping[str, Any], **meanings: str) -> None:
    """Refuse settings that change what codes mean, where they are set.

    Raises:
        InputError: names the setting, its value and what it means.
    """
    for name, meaning in meanings.items():
        if config.get(name):
            raise InputError(f"{name} is {str(config[name])[:60]}: {meaning} is not read here")


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
    other = next((one for one in names if config.get(one, value) != value), None)
    if other is not None:
        raise InputError(
            f"quantization_config contradicts itself: {name} {value!r} and {other} "
            f"{config[other]!r}"
        )
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
