"""A model's forward pass is called with a cache, however the installed Transformers names it.

Models differ in what their forward pass takes, and releases of Transformers in what they call it:
what is accepted is read off the signature, once for each model.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Cache

_NAMES = ("cache", "past_key_values")  # since Transformers 5.24; before, and in models' own code


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A `Forward` is a model's forward pass with a cache: what it takes, and how it is given."""

    model: nn.Module
    accepted: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module) -> Forward:
        """Look at the signature of a causal language model's forward pass."""
        accepted = inspect.signature(type(model).forward).parameters
        return cls(model=model, accepted=frozenset(accepted))

    def __call__(
        self,
        input_ids: Tensor,
        *,
        cache: Cache | None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache_position: Tensor | None = None,
        keep: int | None = None,
    ) -> tuple[Tensor, Cache | None]:
        """Run tokens that follow those in the cache; give the last one's logits, and the cache.

        Args:
            input_ids: int64 [rows, tokens].
            cache: of the tokens before; None: there are none.
            attention_mask: int64 [rows, all tokens], 0 where there is padding; None: no padding.
            position_ids: int64 [rows, tokens], where the model takes positions.
            cache_position: int64 [tokens], where in a static cache they go; newer releases of
                Transformers count by themselves.
            keep: logits of so many tokens at the end; None: of all.

        Returns:
            Logits [rows, keep, vocabulary], and the cache with these tokens in it; None if the
            model keeps none.
        """
        given: dict[str, Any] = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cache_position": cache_position,
            "logits_to_keep": keep,
        }
        given = {n: one for n, one in given.items() if one is not None and n in self.accepted}
        if cache is not None:
            given[next((name for name in _NAMES if name in self.accepted), _NAMES[-1])] = cache
        output = self.model(input_ids=input_ids, use_cache=True, **given)
        # By key: the attribute of the other name may be there too, and warns.
        kept = next((output[name] for name in _NAMES if output.get(name) is not None), None)
        logits: Tensor = output.logits if keep is None else output.logits[:, -keep:]
        return logits, kept
