"""Perplexity is measured under the protocol of GPTQ, AWQ and AutoAWQ.

The whole text is tokenized once, cut into windows that do not overlap, the tail dropped. Every
window is one forward pass; tokens 2 to the last are scored in float32.

    perplexity = exp(mean over windows of (mean over scored tokens of -log p))

Another window length is another number, so it is part of the metric's name: ``wikitext2_ppl_2048``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantcore.errors import InputError, refused, setting_name
from suites.divergence import Divergence, Reference, divergence_of_rows
from suites.texts import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

VERSION = 1
"""Changes whenever the same model could come out with another number."""

_HEAD_ROWS = {"cpu": 256, "cuda": 2048}
"""Tokens whose logits are alive at a time: few enough to stay in a CPU's cache (256 x 8,192 float32
are 8 MiB), many enough that reading the head's weights once more for them costs little."""

_SLICES = 8
"""Comparing two distributions takes several tensors of their size: that many times fewer rows."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """`Windows` hold a tokenized text, one window a row."""

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
    """Tokenize and cut; ``count`` takes that many windows, evenly spaced over the text.

    Raises:
        InputError: the text is shorter than one window, or has fewer windows than asked for.
    """
    if seqlen < 2:
        raise refused("seqlen", seqlen, "a window needs at least 2 tokens, to score one")
    ids = torch.tensor(tokenize(tokenizer, content, text_name), dtype=torch.int64)
    whole = len(ids) // seqlen
    if whole == 0:
        raise InputError(
            f"text {text_name!r} has {len(ids):,} tokens, less than one window of {seqlen:,}; "
            f"give at least {seqlen:,} (about {seqlen * 4:,} characters) or a smaller "
            f"{setting_name('seqlen')}",
            setting="text",
            found=text_name,
        )
    windows = ids[: whole * seqlen].view(whole, seqlen)
    metric = f"{text_name}_ppl_{seqlen}"
    if count is not None:
        if not 1 <= count <= whole:
            fewer = f"ask for fewer, or a smaller {setting_name('seqlen')}"
            rule = (
                f"must be 1 to {whole}, as text {text_name!r} has {whole} windows of {seqlen} "
                f"tokens; {fewer if count > 0 else 'ask for some'}"
            )
            raise refused("windows", count, rule, allowed=range(1, whole + 1))
        windows = windows[torch.arange(count) * whole // count]
        if count < whole:
            metric += f"@{count}"
    return Windows(tokens=windows, text_tokens=len(ids), of=whole, metric=metric)


@dataclass(frozen=True, kw_only=True)
class WindowScores:
    """A `WindowScores` is what one pass over the windows measured."""

    nll: list[float]
    """Mean negative log-likelihood per scored token of every window, in nats."""
    divergence: Divergence | None
    """From the reference, if there was one."""


def window_nll(
    model: PreTrainedModel,
    windows: Tensor,
    *,
    batch_size: int,
    done: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """Measure the likelihoods alone: see `measure_windows`."""
    return measure_windows(model, windows, batch_size=batch_size, done=done).nll


@torch.no_grad()
def measure_windows(
    model: PreTrainedModel,
    windows: Tensor,
    *,
    batch_size: int,
    reference: Reference | None = None,
    keep: Reference | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> WindowScores:
    """Measure likelihood and divergence in one pass; the former does not depend on the latter.

    Args:
        model: in evaluation mode.
        windows: int64 [windows, seqlen].
        batch_size: windows per forward pass; decides speed and memory, not the result.
        reference: the unquantized model on these windows, to compare this model with.
        keep: filled with this model's hidden states, to be a reference.
        done: told how many windows were finished.

    Raises:
        ArithmeticError: a window's likelihood or divergence is not finite.
        InputError: divergence of a model whose logits are not made from its final hidden states
            alone, or hidden states that fit nowhere.
        ValueError: a reference of other windows, or one not yet filled.
    """
    for states in (reference, keep):
        if states is not None:
            states.check(windows)
    device = next(model.parameters()).device
    output = _output_of_the_body(model, windows[:1, :16].to(device))
    if output is None and (reference is not None or keep is not None):
        raise InputError(
            f"divergence: {type(model).__name__} does not make its logits from its final hidden "
            "states alone, so they cannot be compared a few at a time; leave divergence out"
        )
    nll: list[float] = []
    compared: list[tuple[Tensor, Tensor]] = []
    for batch in windows.split(batch_size):
        ids = batch.to(device)
        if output is None:
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            losses = _token_nll(logits.flatten(0, 1), ids[:, 1:].reshape(-1))
        else:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            if keep is not None:
                keep.keep(len(nll), hidden)
            others = None
            if reference is not None:
                others = reference.states(len(nll), len(ids)).to(device).flatten(0, 1)
            with _from_hidden_states(model, output) as logits_of:
                losses = _slice_by_slice(logits_of, hidden, others, ids[:, 1:], compared)
        means = losses.view(len(ids), -1).double().mean(1)
        if not bool(torch.isfinite(means).all()):
            raise ArithmeticError("a window's likelihood is not finite: the model overflowed")
        nll += means.tolist()
        done(len(ids))
    divergence = None if reference is None else _joined(compared, len(windows))
    return WindowScores(nll=nll, divergence=divergence)


def _slice_by_slice(
    logits_of: Callable[[Tensor], Tensor],
    hidden: Tensor,
    others: Tensor | None,
    targets: Tensor,
    compared: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Give -log p(target) of every row, [tokens], with the logits of a few rows alive at a time.

    Args:
        logits_of: makes logits of hidden states.
        hidden: of this model, [windows, tokens, hidden].
        others: of the reference, [windows * tokens, hidden]; None: nothing is compared.
        targets: int64 [windows, tokens].
        compared: takes every slice's divergence and agreement.
    """
    count = _HEAD_ROWS.get(hidden.device.type, 256)
    rows = hidden.reshape(-1, hidden.shape[-1]).split(count)
    pairs: Sequence[Tensor | None] = [None] * len(rows) if others is None else others.split(count)
    losses: list[Tensor] = []
    for row, other, target in zip(rows, pairs, targets.reshape(-1).split(count), strict=True):
        logits = logits_of(row)
        if other is not None:
            compared.append(_compare(logits, logits_of(other)))
        losses.append(_token_nll(logits, target))
        del logits  # before the next ones are made
    return torch.cat(losses)


