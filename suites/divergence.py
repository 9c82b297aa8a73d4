"""Divergence is how far a quantized model's next-token distribution is from the unquantized one's.

    KL(P || Q) = sum over tokens v of P(v) * (log P(v) - log Q(v)),    in nats, one per position

with P the unquantized model's distribution and Q the quantized one's, at the positions whose next
token perplexity scores. Perplexity sees only the token that came next in the text; this sees all of
the distribution, so it tells models apart that err in opposite directions on different tokens.

Quantization here changes neither the output head nor the final norm. So of the unquantized model
only its final hidden states are kept (`Reference`), and its logits are made anew from them, a few
rows at a time beside the quantized model's: a large vocabulary is never in memory whole, on either
side. `suites.perplexity.measure_windows` runs both measures in one pass.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quantcore.errors import InputError, setting_name

VERSION = 1
"""Changes whenever the same two models could come out with another number."""


class Reference:
    """A `Reference` keeps the unquantized model's final hidden states over a text's windows.

    They are filled by one pass over the unquantized model and read by every pass over a quantized
    one. Up to a limit they live in memory, beyond it in a file without a name (it is removed as
    soon as it is open), which goes with the reference, even if the process is killed.
    """

    def __init__(self, windows: Tensor, *, memory_bytes: int, folder: Path) -> None:
        """Make a reference in which nothing is kept yet.

        Args:
            windows: int64 [windows, seqlen], the very ones that will be compared on.
            memory_bytes: more than that goes to disk.
            folder: where the file goes; it must exist if it is needed.
        """
        self.windows = windows
        self.on_disk = False
        self._memory_bytes = memory_bytes
        self._folder = folder
        self._states: Tensor | None = None
        self._filled = 0

    def keep(self, first: int, states: Tensor) -> None:
        """Store the hidden states of some windows.

        Args:
            first: number of the first of these windows.
            states: [windows of this batch, scored tokens, hidden], any device.

        Raises:
            InputError: they fit neither in the memory allowed nor on the disk.
        """
        if self._states is None:
            shape = (len(self.windows), *states.shape[1:])
            self._states = self._allocate(shape, states.dtype)
        self._states[first : first + len(states)] = states.cpu()
        self._filled = first + len(states)

    def states(self, first: int, count: int) -> Tensor:
        """Give the states of ``count`` windows: [count, scored tokens, hidden], on the CPU.

        Raises:
            ValueError: not all windows were kept.
        """
        if self._states is None or self._filled < len(self.windows):
            raise ValueError(
                f"the reference holds {self._filled} of {len(self.windows)} windows: "
                "the unquantized model has to be measured first, on all of them"
            )
        return self._states[first : first + count]

    def check(self, windows: Tensor) -> None:
        """Refuse another text.

        Raises:
            ValueError: these are not the windows that the reference was made for.
        """
        if not torch.equal(windows, self.windows):
            raise ValueError(
                f"the reference was made on other windows ({list(self.windows.shape)}) than these "
                f"({list(windows.shape)}): both models have to read the same tokens"
            )

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        need = math.prod(shape) * dtype.itemsize
        if need <= self._memory_bytes:
            return torch.empty(shape, dtype=dtype)
        free = shutil.disk_usage(self._folder).free
        if need > 0.95 * free:
            raise InputError(
                f"divergence: the unquantized model's hidden states take {need:,} bytes, but "
                f"{self._folder} has {free:,} free; make room there or measure "
                f"fewer {setting_name('windows')}",
                setting="windows",
            )
        self.on_disk = True
        with tempfile.TemporaryFile(dir=self._folder) as file:  # without a name: nothing to leave
            held = np.memmap(file, dtype=np.uint8, mode="w+", shape=(need,))
        return torch.from_numpy(held).view(dtype).view(shape)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A `Divergence` sets one model against its reference, token by token."""

    token_kl: Tensor
    """float32 [windows, scored tokens], nats, never negative."""
    token_agrees: Tensor
    """bool [windows, scored tokens]: both models hold the same token most likely."""

    @property
    def mean(self) -> float:
        """Give the mean divergence, in nats per token."""
        return float(self.token_kl.double().mean())

    @property
    def median(self) -> float:
        """Give the divergence that half of the tokens stay under, in nats."""
        return float(np.quantile(self.token_kl.double().numpy(), 0.5))

    @property
    def p99(self) -> float:
        """Give the divergence, in nats, that all but the worst hundredth of tokens stay under."""
        return float(np.quantile(self.token_kl.double().numpy(), 0.99))

    @property
    def agreement(self) -> float:
        """Give the share of tokens where both have the same most likely one."""
        return float(self.token_agrees.double().mean())

    @property
    def window_kl(self) -> list[float]:
        """Give every window's mean divergence, nats per token, for intervals."""
        means: list[float] = self.token_kl.double().mean(1).tolist()
        return means

    @property
    def window_agreement(self) -> list[float]:
        """Give the agreement of every window."""
        shares: list[float] = self.token_agrees.double().mean(1).tolist()
        return shares


def divergence_of_rows(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Compute divergence and agreement at some positions.

    Divergence is summed as Q - P + P (log P - log Q), which is the same because both sum to one.
    There an error in the logarithm of a whole distribution cancels instead of going into the
    result, so float32 is good for 1e-6 nats. Equal logits give exactly 0.

    Args:
        logits: of the quantized model, float32 [tokens, vocabulary].
        reference: of the unquantized model, the same shape.

    Returns:
        float32 [tokens] in nats, and bool [tokens] whether the most likely token is the same.
    """
    log_p = reference.log_softmax(-1)
    log_q = logits.log_softmax(-1)
    p = log_p.exp()
    # A token that P rules out adds nothing; -inf less -inf would be no number.
    difference = log_p.sub_(log_q).masked_fill_(p == 0, 0)
    kl = difference.mul_(p).add_(log_q.exp_()).sub_(p).sum(-1)
    # No divergence is negative: what lies below 0 is rounding, where the two hardly differ.
    return kl.clamp_min_(0), logits.argmax(-1) == reference.argmax(-1)
