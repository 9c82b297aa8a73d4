"""A whole model folder is packed, and one that is packed is decoded, whoever wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from quantcore.errors import InputError, nearest, setting_name
from quantcore.formats import awq, compressed_tensors, gptq
from quantcore.formats.tensors import Format, extra_refusal
from quantcore.grid import QuantizedWeight
from quantcore.method import Extra
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMATS: dict[str, ModuleType] = {
    "awq": awq,
    "gptq": gptq,
    "compressed-tensors": compressed_tensors,
}
"""A module of each has the functions of `quantcore.formats.tensors.Format`."""

SHARD = "5GB"
"""No file of weights is larger."""


def layout_of(name: str) -> Format:
    """Give the format of a name.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name not in FORMATS:
        called = setting_name("checkpoint_format")
        raise InputError(f"unknown {called} {name!r}; {nearest(name, [*FORMATS, 'hf'])}")
    return cast(Format, FORMATS[name])


def served_format(scheme: QuantScheme, shapes: Collection[tuple[int, int]]) -> str:
    """Name the format by which vLLM serves a scheme best, and that holds all of these shapes.

    AWQ's layout serves 4 bits with zero points, GPTQ's 4 and 8 bits without; compressed-tensors
    serves every width, and holds every shape.

    Args:
        scheme: of the weights.
        shapes: N and K of each linear.
    """
    first = "compressed-tensors"
    if scheme.symmetric and scheme.bits in (4, 8):
        first = "gptq"
    elif not scheme.symmetric and scheme.bits == 4:
        first = "awq"
    fits = all(layout_of(first).refusal(scheme, *shape) is None for shape in shapes)
    return first if fits else "compressed-tensors"


