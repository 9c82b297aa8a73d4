"""Training items of the task suites become documents, in which a model reads and predicts.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from suites.code.items import TEMPLATES as CODE
from suites.items import Draw, Item, Templates, belongs
from suites.json_output.items import TEMPLATES as JSON
from suites.long_prompt.items import (
    ANSWER_TOKENS,
    DEPTHS,
    SHORTEST,
    CountTokens,
    filler,
    spread,
)
from suites.long_prompt.items import TEMPLATES as LONG_PROMPT
from suites.multilingual.items import TEMPLATES as MULTILINGUAL
from suites.multilingual.items import expand
from suites.multilingual.languages import FRAMES, LANGUAGES, WORDS
from suites.tool_calls.items import TEMPLATES as TOOL_CALLS

SHORT: dict[str, Templates] = {"json": JSON, "tool_calls": TOOL_CALLS, "code": CODE}
"""Suites whose items are a prompt and a target in English, without more ado."""
SUITES = ("json", "tool_calls", "multilingual", "code", "long_prompt")
RECALL = "recall"
"""Documents of no suite: facts, then a question for nearly every one of them."""
PRACTICE = "practice"
"""Documents of no suite: multilingual items of the templates that were learnt last."""
DOCUMENTS = (*SUITES, RECALL, PRACTICE)

Text = list[tuple[str, bool]]
"""Pieces of one document, and whether the model is asked for them (answers) or reads them."""

_PLAIN_FORMS = (  # a fact; what is asked for its value; what stands between
    ("{key} {value}", "{key}", " "),
    ("{key}: {value}", "{key}:", " "),
    ("{key} = {value}", "{key} =", " "),
    ("- {key} ({value})", "- {key}?\n", ""),
    ("The {kind} of {key} is {value}.", "What is the {kind} of {key}?\n", ""),
    ("{key} has the {kind} {value}.", "Which {kind} has {key}?\nAnswer:", " "),
)

_LOOK_UPS = ("who_brought", "what_has", "colour_of", "stock_of", "lives_in", "code_of", "day_of")
"""Multilingual templates that ask for one of the facts in their text."""

_PRACTISED = ("most_points", "under_heading", "only_once", "count_animals", "sum_points")
"""Multilingual templates that ask for more than one look-up."""

_PLACE = 0xE000  # a private code point stands for a word until the language is known


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A vocabulary has words beside the training stock: of English prose, small and capitalized."""

    lower: tuple[str, ...]
    capitalized: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the words of English prose that may stand for values; none is evaluation's."""
        counts = Counter(re.findall(r"(?<=[a-z,] )[A-Za-z][a-z]{2,9}(?=[ ,.])", text))
        frequent = {word for word, _ in counts.most_common(400)}
        shunned = {*keyword.kwlist, *dir(builtins), *frequent}
        fit = sorted(w for w, n in counts.items() if n > 2 and w not in shunned and _may_train(w))
        return cls(
            lower=tuple(word for word in fit if word.islower()),
            capitalized=tuple(word for word in fit if not word.islower()),
        )

    def like(self, stock: Sequence[str], rng: random.Random) -> str:
        """Draw a word such as those of an English stock: of the prose, or two of them in one."""
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
    """Return every word of the multilingual table whose English form is kept for evaluation."""
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
    """Return letters of a language that are alike: small, capitals, vowel signs, ideographs."""
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
    """Coin a word of a language in the shape of ``like``, with letters of it drawn anew."""
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
    """A wide draw takes from the training stock, and replaces some open words by others."""

    def __init__(self, seed: str, vocabulary: Vocabulary, *, share: float) -> None:
        """Replace a ``share`` of the open words."""
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


class NotedDraw(WideDraw):
    """A noted draw is a `WideDraw` that keeps which open words it drew."""

    def __init__(self, seed: str, vocabulary: Vocabulary, *, share: float) -> None:
        """See `WideDraw`."""
        super().__init__(seed, vocabulary, share=share)
        self.noted: set[str] = set()

    def opens(self, stock: Sequence[str], count: int) -> list[str]:
        """See `Draw.opens`."""
        drawn = super().opens(stock, count)
        self.noted.update(drawn)
        return drawn


