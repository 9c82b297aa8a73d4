"""Quantized linears are put into a model, and taken out again."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from kernels.linear import QuantizedLinear
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight


@dataclass
class Installed:
    """An `Installed` says what `install` did."""

    replaced: dict[str, nn.Module] = field(default_factory=dict)
    """The modules that were there before, by name."""
    backends: Counter[str] = field(default_factory=Counter)
    """Linears by the backend that runs them."""
    notices: list[str] = field(default_factory=list)
    """What a user should know: weights that stay dequantized, backends that were fallen back on."""


def install(model: nn.Module, weights: Mapping[str, QuantizedWeight], *, backend: str) -> Installed:
    """Replace linears by `QuantizedLinear`, in place.

    Experts kept as slices of one parameter stay dequantized as they are, and so does any other
    matrix that no module of its own holds; a notice says so.

    Args:
        model: whose linears hold the dequantized weights.
        weights: by the full names of modules.
        backend: of `kernels.backends.NAMES`.

    Raises:
        InputError: the backend does not run one of them there; nothing was replaced.
    """
    done = Installed()
    fresh: dict[str, QuantizedLinear] = {}
    kept: list[str] = []
    for name, weight in weights.items():
        try:
            module = model.get_submodule(name)
        except AttributeError:
            kept.append(name)
            continue
        parameter = module.get_parameter("weight")
        try:
            fresh[name] = QuantizedLinear(
                _on(weight, parameter.device),
                module.bias if isinstance(module.bias, torch.Tensor) else None,
                backend=backend,
                dtype=parameter.dtype,
            )
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    for name, linear in fresh.items():
        done.replaced[name] = _swap(model, name, linear)
        done.backends[linear.backend] += 1
    notices = Counter(linear.notice for linear in fresh.values() if linear.notice)
    done.notices = [f"{count} linears, {notice}" for notice, count in notices.items()]
    if kept:
        done.notices.append(
            f"{len(kept)} matrices that are no modules of their own stay dequantized, "
            f"first {kept[0]}"
        )
    return done


def remove(model: nn.Module, done: Installed) -> None:
    """Put the modules back that `install` replaced."""
    for name, module in done.replaced.items():
        _swap(model, name, module)


def _swap(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in a place, and give back the one that was there."""
    parent, _, own = name.rpartition(".")
    holder = model.get_submodule(parent)
    before = holder.get_submodule(own)
    setattr(holder, own, module)
    return before


def _on(weight: QuantizedWeight, device: torch.device) -> QuantizedWeight:
    def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)

    return QuantizedWeight(
        codes=weight.codes.to(device),
        scales=weight.scales.to(device),
        zeros=weight.zeros.to(device),
        scheme=weight.scheme,
        group_index=moved(weight.group_index),
        input_scales=moved(weight.input_scales),
    )


def twin(model: nn.Module) -> nn.Module:
    """Make a second model of the same tensors, whose modules can be replaced by themselves.

    Parameters and buffers are shared, not copied.
    """
    shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


@contextmanager
def installed(
    model: nn.Module, weights: Mapping[str, QuantizedWeight], *, backend: str
) -> Iterator[Installed]:
    """Have `install` hold for the length of a with block."""
    done = install(model, weights, backend=backend)
    try:
        yield done
    finally:
        remove(model, done)
