"""A model's structure is its blocks, their weight matrices, who reads what, and who absorbs scales.

`quantcore.discovery` finds it, and `fold` moves scales along it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quantcore.errors import InputError
from quantcore.scheme import QuantScheme


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A matrix is one weight W [N, K] of a block, however its module keeps it."""

    name: str
    """Within the block: ``self_attn.q_proj``, ``mlp.experts.down_proj.3``."""
    parameter: str
    """The parameter that holds it."""
    expert: int | None = None
    """Which slice of a three-dimensional parameter; None: all of a two-dimensional one."""
    transposed: bool = False
    """Stored as [K, N], as GPT-2's Conv1D does."""

    def of(self, module: nn.Module) -> Tensor:
        """View the parameter as [N, K]: what is copied into it, the module computes with."""
        stored = module.get_parameter(self.parameter).detach()
        if self.expert is not None:
            stored = stored[self.expert]
        return stored.t() if self.transposed else stored

    def bias_of(self, module: nn.Module) -> Tensor | None:
        """View the bias [N] that is added to its product, if there is one."""
        owner, _, leaf = self.parameter.rpartition(".")
        bias = getattr(
            module.get_submodule(owner), "bias" if leaf == "weight" else f"{leaf}_bias", None
        )
        if not isinstance(bias, Tensor):
            return None
        return bias.detach() if self.expert is None else bias.detach()[self.expert]


@dataclass(frozen=True, kw_only=True)
class Absorber:
    """An absorber is the operation before, which is divided by its readers' scales."""

    name: str
    """The module's name within the block (a norm's), or the matrix's."""
    kind: Literal["norm", "linear"]
    """A norm's weight (and bias), or the rows of a matrix (and its bias)."""
    rows: Tensor
    """int64 [K]: which entry (of the norm) or row (of the matrix) writes channel k. Rows of a fused
    projection that write none (q and k in a fused qkv) are not among them."""
    offset: float = 0.0
    """What a norm adds to its weight: 1 in Gemma, whose norms multiply by 1 + w."""

    def per_row(self, scales: Tensor, count: int) -> Tensor:
        """Turn scales [K] of channels into factors [count] of rows; those not read keep 1."""
        factors = torch.ones(count, dtype=scales.dtype, device=scales.device)
        factors[self.rows.to(scales.device)] = scales
        return factors


