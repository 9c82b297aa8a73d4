"""A `QuantizedLinear` keeps its weight in 4 bits, on whatever backend runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kernels import backends
from kernels.place import Place
from quantcore.codes import halves, one_to_a_byte, two_to_a_byte
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight

_STATE = ("codes", "scales", "zeros")


class QuantizedLinear(nn.Module):
    """A `QuantizedLinear` computes y = x W^T + bias.

    The weight is held once, in the layout of the backend that runs it, as integers that a change of
    the model's dtype leaves alone. It rounds no scales kept beside the weight either; only the bias
    takes the dtype of the activations. ``state_dict`` has the weight in one plain layout (``codes``
    uint8, two to a byte where they are of 4 bits, ``scales``, ``zeros``), so that a state saved on
    one device loads on any other. A move to a device, or to a dtype of activations, that another
    backend runs packs it anew. ``notice`` says where something slower than could be runs. It has no
    gradients.
    """

    bias: Tensor | None
    order: Tensor | None
    input_scales: Tensor | None
    _activations: Tensor

    def __init__(
        self, weight: QuantizedWeight, bias: Tensor | None, *, backend: str, dtype: torch.dtype
    ) -> None:
        """Pack a weight.

        Args:
            weight: on the device that is to run it.
            bias: [N] or None.
            backend: of `backends.NAMES`.
            dtype: of the activations.

        Raises:
            InputError: the backend does not run this weight there in this dtype.
        """
        super().__init__()
        self.out_features, self.in_features = weight.codes.shape
        if not dtype.is_floating_point:
            raise InputError(f"activations of {dtype}: give a floating dtype, such as bfloat16")
        if bias is not None and bias.shape != (self.out_features,):
            raise InputError(
                f"a bias of {list(bias.shape)} for {self.out_features} outputs: give one for each"
            )
        self.scheme, self.asked = weight.scheme, backend
        device = weight.codes.device
        # Its dtype is that of the activations, whatever the model is converted to.
        self.register_buffer(
            "_activations", torch.empty(0, dtype=dtype, device=device), persistent=False
        )
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        # Backends want groups of neighbours: inputs are gathered by their group first.
        index = weight.group_index
        order = None if index is None else torch.argsort(index, stable=True)
        if order is not None:
            weight = replace(weight, codes=weight.codes[:, order], group_index=None)
        self.register_buffer("order", order)
        self.register_buffer("input_scales", weight.input_scales)
        self._hold(replace(weight, input_scales=None))

    def _hold(self, weight: QuantizedWeight) -> None:
        """Pack for the device that the codes are on."""
        place = self._place()
        self.backend, self.notice = backends.choose(self.asked, place)
        module = backends.backend(self.backend)
        packed, self._linear = module.pack(weight, place), module.linear
        for name in getattr(self, "_packed", ()):
            delattr(self, name)
        self._packed = tuple(f"packed_{name}" for name in packed)
        for name, tensor in packed.items():
            self.register_buffer(f"packed_{name}", tensor, persistent=False)
        self._remember()

    def _remember(self) -> None:
        """Put together, once, what every call hands to the backend."""
        self._at = self._place()
        self._held = {name.removeprefix("packed_"): getattr(self, name) for name in self._packed}

    def _place(self) -> Place:
        return Place(
            device=self._activations.device,
            dtype=self._activations.dtype,
            scheme=self.scheme,
            out_features=self.out_features,
            in_features=self.in_features,
        )

    @property
    def weight_bytes(self) -> int:
        """Count the bytes that the weight takes in memory, in every form that is held."""
        held = [*self._held.values(), self.order, self.input_scales]
        return sum(one.numel() * one.element_size() for one in held if one is not None)

    @property
    def read_bytes(self) -> int:
        """Count the bytes that a product reads: codes, scales, zero points, once, and the bias."""
        weight = self.scheme.stored_bits(self.out_features, self.in_features) // 8
        beside = [self.bias, self.order, self.input_scales]
        return weight + sum(one.numel() * one.element_size() for one in beside if one is not None)

    def quantized(self) -> QuantizedWeight:
        """Give the weight, unpacked; inputs are in the order in which backends take them."""
        return backends.backend(self.backend).unpack(self._held, self._at)

    def forward(self, x: Tensor) -> Tensor:
        """Give [..., N] of x [..., K], which has the dtype that the layer was packed for."""
        own = self._activations.dtype
        if x.dtype is not own:
            fix = f"convert the layer with .to({x.dtype})" if x.is_floating_point() else "convert x"
            raise InputError(f"activations of {x.dtype}: this layer was packed for {own}; {fix}")
        if x.shape[-1:] != (self.in_features,):
            raise InputError(
                f"activations of {list(x.shape)}: this layer takes {self.in_features} inputs last"
            )
        flat = x.reshape(-1, self.in_features)
        if self.input_scales is not None:
            flat = (flat / self.input_scales).to(x.dtype)
        if self.order is not None:
            flat = flat[:, self.order]
        y = self._linear(flat, self._held, self.bias, self._at)
        return y.view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Move, and pack anew where another backend runs there, or another dtype's layout."""
        before, scales = self._at, self.input_scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if scales is not None:  # as bytes: a dtype is for activations, and would round them
            self.input_scales = fn(scales.view(torch.uint8)).view(scales.dtype)
        self._remember()
        after = self._at
        if after != before:
            held = replace(after, device=before.device, dtype=before.dtype)
            weight = backends.backend(self.backend).unpack(self._held, held)
            self._hold(weight)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = self.quantized()
        packed = halves(self.scheme, self.in_features)
        codes = two_to_a_byte(weight.codes) if packed else weight.codes
        for name, tensor in zip(_STATE, (codes, weight.scales, weight.zeros), strict=True):
            destination[prefix + name] = tensor

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = {name: state_dict.pop(prefix + name, None) for name in _STATE}
        absent = [prefix + name for name, tensor in found.items() if tensor is None]
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if absent:
            missing_keys.extend(absent)
            return
        codes, scales, zeros = (found[name].to(self._activations.device) for name in _STATE)
        if halves(self.scheme, self.in_features):
            codes = one_to_a_byte(codes)
        groups = self.in_features // self.scheme.group_of(self.in_features)
        for name, tensor, width in (
            ("codes", codes, self.in_features),
            ("scales", scales, groups),
            ("zeros", zeros, groups),
        ):
            if tensor.shape != (self.out_features, width):
                error_msgs.append(
                    f"size mismatch for {prefix}{name}: {list(tensor.shape)} in the state, "
                    f"{[self.out_features, width]} in the layer"
                )
                return
        self._hold(QuantizedWeight(codes=codes, scales=scales, zeros=zeros, scheme=self.scheme))

    def extra_repr(self) -> str:
        """Say what ``print(model)`` shows."""
        return (
            f"{self.in_features}, {self.out_features}, {self.scheme.name}, "
            f"{self.backend}, bias={self.bias is not None}"
        )
