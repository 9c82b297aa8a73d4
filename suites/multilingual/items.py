"""The suite's items are drawn without a language, then written out in all of them.

A template draws what an item says, in English words; `expand` writes it in every language. So a
stream of `TEMPLATES` holds one item for each source, with its English prompt and target, and

    for item in TEMPLATES.stream(split="train", part="seen", count=n):
        for one in expand(item): ...

has all languages side by side, one after the other. A trained text is
``one["prompt"] + one["delimiter"] + one["target"]``.

Almost every answer can be copied from the text (by look-up, place in a list, order, repetition).
Only the days, the headings of lists, and the small numbers that are counted or added up are shared
with training.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from suites.items import Draw, Item, Part, Templates
from suites.multilingual.languages import LANGUAGES, Slot, answers, prompt, stock

TEMPLATES = Templates("multilingual")

NAMES, CITIES, COLOURS = stock("name"), stock("city"), stock("colour")
OBJECTS, ANIMALS, FOODS = stock("object"), stock("animal"), stock("food")
DAYS = stock("day")
GROUPS = {"Animals": ANIMALS, "Food": FOODS, "Things": OBJECTS, "Cities": CITIES}
"""Headings of lists, with what may stand under them."""

_WORDINGS = min(len(language.instructions) for language in LANGUAGES.values())


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A `_Drawn` is what an item says."""

    slots: Mapping[str, Slot]
    """Of the template's frames."""
    right: str
    wrong: Sequence[str]
    """The three wrong answers."""


def _written(template: str, content_json: str, code: str) -> Item:
    content = json.loads(content_json)
    options = answers(content["options"], code)
    return {
        "language": code,
        "prompt": prompt(template, content["slots"], content["wording"], code),
        "target": options[content["gold"]],
        "delimiter": LANGUAGES[code].delimiter,
        "options": options,
        "gold": content["gold"],
    }


def _template(part: Part) -> Callable[[Callable[[Draw], _Drawn]], Callable[[Draw], Item]]:
    """Register a function that draws what an item says; its name is that of its frames."""

    def add(function: Callable[[Draw], _Drawn]) -> Callable[[Draw], Item]:
        @functools.wraps(function)
        def item(draw: Draw) -> Item:
            drawn = function(draw)
            options = draw.shuffled([drawn.right, *drawn.wrong])
            content = {
                "slots": dict(drawn.slots),
                "options": options,
                "gold": options.index(drawn.right),
                "wording": draw.closed(range(_WORDINGS)),
            }
            content_json = json.dumps(content)
            return {"content_json": content_json} | _written(
                function.__name__, content_json, next(iter(LANGUAGES))
            )

        return TEMPLATES.template(part)(item)

    return add


def expand(item: Item) -> list[Item]:
    """Write an item of `TEMPLATES` in every language.

    All share their ``source``; ``id`` is ``<source>/<language>``; ``options`` are the four answers
    and ``gold`` is the place of the right one, the same in all languages.
    """
    shared = {name: item[name] for name in ("template", "part", "source")}
    return [
        {"id": f"{item['source']}/{code}"}
        | shared
        | _written(item["template"], item["content_json"], code)
        for code in LANGUAGES
    ]


def _pairs(keys: Sequence[str], values: Sequence[str]) -> list[list[str]]:
    return [[key, value] for key, value in zip(keys, values, strict=True)]


def _numbers(draw: Draw, count: int) -> list[str]:
    """Draw different numbers of two digits, as texts."""
    numbers: list[str] = []
    while len(numbers) < count:
        number = str(draw.integer(11, 99))
        if number not in numbers:
            numbers.append(number)
    return numbers


def _look_up(draw: Draw, keys: Sequence[str], values: Sequence[str]) -> _Drawn:
    """State facts, and ask for the value that one key has."""
    place = draw.closed(range(len(keys)))
    return _Drawn(
        slots={"facts": _pairs(keys, values), "asked": keys[place]},
        right=values[place],
        wrong=[*values[:place], *values[place + 1 :]],
    )


@_template("seen")
def who_brought(draw: Draw) -> _Drawn:
    """Ask for the name that goes with an object, looked up against the order of the facts."""
    names, objects = draw.opens(NAMES, 4), draw.opens(OBJECTS, 4)
    place = draw.closed(range(4))
    return _Drawn(
        slots={"facts": _pairs(names, objects), "asked": objects[place]},
        right=names[place],
        wrong=[*names[:place], *names[place + 1 :]],
    )


