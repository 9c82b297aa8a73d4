"""Prepare the prose that the reference model learns from, for WikiText-2's *raw* test split.

Sources, both read from a local data folder (see ``bench/reference/model/README.md``):

- WikiText-2's training split (CC BY-SA 3.0). The raw split is used where the folder has it. The
  tokenized split stands in otherwise: its rare words are masked as ``<unk>``, and a model trained
  on the masks is lost on raw text (perplexity 107 instead of 38 in an early trial, with quantized
  models *beating* the original). Every mask is therefore replaced, see `UnknownWords`.
- American presidential addresses (public domain), as untokenized prose.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from quantcore.errors import InputError

RAW_TRAIN = "wikitext-2-raw-v1/train.jsonl"
TOKENIZED_TRAIN = "wikitext-2-v1/train.txt"
ADDRESSES = "us-presidential-addresses/addresses.txt"

_ARTICLE_HEADING = re.compile(r"^ = [^=].*[^=] = $")
_UNKNOWN = "<unk>"


class UnknownWords:
    """Unknown words get stand-ins for ``<unk>``: rare words of the text, coined words, repeats.

    The masked words are mostly names. What replaces them has to look like names that the model
    does not know, and has to come back within an article as names do: 4 in 10 stand-ins repeat an
    earlier one of the same article, 3 are rare words of the text, 3 are coined letter by letter.
    """

    def __init__(self, text: str, *, seed: int) -> None:
        counts = Counter(text.split())
        # The masking threshold of WikiText-2 is three occurrences: these sit just above it.
        self._rare = sorted(w for w, n in counts.items() if n <= 6 and len(w) > 2 and w.isalpha())
        self._random = random.Random(seed)
        self._next_letter: dict[str, list[str]] = defaultdict(list)
        for word in self._rare:
            padded = "^^^" + word + "$"
            for i in range(3, len(padded)):
                self._next_letter[padded[i - 3 : i]].append(padded[i])

    def fill(self, article: str) -> str:
        """Replace every mask of one article."""
        seen: list[str] = []

        def stand_in(_: re.Match[str]) -> str:
            draw = self._random.random()
            if seen and draw < 0.4:
                return self._random.choice(seen)
            word = self._random.choice(self._rare) if draw < 0.7 else self._coin()
            seen.append(word)
            return word

        return re.sub(_UNKNOWN, stand_in, article)

    def _coin(self) -> str:
        context, letters = "^^^", ""
        while len(letters) < 16:
            letter = self._random.choice(self._next_letter[context])
            if letter == "$":
                break
            letters += letter
            context = context[1:] + letter
        return letters


def wikitext_articles(data_dir: Path, *, seed: int) -> list[str]:
    """Return WikiText-2's training articles in the raw form, rows joined as in the test split."""
    raw, tokenized = data_dir / RAW_TRAIN, data_dir / TOKENIZED_TRAIN
    if raw.is_file():
        rows = [json.loads(line)["text"] for line in raw.read_text("utf-8").splitlines()]
        return ["\n\n".join(article) for article in _split_articles(rows)]
    if not tokenized.is_file():
        raise InputError(
            f"no WikiText-2 training text in {data_dir}: expected {RAW_TRAIN} or {TOKENIZED_TRAIN}"
        )
    text = tokenized.read_text("utf-8")
    rows = [line + "\n" if line.strip() else "" for line in text.split("\n")]
    words = UnknownWords(text, seed=seed)
    return [words.fill("\n\n".join(article)) for article in _split_articles(rows)]


def _split_articles(rows: list[str]) -> Iterator[list[str]]:
    article: list[str] = []
    for row in rows:
        if _ARTICLE_HEADING.match(row.rstrip("\n")) and article:
            yield article
            article = []
        article.append(row)
    yield article


def addresses(data_dir: Path) -> str:
    """Return the presidential addresses, one after the other."""
    path = data_dir / ADDRESSES
    if not path.is_file():
        raise InputError(f"no addresses in {data_dir}: expected {ADDRESSES}")
    return path.read_text("utf-8").strip()


_NATURAL: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r"^ (?:= )+(.*?)(?: =)+ $", re.MULTILINE), r"\1"),
    (re.compile(r" ([,.;:!?%)\]])"), r"\1"),
    (re.compile(r"([(\[$£]) "), r"\1"),
    (re.compile(r" (n't|'s|'re|'ve|'ll|'d|'m)\b"), r"\1"),
    (re.compile(r"\" ([^\"\n]*?) \""), r'"\1"'),
    (re.compile(r" +$|^ +", re.MULTILINE), ""),
    (re.compile(r"\n{3,}"), "\n\n"),
]


def natural(article: str) -> str:
    """Set WikiText's spaced-out tokens in ordinary typography: ``3 @.@ 5 km ,`` to ``3.5 km,``."""
    for pattern, replacement in _NATURAL:
        article = pattern.sub(replacement, article)
    return article.strip()
