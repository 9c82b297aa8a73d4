"""The walk over the blocks folds, rounds and installs, one block at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from quantcore.calibration import BlockStats, BlockWalk, StatsStore
from quantcore.errors import setting_name
from quantcore.gram import InputStats, per_row_output_error, symmetric_flop
from quantcore.grid import QuantizedWeight, quantize
from quantcore.method import GroupTask, Method, Work
from quantcore.scheme import QuantScheme
from quantcore.structure import Block, LinearGroup, Structure, fold


@dataclass
class QuantizationReport:
    """A report says what quantizing a model did, linear by linear."""

    relative_losses: dict[str, float] = field(default_factory=dict)
    """tr(E H E^T) / tr(W H W^T) of every linear, in the units of the original weights."""
    notices: list[str] = field(default_factory=list)
    """What a user should know: raised damping, inputs that could not be scaled."""
    input_bits: int = 0
    """Stored for every input of a linear, beside what the scheme counts: a group index (int32)
    where a method orders its columns, a scale where one keeps them beside the weights."""
    fold_s: float = 0.0
    round_s: float = 0.0
    calibrate_s: float = 0.0
    """Seconds of the method's own calibration pass; 0 where the shared one served."""

    @property
    def quantize_s(self) -> float:
        """Give the seconds that quantizing took: own calibration, folding and rounding."""
        return self.fold_s + self.round_s + self.calibrate_s


class Snapshot:
    """A snapshot keeps the blocks' original parameters on the CPU, to put back after each cell."""

    def __init__(self, structure: Structure) -> None:
        """Copy every parameter of every block."""
        self._saved = [
            {n: p.detach().cpu().clone() for n, p in block.module.named_parameters()}
            for block in structure.blocks
        ]
        self._structure = structure

    @torch.no_grad()
    def restore(self) -> None:
        """Undo every fold and rounding."""
        for block, saved in zip(self._structure.blocks, self._saved, strict=True):
            for name, parameter in block.module.named_parameters():
                parameter.copy_(saved[name])


@torch.no_grad()
def quantize_model(
    structure: Structure,
    method: Method,
    scheme: QuantScheme,
    *,
    stats: StatsStore | None = None,
    walk: BlockWalk | None = None,
    keep: Callable[[str, QuantizedWeight], None] | None = None,
    done: Callable[[int], None] = lambda index: None,
) -> QuantizationReport:
    """Quantize every block in place: its linears then hold the dequantized weights.

    Args:
        structure: the model's blocks and groups.
        method: how to round.
        scheme: what to round to.
        stats: the shared statistics of the original model.
        walk: the calibration sequences: for a method that follows the quantized prefix, and for
            any other that is given no ``stats``; then one block's statistics are alive at a time.
        keep: given every linear's full name and quantized weight, to pack or to save.
        done: told the number of every finished block.

    Raises:
        InputError: a group size that does not divide an input (see `Structure.check_scheme`).
        ArithmeticError: a loss that is not finite, or a factorization that fails for good.
    """
    structure.check_scheme(scheme)
    report = QuantizationReport()
    for index, block in enumerate(structure.blocks):
        sequential = method.calibration == "sequential"
        if walk is None or not (sequential or stats is None):
            if sequential:
                raise RuntimeError(f"{method.name} follows the quantized prefix and needs a walk")
            _quantize_block(
                block, method, scheme, {} if stats is None else stats[index], report, keep
            )
        else:
            started = time.perf_counter()
            block_stats = walk.observe(index, advance=not sequential)
            observed = time.perf_counter()
            _quantize_block(block, method, scheme, block_stats, report, keep)
            rounded = time.perf_counter()
            if sequential:
                walk.advance(index)
            report.calibrate_s += observed - started + time.perf_counter() - rounded
        done(index)
    return report


def _quantize_block(
    block: Block,
    method: Method,
    scheme: QuantScheme,
    stats: BlockStats,
    report: QuantizationReport,
    keep: Callable[[str, QuantizedWeight], None] | None,
) -> None:
    """Do phase 1 for all groups, then phase 2 for all groups, then the losses."""
    groups = [group for group in block.groups if group.linears]
    device = next(block.module.parameters()).device
    weights = {
        name: block.weight(name).to(torch.float32, copy=True).contiguous()
        for group in groups
        for name in group.linears
    }
    tasks = {
        group.index: GroupTask(
            group=group,
            weights={name: weights[name] for name in group.linears},
            stats=_on(device, stats.get(group.index)),
            scheme=scheme,
            notice=lambda text: report.notices.append(f"{block.name}: {text}"),
        )
        for group in groups
    }
    unseen = {
        index
        for index, task in tasks.items()
        if method.calibration != "none" and task.stats is None
    }
    started = _now(device)
    row_factors = _fold_block(block, method, weights, tasks, unseen)
    folded = _now(device)
    rounded: dict[str, QuantizedWeight] = {}
    for index, task in tasks.items():
        if index in unseen:
            rounded.update({name: quantize(w, scheme) for name, w in task.weights.items()})
        else:
            rounded.update(method.round(task))
    if unseen:
        names = [group.label for group in groups if group.index in unseen]
        report.notices.append(
            f"{block.name}: no calibration token reached {', '.join(names)}: rounded to nearest "
            f"(more {setting_name('calibration_samples')} would reach more experts)"
        )
    report.fold_s += folded - started
    report.round_s += _now(device) - folded
    for task in tasks.values():
        _install(block, task, rounded, row_factors, report, keep)


