"""A place is where a quantized linear runs, and what it is: all that backends need to know."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantcore.scheme import QuantScheme


@dataclass(frozen=True, kw_only=True)
class Place:
    """A `Place` is one linear (N outputs, K inputs) on one device."""

    device: torch.device
    dtype: torch.dtype
    """Of the activations."""
    scheme: QuantScheme
    out_features: int
    in_features: int
