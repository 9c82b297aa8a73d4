"""Facts stand among filler sentences: one to find, several to collect, or a value to follow.

A template draws the facts, the question and the answer (a *problem*); `stream` spreads the facts
over filler until the prompt has the length asked for. A length is the whole of prompt and answer:
`ANSWER_TOKENS` of it are left free for the answer. Facts about other things than the one asked for
stand among the filler too, so that a model cannot answer with the only value there is.

Filler takes its words from stocks of its own: nothing in it could be taken for an answer. Each of
its sentences holds a word of the split's stock, so training never sees one of evaluation's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from quantcore.errors import InputError, setting_name
from suites.items import (
    CITIES,
    COLORS,
    FIRST_NAMES,
    PRODUCTS,
    Draw,
    Item,
    Part,
    Split,
    Templates,
    words,
)

ANSWER_TOKENS = 48
"""Of every length, left for the answer; ``max_gen_toks`` of the tasks."""
SHORTEST, LONGEST = 256, 4096
"""The default lengths, in tokens, are the powers of two between them."""
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the answer stands: the share of the filler that comes before the last fact it needs."""

CountTokens = Callable[[str], int]

TEMPLATES = Templates("long_prompt")


def estimated_tokens(text: str) -> int:
    """Count a token for every four characters, where no tokenizer is known."""
    return -(-len(text) // 4)


def default_lengths(longest: int = LONGEST) -> tuple[int, ...]:
    """List powers of two from 256 up to the model's context: 1,500 gives 256, 512, 1024.

    Raises:
        InputError: not even the first fits.
    """
    if longest < SHORTEST:
        raise InputError(
            f"long_prompt: a context of {longest:,} tokens is too short, its shortest prompts need "
            f"{SHORTEST}; leave this suite out"
        )
    return tuple(2**power for power in range(8, longest.bit_length()))


def stream(
    *,
    split: Split,
    part: Part,
    count: int,
    lengths: Sequence[int],
    count_tokens: CountTokens = estimated_tokens,
    reserve: int = 0,
    seed: int = 0,
) -> Iterator[Item]:
    """Yield items in turn over templates, lengths and depths; the first n of more are the same.

    Every template comes at every length and depth, in pairs that differ as long as there are any.

    Args:
        split: whose stocks to draw from.
        part: whose templates.
        count: how many.
        lengths: tokens of prompt and answer, as ``count_tokens`` counts; one for each item.
        count_tokens: of a whole prompt, special tokens included.
        reserve: tokens of each length left free besides those of the answer.
        seed: another one gives other items.

    Raises:
        InputError: a length that cannot hold the facts and the question.
        ValueError: training items of reserved templates.
    """
    templates = len(TEMPLATES.of(part))
    problems = TEMPLATES.stream(split=split, part=part, count=count, seed=seed)
    for number, problem in enumerate(problems):
        turn, template = divmod(number, templates)
        length = lengths[(turn + template) % len(lengths)]
        depth = DEPTHS[(2 * turn + turn // len(lengths) + template) % len(DEPTHS)]
        draw = Draw(split, f"{seed}:filler/{problem['id']}")
        room = length - ANSWER_TOKENS - reserve
        prompt = spread(problem, draw, depth, room, count_tokens)
        yield {key: problem[key] for key in ("id", "template", "part", "source", "kind")} | {
            "length": length,
            "length_unit": "estimated tokens" if count_tokens is estimated_tokens else "tokens",
            "prompt_tokens": count_tokens(prompt),
            "depth": depth,
            "answers_json": json.dumps(problem["answers"]),
            "others_json": json.dumps(problem["others"]),
            "prompt": prompt,
            "target": ", ".join(problem["answers"]),
        }


def items(
    *,
    split: Split,
    part: Part,
    count: int,
    lengths: Sequence[int],
    count_tokens: CountTokens = estimated_tokens,
    reserve: int = 0,
    seed: int = 0,
) -> list[Item]:
    """List the items of `stream`."""
    return list(
        stream(
            split=split,
            part=part,
            count=count,
            lengths=lengths,
            count_tokens=count_tokens,
            reserve=reserve,
            seed=seed,
        )
    )


def spread(problem: Item, draw: Draw, depth: float, room: int, count_tokens: CountTokens) -> str:
    """Write the prompt, with as much filler as ``room`` tokens hold.

    The last fact that the answer needs stands at ``depth``, those before it anywhere above it in
    their order, those about other things anywhere.

    Args:
        problem: what a template draws.
        draw: of the filler, and of the places.
        depth: 0 (the text's beginning) to 1 (its end).
        room: tokens of the whole prompt, as ``count_tokens`` counts them.
        count_tokens: of a whole prompt, special tokens included.

    Raises:
        InputError: the facts and the question alone are longer.
    """
    needed, unneeded = problem["facts"], problem["other_facts"]
    above = sorted(draw.rng.random() * depth for _ in needed[1:])
    places = [*above, depth, *(draw.rng.random() for _ in unneeded)]
    introduction = draw.closed(
        ("Answer the question from the text.", "Read the text, then answer the question.")
    )

    def prompt_with(between: Sequence[str]) -> str:
        sentences: list[list[str]] = [[] for _ in range(len(between) + 1)]
        for fact, place in zip([*needed, *unneeded], places, strict=True):
            sentences[round(place * len(between))].append(fact)
        for before, sentence in zip(sentences[1:], between, strict=True):
            before.insert(0, sentence)
        text = " ".join(sentence for group in sentences for sentence in group)
        return (
            f"### Task\n{introduction} {problem['form']}\n\n### Text\n{text}\n\n"
            f"### Question\n{problem['question']}\n\n### Answer\n"
        )

    bare = count_tokens(prompt_with([]))
    if bare > room:
        raise InputError(
            f"long_prompt: the facts and the question of {problem['id']} take {bare} tokens, but "
            f"its length leaves {room} beside the answer; give longer "
            f"{setting_name('lengths')} (lm-eval: max_seq_lengths)",
            setting="lengths",
        )
    none = count_tokens("")
    chosen: list[str] = []
    used = bare
    sentences = filler(draw)
    while used < room:
        chosen.append(next(sentences))
        used += count_tokens(f" {chosen[-1]}") - none
    while count_tokens(prompt := prompt_with(chosen)) > room:
        chosen.pop()
    return prompt


def filler(draw: Draw) -> Iterator[str]:
    """Yield neutral sentences; a few of a stock's words serve a whole text."""
    slots = {name: draw.opens(stock, 9) for name, stock in FILLER_WORDS.items()}
    while True:
        for form in draw.shuffled(FILLER_FORMS):
            yield form.format(**{name: draw.closed(stock) for name, stock in slots.items()})


FILLER_WORDS = {
    "animal": words(
        "badger beaver bee beetle bison boar buffalo camel cat cow crab cricket crow deer dog "
        "donkey dove duck falcon finch fox frog gecko goat goose hare hawk hedgehog heron horse "
        "lark lizard llama lynx magpie mole moose moth mouse mule newt pigeon pony puffin quail "
        "rabbit raven robin rooster seal sheep snail sparrow squirrel stork swallow swan toad "
        "trout turtle walrus wasp weasel wolf wren yak zebra"
    ),
    "food": words(
        "almonds apples apricots bacon barley basil beans beets bread broth butter cabbage cake "
        "carrots celery cheese cherries chestnuts cider cocoa cookies corn cucumbers dates "
        "dumplings eggs figs flour garlic ginger grapes ham hazelnuts honey jam kale leeks "
        "lemons lentils lettuce melons milk mushrooms mustard noodles nuts oats olives onions "
        "pancakes parsley pears peas pepper pickles porridge potatoes pumpkins radishes raisins "
        "rhubarb rice rye salt soup spinach stew sugar syrup tea tomatoes turnips vinegar "
        "waffles walnuts wheat yogurt"
    ),
    "place": words(
        "abbey alley arena attic bakery balcony barn bay beach bridge brook cabin canal canyon "
        "castle cave cellar chapel cliff corridor cottage courtyard creek dairy dam desert dune "
        "farm field forest fort fountain garage garden gate glacier gorge grove gym hall harbor "
        "hill hotel inn island jetty kitchen lagoon lake library lighthouse market marsh meadow "
        "mill mine moor museum orchard palace path pasture pier plain pond porch quarry reef "
        "ridge river school shore shrine square stable station stream studio swamp temple "
        "theater tower tunnel valley village villa vineyard wharf wood yard"
    ),
    "trade": words(
        "baker barber beekeeper brewer builder butcher captain carpenter clerk cobbler cook "
        "courier dancer dentist diver doctor driver farmer fisher florist forester gardener "
        "glazier goldsmith grocer guard guide hunter jeweler jockey joiner judge lawyer "
        "librarian locksmith mason mayor mechanic merchant messenger miller miner monk musician "
        "nurse painter pilot plumber poet porter postman potter sailor sculptor shepherd singer "
        "smith soldier surgeon tailor teacher tinker trader waiter watchman weaver welder "
        "writer"
    ),
}
"""Stocks of the filler; no value asked for is ever one of these words."""

FILLER_FORMS = (
    "The {trade} ate {food} near the {place}.",
    "A {animal} slept behind the {place}.",
    "Nobody at the {place} had seen the {animal}.",
    "It rained on the {place} all morning.",
    "Every {trade} likes {food} in winter.",
    "The {animal} and the {trade} shared some {food}.",
    "The table was full of {food} again.",
    "The road to the {place} was closed for a week.",
    "Two of the children drew a {animal}.",
    "The {trade} talked about the weather.",
    "On Sundays the {place} is quiet.",
    "The soup was made of {food} and water.",
    "Somebody painted a {animal} on the wall.",
    "The old {trade} walked slowly along the {place}.",
    "A letter about {food} came in the afternoon.",
    "The {place} looks small from the air.",
    "At noon the {trade} closed the door.",
    "The {animal} ran away when the bell rang.",
    "People came from the {place} to buy {food}.",
    "The {trade} has never liked {food}.",
    "Snow lay on the {place} until spring.",
    "One {animal} is enough for a small {place}.",
    "The young {trade} learned the song by heart.",
    "The price of {food} did not change that year.",
    "In the evening the wind blew over the {place}.",
    "The {trade} told a story about a {animal}.",
    "Most visitors remember the {place} and the {food}.",
    "A {trade} waited at the {place} for an hour.",
    "The {animal} drank from the {place} at dawn.",
    "They gave the {animal} some {food}.",
    "The {place} was built long before the war.",
    "After lunch the {trade} read the newspaper.",
    "Fresh {food} arrived at the {place} by boat.",
    "The {trade} laughed and went home early.",
    "No {animal} had been there since autumn.",
    "The smell of {food} filled the {place}.",
)


def _problem(
    draw: Draw,
    kind: str,
    *,
    form: str,
    question: str,
    facts: Sequence[str],
    answers: Sequence[str],
    other_facts: Sequence[str],
    others: Sequence[str],
) -> Item:
    """Give what a template draws.

    Args:
        draw: of this item.
        kind: ``needle``, ``needles`` or ``track``.
        form: what an answer is made of, in the plural where there are several: ``codes``.
        question: as it is asked, below the text.
        facts: those that the answer needs, in the order in which they have to stand.
        answers: the values, in the order in which they have to be given.
        other_facts: of the same sort, about other things.
        others: all values of this prompt's facts that are wrong answers.
    """
    many = f"Give the {form} only, separated by commas."
    return {
        "kind": kind,
        "form": many if kind == "needles" else f"Give the {form} only.",
        "question": question,
        "facts": list(facts),
        "answers": list(answers),
        "other_facts": draw.shuffled(other_facts),
        "others": list(others),
    }


def _needle(
    draw: Draw, *, form: str, fact: str, question: str, keys: Sequence[str], values: Sequence[str]
) -> Item:
    """Ask for one value by its key, the first; ``fact`` and ``question`` have places for both."""
    facts = [fact.format(key=key, value=value) for key, value in zip(keys, values, strict=True)]
    return _problem(
        draw,
        "needle",
        form=form,
        question=question.format(key=keys[0]),
        facts=facts[:1],
        answers=values[:1],
        other_facts=facts[1:],
        others=values[1:],
    )


def _several(
    draw: Draw,
    *,
    form: str,
    fact: str,
    question: str,
    keys: Sequence[str],
    values: Sequence[str],
    asked: int,
) -> Item:
    """Ask for the values of the first ``asked`` keys, in the order of the question."""
    facts = [fact.format(key=key, value=value) for key, value in zip(keys, values, strict=True)]
    *first, last = (f"the {key}" if fact.startswith("The {key}") else key for key in keys[:asked])
    return _problem(
        draw,
        "needles",
        form=form,
        question=question.format(keys=f"{', '.join(first)} and {last}"),
        facts=draw.shuffled(facts[:asked]),
        answers=values[:asked],
        other_facts=facts[asked:],
        others=values[asked:],
    )


def _all_of_one(
    draw: Draw,
    *,
    form: str,
    fact: str,
    question: str,
    keys: Sequence[str],
    values: Sequence[str],
    asked: int,
) -> Item:
    """Ask for all values of the first key, in the text's order; the other keys have one each."""
    every = [keys[0]] * asked + list(keys[1:])
    facts = [fact.format(key=key, value=value) for key, value in zip(every, values, strict=True)]
    return _problem(
        draw,
        "needles",
        form=form,
        question=f"{question.format(key=keys[0])} Keep the order of the text.",
        facts=facts[:asked],
        answers=values[:asked],
        other_facts=facts[asked:],
        others=values[asked:],
    )


def _chain(
    draw: Draw,
    *,
    form: str,
    fact: str,
    question: str,
    things: Sequence[str],
    values: Sequence[str],
    steps: int,
) -> Item:
    """Send things from value to value; the first one is asked for, the second not."""

    def follow(thing: str, path: Sequence[str]) -> list[str]:
        return [fact.format(thing=thing, old=old, new=new) for old, new in pairwise(path)]

    path, other = values[: steps + 1], values[steps + 1 :]
    return _problem(
        draw,
        "track",
        form=form,
        question=question.format(thing=things[0], start=path[0]),
        facts=follow(things[0], path),
        answers=path[-1:],
        other_facts=follow(things[-1], other),
        others=[*path[:-1], *other],
    )


def _last_set(
    draw: Draw,
    *,
    form: str,
    fact: str,
    question: str,
    things: Sequence[str],
    values: Sequence[str],
    steps: int,
) -> Item:
    """Set things again and again; the last value of the first one is asked for."""
    facts = [fact.format(thing=things[0], value=value) for value in values[:steps]]
    rest = zip(things[1:], values[steps:], strict=True)
    return _problem(
        draw,
        "track",
        form=form,
        question=question.format(thing=things[0]),
        facts=facts,
        answers=[values[steps - 1]],
        other_facts=[fact.format(thing=thing, value=value) for thing, value in rest],
        others=[*values[: steps - 1], *values[steps:]],
    )


def _different(make: Callable[[], str], count: int) -> list[str]:
    """Draw ``count`` values, no two the same."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)


def _numbers(draw: Draw, low: int, high: int, count: int) -> list[str]:
    return _different(lambda: str(draw.integer(low, high)), count)


def _codes(draw: Draw, pattern: str, count: int) -> list[str]:
    return _different(lambda: draw.code(pattern), count)


def _people(draw: Draw, count: int) -> list[str]:
    return _different(draw.person, count)


@TEMPLATES.template("seen")
def locker_code(draw: Draw) -> Item:
    """Ask for a code by color."""
    return _needle(
        draw,
        form="code",
        fact=draw.closed(
            ("The code of the {key} locker is {value}.", "The {key} locker has the code {value}.")
        ),
        question="What is the code of the {key} locker?",
        keys=draw.opens(COLORS, 3),
        values=_codes(draw, "AA-0000", 3),
    )


@TEMPLATES.template("seen")
def product_price(draw: Draw) -> Item:
    """Ask for a whole number by product."""
    return _needle(
        draw,
        form="number",
        fact=draw.closed(("The {key} costs {value} crowns.", "The price of the {key} is {value}.")),
        question=draw.closed(("What does the {key} cost?", "What is the price of the {key}?")),
        keys=draw.opens(PRODUCTS, 3),
        values=_numbers(draw, 100, 9999, 3),
    )


@TEMPLATES.template("seen")
def home_town(draw: Draw) -> Item:
    """Ask for a city by first name."""
    return _needle(
        draw,
        form="city",
        fact=draw.closed(("{key} was born in {value}.", "{key} grew up in {value}.")),
        question="Which city does {key} come from?",
        keys=draw.opens(FIRST_NAMES, 3),
        values=draw.opens(CITIES, 3),
    )


@TEMPLATES.template("seen")
def badge_number(draw: Draw) -> Item:
    """Ask for a whole number by full name."""
    return _needle(
        draw,
        form="number",
        fact=draw.closed(
            ("The badge number of {key} is {value}.", "{key} wears badge number {value}.")
        ),
        question="What is the badge number of {key}?",
        keys=_people(draw, 3),
        values=_numbers(draw, 1000, 9999, 3),
    )


@TEMPLATES.template("seen")
def product_weight(draw: Draw) -> Item:
    """Ask for a decimal number by product."""
    return _needle(
        draw,
        form="number",
        fact=draw.closed(
            ("The {key} weighs {value} kilograms.", "The weight of the {key} is {value} kilograms.")
        ),
        question="How many kilograms does the {key} weigh?",
        keys=draw.opens(PRODUCTS, 3),
        values=_different(lambda: str(draw.decimal(1, 60)), 3),
    )


@TEMPLATES.template("seen")
def locker_codes(draw: Draw) -> Item:
    """Ask for codes of several colors, in the order of the question."""
    return _several(
        draw,
        form="codes",
        fact="The {key} locker has the code {value}.",
        question=draw.closed(
            ("What are the codes of {keys} locker?", "Which codes have {keys} locker?")
        ),
        keys=draw.opens(COLORS, 4),
        values=_codes(draw, "AA-00", 4),
        asked=draw.closed((2, 3)),
    )


@TEMPLATES.template("seen")
def product_prices(draw: Draw) -> Item:
    """Ask for whole numbers of several products, in the order of the question."""
    return _several(
        draw,
        form="numbers",
        fact="The {key} costs {value} crowns.",
        question=draw.closed(("What do {keys} cost?", "What are the prices of {keys}?")),
        keys=draw.opens(PRODUCTS, 4),
        values=_numbers(draw, 100, 9999, 4),
        asked=draw.closed((2, 3)),
    )


@TEMPLATES.template("seen")
def home_towns(draw: Draw) -> Item:
    """Ask for cities of several first names, in the order of the question."""
    return _several(
        draw,
        form="cities",
        fact=draw.closed(("{key} was born in {value}.", "{key} grew up in {value}.")),
        question="Which cities do {keys} come from?",
        keys=draw.opens(FIRST_NAMES, 4),
        values=draw.opens(CITIES, 4),
        asked=draw.closed((2, 3)),
    )


@TEMPLATES.template("seen")
def visited_cities(draw: Draw) -> Item:
    """Ask for all cities of one person."""
    asked = draw.closed((2, 3))
    return _all_of_one(
        draw,
        form="cities",
        fact="{key} visited {value}.",
        question=draw.closed(("Which cities did {key} visit?", "Where was {key}?")),
        keys=draw.opens(FIRST_NAMES, 3),
        values=draw.opens(CITIES, asked + 2),
        asked=asked,
    )


@TEMPLATES.template("seen")
def box_contents(draw: Draw) -> Item:
    """Ask for all products in the box of one color."""
    asked = draw.closed((2, 3))
    return _all_of_one(
        draw,
        form="things",
        fact=draw.closed(("The {key} box holds one {value}.", "One {value} is in the {key} box.")),
        question="What is in the {key} box?",
        keys=draw.opens(COLORS, 3),
        values=draw.opens(PRODUCTS, asked + 2),
        asked=asked,
    )


@TEMPLATES.template("seen")
def moved_product(draw: Draw) -> Item:
    """Move a product from city to city."""
    steps = draw.closed((2, 3))
    return _chain(
        draw,
        form="city",
        fact=draw.closed(
            ("The {thing} was moved from {old} to {new}.", "Move the {thing} from {old} to {new}.")
        ),
        question=draw.closed(("Where is the {thing} in the end?", "Where is the {thing} now?")),
        things=draw.opens(PRODUCTS, 2),
        values=draw.opens(CITIES, steps + 3),
        steps=steps,
    )


@TEMPLATES.template("seen")
def handed_over(draw: Draw) -> Item:
    """Pass a product from hand to hand."""
    steps = draw.closed((2, 3))
    return _chain(
        draw,
        form="name",
        fact=draw.closed(
            ("{old} gave the {thing} to {new}.", "{old} handed the {thing} over to {new}.")
        ),
        question=draw.closed(("Who has the {thing} in the end?", "Who has the {thing} now?")),
        things=draw.opens(PRODUCTS, 2),
        values=draw.opens(FIRST_NAMES, steps + 3),
        steps=steps,
    )


@TEMPLATES.template("seen")
def counter_set(draw: Draw) -> Item:
    """Set a counter several times."""
    steps = draw.closed((2, 3))
    return _last_set(
        draw,
        form="number",
        fact=draw.closed(
            ("The {thing} counter was set to {value}.", "Set the {thing} counter to {value}.")
        ),
        question="What does the {thing} counter show in the end?",
        things=draw.opens(COLORS, 3),
        values=_numbers(draw, 100, 9999, steps + 2),
        steps=steps,
    )


@TEMPLATES.template("seen")
def password_changed(draw: Draw) -> Item:
    """Change a password several times."""
    steps = draw.closed((2, 3))
    return _last_set(
        draw,
        form="password",
        fact=draw.closed(
            ("{thing} changed the password to {value}.", "The password of {thing} became {value}.")
        ),
        question=draw.closed(
            ("What is the password of {thing} now?", "Which password does {thing} have now?")
        ),
        things=draw.opens(FIRST_NAMES, 3),
        values=_codes(draw, "AA-0000", steps + 2),
        steps=steps,
    )


@TEMPLATES.template("seen")
def variables(draw: Draw) -> Item:
    """Assign a number from variable to variable, beside another number."""
    steps = draw.closed((2, 3))
    names = _codes(draw, "AA", steps + 2)
    right, wrong = _numbers(draw, 1000, 9999, 2)
    chain, other = names[:steps], names[steps:]

    def assign(path: Sequence[str], value: str) -> list[str]:
        sources = [value, *path]
        return [f"Let {name} = {source}." for name, source in zip(path, sources, strict=False)]

    return _problem(
        draw,
        "track",
        form="number",
        question=draw.closed((f"What is the value of {chain[-1]}?", f"What is {chain[-1]}?")),
        facts=assign(chain, right),
        answers=[right],
        other_facts=assign(other, wrong),
        others=[wrong],
    )


@TEMPLATES.template("reserved")
def telephone(draw: Draw) -> Item:
    """Ask for a whole number by full name."""
    return _needle(
        draw,
        form="number",
        fact=draw.closed(("To reach {key}, dial {value}.", "{key} answers the phone at {value}.")),
        question="Which number reaches {key}?",
        keys=_people(draw, 3),
        values=_numbers(draw, 10000, 99999, 3),
    )


@TEMPLATES.template("reserved")
def train_name(draw: Draw) -> Item:
    """Ask for a code by city."""
    return _needle(
        draw,
        form="train",
        fact=draw.closed(("Train {value} goes to {key}.", "The train to {key} is {value}.")),
        question="Which train goes to {key}?",
        keys=draw.opens(CITIES, 3),
        values=_codes(draw, "AA-000", 3),
    )


@TEMPLATES.template("reserved")
def shop_owner(draw: Draw) -> Item:
    """Ask for a full name by product."""
    return _needle(
        draw,
        form="name",
        fact=draw.closed(
            ("The {key} shop belongs to {value}.", "The owner of the {key} shop is {value}.")
        ),
        question="Who owns the {key} shop?",
        keys=draw.opens(PRODUCTS, 3),
        values=_people(draw, 3),
    )


@TEMPLATES.template("reserved")
def bridge_length(draw: Draw) -> Item:
    """Ask for a decimal number by city."""
    return _needle(
        draw,
        form="number",
        fact=draw.closed(
            ("The bridge of {key} is {value} miles long.", "{key} has a bridge of {value} miles.")
        ),
        question="How many miles long is the bridge of {key}?",
        keys=draw.opens(CITIES, 3),
        values=_different(lambda: str(draw.decimal(1, 20, 1)), 3),
    )


@TEMPLATES.template("reserved")
def ring_numbers(draw: Draw) -> Item:
    """Ask for codes of several cities, in the order of the question."""
    return _several(
        draw,
        form="rings",
        fact=draw.closed(
            ("The bird in {key} wears ring {value}.", "Ring {value} was put on a bird in {key}.")
        ),
        question="Which rings have the birds in {keys}?",
        keys=draw.opens(CITIES, 4),
        values=_codes(draw, "A-000", 4),
        asked=draw.closed((2, 3)),
    )


@TEMPLATES.template("reserved")
def room_keys(draw: Draw) -> Item:
    """Ask for all codes of one color."""
    asked = draw.closed((2, 3))
    return _all_of_one(
        draw,
        form="keys",
        fact=draw.closed(
            ("Key {value} opens the {key} room.", "Use key {value} on the {key} room.")
        ),
        question="Which keys open the {key} room?",
        keys=draw.opens(COLORS, 3),
        values=_codes(draw, "A-00-A", asked + 2),
        asked=asked,
    )


@TEMPLATES.template("reserved")
def orders(draw: Draw) -> Item:
    """Ask for all people of one product."""
    asked = draw.closed((2, 3))
    return _all_of_one(
        draw,
        form="names",
        fact=draw.closed(("{value} ordered a new {key}.", "A new {key} was ordered by {value}.")),
        question="Who ordered a new {key}?",
        keys=draw.opens(PRODUCTS, 3),
        values=draw.opens(FIRST_NAMES, asked + 2),
        asked=asked,
    )


@TEMPLATES.template("reserved")
def renamed_ship(draw: Draw) -> Item:
    """Rename a ship from name to name."""
    steps = draw.closed((2, 3))
    return _chain(
        draw,
        form="name",
        fact=draw.closed(
            ("The ship {old} was renamed {new}.", "The ship {old} got the new name {new}.")
        ),
        question="What is the ship called now that was {start} at first?",
        things=["", ""],
        values=draw.opens(FIRST_NAMES, steps + 3),
        steps=steps,
    )


@TEMPLATES.template("reserved")
def file_links(draw: Draw) -> Item:
    """Have a file name the next."""
    steps = draw.closed((2, 3))
    return _chain(
        draw,
        form="file",
        fact=draw.closed(("File {old} points to file {new}.", "For {old} see file {new}.")),
        question="Which file comes last if you start at {start} and follow the links?",
        things=["", ""],
        values=_codes(draw, "00-A", steps + 3),
        steps=steps,
    )


@TEMPLATES.template("reserved")
def repainted_house(draw: Draw) -> Item:
    """Paint a house several times."""
    steps = draw.closed((2, 3))
    return _last_set(
        draw,
        form="color",
        fact=draw.closed(
            ("The house in {thing} was painted {value}.", "They painted the {thing} house {value}.")
        ),
        question="Which color has the house in {thing} now?",
        things=draw.opens(CITIES, 3),
        values=draw.opens(COLORS, steps + 2),
        steps=steps,
    )
