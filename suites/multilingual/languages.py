"""The languages have words and sentence frames, of which a prompt is put together.

Words are known by their English form, and so are their stocks: a word is of the training or of the
evaluation stock in all languages alike. Everything is in data files beside this module.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

Slot = str | list[str] | list[list[str]]
"""What fills a slot of a frame: a word, a list of words, or facts (lists of words). Words are given
in English; what no table holds (a number, a code) stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """A `Language` says how a prompt is put together in one language; see ``languages.toml``."""

    script: tuple[str, ...]
    """Of its letters, as Unicode names them."""
    comma: str
    """Between the words of a list."""
    pair: str
    """A fact of two words, on a line of its own, unless a template has a sentence for it. Its words
    stand after a space as an answer does, so that a small model copies the same tokens."""
    space: str
    """Between sentences."""
    delimiter: str
    """Between the prompt and the answer."""
    instructions: tuple[str, ...]
    """The instruction in several wordings."""
    text: str
    """Label of the line that holds the text."""
    question: str
    """Label of the line that holds the question."""
    answer: str
    """The prompt's last line."""


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / name).read_text(encoding="utf-8"))


def _language(fields: dict[str, Any]) -> Language:
    lists = {name: tuple(fields[name]) for name in ("script", "instructions")}
    return Language(**(fields | lists))


def _table() -> list[dict[str, str]]:
    content = (resources.files(__package__) / "words.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(content.splitlines(), delimiter="\t"))


LANGUAGES: Mapping[str, Language] = {
    code: _language(fields) for code, fields in _toml("languages.toml").items()
}
"""By code, English first."""

FRAMES: Mapping[str, Mapping[str, Mapping[str, str]]] = _toml("frames.toml")
"""Template to ``text``, ``question`` and (some) ``fact`` to language to frame."""

WORDS: Mapping[str, Mapping[str, str]] = {row["en"]: row for row in _table()}
"""English word to language to word."""


def stock(kind: str) -> tuple[str, ...]:
    """List a kind's words (name, city, colour, object, animal, food, day, group), in English."""
    return tuple(english for english, row in WORDS.items() if row["kind"] == kind)


def word(english: str, code: str) -> str:
    """Say a word in a language; numbers and codes are the same in all."""
    return WORDS[english][code] if english in WORDS else english


def _filled(slot: Slot, code: str, fact: str | None) -> str:
    language = LANGUAGES[code]
    if isinstance(slot, str):
        return word(slot, code)
    facts = [value for value in slot if isinstance(value, list)]
    if not facts:
        return language.comma.join(word(str(value), code) for value in slot)
    frame, between = (language.pair, "\n") if fact is None else (fact, language.space)
    return between.join(frame.format(*(word(value, code) for value in values)) for values in facts)


def prompt(template: str, slots: Mapping[str, Slot], wording: int, code: str) -> str:
    """Put instruction, text, question and the answer's label below each other."""
    language, frames = LANGUAGES[code], FRAMES[template]
    fact = frames.get("fact", {}).get(code)
    filled = {name: _filled(slot, code, fact) for name, slot in slots.items()}
    return "\n".join(
        [
            language.instructions[wording],
            language.text + frames["text"][code].format(**filled),
            language.question + frames["question"][code].format(**filled),
            language.answer,
        ]
    )


def answers(options: Sequence[str], code: str) -> list[str]:
    """Say the options in a language."""
    return [word(option, code) for option in options]