class PlaceholderDraw(WideDraw):
    """A placeholder draw precedes the language: replaced words are private code points."""

    def __init__(self, seed: str, vocabulary: Vocabulary, *, share: float) -> None:
        """See `WideDraw`."""
        super().__init__(seed, vocabulary, share=share)
        self.held: list[str] = []

    def _other(self, value: str, stock: tuple[str, ...]) -> str:
        self.held.append(value)
        return chr(_PLACE + len(self.held) - 1)

    def filled(self, item: Item, code: str, rng: random.Random) -> Item:
        """Return the item in one language, with words of that language for the code points."""
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
    """Documents of one suite each are drawn here: up to four items, one after the other."""

    vocabulary: Vocabulary
    wide_share: float
    count_tokens: CountTokens

    def draw(self, suite: str, seed: str, *, room: int) -> Text:
        """Draw one document.

        Args:
            suite: of `DOCUMENTS`.
            seed: the same one draws the same document.
            room: tokens that it may take; only long prompts are cut to measure.
        """
        rng = random.Random(f"document:{seed}")
        if suite == RECALL:
            return self._recall(seed, rng, room)
        if suite == PRACTICE and rng.random() < 0.4:
            return self._look_ups(seed, rng, room, ("who_brought",))
        if suite == "long_prompt":
            return self._long(seed, rng, room)
        language = rng.choice(list(LANGUAGES))
        text: Text = []
        used = 2
        for number in range(rng.choices((1, 2, 3, 4), weights=(4, 3, 2, 1))[0]):
            own_seed = f"{seed}/{number}"
            if suite == "multilingual":
                prompt, target = self._in_language(own_seed, rng, language)
            elif suite == PRACTICE:
                prompt, target = self._in_language(own_seed, rng, language, among=_PRACTISED)
            else:
                item = self._item(rng.choice(SHORT[suite].of("seen")).draw, own_seed)
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

    def _in_language(
        self, seed: str, rng: random.Random, code: str, *, among: Sequence[str] = ()
    ) -> tuple[str, str]:
        seen = MULTILINGUAL.of("seen")
        template = rng.choice([each for each in seen if each.name in among] if among else seen)
        draw = PlaceholderDraw(seed, self.vocabulary, share=self.wide_share)
        drawn = template.draw(draw) | {"template": template.name, "part": "seen", "source": seed}
        item = next(item for item in expand(drawn) if item["language"] == code)
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

    def _recall(self, seed: str, rng: random.Random, room: int) -> Text:
        """Draw facts about keys, and what each key has.

        Which of several values belongs to the key that is asked for is the one thing that every
        long prompt and most multilingual items turn on. Those ask it once in 440 and 110 tokens,
        and after 12 M tokens the model still guessed; here it is asked once in 48.
        """
        shape = rng.random()
        if shape < 0.4:
            return self._look_ups(seed, rng, room, _LOOK_UPS)
        if shape < 0.7:
            return self._problems(seed, rng, room)
        draw = WideDraw(seed, self.vocabulary, share=self.wide_share)
        code = rng.choice(list(LANGUAGES)) if rng.random() < 0.5 else "en"
        fact, question, between = rng.choice(_PLAIN_FORMS)
        named = "{kind}" in fact
        kinds = self._words(code, draw, rng.choice((1, 1, 2, 3)) if named else 1)
        value_of = rng.choice((self._words, self._words, _numbers, _codes))
        keys = self._words(code, draw, max(2, round(rng.uniform(3, 24) / len(kinds))))
        pairs = [(key, kind) for key in keys for kind in kinds]
        values = value_of(code, draw, len(pairs))
        told = [
            (fact.format(key=key, kind=kind, value=value), question.format(key=key, kind=kind))
            for (key, kind), value in zip(pairs, values, strict=True)
        ]
        while (
            len(told) > 1
            and self.count_tokens("\n".join(statement for statement, _ in told)) > room // 3
        ):
            told, values = told[1:], values[1:]
        sentences = [statement for statement, _ in told]
        rng.shuffle(sentences)
        if rng.random() < 0.4:  # distance
            others, share = filler(draw), rng.uniform(0.3, 1.0)
            for _ in range(round(share * len(sentences))):
                sentences.insert(rng.randint(0, len(sentences)), next(others))
        gap = " " if named and rng.random() < 0.7 else "\n"
        text: Text = [(gap.join(sentences) + "\n\n", False)]
        used = self.count_tokens(text[0][0])
        for (_, asked), value in rng.sample(list(zip(told, values, strict=True)), len(told)):
            used += self.count_tokens(f"{asked} {value}\n")
            if used > room and len(text) > 1:
                break
            text += [(f"{asked}{between}", False), (f"{value}\n", True)]
        return text

    def _look_ups(self, seed: str, rng: random.Random, room: int, templates: Sequence[str]) -> Text:
        """Draw a multilingual text of many facts, and questions about nearly all of them."""
        draw = WideDraw(seed, self.vocabulary, share=self.wide_share)
        code, template = rng.choice(list(LANGUAGES)), rng.choice(templates)
        language, frames = LANGUAGES[code], FRAMES[template]
        count = rng.randint(3, 12)
        keys = self._words(code, draw, count)
        values = rng.choice((self._words, self._words, _numbers, _codes))(code, draw, count)
        fact = frames.get("fact", {}).get(code)
        form, gap = (language.pair, "\n") if fact is None else (fact, language.space)
        while (
            len(keys) > 2
            and self.count_tokens(gap.join(map(form.format, keys, values))) > room // 3
        ):
            keys, values = keys[1:], values[1:]
        facts = gap.join(map(form.format, keys, values))
        prompt = language.text + frames["text"][code].format(facts=facts)
        if template == "who_brought":
            keys, values = values, keys
        text: Text = []
        used = self.count_tokens(prompt)
        for key, value in rng.sample(list(zip(keys, values, strict=True)), len(keys)):
            prompt += "\n" + language.question + frames["question"][code].format(asked=key)
            prompt += "\n" + language.answer
            used += self.count_tokens(prompt if text else f"{value}\n") + 4
            if used > room and text:
                break
            text += [(prompt, False), (language.delimiter + value, True)]
            prompt = ""
        return text

    def _problems(self, seed: str, rng: random.Random, room: int) -> Text:
        """Draw the facts of several long prompts in one text, and all of their questions."""
        told: list[tuple[float, str]] = []
        asked: list[tuple[str, str]] = []
        known: set[str] = set()
        used = 0
        for number in range(rng.randint(2, 8)):
            draw = NotedDraw(f"{seed}/{number}", self.vocabulary, share=self.wide_share)
            problem = rng.choice(LONG_PROMPT.of("seen")).draw(draw)
            facts, others = problem["facts"], problem["other_facts"]
            answer = ", ".join(problem["answers"])
            used += self.count_tokens(" ".join([*facts, *others, problem["question"], answer])) + 10
            if draw.noted & known or (used > room and asked):
                continue
            known |= draw.noted
            told += zip(sorted(rng.random() for _ in facts), facts, strict=True)
            told += [(rng.random(), fact) for fact in others]
            asked.append((problem["question"], answer))
        facts = " ".join(fact for _, fact in sorted(told))
        text: Text = []
        for question, answer in rng.sample(asked, len(asked)):
            before = "\n\n" if text else f"### Text\n{facts}\n\n"
            text += [(f"{before}### Question\n{question}\n\n### Answer\n", False), (answer, True)]
        return text

    def _words(self, code: str, draw: WideDraw, count: int) -> list[str]:
        """Draw different words of a language, some of them coined."""

        def word() -> str:
            english = draw.rng.choice(_train_part(tuple(WORDS)))
            if draw.rng.random() >= self.wide_share:
                return WORDS[english][code]
            if code == "en":
                return self.vocabulary.like((english,), draw.rng)
            return coined(WORDS[english][code], code, draw.rng)

        return _different(word, count)


def _numbers(code: str, draw: WideDraw, count: int) -> list[str]:
    """Draw different numbers, ``code`` or not."""
    high = draw.rng.choice((99, 999, 9999))
    return _different(lambda: str(draw.integer(10, high)), count)


def _codes(code: str, draw: WideDraw, count: int) -> list[str]:
    """Draw different codes, ``code`` or not."""
    pattern = draw.rng.choice(("AA-00", "AA-0000", "AAA-000"))
    return _different(lambda: draw.code(pattern), count)


def _different(draw: Callable[[], str], count: int) -> list[str]:
    """Draw until there are so many different values; return them in the order of drawing."""
    values: dict[str, None] = {}
    while len(values) < count:
        values[draw()] = None
    return list(values)