@dataclass(frozen=True, kw_only=True)
class LinearGroup:
    """A group's matrices share one input of K channels, and so its statistics."""

    index: int
    """Its number within the block."""
    linears: tuple[str, ...]
    """Those that are quantized, by their names within the block."""
    consumers: tuple[str, ...]
    """All that read the input, quantized or not: all are rescaled when scales are folded."""
    in_features: int
    """K."""
    absorber: Absorber | None
    """Who takes the scales; None: nobody can, and ``reason`` says why."""
    reason: str = ""
    score_rows: Mapping[str, Tensor] = field(default_factory=dict)
    """Bool [N], by matrix, for those that have any: the rows that write queries and keys, which
    meet in attention scores (see `quantcore.scores`)."""

    @property
    def label(self) -> str:
        """Give the short name that people read: ``q_proj+k_proj+v_proj``, ``down_proj.3``."""

        def short(name: str) -> str:
            parts = name.split(".")
            return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])

        return "+".join(short(name) for name in self.consumers)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A fold is an absorber and all groups that must take the same scales: experts share a norm."""

    absorber: Absorber
    groups: tuple[LinearGroup, ...]

    @property
    def consumers(self) -> tuple[str, ...]:
        """List every matrix that reads what the absorber writes, quantized or not."""
        return tuple(name for group in self.groups for name in group.consumers)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block is one transformer block in its model."""

    name: str
    """Its name within the model, such as ``model.layers.3``."""
    module: nn.Module
    matrices: Mapping[str, Matrix]
    """Every weight matrix that the block multiplies with, by its name."""
    groups: tuple[LinearGroup, ...]

    def weight(self, name: str) -> Tensor:
        """View the matrix of that name as [N, K]."""
        return self.matrices[name].of(self.module)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Put the groups together by who absorbs their scales."""
        shared: dict[str, list[LinearGroup]] = {}
        for group in self.groups:
            if group.absorber is not None:
                shared.setdefault(group.absorber.name, []).append(group)
        return tuple(
            Fold(absorber=groups[0].absorber, groups=tuple(groups))
            for groups in shared.values()
            if groups[0].absorber is not None
        )


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A structure has all blocks of a model, and what stays outside."""

    blocks: tuple[Block, ...]
    exempt: tuple[str, ...]
    """Matrices that are not quantized, by their full parameter names."""
    notices: tuple[str, ...]
    """What a user should know, such as groups that nothing can absorb."""

    def check_scheme(self, scheme: QuantScheme) -> None:
        """Refuse a group size that does not divide every input, before any work.

        Raises:
            InputError: names the sizes that fit.
        """
        size = scheme.group_size
        widths = sorted({g.in_features for b in self.blocks for g in b.groups if g.linears})
        misfits = [k for k in widths if size is not None and k % size]
        if misfits:
            common = math.gcd(*widths)
            fitting = [s for s in (16, 32, 64, 96, 128, 192, 256, 512, 1024) if common % s == 0]
            fitting = fitting or [d for d in range(common, 0, -1) if common % d == 0][:4]
            raise InputError(
                f"{scheme.name}: groups of {size} do not divide inputs of "
                f"{', '.join(map(str, misfits))}; group sizes that fit this model: "
                f"{', '.join(map(str, fitting))}, any other divisor of {common}, or 'channel'",
                setting="schemes",
                found=scheme.name,
                allowed=fitting,
            )

    def quantized(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every matrix that is quantized: its full name and a view [N, K]."""
        for block in self.blocks:
            for group in block.groups:
                for name in group.linears:
                    yield f"{block.name}.{name}", block.weight(name)


def block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the text model's blocks: its one list of ``num_hidden_layers`` modules.

    Raises:
        InputError: there is no such list, or more than one.
    """
    config: Any = model.config
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    count = getattr(config, "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and "vision" not in name
        and "audio" not in name
    ]
    if len(lists) != 1:
        raise InputError(
            f"{type(model).__name__}: expected one list of {count} blocks (num_hidden_layers), "
            f"found {len(lists)}: {[name for name, _ in lists]}; this structure is unknown, "
            "quantcore.structure.block_list has to learn it (`awq-bench list` names the known "
            "families)"
        )
    return lists[0]


@torch.no_grad()
def fold(
    block: Block,
    weights: Mapping[str, Tensor],
    absorber: Absorber,
    consumers: Sequence[str],
    scales: Tensor,
) -> Tensor:
    """Divide the absorber by ``scales`` and multiply its readers' columns: the function stays.

    A norm's weight is stored in the model's dtype, and its rounding there is a scale too: readers
    are multiplied by what the stored norm really carries.

    Args:
        block: changed in place.
        weights: float32 copies [N, K] of the matrices about to be quantized, by name; changed in
            place, instead of the block's own.
        absorber: who takes the scales.
        consumers: every matrix that reads what the absorber writes.
        scales: positive, [K]; equal for channels that the same row writes.

    Returns:
        the scales that were folded, float32 or better [K].
    """
    if absorber.kind == "norm":
        scales = _fold_into_norm(block.module.get_submodule(absorber.name), absorber, scales)
    else:
        matrix = block.matrices[absorber.name]
        target = weights.get(absorber.name, matrix.of(block.module))
        wide = torch.promote_types(target.dtype, torch.float32)
        scales = scales.to(target.device, wide)
        per_row = absorber.per_row(scales, len(target))
        target.copy_(target.to(wide) / per_row[:, None])
        bias = matrix.bias_of(block.module)
        if bias is not None:
            bias.copy_(bias.to(wide) / per_row)
    for name in consumers:
        target = weights.get(name, block.weight(name))
        wide = torch.promote_types(target.dtype, torch.float32)
        target.copy_(target.to(wide) * scales.to(wide))
    return scales


def _fold_into_norm(norm: nn.Module, absorber: Absorber, scales: Tensor) -> Tensor:
    """Divide ``offset + weight`` (and the bias), and say what the rounded weight carries, [K]."""
    stored = norm.get_parameter("weight").detach()
    wide = torch.promote_types(stored.dtype, torch.float32)
    scales = scales.to(stored.device, wide)
    rows, offset = absorber.rows.to(stored.device), absorber.offset
    old = stored.to(wide) + offset
    new = (old / absorber.per_row(scales, len(old)) - offset).to(stored.dtype)
    carried = new.to(wide) + offset
    # Where the multiplier was zero only the bias speaks, and it takes the scale as it is; where it
    # would round to zero it stays as it was, and carries a scale of 1.
    new = torch.where((carried == 0) & (old != 0), stored, new)
    carried = old / (new.to(wide) + offset)
    scales = torch.where(old[rows] == 0, scales, carried[rows])
    stored.copy_(new)
    bias = getattr(norm, "bias", None)
    if isinstance(bias, Tensor):
        bias.detach().copy_(bias.to(wide) / absorber.per_row(scales, len(old)))
    return scales
