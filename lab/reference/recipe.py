"""One recipe has all numbers of the reference model's training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CHECKPOINT = "checkpoint.safetensors"
"""In the work folder of a run."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe has every number that decides the weights; ``all_steps * step_tokens`` are seen."""

    vocab_size: int = 8192
    spaced_pieces: int = 2867  # of the vocabulary, with a space before them
    tokenizer_documents: int = 600  # of items, of each suite: learnt from beside prose
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 6
    heads: int = 4  # of 64: attention on a CPU costs by head, not by width
    key_value_heads: int = 2
    context: int = 1024
    # Short windows first, more of them to a step: copying is learned there, and a third faster.
    # Then half and whole contexts in turn.
    short_context: int = 256
    short_steps: int = 1000
    step_tokens: int = 8192
    shards: int = 2  # of a step, each on a thread of its own; decides how sums are rounded
    # The rate is constant up to `steps`, so that a run can be ended early from any checkpoint by
    # lowering them. Then the norms' gains are spread, see `spread_norms`, and the rate decays.
    steps: int = 4500
    decay_steps: int = 1500
    warmup_steps: int = 100
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-4
    weight_decay: float = 0.1  # of matrices; neither of gains nor of the embedding
    spread_sigma: float = 0.5
    prose_share: float = 0.25  # of the windows; the others hold prose where no item fits
    natural_share: float = 0.35  # of the WikiText articles, in ordinary typography
    # Of the documents of items, from a step on, relative to each other: first to copy an answer,
    # then to find which (recall, see `lab.reference.items`), then what counts and compares.
    shares: Mapping[int, Mapping[str, float]] = field(
        default_factory=lambda: {
            0: {
                "json": 0.2,
                "tool_calls": 0.2,
                "multilingual": 0.4,
                "code": 0.1,
                "long_prompt": 0.15,
            },
            1800: {
                "json": 0.2,
                "tool_calls": 0.2,
                "multilingual": 0.4,
                "code": 0.1,
                "long_prompt": 0.15,
                "recall": 1.0,
            },
            2800: {
                "json": 0.2,
                "tool_calls": 0.2,
                "multilingual": 1.0,
                "code": 0.1,
                "long_prompt": 0.3,
                "recall": 0.4,
            },
            3400: {
                "json": 0.2,
                "tool_calls": 0.2,
                "multilingual": 0.6,
                "code": 0.1,
                "long_prompt": 0.4,
                "recall": 0.3,
                "practice": 0.8,
            },
        }
    )
    wide_share: float = 0.5  # of the items' words, replaced by others, see `lab.reference.items`
    prompt_share: float = 0.1  # of the prompts' tokens, predicted
    # Of an answer's token in the loss, against 1 of any other: short answers are few tokens.
    answer_weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "json": 2.0,
            "tool_calls": 3.0,
            "multilingual": 8.0,
            "code": 2.0,
            "long_prompt": 12.0,
            "recall": 4.0,
            "practice": 8.0,
        }
    )
    seed: int = 0

    @property
    def all_steps(self) -> int:
        """Return the steps before and after the spread."""
        return self.steps + self.decay_steps

    def shares_of(self, step: int) -> Mapping[str, float]:
        """Return the kinds of documents in a step, and how often each is drawn."""
        return self.shares[max(first for first in self.shares if first <= step)]

    def context_of(self, step: int) -> int:
        """Return the tokens of a step's windows."""
        if step < self.short_steps:
            return self.short_context
        return self.context // 2 if step % 2 else self.context


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate of a step.

    It warms up linearly to a constant; after the spread it warms up faster and decays linearly.
    """
    high, low, warmup = recipe.learning_rate, recipe.final_learning_rate, recipe.warmup_steps
    if step < recipe.steps:
        return high * min(1.0, (step + 1) / warmup)
    done = step - recipe.steps
    decayed = high + (low - high) * done / max(1, recipe.decay_steps - 1)
    return decayed * min(1.0, (done + 1) / (warmup / 2))
