"""Training items of the task suites, as documents: what the model must predict, and what it reads.

Items are drawn from the *seen* templates and the training stock alone (see `suites.items`). That
stock is a few hundred words, and a model this small learns them by heart: it would answer with
whichever of them looks nearest instead of copying. So half of the open words are replaced by words
of the prose or coined ones, which are checked to be of the training stock as well.
"""

from __future__ import annotations

import builtins
import keyword
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from suites.code.items import TEMPLATES as CODE
from suites.items import Draw, Item, Templates, belongs
from suites.json_output.items import TEMPLATES as JSON
from suites.long_prompt.items import ANSWER_TOKENS, DEPTHS, SHORTEST, CountTokens, spread
from suites.long_prompt.items import TEMPLATES as LONG_PROMPT
from suites.multilingual.items import TEMPLATES as MULTILINGUAL
from suites.multilingual.items import expand
from suites.multilingual.languages import LANGUAGES, WORDS
from suites.tool_calls.items import TEMPLATES as TOOL_CALLS

SHORT: dict[str, Templates] = {"json": JSON, "tool_calls": TOOL_CALLS, "code": CODE}
"""Suites whose items are a prompt and a target in English, without more ado."""
SUITES = ("json", "tool_calls", "multilingual", "code", "long_prompt")

Text = list[tuple[str, bool]]
"""Pieces of one document, and whether the model is asked for them (answers) or reads them."""

_PLACE = 0xE000  # a private code point stands for a word until the language is known


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words beside the training stock: of the prose, and letter by letter in other scripts."""

    lower: tuple[str, ...]
    capitalized: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The words of English prose that may stand for values; none is of evaluation's stock."""
        counts = Counter(re.findall(r"(?<=[a-z,] )[A-Za-z][a-z]{2,9}(?=[ ,.])", text))
        frequent = {word for word, _ in counts.most_common(400)}
        shunned = {*keyword.kwlist, *dir(builtins), *frequent}
        fit = sorted(w for w, n in counts.items() if n > 2 and w not in shunned and _may_train(w))
        return cls(
            lower=tuple(word for word in fit if word.islower()),
            capitalized=tuple(word for word in fit if not word.islower()),
        )

    def like(self, stock: Sequence[str], rng: random.Random) -> str:
        """A word such as those of an English stock: of the prose, or two of them in one."""
        if any(not value.isascii() for value in stock):
            return coined(rng.choice(stock), "en", rng)
        words = self.capitalized if stock[0][0].isupper() else self.lower
        while True:
            word = rng.choice(words)
            if rng.random() < 0.4:
                other = rng.choice(self.lower)
                word = word[: rng.randint(2, 4)] + other[-rng.randint(2, 5) :]
            if _may_train(word) and not keyword.iskeyword(word):
                return word


@cache
def _translations() -> frozenset[str]:
    """Every word of the multilingual table whose English form is kept for evaluation."""
    return frozenset(
        word.casefold()
        for english, row in WORDS.items()
        if belongs(english, "evaluation")
        for code, word in row.items()
        if code != "kind"
    )


def _may_train(word: str) -> bool:
    return belongs(word, "train") and word.casefold() not in _translations()


@cache
def _train_part(stock: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value for value in stock if belongs(value, "train"))


@cache
def _alphabet(code: str, kind: str) -> tuple[str, ...]:
    """Letters of a language that are alike: small ones, capitals, vowel signs, ideographs."""
    if kind == "ideograph":
        return tuple(chr(point) for point in range(0x4E00, 0x9FA0))
    if kind in ("HIRAGANA", "KATAKANA"):
        first = {"HIRAGANA": 0x3042, "KATAKANA": 0x30A2}[kind]
        return tuple(chr(point) for point in range(first, first + 0x4D))
    letters = {char for row in WORDS.values() for char in row[code] if _kind(char) == kind}
    if code in ("ru", "ar", "hi"):  # few words show all letters
        first, last = {"ru": (0x410, 0x44F), "ar": (0x627, 0x64A), "hi": (0x905, 0x94D)}[code]
        letters |= {
            chr(point)
            for point in range(first, last + 1)
            if _kind(chr(point)) == kind and unicodedata.category(chr(point)) != "Lm"
        }
    return tuple(sorted(letters))


def _kind(char: str) -> str:
    name = unicodedata.name(char, "").split(" ")
    if name[0] == "CJK":
        return "ideograph"
    if name[0] in ("HIRAGANA", "KATAKANA") and char != "ー":
        return name[0]
    return unicodedata.category(char)


