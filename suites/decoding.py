"""Many prompts run through a causal model at once, with the results of one at a time.

Rows of a batch are padded on the left, so that every row's next token is in the same column and
distances between its tokens are what they are alone (sliding windows, ALiBi). The padding is masked
and takes no position. What all rows begin with is run once and its keys and values are laid under
every row. Sums are taken in another order than for a row alone, so logits differ by rounding: in
float32 by about 1e-6 of their size. A greedy token can only change where two logits are that near.

One kind of model is an exception: rotary embeddings that change with the length of what is read
("dynamic", "longrope") change with the longest row of the batch, once that is beyond the length
that they start from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from suites.kv_cache import Forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGIT_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Logits of scored options alive at a time; 2,000 tokens of a vocabulary of 150,000 take 1.2 GB."""
_ROOM = 64
"""Columns by which a cache grows; with one at a time every token would copy all keys and values."""
_COMPACT = 8
"""Rows are taken out of the batch when one in so many has finished: the copy costs a few steps."""
_PREFIX = 32
"""Common tokens from which on a beginning is run by itself."""
_FAMILIAR = 64
"""Prompts that agree in so many first tokens are taken to share more, and batched together."""
_BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings for which a beginning by itself is not what it is within a longer row."""
_ROUNDING = 0.05
"""Of logits' spread, what two ways to the same ones may differ by: bfloat16 takes about 0.01."""
_FINISHED = -1


@dataclass(frozen=True, kw_only=True)
class Work:
    """A `Work` takes rows of a batch: a prompt to continue, or a context with options to score."""

    tokens: tuple[int, ...]
    room: int
    """Columns beyond ``tokens``: new tokens, or those of the longest option."""
    rows: int = 1


def arrange(works: Sequence[Work]) -> list[int]:
    """Order works so that neighbours make good batches, the largest first.

    Neighbours are alike in how much room they take, then in their beginnings where those recur,
    then in length: a batch then pads little, and shares what it can. The largest come first, so
    that too little memory shows at once.
    """
    beginnings = Counter(work.tokens[:_FAMILIAR] for work in works)

    def place(index: int) -> tuple[int, tuple[int, ...], int]:
        work = works[index]
        start = work.tokens[:_FAMILIAR]
        shared = len(start) == _FAMILIAR and beginnings[start] >= _COMPACT
        return work.room, start if shared else (), len(work.tokens)

    return sorted(range(len(works)), key=place, reverse=True)


def fitting(works: Sequence[Work], budget: int) -> int:
    """Count how many of the first make a batch of at most ``budget`` padded tokens; at least 1."""
    rows = tokens = room = 0
    for count, work in enumerate(works):
        rows += work.rows
        tokens, room = max(tokens, len(work.tokens)), max(room, work.room)
        if count and rows * (tokens + room) > budget:
            return count
    return len(works)


