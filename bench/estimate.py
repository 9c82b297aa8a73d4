"""What a comparison will take, from a few short trials on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.checkpoint import LoadedModel
from quantcore.grid import round_to_nearest
from quantcore.method import Method
from quantcore.scheme import QuantScheme
from quantcore.statistics import triangle_share
from quantcore.structure import Structure

_TRIAL_S = 0.15


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What this machine does in a second."""

    forward_tokens_per_s: float
    flop_per_s: float
    """Of float32 matrix products, as Gram matrices and their losses need them."""
    rounded_per_s: float
    """Weights rounded and decoded."""
    steps_per_s: float
    """Columns of a GPTQ loop that is bound by calls, not arithmetic."""
    experts_per_token: int = 1
    """To how many experts of a mixture a router sends each token."""


def _per_second(work: Callable[[], object], amount: float, device: torch.device) -> float:
    """``amount`` of work over the time it takes, after one warm-up."""

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
def measure_rates(loaded: LoadedModel, sample: Tensor) -> Rates:
    """Trials of under a second in all. ``sample``: int64 [batch, tokens], as evaluation runs it."""
    device = loaded.device
    ids = sample.to(device)
    square = torch.randn(1024, 1024, device=device)
    row = torch.randn(256, device=device)
    scheme = QuantScheme(bits=4, group_size=128)

    def column() -> None:
        for _ in range(6):  # about as many calls as one column of the loop makes
            row.mul(1.0)

    return Rates(
        forward_tokens_per_s=_per_second(
            lambda: loaded.model.base_model(input_ids=ids, use_cache=False),
            ids.numel(),
            device,
        ),
        flop_per_s=_per_second(lambda: square @ square, 2 * 1024**3, device),
        rounded_per_s=_per_second(lambda: round_to_nearest(square, scheme), square.numel(), device),
        steps_per_s=_per_second(column, 1, device),
        experts_per_token=getattr(loaded.model.config, "num_experts_per_tok", None) or 1,
    )


def calibration_s(structure: Structure, tokens: int, rates: Rates) -> float:
    """One pass: the blocks, and a Gram matrix per input."""
    grams = 0.0
    for block in structure.blocks:
        for group in block.groups:
            matrix = block.matrices[group.consumers[0]]
            share = 1.0
            if matrix.expert is not None:  # a router sends each token to a few experts
                count = block.module.get_parameter(matrix.parameter).shape[0]
                share = min(1.0, rates.experts_per_token / count)
            if group.linears:
                k = group.in_features
                grams += 2 * triangle_share(k) * share * tokens * k**2
    return tokens / rates.forward_tokens_per_s + grams / rates.flop_per_s


def quantization_s(
    structure: Structure, method: Method, rates: Rates, *, calibration_tokens: int
) -> float:
    """One cell without its evaluation, by counting the work of each kind of method."""
    seconds = 0.0
    for block in structure.blocks:
        for group in block.groups:
            k = group.in_features
            n = sum(len(block.weight(name)) for name in group.linears)
            losses = 2 * triangle_share(k) * n * k * k / rates.flop_per_s
            if method.name == "awq-article":
                seconds += 21 * 2 * n * k / rates.rounded_per_s  # and losses within groups: small
            elif method.name.startswith("awq"):
                seconds += (42 if n < 1024 else 12) * (losses + n * k / rates.rounded_per_s)
                seconds += 11 * n * k / rates.rounded_per_s if method.name != "awq" else 0
            elif method.name.startswith("gptq"):
                seconds += 2 * losses + k**3 / rates.flop_per_s + k / rates.steps_per_s
            else:
                seconds += n * k / rates.rounded_per_s
            seconds += 2 * losses  # the report of what was lost
    if method.calibration == "sequential":
        seconds += 2 * calibration_s(structure, calibration_tokens, rates)
    return seconds


def evaluation_s(tokens: int, loaded: LoadedModel, rates: Rates) -> float:
    """One evaluation: the forward passes and the output head."""
    head = loaded.model.get_output_embeddings()
    flop = 2 * tokens * head.weight.numel() if head is not None else 0
    return tokens / rates.forward_tokens_per_s + flop / rates.flop_per_s


def in_words(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_in_words(count: int) -> str:
    """``4.4 MiB``, ``11.2 GiB``."""
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