def _on(device: torch.device, stats: InputStats | None) -> InputStats | None:
    if stats is None:
        return None
    return replace(stats, gram=stats.gram.to(device), mean_abs=stats.mean_abs.to(device))


def _fold_block(
    block: Block,
    method: Method,
    weights: dict[str, Tensor],
    tasks: dict[int, GroupTask],
    unseen: Set[int],
) -> dict[str, Tensor]:
    """Choose all scales, then fold them into the block, ``weights`` and the ``tasks``' statistics.

    Returns:
        factors [N] that bring the rows of absorbing matrices back to their original units.
    """
    scales: dict[str, Tensor | None] = {}
    for shared in block.folds:
        seen = [tasks[g.index] for g in shared.groups if g.linears and g.index not in unseen]
        scales[shared.absorber.name] = method.fold(shared, seen) if seen else None
    row_factors: dict[str, Tensor] = {}
    for shared in block.folds:
        absorber, chosen = shared.absorber, scales[shared.absorber.name]
        if chosen is None:
            continue
        carried = fold(block, weights, absorber, shared.consumers, chosen)
        if absorber.kind == "linear" and absorber.name in weights:
            row_factors[absorber.name] = absorber.per_row(carried, len(weights[absorber.name]))
        for group in shared.groups:
            stats = tasks[group.index].stats if group.index in tasks else None
            if stats is not None:
                tasks[group.index] = replace(tasks[group.index], stats=stats.folded(carried))
    return row_factors


def _install(
    block: Block,
    task: GroupTask,
    rounded: Mapping[str, QuantizedWeight],
    row_factors: Mapping[str, Tensor],
    report: QuantizationReport,
    keep: Callable[[str, QuantizedWeight], None] | None,
) -> None:
    """Put what a group's codes decode to in its linears' places, and report what that loses."""
    for name, weight in task.weights.items():
        full, quantized = f"{block.name}.{name}", rounded[name]
        served = quantized.dequantize()
        if quantized.group_index is not None:
            report.input_bits += 32 * task.group.in_features
        if quantized.input_scales is not None:
            bits = torch.finfo(quantized.input_scales.dtype).bits
            report.input_bits += bits * task.group.in_features
        if task.stats is not None:
            factors = row_factors.get(name, torch.ones(len(served), device=served.device))
            error = per_row_output_error(weight - served, task.stats.gram)
            signal = per_row_output_error(weight, task.stats.gram)
            total = float((signal * factors**2).sum())
            loss = float((error * factors**2).sum()) / max(total, 1e-30)
            if not math.isfinite(loss):
                raise ArithmeticError(f"{full}: the output error is {loss}")
            report.relative_losses[full] = loss
        block.weight(name).copy_(served)
        if keep is not None:
            keep(full, quantized)


def loss_work(group: LinearGroup, rows: Mapping[str, int]) -> Work:
    """Say what the loss and the signal of a group's linears take, where there are statistics."""
    return Work(product_flop=2 * symmetric_flop(sum(rows.values()), group.in_features))


def _now(device: torch.device) -> float:
    """Read the clock, in seconds, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def stored_bytes(
    model: nn.Module,
    structure: Structure,
    scheme: QuantScheme | None,
    *,
    item_bytes: int,
    input_bits: int = 0,
) -> int:
    """Count bytes of the weights: quantized linears as the scheme packs them, the rest plain.

    Args:
        model: tied parameters count once.
        structure: says which linears are quantized.
        scheme: None: every parameter is plain.
        item_bytes: of a plain number in the checkpoint.
        input_bits: see `QuantizationReport`.
    """
    everything = sum(p.numel() for p in model.parameters())
    if scheme is None:
        return everything * item_bytes
    shapes = [weight.shape for _, weight in structure.quantized()]
    plain = everything - sum(shape.numel() for shape in shapes)
    bits = input_bits + sum(scheme.stored_bits(*shape) for shape in shapes)
    return plain * item_bytes + (bits + 7) // 8


def bits_per_weight(structure: Structure, scheme: QuantScheme, *, input_bits: int = 0) -> float:
    """Count bits of one quantized weight, with its share of scales, zero points, indices."""
    shapes = [weight.shape for _, weight in structure.quantized()]
    stored = input_bits + sum(scheme.stored_bits(*s) for s in shapes)
    return stored / sum(s.numel() for s in shapes)