@_template("seen")
def what_has(draw: Draw) -> _Drawn:
    """Ask for the object that goes with a name."""
    return _look_up(draw, draw.opens(NAMES, 4), draw.opens(OBJECTS, 4))


@_template("seen")
def colour_of(draw: Draw) -> _Drawn:
    """Ask for the colour of an object."""
    return _look_up(draw, draw.opens(OBJECTS, 4), draw.opens(COLOURS, 4))


@_template("seen")
def stock_of(draw: Draw) -> _Drawn:
    """Ask for the number that stands beside a food."""
    return _look_up(draw, draw.opens(FOODS, 4), _numbers(draw, 4))


@_template("seen")
def lives_in(draw: Draw) -> _Drawn:
    """Ask for the city somebody lives in, told in sentences where the grammar allows."""
    return _look_up(draw, draw.opens(NAMES, 4), draw.opens(CITIES, 4))


@_template("seen")
def first_word(draw: Draw) -> _Drawn:
    """Ask for the first of a list."""
    words = draw.opens(OBJECTS, 4)
    return _Drawn(slots={"words": words}, right=words[0], wrong=words[1:])


@_template("seen")
def last_animal(draw: Draw) -> _Drawn:
    """Ask for the last of a list."""
    words = draw.opens(ANIMALS, 4)
    return _Drawn(slots={"words": words}, right=words[-1], wrong=words[:-1])


@_template("seen")
def most_points(draw: Draw) -> _Drawn:
    """Ask for the name beside the largest number."""
    names, points = draw.opens(NAMES, 4), _numbers(draw, 4)
    right = names[points.index(max(points, key=int))]
    return _Drawn(
        slots={"facts": _pairs(names, points)},
        right=right,
        wrong=[name for name in names if name != right],
    )


@_template("seen")
def under_heading(draw: Draw) -> _Drawn:
    """Ask for the word that stands in one of two lists."""
    headings = draw.closeds(list(GROUPS), 2)
    lists = [draw.opens(GROUPS[heading], 3) for heading in headings]
    asked = draw.closed(range(2))
    return _Drawn(
        slots={
            "heading": headings[0],
            "words": lists[0],
            "other": headings[1],
            "others": lists[1],
            "asked": headings[asked],
        },
        right=draw.closed(lists[asked]),
        wrong=lists[1 - asked],
    )


@_template("seen")
def not_coming(draw: Draw) -> _Drawn:
    """Ask for the name that a sentence with "not" holds, after those of one without."""
    *coming, right = draw.opens(NAMES, 4)
    return _Drawn(slots={"words": coming, "one": right}, right=right, wrong=coming)


@_template("seen")
def works_today(draw: Draw) -> _Drawn:
    """Ask for the name that a sentence without "not" holds, before those of one with it."""
    right, *others = draw.opens(NAMES, 4)
    return _Drawn(slots={"words": others, "one": right}, right=right, wrong=others)


@_template("seen")
def next_stop(draw: Draw) -> _Drawn:
    """Ask for the word after one of a list."""
    cities = draw.opens(CITIES, 5)
    place = draw.closed(range(4))
    asked, right = cities[place], cities[place + 1]
    return _Drawn(
        slots={"words": cities, "asked": asked},
        right=right,
        wrong=[city for city in cities if city not in (asked, right)],
    )


@_template("seen")
def only_once(draw: Draw) -> _Drawn:
    """Ask for the word that is not repeated."""
    right, *others = draw.opens(OBJECTS, 4)
    return _Drawn(
        slots={"words": draw.shuffled([right, *others, *others])}, right=right, wrong=others
    )


@_template("seen")
def code_of(draw: Draw) -> _Drawn:
    """Ask for a code, to be copied."""
    return _look_up(draw, draw.opens(NAMES, 4), [draw.code("AA-000") for _ in range(4)])


@_template("seen")
def day_of(draw: Draw) -> _Drawn:
    """Ask for the day that goes with a city."""
    return _look_up(draw, draw.opens(CITIES, 4), draw.closeds(DAYS, 4))


@_template("seen")
def count_animals(draw: Draw) -> _Drawn:
    """Ask how long a list is."""
    count = draw.closed(range(3, 7))
    return _Drawn(
        slots={"words": draw.opens(ANIMALS, count)},
        right=str(count),
        wrong=[str(other) for other in range(3, 7) if other != count],
    )