def check_packable(
    name: str,
    model: nn.Module,
    structure: Structure,
    scheme: QuantScheme,
    extras: Collection[Extra],
) -> list[str]:
    """Refuse, before any work, a model that a format cannot hold; name what it leaves out.

    Args:
        name: of the format.
        model: its linears are packed, those that the structure quantizes.
        structure: of the model.
        scheme: of all of them, so that engines may fuse q, k and v, or gate and up.
        extras: what the method's weights keep besides; see `quantcore.method.Method.extras`.

    Returns:
        Full names of the linears that stay as they are.

    Raises:
        InputError: names the linear, and what would do.
    """
    layout, packed = layout_of(name), set()
    linears = {n for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    called = setting_name("checkpoint_format")
    if why := extra_refusal(extras, name, layout.EXTRAS):
        raise InputError(f"{called} {name}: {why}; use {called} hf")
    for linear, weight in structure.quantized():
        if linear not in linears:
            raise InputError(
                f"{linear} is a slice of a larger parameter, or no nn.Linear, and {called} {name} "
                f"packs linears; use {called} hf"
            )
        if why := layout.refusal(scheme, weight.shape[0], weight.shape[1]):
            raise InputError(f"{called} {name}: {linear}: {why}; use {called} compressed-tensors")
        packed.add(linear)
    left_out = sorted(linears - packed)
    if name == "awq":  # its readers look for these names anywhere within a module's
        for left in left_out:
            if (within := next((linear for linear in packed if left in linear), None)) is not None:
                raise InputError(
                    f"{called} awq names {left}, which is left out, by a text that also stands in "
                    f"{within}; use {called} compressed-tensors"
                )
    return left_out


@dataclass(kw_only=True)
class Packer:
    """Quantized weights are packed one by one, as they come."""

    name: str
    """The format is called so."""
    scheme: QuantScheme
    left_out: Sequence[str]
    extras: Collection[Extra] = ()
    weights: str = "packed"
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def keep(self, name: str, weight: QuantizedWeight) -> None:
        """Take one; see `quantcore.quantize.quantize_model`.

        Raises:
            InputError: the format cannot hold it.
        """
        packed = layout_of(self.name).pack(weight)
        self.names.append(name)
        self.tensors |= {f"{name}.{suffix}": t.cpu() for suffix, t in packed.items()}

    def save(self, model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
        """Write weights and configuration.

        What is not packed is stored in ``dtype`` where that loses nothing, else (such as a norm
        into which scales were folded) as it is.

        Args:
            model: as it was quantized.
            folder: is there and empty.
            dtype: of the checkpoint that the model came from.
        """
        gone = {f"{name}.weight" for name in self.names}
        plain = {key: t for key, t in model.state_dict().items() if key not in gone}
        # Tied tensors stay one, which is written once.
        stored: dict[tuple[int, torch.Size], Tensor] = {}
        state = {}
        for key, tensor in plain.items():
            same = (tensor.data_ptr(), tensor.shape)  # tensors without entries have no place
            state[key] = stored.setdefault(same, _stored(tensor, dtype))
        model.save_pretrained(folder, state_dict={**state, **self.tensors}, max_shard_size=SHARD)
        path = folder / "config.json"
        config = json.loads(path.read_text("utf-8"))
        config["dtype"] = str(dtype).removeprefix("torch.")
        config["quantization_config"] = layout_of(self.name).config(
            self.scheme, self.left_out, self.extras
        )
        path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    lower = tensor.to(dtype)
    return lower if torch.equal(lower.to(tensor.dtype), tensor) else tensor


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A packed folder says how its linears are packed."""

    name: str
    """The format is called so."""
    scheme: QuantScheme
    files: Mapping[str, Path]
    """By tensor: the file that holds it."""
    names: tuple[str, ...]
    """These linears are packed."""
    is_ordered: bool
    """Whether groups may be of inputs that are no neighbours."""
    read: Callable[[Mapping[str, Tensor], QuantScheme, tuple[int, int]], QuantizedWeight]

    def codes_beside(self, key: str) -> int:
        """Say for how many weights one number of a tensor stands."""
        main = self.suffixes[0]
        return 32 // self.scheme.bits if key.endswith(f".{main}") else 1

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Name the tensors that a packed linear may have."""
        return layout_of(self.name).SUFFIXES

    def decode_into(self, model: nn.Module, folder: Path) -> dict[str, QuantizedWeight]:
        """Put what the codes mean in the place of the linears' weights, and give the codes.

        Raises:
            InputError: names the tensor that is missing, misshapen, or of no linear.
        """
        codes = {}
        for name, tensors in self._tensors():
            try:
                module = model.get_submodule(name)
            except AttributeError:
                module = None
            if not isinstance(module, nn.Linear):
                raise InputError(
                    f"{folder}: {name}.{self.suffixes[0]} is of no linear of this model; check "
                    "config.json against the weights, or download it again"
                )
            shape = (module.out_features, module.in_features)
            try:
                codes[name] = self.read(tensors, self.scheme, shape)
                self._check_order(tensors, codes[name])
            except InputError as error:
                joint = "." if str(error).partition(" ")[0] in self.suffixes else ": "
                raise InputError(
                    f"{folder}: {name}{joint}{error}; download it again, or mend config.json"
                ) from error
            bias = f"{name}.bias"
            has_bias = isinstance(getattr(module, "bias", None), Tensor)
            if not has_bias and bias in self.files and bool(self._tensor(bias).any()):
                raise InputError(
                    f"{folder}: {bias} is not 0, and the model has no place for it; mend "
                    "config.json, or download it again"
                )
            module.weight.data.copy_(codes[name].dequantize())
        return codes

    def _check_order(self, tensors: Mapping[str, Tensor], weight: QuantizedWeight) -> None:
        """Refuse a group index that the configuration does not tell of, and the reverse."""
        name = next((part for part in self.suffixes if part.endswith("g_idx")), "g_idx")
        if weight.group_index is not None and not self.is_ordered:
            raise InputError(
                f"{name} orders the inputs, and quantization_config says that nothing does "
                "(desc_act, actorder), so that readers would not agree on the weights"
            )
        if self.is_ordered and name not in tensors and weight.scales.shape[1] > 1:
            raise InputError(f"{name} is missing, and quantization_config says that there is one")

    def _tensor(self, key: str) -> Tensor:
        with safe_open(self.files[key], framework="pt") as file:
            tensor: Tensor = file.get_tensor(key)
        return tensor

    def _tensors(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Read each packed linear's tensors, file by file open."""
        opened: dict[Path, Any] = {}
        for name in self.names:
            tensors = {}
            for suffix in self.suffixes:
                path = self.files.get(f"{name}.{suffix}")
                if path is not None:
                    if path not in opened:
                        opened[path] = safe_open(path, framework="pt")
                    tensors[suffix] = opened[path].get_tensor(f"{name}.{suffix}")
            yield name, tensors


def packed_in(folder: Path, config: Mapping[str, Any], paths: Sequence[Path]) -> Packed | None:
    """Read how a folder's linears are packed; None where none is.

    Args:
        folder: of the model, for messages.
        config: config.json.
        paths: the files of weights.

    Raises:
        InputError: a method or a layout that is not read here, or a configuration without one
            packed linear.
    """
    told = config.get("quantization_config")
    if not told:
        return None
    method = told.get("quant_method") if isinstance(told, dict) else told
    if method not in FORMATS or not isinstance(told, dict):
        raise InputError(
            f"{folder} is already quantized ({method}), by a format that is not read here "
            f"({', '.join(FORMATS)} are); give the unquantized model"
        )
    name = str(method)
    try:
        scheme = layout_of(name).scheme(told)
    except InputError as error:
        raise InputError(
            f"{folder / 'config.json'}: {error}; download it again, or mend it"
        ) from error
    files: dict[str, Path] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    main = f".{layout_of(name).SUFFIXES[0]}"
    parts = tuple(f".{suffix}" for suffix in layout_of(name).SUFFIXES)
    names = tuple(sorted({key.rpartition(".")[0] for key in files if key.endswith(parts)}))
    if not names:
        raise InputError(
            f"{folder} is {name} by its config.json, and no tensor's name ends in {main}; download "
            "it again"
        )
    for linear in names:
        if f"{linear}{main}" not in files:
            raise InputError(
                f"{folder}: {linear}{main} is missing beside the linear's other tensors; download "
                "it again"
            )
        if f"{linear}.weight" in files:
            raise InputError(
                f"{folder}: {linear} is packed, and {linear}.weight is there too: nobody knows "
                "which is meant; download it again"
            )
    read = layout_of(name).unpack
    if name == "gptq" and told.get("checkpoint_format") == "gptq_v2":
        read = gptq.unpack_v2
    return Packed(
        name=name,
        scheme=scheme,
        files=files,
        names=names,
        is_ordered=layout_of(name).is_ordered(told),
        read=read,
    )


def numbers_in(path: Path, packed: Packed | None) -> int:
    """Count the weights that a file holds, packed ones too."""
    with safe_open(path, framework="pt") as file:
        return sum(
            math.prod(file.get_slice(key).get_shape())
            * (1 if packed is None else packed.codes_beside(key))
            for key in file.keys()  # noqa: SIM118
        )
