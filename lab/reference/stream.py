"""Training batches are a function of the step: windows of prose, and of items and prose.

Items are never cut and nothing is padded: a window takes whole documents while they fit, and a
piece of prose takes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from lab.reference.items import DOCUMENTS, Documents, Vocabulary
from lab.reference.recipe import Recipe

Tokens = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Marks = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

CLASSES = ("unasked", "prose", "prompts", *DOCUMENTS)
"""What a token is to the loss, by its mark: prose and answers are asked for, and few of a prompt's
tokens; most of those (which name comes next?) nobody can know."""
_PROSE, _PROMPT = 1, 2
_LEAST_LONG = 224  # tokens of room for the facts of any long prompt


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch holds one step's windows."""

    tokens: torch.Tensor
    """int64 [windows, context + 1]."""
    marks: torch.Tensor
    """uint8 [windows, context + 1]: the place in `CLASSES` of each token."""


class TokenStream:
    """A stream draws the batches."""

    def __init__(
        self,
        documents: list[tuple[str, str]],
        tokenizer: PreTrainedTokenizerFast,
        vocabulary: Vocabulary,
        recipe: Recipe,
    ) -> None:
        """Draw from ``documents`` of prose, each raw and in ordinary typography, and from items."""
        self._tokenizer = tokenizer
        self._encoder = tokenizer.backend_tokenizer
        self._eos, self._bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        self._recipe = recipe
        self._forms = [
            tuple(np.array([*self._encode(text, bos=True), self._eos]) for text in pair)
            for pair in documents
        ]
        self._prose = np.concatenate([form for forms in self._forms for form in forms])
        self._documents = Documents(
            vocabulary=vocabulary,
            wide_share=recipe.wide_share,
            count_tokens=lambda text: len(self._encode(text, bos=True)),
        )

    def _encode(self, text: str, *, bos: bool = False) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=bos).ids
        return ids

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield the batches from ``first_step`` to the recipe's last."""
        recipe = self._recipe
        prose: dict[int, Iterator[Tokens]] = {}
        for step in range(recipe.all_steps):
            context = recipe.context_of(step)
            windows = recipe.step_tokens // context
            if context not in prose:
                prose[context] = self._prose_windows(context)
            cut = [next(prose[context]) for _ in range(round(recipe.prose_share * windows))]
            if step < first_step:
                continue
            rows: list[tuple[Tokens, Marks]] = [
                (tokens, np.full(len(tokens), _PROSE, np.uint8)) for tokens in cut
            ]
            rows += [
                self.item_window(f"{recipe.seed}:{step}:{row}", context + 1, recipe.shares_of(step))
                for row in range(windows - len(rows))
            ]
            tokens, marks = zip(*rows, strict=True)
            yield Batch(
                tokens=torch.from_numpy(np.stack(tokens)), marks=torch.from_numpy(np.stack(marks))
            )

    def _prose_windows(self, context: int) -> Iterator[Tokens]:
        """Yield windows of the documents, which are shuffled anew every epoch."""
        epoch, width = 0, context + 1
        while True:
            random = np.random.default_rng([self._recipe.seed, context, epoch])
            stream = np.concatenate(
                [
                    self._forms[i][int(random.random() < self._recipe.natural_share)]
                    for i in random.permutation(len(self._forms))
                ]
            )
            stream = stream[int(random.integers(width)) :]
            windows = stream[: len(stream) // width * width].reshape(-1, width)
            yield from windows[random.permutation(len(windows))]
            epoch += 1

    def item_window(
        self, seed: str, width: int, shares: Mapping[str, float]
    ) -> tuple[Tokens, Marks]:
        """Return tokens and marks of a window: documents of items while they fit, then prose."""
        random = np.random.default_rng(list(seed.encode()))
        suites, weights = list(shares), np.array(list(shares.values()))
        tokens: list[int] = []
        marks: list[int] = []
        number = misses = 0
        while misses < 3:
            number += 1
            suite = suites[int(random.choice(len(suites), p=weights / weights.sum()))]
            room = width - len(tokens)
            if suite == "long_prompt" and room < _LEAST_LONG:
                misses += 1
                continue
            drawn, drawn_marks = self._document(suite, f"{seed}:{number}", room, random)
            if len(drawn) > room:
                misses += 1
                continue
            tokens += drawn
            marks += drawn_marks
        if rest := width - len(tokens):
            start = int(random.integers(len(self._prose) - rest))
            tokens += [self._bos, *self._prose[start : start + rest - 1].tolist()]
            marks += [0] + [_PROSE] * (rest - 1)
        return np.array(tokens), np.array(marks, np.uint8)

    def _document(
        self, suite: str, seed: str, room: int, random: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        tokens, marks = [self._bos], [0]
        answer = CLASSES.index(suite)
        for text, asked in self._documents.draw(suite, seed, room=room):
            ids = self._encode(text)
            tokens += ids
            if asked:
                marks += [answer] * len(ids)
            else:
                chosen = random.random(len(ids)) < self._recipe.prompt_share
                marks += [_PROMPT if predicted else 0 for predicted in chosen]
        return [*tokens, self._eos], [*marks, answer]
