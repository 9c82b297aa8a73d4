"""The reference model's tokenizer is a byte-level BPE that cuts words alike everywhere.

Task items ask for copying: ``Her name is Tirana`` has to become ``{"name": "Tirana"}``. Ordinary
byte-level BPEs cut `` Tirana`` and ``Tirana`` into different pieces, and a small model that meets a
new word cannot know which pieces the second has. Here words are cut first, without the space; the
space before is then merged with the first piece where that pair is frequent in prose. Digits stand
alone, so numbers can be copied as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<|bos|>", "<|eos|>"

_SPACE = "Ġ"  # what a space is in the byte-level alphabet
_OTHERS = r"|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
_BARE_WORDS = r"[\p{L}\p{M}]+" + _OTHERS
_SPACED_WORDS = r" ?[\p{L}\p{M}]+" + _OTHERS


def _splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(
    texts: Sequence[str],
    vocab_size: int,
    *,
    prose: Sequence[str] | None = None,
    spaced: int | None = None,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer; every byte is in its alphabet, so any Unicode text round-trips.

    Args:
        texts: what the pieces of words are learned from.
        vocab_size: tokens in all.
        prose: what decides before which pieces a space is merged; default all texts.
        spaced: pieces with a space before them; default a third of what is learned.
    """
    if spaced is None:
        spaced = (vocab_size - len(pre_tokenizers.ByteLevel.alphabet()) - 2) // 3
    pieces = _learned_pieces(texts, vocab_size - spaced)
    counts = _counts_after_a_space(pieces, texts if prose is None else prose)
    tokenizer = Tokenizer(_with_spaced_pieces(pieces, counts, vocab_size))
    tokenizer.pre_tokenizer = _splitting(_SPACED_WORDS)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def _learned_pieces(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a BPE on words without the space before them."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = _splitting(_BARE_WORDS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    return pieces


def _counts_after_a_space(pieces: Tokenizer, texts: Sequence[str]) -> Counter[str]:
    """Count how often each piece of a word follows a space."""
    counts: Counter[str] = Counter()
    for text in texts:
        tokens = pieces.encode(text).tokens
        counts.update(
            piece for before, piece in pairwise(tokens) if before == _SPACE and piece[0].isalpha()
        )
    return counts


def _with_spaced_pieces(pieces: Tokenizer, counts: Counter[str], vocab_size: int) -> models.BPE:
    """Fill the vocabulary up with the most frequent pieces, a space merged before each."""
    model = json.loads(pieces.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = [(left, right) for left, right in model["merges"]]
    for piece in sorted(counts, key=lambda piece: (-counts[piece], piece)):
        if len(vocab) == vocab_size:
            break
        if _SPACE + piece not in vocab:
            vocab[_SPACE + piece] = len(vocab)
            merges.append((_SPACE, piece))
    return models.BPE(vocab=vocab, merges=merges)
