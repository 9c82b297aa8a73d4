"""The scheme says how weights are stored, and so does its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from quantcore.errors import InputError

_GRAMMAR = re.compile(r"int(?P<bits>[0-9]{1,2})-(?:g(?P<group>[0-9]{1,7})|channel)(?P<sym>-sym)?")
GRAMMAR_TEXT = "int<bits>-(g<size>|channel)[-sym], for example int4-g128 or int8-channel-sym"


@dataclass(frozen=True, kw_only=True)
class QuantScheme:
    """A scheme is a uniform grid of ``2**bits`` levels for every group of weights of one output."""

    bits: int
    """2 to 8."""
    group_size: int | None
    """Weights that share a scale, along in_features; None: the whole output channel."""
    symmetric: bool = False
    """True: the zero point is ``2**(bits-1)``, and a scale's sign says at which end the largest
    weight is; False: the zero point is chosen per group and stored."""
    scale_dtype: torch.dtype = torch.float16
    """What scales are stored in, and rounded to before any code is computed."""

    def __post_init__(self) -> None:
        """Refuse sizes that no grid has."""
        if not 2 <= self.bits <= 8:
            raise InputError(f"{self.bits} bits: a scheme has 2 to 8 bits ({GRAMMAR_TEXT})")
        if self.group_size is not None and self.group_size < 1:
            raise InputError(f"group size {self.group_size}: must be at least 1 ({GRAMMAR_TEXT})")

    @classmethod
    def parse(cls, name: str) -> QuantScheme:
        """Read a scheme's name, ``int<bits>-(g<size>|channel)[-sym]``.

        Raises:
            InputError: the name is not of that form, or its sizes are impossible.
        """
        match = _GRAMMAR.fullmatch(name)
        if match is None:
            raise InputError(f"unknown scheme {name!r}: a scheme is {GRAMMAR_TEXT}")
        group = match["group"]
        try:
            return cls(
                bits=int(match["bits"]),
                group_size=None if group is None else int(group),
                symmetric=match["sym"] is not None,
            )
        except InputError as error:
            raise InputError(f"scheme {name!r}: {error}") from error

    @property
    def name(self) -> str:
        """Give the name that `parse` reads."""
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        return f"int{self.bits}-{group}{'-sym' if self.symmetric else ''}"

    @property
    def top_code(self) -> int:
        """Give the largest code, ``2**bits - 1``."""
        return int(2**self.bits) - 1

    def group_of(self, in_features: int) -> int:
        """Give the group size G for K ``in_features``.

        Raises:
            InputError: G does not divide K.
        """
        group = in_features if self.group_size is None else self.group_size
        if in_features % group:
            raise InputError(f"{in_features} inputs do not divide into groups of {group}")
        return group

    def stored_bits(self, out_features: int, in_features: int) -> int:
        """Count the bits of an N x K weight: codes, scales, and (asymmetric) zero points."""
        groups = out_features * (in_features // self.group_of(in_features))
        scale_bits = torch.finfo(self.scale_dtype).bits
        zero_bits = 0 if self.symmetric else self.bits
        return out_features * in_features * self.bits + groups * (scale_bits + zero_bits)