def coined(like: str, code: str, rng: random.Random) -> str:
    """A word of a language in the shape of ``like``, some or all of its letters drawn anew."""
    while True:
        share = rng.uniform(0.3, 1.0)
        word = "".join(
            rng.choice(letters)
            if (letters := _alphabet(code, _kind(char))) and rng.random() < share
            else char
            for char in like
        )
        if word != like and _may_train(word):
            return word


class WideDraw(Draw):
    """Draws of the training stock, in which some open words are replaced by others."""

    def __init__(self, seed: str, vocabulary: Vocabulary, *, share: float) -> None:
        """``share``: of the open words, replaced."""
        super().__init__("train", seed)
        self.vocabulary, self.share = vocabulary, share

    def open(self, stock: Sequence[str]) -> str:
        """See `Draw.open`."""
        return self.opens(stock, 1)[0]

    def opens(self, stock: Sequence[str], count: int) -> list[str]:
        """See `Draw.opens`."""
        kept = _train_part(tuple(stock))
        values = self.rng.sample(kept, count)
        for place, value in enumerate(values):
            if value.isalpha() and self.rng.random() < self.share:
                new = self._other(value, kept)
                values[place] = value if new in values else new
        return values

    def _other(self, value: str, stock: tuple[str, ...]) -> str:
        return self.vocabulary.like(stock, self.rng)


class PlaceholderDraw(WideDraw):
    """The same before the language is known: replaced words are private code points."""

    def __init__(self, seed: str, vocabulary: Vocabulary, *, share: float) -> None:
        """See `WideDraw`."""
        super().__init__(seed, vocabulary, share=share)
        self.held: list[str] = []

    def _other(self, value: str, stock: tuple[str, ...]) -> str:
        self.held.append(value)
        return chr(_PLACE + len(self.held) - 1)

    def filled(self, item: Item, code: str, rng: random.Random) -> Item:
        """The item in one language with words of that language for the code points."""
        new: dict[int, str] = {}
        for place, value in enumerate(self.held):
            if code == "en":
                word = self.vocabulary.like((value,), rng)
            else:
                word = coined(WORDS[value][code], code, rng)
            new[_PLACE + place] = value if word in new.values() else word
        return item | {name: item[name].translate(new) for name in ("prompt", "target")}


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Draws documents of one suite each: up to four items, one after the other."""

    vocabulary: Vocabulary
    wide_share: float
    count_tokens: CountTokens

    def draw(self, suite: str, seed: str, *, room: int) -> Text:
        """One document.

        Args:
            suite: of `SUITES`.
            seed: the same one draws the same document.
            room: tokens that it may take; only long prompts are cut to measure.
        """
        rng = random.Random(f"document:{seed}")
        if suite == "long_prompt":
            return self._long(seed, rng, room)
        language = rng.choice(list(LANGUAGES))
        text: Text = []
        used = 2
        for number in range(rng.choices((1, 2, 3, 4), weights=(4, 3, 2, 1))[0]):
            one = f"{seed}/{number}"
            if suite == "multilingual":
                prompt, target = self._in_language(one, rng, language)
            else:
                item = self._item(rng.choice(SHORT[suite].of("seen")).draw, one)
                prompt, target = item["prompt"], item["target"]
            if text:
                prompt = "\n\n" + prompt
            used += self.count_tokens(prompt + target)
            if text and used > room:
                break
            text += [(prompt, False), (target, True)]
        return text

    def _item(self, draw: object, seed: str) -> Item:
        assert callable(draw)
        item: Item = draw(WideDraw(seed, self.vocabulary, share=self.wide_share))
        return item

    def _in_language(self, seed: str, rng: random.Random, code: str) -> tuple[str, str]:
        template = rng.choice(MULTILINGUAL.of("seen"))
        draw = PlaceholderDraw(seed, self.vocabulary, share=self.wide_share)
        drawn = template.draw(draw) | {"template": template.name, "part": "seen", "source": seed}
        item = next(one for one in expand(drawn) if one["language"] == code)
        item = draw.filled(item, code, rng)
        return item["prompt"], item["delimiter"] + item["target"]

    def _long(self, seed: str, rng: random.Random, room: int) -> Text:
        template = rng.choice(LONG_PROMPT.of("seen"))
        draw = WideDraw(seed, self.vocabulary, share=self.wide_share)
        problem = template.draw(draw) | {"id": seed}
        length = rng.randint(min(SHORTEST - 16, room), room) - ANSWER_TOKENS
        depth = rng.choice((*DEPTHS, rng.random()))
        prompt = spread(problem, draw, depth, length, self.count_tokens)
        return [(prompt, False), (", ".join(problem["answers"]), True)]
