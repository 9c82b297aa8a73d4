"""A comparison's seconds are estimated from a few short trials on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.checkpoint import LoadedModel
from quantcore.gram import symmetric_flop
from quantcore.grid import round_to_nearest
from quantcore.method import Method, Work
from quantcore.quantize import loss_work
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure

_TRIAL_S = 0.15


@dataclass(frozen=True, kw_only=True)
class Pace:
    """A pace says how much this machine does in a second."""

    forward_tokens_per_s: float
    flop_per_s: float
    """They are of float32 matrix products, as Gram matrices and their losses need them."""
    rounded_per_s: float
    """Weights are rounded and decoded as a search does it: scaled before, and compared after."""
    steps_per_s: float
    """They are turns of a loop that is bound by calls, not arithmetic."""
    experts_per_token: int = 1
    """A router sends each token to so many experts of a mixture."""

    def seconds(self, work: Work) -> float:
        """Say how long so much work takes."""
        return (
            work.product_flop / self.flop_per_s
            + work.rounded / self.rounded_per_s
            + work.steps / self.steps_per_s
        )


def _per_second(work: Callable[[], object], amount: float, device: torch.device) -> float:
    """Divide ``amount`` of work by the time it takes, after one warm-up."""

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    work()
    count, started = 0, finish()
    while (elapsed := finish() - started) < _TRIAL_S:
        work()
        count += 1
    return amount * count / elapsed


@torch.no_grad()
def measure_pace(loaded: LoadedModel, sample: Tensor) -> Pace:
    """Try this machine out, for under a second in all.

    Args:
        loaded: the model, whose forward pass is tried.
        sample: int64 [batch, tokens], as evaluation runs it.
    """
    device = loaded.device
    ids = sample.to(device)
    square = torch.randn(1024, 1024, device=device)
    weights = torch.randn(4096, 1024, device=device)  # more than a cache holds
    scales = torch.rand(1024, device=device) + 0.5
    row = torch.randn(256, device=device)
    scheme = QuantScheme(bits=4, group_size=128)

    def rounding() -> None:
        round_to_nearest(weights * scales, scheme).div_(scales).sub_(weights)

    def column() -> None:
        for _ in range(6):  # as many calls as a column of GPTQ makes
            row.mul(1.0)

    return Pace(
        forward_tokens_per_s=_per_second(
            lambda: loaded.model.base_model(input_ids=ids, use_cache=False),
            ids.numel(),
            device,
        ),
        flop_per_s=_per_second(lambda: square @ square, 2 * 1024**3, device),
        rounded_per_s=_per_second(rounding, weights.numel(), device),
        steps_per_s=_per_second(column, 1, device),
        experts_per_token=getattr(loaded.model.config, "num_experts_per_tok", None) or 1,
    )


def calibration_s(structure: Structure, tokens: int, pace: Pace) -> float:
    """Estimate one calibration pass: the blocks, and a Gram matrix per input."""
    grams = 0.0
    for block in structure.blocks:
        for group in block.groups:
            matrix = block.matrices[group.consumers[0]]
            share = 1.0
            if matrix.expert is not None:  # a router sends each token to a few experts
                count = block.module.get_parameter(matrix.parameter).shape[0]
                share = min(1.0, pace.experts_per_token / count)
            if group.linears:
                k = group.in_features
                grams += symmetric_flop(tokens, k) * share
    return tokens / pace.forward_tokens_per_s + grams / pace.flop_per_s


def quantization_s(
    structure: Structure,
    method: Method,
    scheme: QuantScheme,
    pace: Pace,
    *,
    calibration_tokens: int,
) -> float:
    """Estimate a cell without its evaluation: the work that its method states, and the losses'."""
    work = Work()
    for block in structure.blocks:
        for group in block.groups:
            if group.linears:
                rows = {name: len(block.weight(name)) for name in group.linears}
                fold, rounding = method.work(group, rows, scheme)
                work += fold + rounding + loss_work(group, rows)
    seconds = pace.seconds(work)
    if method.calibration == "sequential":  # every block runs again when it is quantized
        seconds += calibration_s(structure, calibration_tokens, pace)
        seconds += calibration_tokens / pace.forward_tokens_per_s
    return seconds


def evaluation_s(tokens: int, loaded: LoadedModel, pace: Pace) -> float:
    """Estimate one evaluation: the forward passes and the output head."""
    head = loaded.model.get_output_embeddings()
    flop = 2 * tokens * head.weight.numel() if head is not None else 0
    return tokens / pace.forward_tokens_per_s + flop / pace.flop_per_s