class _Roomy(DynamicLayer):  # type: ignore[misc]
    """A roomy layer keeps its keys and values with room behind them for the next tokens."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        super().update(layer.keys, layer.values)  # sets whatever a layer of this release has
        self._space = (self.keys, self.values)
        self._used: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append, as the class above does, [rows, heads, tokens, size]."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if self.keys is not self._used or end > self._space[0].shape[-2]:  # rows taken out, or full
            self._space = (_widened(self.keys, end + _ROOM), _widened(self.values, end + _ROOM))
        for space, states in zip(self._space, (key_states, value_states), strict=True):
            space[:, :, start:end] = states
        self.keys, self.values = (space[:, :, :end] for space in self._space)
        self._used = self.keys
        return self.keys, self.values


def _widened(states: Tensor, columns: int) -> Tensor:
    """Give the states room for so many columns, zeros behind them: [rows, heads, columns, size]."""
    wide = states.new_zeros(*states.shape[:2], columns, states.shape[-1])
    wide[:, :, : states.shape[-2]] = states
    return wide


class _Rows:
    """`_Rows` are token rows in a model's memory, padded on the left, that grow on the right."""

    def __init__(
        self, model: PreTrainedModel, rows: Sequence[Sequence[int]], say: Callable[[str], None]
    ) -> None:
        self.model, self.say = model, say
        self.device = next(model.parameters()).device
        self.run = Forward.of(model)
        width = max(map(len, rows))
        self.prompts = [list(row) for row in rows]
        self.ids = torch.tensor([[0] * (width - len(row)) + row for row in self.prompts])
        real = torch.arange(width) >= width - torch.tensor([[len(row)] for row in rows])
        self.ids, self.mask = self.ids.to(self.device), real.long().to(self.device)
        self.cache: Any = None
        self.proven: bool | None = None
        """Whether a cache that is not plain was seen to continue the rows; None: not tried yet."""

    def start(self) -> Tensor:
        """Run the rows; give logits of what follows each, [rows, vocabulary]."""
        shared = self._shared()
        ids = self.ids
        if shared >= _PREFIX and len(ids) > 1:
            self._lay_under(shared)
            if self.cache is not None:
                ids = ids[:, shared:]
        return self._forward(ids, self.mask, keep=1)[:, -1]

    def feed(self, tokens: Tensor, real: Tensor, *, keep: int) -> Tensor:
        """Append columns, run them, give logits of the last ``keep``, [rows, keep, vocabulary].

        Args:
            tokens: int64 [rows, columns].
            real: bool [rows, columns]; others are padding.
            keep: at most ``columns``.
        """
        self.ids = torch.cat([self.ids, tokens], 1)
        self.mask = torch.cat([self.mask, real.long()], 1)
        if self.cache is not None and not self._plain():
            if self.proven is False or tokens.shape[1] > 1:
                self.cache = None  # not every other kind can be continued by several tokens
            elif self.proven is None:
                return self._prove(tokens, keep=keep)
        if self.cache is None:
            self._tell()
            tokens = self.ids
        return self._forward(tokens, self.mask, keep=keep)

    def _tell(self) -> None:
        self.say(
            f"{type(self.model).__name__} has no cache of keys and values that can be "
            "continued here, so every step runs whole rows: slower, with the same results"
        )

    def _prove(self, tokens: Tensor, *, keep: int) -> Tensor:
        """Continue states of an unknown kind, and keep doing so if whole rows say the same.

        Models of which nothing but a state is kept (Mamba) may take masks, padding and positions
        otherwise in a step than in a whole row, without an error.
        """
        continued, cache = self._forward(tokens, self.mask, keep=keep), self.cache
        self.cache = None
        whole = self._forward(self.ids, self.mask, keep=keep)
        off = (continued - whole).float().abs().mean(-1)
        self.proven = bool((off <= _ROUNDING * whole.float().std(-1)).all())
        self.cache = cache if self.proven else None
        if not self.proven:
            self._tell()
        return continued if self.proven else whole

    def select(self, index: Tensor) -> None:
        """Keep these rows, in this order; a row may be named more than once."""
        self.ids, self.mask = self.ids[index], self.mask[index]
        if self.cache is not None:
            self.cache.reorder_cache(index)

    def make_room(self) -> None:
        """Let plain layers of the cache grow in strides from now on."""
        layers = getattr(self.cache, "layers", [])
        for number, layer in enumerate(layers):
            if type(layer) is DynamicLayer and layer.is_initialized:
                layers[number] = _Roomy(layer)

    def _forward(self, ids: Tensor, mask: Tensor, *, keep: int) -> Tensor:
        logits, cache = self.run(
            ids,
            cache=self.cache,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            keep=keep,
        )
        self.cache = cache if hasattr(cache, "reorder_cache") else None
        return logits

    def _shared(self) -> int:
        """Count the tokens, less than the longest has, that all rows begin with and can share."""
        config = self.model.config
        rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
        if any(kind in str(rotary) for kind in _BY_LENGTH):
            return 0
        first, last = min(self.prompts), max(self.prompts)
        pairs = enumerate(zip(first, last, strict=False))
        common = next((at for at, (a, b) in pairs if a != b), min(len(first), len(last)))
        return min(common, self.ids.shape[1] - 1)

    def _lay_under(self, count: int) -> None:
        """Run the first ``count`` tokens once and put what is kept of them under every row.

        A row that is padded by n columns gets the first ``count - n`` of them; the columns that
        remain to be run are then the same for all rows, and all padding stays on the left.
        """
        prefix = torch.tensor([self.prompts[0][:count]], device=self.device)
        self._forward(prefix, torch.ones_like(prefix), keep=1)
        if self.cache is None or not self._plain(sliding=False):
            self.cache = None
            return
        columns = torch.arange(count, device=self.device)
        padding = (self.mask == 0).sum(1, keepdim=True)
        index = (columns - padding).clamp(min=0)
        under = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            keys, values = (
                states[0][:, index].transpose(0, 1) for states in (layer.keys, layer.values)
            )
            under.update(keys, values, number)
        self.cache = under

    def _plain(self, *, sliding: bool = True) -> bool:
        """Say whether the cache is keys and values only, one for every token (of a window)."""
        kinds = (DynamicLayer, _Roomy) + ((DynamicSlidingWindowLayer,) if sliding else ())
        layers = getattr(self.cache, "layers", [])
        return bool(layers) and all(type(one) in kinds and one.is_initialized for one in layers)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    *,
    ended: Callable[[int, list[int]], bool],
    finished: Callable[[int, list[int], bool], None],
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Continue prompts greedily; rows that have finished leave the batch.

    Args:
        model: in evaluation mode.
        prompts: tokens, at least one each.
        limits: new tokens that each may get, at least 1.
        ended: whether prompt number n is done with the tokens written so far.
        finished: told of every prompt its number, tokens, and whether its limit cut it off.
        say: told what makes it slow.
    """
    rows = _Rows(model, prompts, say)
    logits = rows.start()
    rows.make_room()
    places = list(range(len(prompts)))
    written: list[list[int]] = [[] for _ in prompts]
    while True:
        chosen = logits.argmax(-1)
        for place, token in enumerate(chosen.tolist()):
            number = places[place]
            if number == _FINISHED:
                continue
            tokens = written[number]
            tokens.append(token)
            over = ended(number, tokens)
            if over or len(tokens) >= limits[number]:
                finished(number, tokens, not over)
                places[place] = _FINISHED
        alive = [place for place, number in enumerate(places) if number != _FINISHED]
        if not alive:
            return
        if (len(places) - len(alive)) * _COMPACT >= len(places):
            index = torch.tensor(alive, device=chosen.device)
            rows.select(index)
            chosen, places = chosen[index], [places[place] for place in alive]
        # A finished row's tokens count as padding: it must not run past the last position.
        real = torch.tensor([[number != _FINISHED] for number in places], device=chosen.device)
        logits = rows.feed(chosen[:, None], real, keep=1)[:, -1]


@torch.no_grad()
def score(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    say: Callable[[str], None] = lambda message: None,
) -> list[list[tuple[float, bool]]]:
    """Give every option's log-likelihood after its context, and whether greedy decoding writes it.

    One forward pass of the contexts gives all first tokens; the options that have more continue
    from the contexts' keys and values, repeated. Whole-vocabulary logits exist only for scored
    tokens, and of those for `_LOGIT_BYTES` at a time.

    Args:
        model: in evaluation mode.
        contexts: tokens, at least one each.
        options: of each context, tokens, at least one each.
        say: told what makes it slow.

    Returns:
        Of each context's options, ``(sum of log p over its tokens in nats, all are the argmax)``.
    """
    rows = _Rows(model, contexts, say)
    logits = rows.start().float()
    flat = [(context, option) for context, group in enumerate(options) for option in group]
    owners = torch.tensor([context for context, _ in flat], device=logits.device)
    first = torch.tensor([option[0] for _, option in flat], device=logits.device)
    total = (logits[owners, first] - logits.logsumexp(-1)[owners]).double()
    greedy = logits.argmax(-1)[owners] == first
    longer = [number for number, (_, option) in enumerate(flat) if len(option) > 1]
    if longer:
        which = torch.tensor(longer, device=logits.device)
        rows.select(owners[which])
        sums, same = _continue(rows, [flat[number][1] for number in longer], logits.shape[-1])
        total[which] += sums
        greedy[which] &= same
    results = iter(zip(total.tolist(), greedy.tolist(), strict=True))
    return [[next(results) for _ in group] for group in options]


def _continue(
    rows: _Rows, options: Sequence[Sequence[int]], vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Sum log-likelihoods of options' tokens from the second on, and tell if all are the argmax."""
    width = max(map(len, options))
    padded = torch.tensor([[*option, *[0] * (width - len(option))] for option in options])
    ids = padded.to(rows.device)
    lengths = torch.tensor([[len(option)] for option in options])
    real = (torch.arange(width) < lengths).to(rows.device)
    sums = torch.zeros(len(options), dtype=torch.float64, device=rows.device)
    same = torch.ones(len(options), dtype=torch.bool, device=rows.device)
    row_bytes = 4 * vocabulary * len(options)
    stride = max(1, _LOGIT_BYTES.get(rows.device.type, 2**28) // row_bytes)
    for start in range(0, width - 1, stride):
        end = min(start + stride, width - 1)
        logits = rows.feed(ids[:, start:end], real[:, start:end], keep=end - start).float()
        targets, counted = ids[:, start + 1 : end + 1], real[:, start + 1 : end + 1]
        chosen = logits.gather(-1, targets[..., None])[..., 0]
        sums += ((chosen - logits.logsumexp(-1)).double() * counted).sum(1)
        same &= ((logits.argmax(-1) == targets) | ~counted).all(1)
    return sums, same
