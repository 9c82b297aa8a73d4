"""Perplexity under the protocol of GPTQ, AWQ and AutoAWQ.

The whole text is tokenized once, cut into windows that do not overlap, the tail dropped. Every
window is one forward pass; tokens 2 to the last are scored in float32.

    perplexity = exp(mean over windows of (mean over scored tokens of -log p))

Another window length is another number, so it is part of the metric's name: ``wikitext2_ppl_2048``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantcore.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
"""Changes whenever the same model could come out with another number."""

_HEAD_ROWS = {"cpu": 256, "cuda": 2048}
"""Tokens whose logits are alive at a time: few enough to stay in a CPU's cache (256 x 8,192 float32
are 8 MiB), many enough that reading the head's weights once more for them costs little."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A tokenized text in windows."""

    tokens: Tensor
    """int64 [windows, seqlen]"""
    text_tokens: int
    """Tokens of the whole text, the dropped tail included."""
    of: int
    """Windows of the whole text; more than ``len(tokens)`` if only some were asked for."""
    metric: str
    """``<text>_ppl_<seqlen>``, with ``@<windows>`` for a part of the text."""


def cut_windows(
    text_name: str,
    content: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seqlen: int,
    count: int | None = None,
) -> Windows:
    """Tokenize and cut; with ``count``, that many windows evenly spaced over the text.

    Raises:
        InputError: the text is shorter than one window, or has fewer windows than asked for.
    """
    if seqlen < 2:
        raise InputError(f"--seqlen {seqlen}: a window needs at least 2 tokens, to score one")
    ids = torch.tensor(tokenizer(content, verbose=False).input_ids, dtype=torch.int64)
    whole = len(ids) // seqlen
    if whole == 0:
        raise InputError(
            f"text {text_name!r} has {len(ids):,} tokens, less than one window of {seqlen:,}; "
            f"give at least {seqlen:,} (about {seqlen * 4:,} characters) or a smaller --seqlen"
        )
    windows = ids[: whole * seqlen].view(whole, seqlen)
    metric = f"{text_name}_ppl_{seqlen}"
    if count is not None:
        if not 1 <= count <= whole:
            raise InputError(
                f"--windows {count}: must be 1 to {whole}, as text {text_name!r} has {whole} "
                f"windows of {seqlen} tokens"
            )
        windows = windows[torch.arange(count) * whole // count]
        if count < whole:
            metric += f"@{count}"
    return Windows(tokens=windows, text_tokens=len(ids), of=whole, metric=metric)


@torch.no_grad()
def window_nll(
    model: PreTrainedModel,
    windows: Tensor,
    *,
    batch_size: int,
    done: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """Mean negative log-likelihood per scored token of every window, in nats.

    Args:
        model: in evaluation mode.
        windows: int64 [windows, seqlen].
        batch_size: windows per forward pass; decides speed and memory, not the result.
        done: told how many windows were finished.

    Raises:
        ArithmeticError: a window's likelihood is not finite.
    """
    device = next(model.parameters()).device
    head = model.get_output_embeddings()
    plain = _head_is_plain(model, head, windows[:1, :16].to(device))
    results: list[float] = []
    for batch in windows.split(batch_size):
        ids = batch.to(device)
        targets = ids[:, 1:].reshape(-1)
        if plain:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
            count = _HEAD_ROWS.get(device.type, 256)
            parts = zip(rows.split(count), targets.split(count), strict=True)
            losses = torch.cat([_token_nll(head(part).float(), target) for part, target in parts])
        else:
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            losses = _token_nll(logits.flatten(0, 1), targets)
        nll = losses.view(len(ids), -1).double().mean(1)
        if not bool(torch.isfinite(nll).all()):
            raise ArithmeticError("a window's likelihood is not finite: the model overflowed")
        results += nll.tolist()
        done(len(ids))
    return results


def _token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of every row, [tokens]; overwrites the logits, so that no more are kept."""
    chosen = logits.gather(1, targets[:, None])[:, 0]
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top).exp_().sum(-1).log_().add_(top[:, 0]).sub_(chosen)


def _head_is_plain(model: PreTrainedModel, head: nn.Module | None, ids: Tensor) -> bool:
    """Whether logits are the head of the last hidden state and no more (no soft cap, no scaling).

    Then they can be taken a few rows at a time, so that those of a large vocabulary are never in
    memory whole. Tried out on a few tokens rather than read from the configuration.
    """
    if head is None:
        return False
    logits = model(input_ids=ids, use_cache=False).logits
    direct = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    return logits.shape == direct.shape and torch.allclose(logits, direct, rtol=1e-3, atol=1e-3)