@_template("seen")
def sum_points(draw: Draw) -> _Drawn:
    """Ask for the sum of two numbers from 1 to 9."""
    first, second = draw.closed(range(1, 10)), draw.closed(range(1, 10))
    total = first + second
    near = [other for other in range(max(2, total - 3), total + 4) if other != total]
    return _Drawn(
        slots={"facts": _pairs(draw.opens(NAMES, 2), [str(first), str(second)])},
        right=str(total),
        wrong=[str(other) for other in draw.closeds(near, 3)],
    )


@_template("reserved")
def dish_before(draw: Draw) -> _Drawn:
    """Ask for the word before one of a list."""
    foods = draw.opens(FOODS, 5)
    place = draw.closed(range(1, 5))
    asked, right = foods[place], foods[place - 1]
    return _Drawn(
        slots={"words": foods, "asked": asked},
        right=right,
        wrong=[food for food in foods if food not in (asked, right)],
    )


@_template("reserved")
def goes_on(draw: Draw) -> _Drawn:
    """Ask for the next of three words that repeat."""
    *cycle, stranger = draw.opens(OBJECTS, 4)
    shown = draw.closed(range(5, 8))
    right = cycle[shown % 3]
    return _Drawn(
        slots={"words": [cycle[place % 3] for place in range(shown)]},
        right=right,
        wrong=[*(other for other in cycle if other != right), stranger],
    )


@_template("reserved")
def lowest_price(draw: Draw) -> _Drawn:
    """Ask for the food beside the smallest number."""
    foods, prices = draw.opens(FOODS, 4), _numbers(draw, 4)
    right = foods[prices.index(min(prices, key=int))]
    return _Drawn(
        slots={"facts": _pairs(foods, prices)},
        right=right,
        wrong=[food for food in foods if food != right],
    )


@_template("reserved")
def colour_of_owned(draw: Draw) -> _Drawn:
    """Ask for the colour of somebody's object, by two look-ups."""
    names, objects = draw.opens(NAMES, 3), draw.opens(OBJECTS, 3)
    *colours, stranger = draw.opens(COLOURS, 4)
    place = draw.closed(range(3))
    return _Drawn(
        slots={
            "facts": _pairs(names, objects),
            "colours": draw.shuffled(_pairs(objects, colours)),
            "asked": names[place],
        },
        right=colours[place],
        wrong=[*colours[:place], *colours[place + 1 :], stranger],
    )


@_template("reserved")
def city_now(draw: Draw) -> _Drawn:
    """Ask for the newer of two facts on one name."""
    names, cities = draw.opens(NAMES, 2), draw.opens(CITIES, 4)
    now = _pairs(names, cities[2:])
    asked, right = draw.closed(now)
    return _Drawn(
        slots={"before": _pairs(names, cities[:2]), "now": draw.shuffled(now), "asked": asked},
        right=right,
        wrong=[city for city in cities if city != right],
    )


@_template("reserved")
def same_colour(draw: Draw) -> _Drawn:
    """Ask for the other name with the same colour."""
    asked, right, *others = draw.opens(NAMES, 5)
    shared, *colours = draw.opens(COLOURS, 4)
    facts = _pairs([asked, right, *others], [shared, shared, *colours])
    return _Drawn(slots={"facts": draw.shuffled(facts), "asked": asked}, right=right, wrong=others)


@_template("reserved")
def in_the_middle(draw: Draw) -> _Drawn:
    """Ask for the third of five."""
    animals = draw.opens(ANIMALS, 5)
    others = [*animals[:2], *animals[3:]]
    return _Drawn(slots={"words": animals}, right=animals[2], wrong=draw.closeds(others, 3))


@_template("reserved")
def still_missing(draw: Draw) -> _Drawn:
    """Ask for the word that one list has and the other has not."""
    foods = draw.opens(FOODS, 4)
    right, *bought = draw.shuffled(foods)
    return _Drawn(slots={"words": foods, "bought": bought}, right=right, wrong=bought)


@_template("reserved")
def most_votes(draw: Draw) -> _Drawn:
    """Ask for the word repeated most often: three times, beside two, one and one."""
    right, second, *others = draw.opens(CITIES, 4)
    votes = [right] * 3 + [second] * 2 + others
    return _Drawn(slots={"words": draw.shuffled(votes)}, right=right, wrong=[second, *others])
