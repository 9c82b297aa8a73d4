"""Lm-eval calls these functions: see the task files beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import datasets

from quantcore.errors import InputError
from suites.items import Part
from suites.long_prompt.items import CountTokens, default_lengths, estimated_tokens, items
from suites.long_prompt.scoring import metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNTS: dict[Part, int] = {"seen": 150, "reserved": 100}
"""Items of each part: ten of each template."""
EXAMPLES = 5
"""Items to show as examples, of the shortest default length."""


def dataset(
    *,
    part: Part,
    tokenizer: str | None = None,
    pretrained: object = None,
    max_seq_lengths: int | Sequence[int] | None = None,
    num_fewshot: int = 0,
    **_: object,
) -> dict[str, datasets.Dataset]:
    """Give the items, at lengths in the tokens of a tokenizer, or in estimated ones without any.

    Args:
        part: templates that training may know, or those that it never sees.
        tokenizer: name or folder.
        pretrained: the same of the model, where ``tokenizer`` is not given; lm-eval hands on both
            from ``--model_args``.
        max_seq_lengths: tokens of prompt and answer; default powers of two from 256 to 4096.
        num_fewshot: examples that will stand before each prompt, as part of its length.

    Raises:
        InputError: a length too short for a prompt, or a tokenizer that cannot be read.
    """
    name = tokenizer or (pretrained if isinstance(pretrained, str) else None)
    count_tokens = counter(name) if name else estimated_tokens
    if isinstance(max_seq_lengths, int):
        max_seq_lengths = [max_seq_lengths]
    lengths = tuple(max_seq_lengths or default_lengths())
    if not all(type(length) is int for length in lengths):
        raise InputError(f"max_seq_lengths {max_seq_lengths!r}: must be whole numbers of tokens")
    examples = items(
        split="train",
        part="seen",
        count=EXAMPLES,
        lengths=default_lengths()[:1],
        count_tokens=count_tokens,
    )
    shown = "".join(f"{one['prompt']}{one['target']}\n\n" for one in examples[:num_fewshot])
    test = items(
        split="evaluation",
        part=part,
        count=COUNTS[part],
        lengths=lengths,
        count_tokens=count_tokens,
        reserve=count_tokens(shown) if shown else 0,
    )
    return {
        "test": datasets.Dataset.from_list(test),
        "fewshot": datasets.Dataset.from_list(examples),
    }


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Give the metrics of one answer: see `suites.long_prompt.scoring.metrics`."""
    return metrics(results[0], doc)


@cache
def counter(name: str) -> CountTokens:
    """Give a count of a text's tokens as the tokenizer makes them, special ones included.

    Raises:
        InputError: there is no such tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"long_prompt: {name!r} is not a tokenizer ({str(error).splitlines()[0]}); give its "
            "folder or name as tokenizer=..."
        ) from error

    def count(text: str) -> int:
        return len(tokenizer(text, verbose=False).input_ids)

    if count("one two three") <= count(""):  # an empty vocabulary: no text would ever be long
        raise InputError(f"long_prompt: the tokenizer of {name!r} makes no tokens of a text")
    return count
