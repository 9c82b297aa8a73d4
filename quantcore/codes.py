"""Quantized weights are kept as a file: codes, scales and zero points in safetensors.

``quantize`` puts it beside the dequantized weights, so that an INT4 kernel can run exactly what was
rounded. One layout for every scheme: ``NAME.codes`` uint8 [N, K], or ``NAME.codes4`` with two to a
byte [N, K/2] (the even input in the low half) where codes are below 16 and K is even;
``NAME.scales`` and ``NAME.zeros`` [N, K/G]; ``NAME.group_index`` int32 [K] and
``NAME.input_scales`` [K] where a method has them. The scheme is in the file's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quantcore.errors import InputError, setting_name
from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quantcore.checkpoint import LoadedModel

FILE = "awq_bench/codes.safetensors"  # loaders of weights take every such file of the top level


def halves(scheme: QuantScheme, in_features: int) -> bool:
    """Say whether codes are kept two to a byte."""
    return scheme.bits <= 4 and in_features % 2 == 0


def two_to_a_byte(codes: Tensor) -> Tensor:
    """Pack codes below 16 [N, K] as uint8 [N, K/2], the even input in the low half."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def one_to_a_byte(packed: Tensor) -> Tensor:
    """Unpack `two_to_a_byte`'s [N, K/2] to uint8 [N, K]."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)


class Keeper:
    """A keeper collects a model's weights as they are quantized, packed, on the CPU."""

    name = "hf"
    """The folder's format is called so."""
    weights = "dequantized"

    def __init__(self) -> None:
        """Begin without weights."""
        self.tensors: dict[str, Tensor] = {}
        self._scheme = ""

    def keep(self, name: str, weight: QuantizedWeight) -> None:
        """Take one weight; see `quantcore.quantize.quantize_model`."""
        codes = weight.codes.cpu()
        packed = halves(weight.scheme, codes.shape[1])
        self._scheme = weight.scheme.name
        found = {
            "codes4" if packed else "codes": two_to_a_byte(codes) if packed else codes,
            "scales": weight.scales,
            "zeros": weight.zeros,
            "group_index": None if weight.group_index is None else weight.group_index.int(),
            "input_scales": weight.input_scales,
        }
        self.tensors |= {
            f"{name}.{part}": tensor.detach().cpu().contiguous()
            for part, tensor in found.items()
            if tensor is not None
        }

    def save(self, model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
        """Write the model as it now is, in the dtype it runs in, and the codes beside it.

        In float32 the weights equal what a packed checkpoint decodes to exactly.
        """
        model.save_pretrained(folder)
        self.write(folder)

    def write(self, folder: Path) -> None:
        """Write the file of codes."""
        (folder / FILE).parent.mkdir()
        # One entry: safetensors writes several in another order each time.
        save_file(self.tensors, folder / FILE, metadata={"scheme": self._scheme})


def load(folder: Path) -> dict[str, QuantizedWeight]:
    """Read the weights of a folder, by the full names of their linears.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{folder} has no {FILE}, the codes that an INT4 backend runs; write the folder with "
            f"`awq-bench quantize`, or leave {setting_name('backend')} out",
            setting="backend",
        )
    try:
        with safe_open(path, framework="pt") as file:
            scheme = QuantScheme.parse((file.metadata() or {})["scheme"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        names = [key.rpartition(".")[0] for key in tensors if key.endswith((".codes", ".codes4"))]
        return {name: _weight(name, tensors, scheme) for name in names}
    except (SafetensorError, OSError, KeyError, InputError) as error:
        raise InputError(
            f"{path} is damaged ({error}); write the folder anew with `awq-bench quantize`"
        ) from error


def of(loaded: LoadedModel) -> Mapping[str, QuantizedWeight]:
    """Give the codes of a model's folder: a packed one's own, else those beside the weights.

    Raises:
        InputError: see `load`.
    """
    return loaded.codes or load(loaded.folder)


def _weight(name: str, tensors: Mapping[str, Tensor], scheme: QuantScheme) -> QuantizedWeight:
    packed = tensors.get(f"{name}.codes4")
    index = tensors.get(f"{name}.group_index")
    return QuantizedWeight(
        codes=tensors[f"{name}.codes"] if packed is None else one_to_a_byte(packed),
        scales=tensors[f"{name}.scales"],
        zeros=tensors[f"{name}.zeros"],
        scheme=scheme,
        group_index=None if index is None else index.long(),
        input_scales=tensors.get(f"{name}.input_scales"),
    )


def check(weights: Mapping[str, QuantizedWeight], model: nn.Module, folder: Path) -> None:
    """Refuse codes that do not decode to the weights that lie beside them.

    One step of the scale is at least a fifteenth of any weight of 4 bits (a 255th of 8), and the
    checkpoint's dtype rounds to less than a 256th of a step's share.

    Raises:
        InputError: names the first linear that differs.
    """
    for name, weight in weights.items():
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue  # a slice of a parameter that several matrices share
        held = module.get_parameter("weight").detach().float().cpu()
        held = held if held.shape == weight.codes.shape else held.t()
        decoded = weight.dequantize()
        if held.shape != decoded.shape or not torch.allclose(held, decoded, rtol=0.005, atol=1e-7):
            raise InputError(
                f"{folder / FILE}: the codes of {name} do not decode to the weights beside them; "
                "one of the files was changed; write the folder anew with `awq-bench quantize`"
            )
