"""One run of a block shows which rows of which matrices write queries and keys.

Queries and keys meet in the scores of attention, q k^T: a product of two rounded operands, in which
an error of one counts by what the other is. The output error of a matrix does not know the other
operand, so a method may want to leave these rows as they are.

- Scores are what ``scaled_dot_product_attention`` makes of its query and key, or the input of a
  softmax that depends, in one row, on what was written at several tokens (in a router's, on what
  was written at one).
- A row counts if they depend on what it writes with no other matrix in between. Of low-rank queries
  and keys these are all rows of q_b_proj, those of kv_b_proj that write keys and not values, and
  those of kv_a_proj that write rotary keys. What q_a_proj and the rest of kv_a_proj write does not
  meet in the product: another matrix reads it, as it reads what v_proj or up_proj write.
- What a matrix reads may depend on several tokens but on no such scores: linear attention, or
  attention by a function that nobody sees. Then every row that it depends on may write queries or
  keys, and counts. (Something unseen that is added to attention before a matrix reads both would
  go unnoticed.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_SOFTMAXES = frozenset({functional.softmax, torch.softmax, Tensor.softmax})


class ScoreWatch(TorchFunctionMode):
    """A watch keeps the query and key of every attention call, and the input of every softmax."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        super().__init__()
        self.attended: list[tuple[Tensor, Tensor]] = []
        self.normalized: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, and keep what it was given if it is one of these."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query, key = [*args, *(kwargs[n] for n in ("query", "key") if n in kwargs)][:2]
            self.attended.append((query, key))
        elif func in _SOFTMAXES:
            self.normalized.append(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class ScoreRows:
    """Score rows are those rows of a block's matrices that write queries and keys."""

    rows: Mapping[str, Tensor]
    """bool [N], by matrix, for those that have any."""
    guessed: Mapping[str, Sequence[str]]
    """By matrix whose input depends on several tokens but on no scores that were seen: the
    matrices that wrote it, whose rows count therefore."""


def score_rows(
    watch: ScoreWatch, written: Mapping[str, Sequence[Tensor]], read: Mapping[str, Tensor]
) -> ScoreRows:
    """Tell by gradient which rows the scores depend on.

    Args:
        watch: that saw the run.
        written: what every matrix wrote, [..., N], once for each time that it ran; leaves of the
            graph, so that no gradient goes through a matrix.
        read: what matrices read, [..., K]; one of those that share an input is enough.
    """
    graph = _Graph(written)
    scores = [one for pair in watch.attended for one in pair if one.requires_grad]
    scores += [one for one in watch.normalized if graph.joins_tokens(one)]
    found: dict[str, Tensor] = {}

    def count(rows: Mapping[str, Tensor]) -> None:
        for name, some in rows.items():
            found[name] = found[name] | some if name in found else some

    for operand in scores:
        count(graph.rows_behind(operand))
    guessed: dict[str, Sequence[str]] = {}
    for reader, x in read.items():
        if graph.joins_tokens(x) and not graph.depends(x, scores):
            rows = graph.rows_behind(x)
            count(rows)
            guessed[reader] = tuple(rows)
    return ScoreRows(rows=found, guessed=guessed)


class _Graph:
    """A graph knows how tensors depend on what matrices wrote."""

    def __init__(self, written: Mapping[str, Sequence[Tensor]]) -> None:
        self._names = [name for name, parts in written.items() for _ in parts]
        self._leaves = [one for parts in written.values() for one in parts]
        self._random = torch.Generator().manual_seed(0)

    def _gradients(self, of: Tensor, by: Sequence[Tensor]) -> list[Tensor | None]:
        """Take gradients of a sum with random weights, so that nothing cancels."""
        if not of.requires_grad or not by:
            return [None] * len(by)
        weights = torch.randn(of.shape, generator=self._random, dtype=torch.float64).to(of.dtype)
        return list(torch.autograd.grad(of, by, weights, retain_graph=True, allow_unused=True))

    def rows_behind(self, tensor: Tensor) -> dict[str, Tensor]:
        """Tell which rows a tensor depends on: bool [N], by matrix, for those that have any."""
        found: dict[str, Tensor] = {}
        for name, gradient in zip(self._names, self._gradients(tensor, self._leaves), strict=True):
            if gradient is not None and bool(gradient.any()):
                rows = gradient.flatten(0, -2).any(0)
                found[name] = found[name] | rows if name in found else rows
        return found

    def joins_tokens(self, tensor: Tensor) -> bool:
        """Say whether a tensor's last row depends on what a matrix wrote at several tokens."""
        last = tensor.reshape(-1, tensor.shape[-1])[-1]
        return any(
            gradient is not None and int(gradient.flatten(0, -2).any(-1).sum()) > 1
            for gradient in self._gradients(last, self._leaves)
        )

    def depends(self, tensor: Tensor, on: Sequence[Tensor]) -> bool:
        """Say whether a tensor was computed from any of these."""
        return any(gradient is not None for gradient in self._gradients(tensor, on))