def _joined(compared: Sequence[tuple[Tensor, Tensor]], windows: int) -> Divergence:
    """Join divergence and agreement of every slice to those of every window."""
    token_kl, token_agrees = (
        torch.cat(parts).view(windows, -1).cpu() for parts in zip(*compared, strict=True)
    )
    if not bool(torch.isfinite(token_kl).all()):
        raise ArithmeticError("a token's divergence is not finite: the model overflowed")
    return Divergence(token_kl=token_kl, token_agrees=token_agrees)


def _token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Give -log p(target) of every row, [tokens], in the memory of the logits: no more are kept."""
    chosen = logits.gather(1, targets[:, None])[:, 0]
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top).exp_().sum(-1).log_().add_(top[:, 0]).sub_(chosen)


def _compare(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Call `divergence_of_rows` with fewer rows at a time."""
    rows = -(-len(logits) // _SLICES)
    pairs = zip(logits.split(rows), reference.split(rows), strict=True)
    kl, agrees = zip(*(divergence_of_rows(one, other) for one, other in pairs), strict=True)
    return torch.cat(kl), torch.cat(agrees)


@contextmanager
def _from_hidden_states(
    model: PreTrainedModel, output: type[ModelOutput]
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function from final hidden states [tokens, hidden] to float32 logits.

    It calls the model's own ``forward``, whose body stands still meanwhile and gives out these
    hidden states: so whatever the family does around its head (scaling, a soft cap) is done. The
    logits are the caller's to overwrite.
    """
    given: list[Tensor] = []

    def forward(*_: Any, **__: Any) -> ModelOutput:
        return output(last_hidden_state=given[0])

    def logits_of(rows: Tensor) -> Tensor:
        given[:] = [rows[None]]
        ids = torch.zeros(1, len(rows), dtype=torch.int64, device=rows.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
        return logits

    # Most models call `base_model`, some (OPT) the decoder in it.
    bodies = {model.base_model, model.get_decoder()} - {model}
    before = [vars(body).get("forward") for body in bodies]
    for body in bodies:
        body.forward = forward
    try:
        yield logits_of
    finally:
        for body, own in zip(bodies, before, strict=True):
            if own is None:
                del body.forward
            else:  # a hook that moves inputs between devices had replaced it
                body.forward = own


def _output_of_the_body(model: PreTrainedModel, ids: Tensor) -> type[ModelOutput] | None:
    """Give what the model's body returns; None if logits are made of more than its hidden states.

    This is tried out on a few tokens rather than read from the configuration.
    """
    if model.base_model is model:
        return None
    logits = model(input_ids=ids, use_cache=False).logits
    body = model.base_model(input_ids=ids, use_cache=False)
    hidden = getattr(body, "last_hidden_state", None)
    if hidden is None:
        return None
    try:
        with _from_hidden_states(model, type(body)) as logits_of:
            again = logits_of(hidden[0])
    except Exception:  # code of any family: whatever goes wrong, whole logits are left to us
        return None
    same = again.shape == logits.shape[1:] and torch.allclose(
        again, logits[0].float(), rtol=1e-3, atol=1e-3
    )
    return type(body) if same else None
