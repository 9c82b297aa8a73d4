"""An item of `code` is a function to complete from a docstring that says exactly what to do.

The docstring names every constant and shows one call; the body is one to three lines. Names of
functions and parameters, and the constants, are open values: evaluation uses none that training
does. What an item asks is checked by calls: ``tests_json`` holds pairs of arguments and the value
that they must give, worked out here, by other means than the target's text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from suites.items import COLORS, FIRST_NAMES, PRODUCTS, Draw, Item, Templates, words

TEMPLATES = Templates("code")

NUMBER_NAMES = words(
    "age amount balance budget capacity cost count degree delay depth distance dose duration "
    "energy fee figure height income length level limit load mark mass minutes number offset pace "
    "pages points power pressure price quantity rate reading score seconds size speed step "
    "stock temperature ticket tons volume wage weight width"
)
LIST_NAMES = words(
    "amounts batch bills bundle charges counts costs data depths distances entries fees figures "
    "group heights items lengths levels line loads lot marks measures members numbers "
    "pack parts points prices queue rates readings records results rows samples scores selection "
    "series sizes stack steps units values volumes weights widths"
)
TEXT_NAMES = words(
    "address answer badge banner caption code comment entry heading key label letter line message "
    "name note phrase question reply section sentence sign slogan slug speech stamp string tag "
    "term text title token topic verse word"
)
RECORD_NAMES = words(
    "account asset bill booking card case contract customer device document event file form guest "
    "invoice job lease member offer order page parcel patient payment permit person plan policy "
    "profile project receipt record report route sale student task ticket trip user vehicle visit"
)
FIELDS = words(
    "age amount area author brand city class color count country date depth duration email "
    "floor format grade height kind language length level material model month number owner "
    "phone place price quantity rank rating region room score sector serial shape size speed "
    "status street team title total value vendor volume weight width year zone"
)
_SEPARATORS = ("-", ", ", " / ", "; ", " | ", "_", " + ", ":")
_ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}
_COUNTS = (2, 3, 4, 5)
_TASKS = (
    "Complete the function. Answer with the whole function only.",
    "Write the function as its docstring says. Answer with the function only.",
    "Finish this function. Answer with the whole function and nothing else.",
)


def _item(
    draw: Draw,
    *,
    verbs: Sequence[str],
    parameters: Sequence[str],
    says: Sequence[str],
    body: Sequence[str],
    calls: Sequence[list[Any]],
    answer: Callable[..., Any],
) -> Item:
    """Make an item, worded as one of ``says``; its docstring's example is the first call."""
    name = f"{draw.closed(verbs)}_{draw.open(PRODUCTS)}"
    header = f"def {name}({', '.join(parameters)}):\n"
    tests = [[arguments, answer(*json.loads(json.dumps(arguments)))] for arguments in calls]
    shown = ", ".join(repr(argument) for argument in calls[0])
    code = (
        f'{header}    """{draw.closed(says)}\n\n'
        f'    >>> {name}({shown})\n    {tests[0][1]!r}\n    """\n'
    )
    return {
        "prompt": f"### Task\n{draw.closed(_TASKS)}\n### Code\n{code}### Answer\n",
        "target": header + "".join(f"    {line}\n" for line in body).rstrip("\n"),
        "entry_point": name,
        "code": code,
        "tests_json": json.dumps(tests),
    }


def _numbers(draw: Draw, count: int) -> list[int]:
    return [draw.integer(10, 99) for _ in range(count)]


def _lists(draw: Draw, *around: int) -> list[list[Any]]:
    """Draw lists of numbers for arguments, with those around the constants, so an edge shows."""
    edges = [number + step for number in around for step in (-1, 0, 1)]
    lists = [_numbers(draw, 3) + around_one for around_one in (list(around), edges, [], edges)]
    return [[draw.shuffled(numbers)] for numbers in lists] + [[[]]]


def _word_lists(draw: Draw, stock: Sequence[str], *counts: int) -> list[list[Any]]:
    return [[draw.opens(stock, count)] for count in counts]


def _records(draw: Draw, field: str, count: int) -> list[dict[str, Any]]:
    """Draw records with that field and another, in either order."""
    records = []
    for _ in range(count):
        (other,) = draw.opens([name for name in FIELDS if name != field], 1)
        pairs = [(name, draw.integer(10, 99)) for name in draw.shuffled([field, other])]
        records.append(dict(pairs))
    return records


@TEMPLATES.template("seen")
def scale_and_shift(draw: Draw) -> Item:
    """Ask for ``x * a + b``."""
    name = draw.open(NUMBER_NAMES)
    factor, plus = _numbers(draw, 2)
    return _item(
        draw,
        verbs=("shift", "scale", "adjust"),
        parameters=[name],
        says=(
            f"Return {name} times {factor}, plus {plus}.",
            f"Multiply {name} by {factor}, add {plus}, and return the result.",
        ),
        body=[f"return {name} * {factor} + {plus}"],
        calls=[[number] for number in (*_numbers(draw, 3), 0, -1)],
        answer=lambda x: factor * x + plus,
    )


@TEMPLATES.template("seen")
def clamp(draw: Draw) -> Item:
    """Ask for a number, but no less than one limit and no more than another."""
    name = draw.open(NUMBER_NAMES)
    low, high = draw.integer(10, 45), draw.integer(55, 99)
    return _item(
        draw,
        verbs=("clamp", "bound", "cap"),
        parameters=[name],
        says=(
            f"Return {name}, but at least {low} and at most {high}.",
            f"Return {low} if {name} is less than {low}, {high} if it is more than {high}, and "
            f"{name} otherwise.",
        ),
        body=[f"return max({low}, min({name}, {high}))"],
        calls=[[high + draw.integer(10, 99)], [low - 7], [low + 3], [high - 2], [low], [high]],
        answer=lambda x: sorted((low, x, high))[1],
    )


@TEMPLATES.template("seen")
def count_above(draw: Draw) -> Item:
    """Ask how many numbers are above a limit."""
    name, limit = draw.open(LIST_NAMES), draw.integer(10, 99)
    return _item(
        draw,
        verbs=("count", "tally"),
        parameters=[name],
        says=(
            f"Return how many numbers in {name} are greater than {limit}.",
            f"Count the numbers in {name} that are greater than {limit}.",
        ),
        body=[f"return sum(1 for item in {name} if item > {limit})"],
        calls=_lists(draw, limit),
        answer=lambda numbers: len([x for x in numbers if not x <= limit]),
    )


@TEMPLATES.template("seen")
def keep_below(draw: Draw) -> Item:
    """Ask for the numbers below a limit."""
    name, limit = draw.open(LIST_NAMES), draw.integer(10, 99)
    return _item(
        draw,
        verbs=("keep", "filter", "sift"),
        parameters=[name],
        says=(
            f"Return a list of the numbers in {name} that are less than {limit}.",
            f"Keep only the numbers in {name} that are less than {limit}, and return them.",
        ),
        body=[f"return [item for item in {name} if item < {limit}]"],
        calls=_lists(draw, limit),
        answer=lambda numbers: list(filter(lambda x: not x >= limit, numbers)),
    )


@TEMPLATES.template("seen")
def join_words(draw: Draw) -> Item:
    """Ask for words joined in one text."""
    name, separator = draw.open(LIST_NAMES), draw.closed(_SEPARATORS)
    return _item(
        draw,
        verbs=("join", "merge", "connect"),
        parameters=[name],
        says=(
            f'Return the texts in {name} joined with "{separator}".',
            f'Join the texts in {name} with "{separator}" and return the result.',
        ),
        body=[f'return "{separator}".join({name})'],
        calls=_word_lists(draw, PRODUCTS, 3, 2, 4, 1, 0),
        answer=lambda texts: "".join(separator + text for text in texts)[len(separator) :],
    )


@TEMPLATES.template("seen")
def pick_field(draw: Draw) -> Item:
    """Ask for one field of a record."""
    name, field = draw.open(RECORD_NAMES), draw.open(FIELDS)
    return _item(
        draw,
        verbs=("pick", "read", "fetch"),
        parameters=[name],
        says=(
            f'Return the value of the key "{field}" in {name}.',
            f'Look up the key "{field}" in {name} and return its value.',
        ),
        body=[f'return {name}["{field}"]'],
        calls=[[record] for record in _records(draw, field, 5)],
        answer=lambda record: dict(record).pop(field),
    )


@TEMPLATES.template("seen")
def put_in_front(draw: Draw) -> Item:
    """Ask for a text with a word in front."""
    name, word = draw.open(TEXT_NAMES), draw.open(COLORS)
    separator = draw.closed(_SEPARATORS)
    return _item(
        draw,
        verbs=("prefix", "mark", "lead"),
        parameters=[name],
        says=(
            f'Return {name} with "{word}{separator}" put in front of it.',
            f'Put "{word}{separator}" in front of {name} and return the result.',
        ),
        body=[f'return "{word}{separator}" + {name}'],
        calls=[[text] for text in (*draw.opens(PRODUCTS, 4), "")],
        answer=lambda text: f"{word}{separator}{text}",
    )


@TEMPLATES.template("seen")
def every_nth(draw: Draw) -> Item:
    """Ask for every third item, or so."""
    name, step = draw.open(LIST_NAMES), draw.closed(_COUNTS)
    return _item(
        draw,
        verbs=("skip", "thin", "sample"),
        parameters=[name],
        says=(
            f"Return every {_ORDINALS[step]} item of {name}, starting with the first.",
            f"Take the first item of {name} and then every {_ORDINALS[step]} one; return the list.",
        ),
        body=[f"return {name}[::{step}]"],
        calls=[[_numbers(draw, count)] for count in (6, 9, 11, 1, 0)],
        answer=lambda numbers: [x for index, x in enumerate(numbers) if index % step == 0],
    )


@TEMPLATES.template("seen")
def swap_ends(draw: Draw) -> Item:
    """Ask for the last and the first item."""
    name = draw.open(LIST_NAMES)
    return _item(
        draw,
        verbs=("swap", "flip", "turn"),
        parameters=[name],
        says=(
            f"Return a list of two: the last item of {name}, then the first one.",
            f"Return the last item of {name} and the first one, in this order, in a list.",
        ),
        body=[f"return [{name}[-1], {name}[0]]"],
        calls=[[_numbers(draw, count)] for count in (4, 3, 2, 5, 1)],
        answer=lambda numbers: list(reversed((numbers[0], numbers[len(numbers) - 1]))),
    )


@TEMPLATES.template("seen")
def look_up(draw: Draw) -> Item:
    """Ask for a number for each of two words."""
    name = draw.open(TEXT_NAMES)
    first, second, neither = draw.opens(COLORS, 3)
    one, two = _numbers(draw, 2)
    return _item(
        draw,
        verbs=("map", "translate", "rate"),
        parameters=[name],
        says=(
            f'Return {one} for "{first}", {two} for "{second}", and 0 for any other {name}.',
            f'If {name} is "{first}" return {one}, if it is "{second}" return {two}, else '
            "return 0.",
        ),
        body=[
            f'table = {{"{first}": {one}, "{second}": {two}}}',
            f"return table.get({name}, 0)",
        ],
        calls=[[first], [second], [neither], [""]],
        answer=lambda word: one if word == first else two if word == second else 0,
    )


@TEMPLATES.template("seen")
def total_of_field(draw: Draw) -> Item:
    """Ask for a field's sum over records."""
    name, field = draw.open(LIST_NAMES), draw.open(FIELDS)
    return _item(
        draw,
        verbs=("total", "sum", "add"),
        parameters=[name],
        says=(
            f'Return the sum of the values of the key "{field}" in the records in {name}.',
            f'Add up the values of the key "{field}" in all records in {name}.',
        ),
        body=[f'return sum(item["{field}"] for item in {name})'],
        calls=[[_records(draw, field, count)] for count in (2, 3, 1, 0)],
        answer=lambda records: sum([0, *(record.pop(field) for record in records)]),
    )


@TEMPLATES.template("seen")
def repeat_text(draw: Draw) -> Item:
    """Ask for a text several times."""
    name, times = draw.open(TEXT_NAMES), draw.closed(_COUNTS)
    separator = draw.closed(_SEPARATORS)
    return _item(
        draw,
        verbs=("repeat", "multiply", "echo"),
        parameters=[name],
        says=(
            f'Return {name} {times} times, with "{separator}" in between.',
            f'Repeat {name} {times} times, joined with "{separator}", and return the result.',
        ),
        body=[f'return "{separator}".join([{name}] * {times})'],
        calls=[[text] for text in (*draw.opens(PRODUCTS, 3), "")],
        answer=lambda text: (text + separator) * (times - 1) + text,
    )


@TEMPLATES.template("seen")
def name_by_limit(draw: Draw) -> Item:
    """Ask for one word above a limit, another below."""
    name, limit = draw.open(NUMBER_NAMES), draw.integer(10, 99)
    above, below = draw.opens(COLORS, 2)
    return _item(
        draw,
        verbs=("grade", "label", "sort"),
        parameters=[name],
        says=(
            f'Return "{above}" if {name} is greater than {limit}, and "{below}" otherwise.',
            f'If {name} is greater than {limit} return "{above}", else return "{below}".',
        ),
        body=[f"if {name} > {limit}:", f'    return "{above}"', f'return "{below}"'],
        calls=[[limit + 5], [limit - 5], [limit], [limit + 1], [limit - 1]],
        answer=lambda x: below if x <= limit else above,
    )


@TEMPLATES.template("seen")
def add_to_each(draw: Draw) -> Item:
    """Ask for a number to be added to every item."""
    name, plus = draw.open(LIST_NAMES), draw.integer(10, 99)
    return _item(
        draw,
        verbs=("raise", "lift", "increase"),
        parameters=[name],
        says=(
            f"Return a list of the numbers in {name}, each plus {plus}.",
            f"Add {plus} to each number in {name} and return the new list.",
        ),
        body=[f"return [item + {plus} for item in {name}]"],
        calls=[[_numbers(draw, count)] for count in (3, 4, 1, 0)],
        answer=lambda numbers: list(map(plus.__add__, numbers)),
    )


@TEMPLATES.template("seen")
def subtract_and_add(draw: Draw) -> Item:
    """Ask for ``x - y + a``."""
    first, second = draw.opens(NUMBER_NAMES, 2)
    plus = draw.integer(10, 99)
    return _item(
        draw,
        verbs=("compare", "settle", "reduce"),
        parameters=[first, second],
        says=(
            f"Return {first} minus {second}, plus {plus}.",
            f"Subtract {second} from {first}, add {plus}, and return the result.",
        ),
        body=[f"return {first} - {second} + {plus}"],
        calls=[_numbers(draw, 2) for _ in range(3)] + [[0, 1], [1, 0]],
        answer=lambda x, y: plus + x - y,
    )


@TEMPLATES.template("seen")
def take_first(draw: Draw) -> Item:
    """Ask for the first few items."""
    name, count = draw.open(LIST_NAMES), draw.closed(_COUNTS)
    return _item(
        draw,
        verbs=("take", "cut", "trim"),
        parameters=[name],
        says=(
            f"Return the first {count} items of {name}.",
            f"Return a list of the {count} items that {name} begins with.",
        ),
        body=[f"return {name}[:{count}]"],
        calls=[[_numbers(draw, length)] for length in (6, 7, 8, 5)],
        answer=lambda numbers: [numbers[index] for index in range(count)],
    )


@TEMPLATES.template("seen")
def divides(draw: Draw) -> Item:
    """Ask whether a number divides another."""
    name, divisor = draw.open(NUMBER_NAMES), draw.integer(10, 99)
    return _item(
        draw,
        verbs=("check", "probe"),
        parameters=[name],
        says=(
            f"Return True if {name} is a multiple of {divisor}, and False otherwise.",
            f"Return whether {name} can be divided by {divisor} with no remainder.",
        ),
        body=[f"return {name} % {divisor} == 0"],
        calls=[[divisor * 3], [divisor * 2 + 1], [divisor], [divisor * 4 - 1], [0], [1]],
        answer=lambda x: x in range(0, x + 1, divisor),
    )


@TEMPLATES.template("seen")
def set_field(draw: Draw) -> Item:
    """Ask for a record with one field set."""
    name, field = draw.open(RECORD_NAMES), draw.open(FIELDS)
    value = draw.integer(10, 99)
    without = [
        {key: number for key, number in record.items() if key != field}
        for record in _records(draw, field, 2)
    ]
    return _item(
        draw,
        verbs=("set", "update", "fill"),
        parameters=[name],
        says=(
            f'Return a copy of {name} with the key "{field}" set to {value}.',
            f'Copy {name}, set the key "{field}" to {value} in the copy, and return it.',
        ),
        body=[f'return {{**{name}, "{field}": {value}}}'],
        calls=[[record] for record in (*without, *_records(draw, field, 2), {})],
        answer=lambda record: record | {field: value},
    )


@TEMPLATES.template("reserved")
def sum_above(draw: Draw) -> Item:
    """Ask for the sum of the numbers above a limit."""
    name, limit = draw.open(LIST_NAMES), draw.integer(10, 99)
    return _item(
        draw,
        verbs=("gather", "collect"),
        parameters=[name],
        says=(
            f"Return the sum of the numbers in {name} that are greater than {limit}.",
            f"Add up only those numbers in {name} that are greater than {limit}.",
        ),
        body=[f"return sum(item for item in {name} if item > {limit})"],
        calls=_lists(draw, limit),
        answer=lambda numbers: sum(x * (x > limit) for x in numbers),
    )


@TEMPLATES.template("reserved")
def drop_field(draw: Draw) -> Item:
    """Ask for a record without one field."""
    name, field = draw.open(RECORD_NAMES), draw.open(FIELDS)
    return _item(
        draw,
        verbs=("drop", "strip", "clear"),
        parameters=[name],
        says=(
            f'Return a copy of {name} without the key "{field}".',
            f'Return a new record with all of {name} but the key "{field}".',
        ),
        body=[f'return {{key: {name}[key] for key in {name} if key != "{field}"}}'],
        calls=[[record] for record in (*_records(draw, field, 4), {"id": 1, field: 2, "at": 3})],
        answer=lambda record: dict(pair for pair in record.items() if pair[0] != field),
    )


@TEMPLATES.template("reserved")
def replace_item(draw: Draw) -> Item:
    """Ask for a list with one word replaced."""
    name = draw.open(LIST_NAMES)
    old, new, *others = draw.opens(COLORS, 5)
    lists = [[old, *others], others, [old, old], [new, old], []]
    return _item(
        draw,
        verbs=("replace", "change", "exchange"),
        parameters=[name],
        says=(
            f'Return a copy of the list {name} with every "{old}" replaced by "{new}".',
            f'Return the items of {name} in a list, with "{new}" in place of "{old}".',
        ),
        body=[f'return ["{new}" if item == "{old}" else item for item in {name}]'],
        calls=[[draw.shuffled(colors)] for colors in lists],
        answer=lambda colors: [{old: new}.get(color, color) for color in colors],
    )


@TEMPLATES.template("reserved")
def in_between(draw: Draw) -> Item:
    """Ask whether a number is in a range."""
    name = draw.open(NUMBER_NAMES)
    low, high = draw.integer(10, 45), draw.integer(55, 99)
    numbers = (low + 4, high + 4, low - 4, low, high, low - 1, high + 1)
    return _item(
        draw,
        verbs=("accept", "approve", "allow"),
        parameters=[name],
        says=(
            f"Return True if {name} is from {low} to {high}, both included, else False.",
            f"Return whether {name} is at least {low} and at most {high}.",
        ),
        body=[f"return {low} <= {name} <= {high}"],
        calls=[[number] for number in numbers],
        answer=lambda x: x in range(low, high + 1),
    )


@TEMPLATES.template("reserved")
def pair_up(draw: Draw) -> Item:
    """Ask for two lists, side by side."""
    first, second = draw.opens(LIST_NAMES, 2)
    return _item(
        draw,
        verbs=("pair", "match", "align"),
        parameters=[first, second],
        says=(
            f"Return a list of lists: each item of {first} with the item of {second} at the same "
            "place.",
            f"Put each item of {first} in a list with the item of {second} at the same place, and "
            "return all of these lists in a list.",
        ),
        body=[f"return [[left, right] for left, right in zip({first}, {second})]"],
        calls=[[draw.opens(FIRST_NAMES, count), _numbers(draw, count)] for count in (2, 3, 1, 0)],
        answer=lambda left, right: [[left[i], right[i]] for i in range(len(left))],
    )


@TEMPLATES.template("reserved")
def last_reversed(draw: Draw) -> Item:
    """Ask for the last few items, backwards."""
    name, count = draw.open(LIST_NAMES), draw.closed(_COUNTS)
    return _item(
        draw,
        verbs=("rewind", "reverse"),
        parameters=[name],
        says=(
            f"Return the last {count} items of {name} in reverse order.",
            f"Return a list of the last {count} items of {name}, the very last one first.",
        ),
        body=[f"return {name}[-{count}:][::-1]"],
        calls=[[_numbers(draw, length)] for length in (6, 7, 8, 5)],
        answer=lambda numbers: [numbers[-place] for place in range(1, count + 1)],
    )


@TEMPLATES.template("reserved")
def surround(draw: Draw) -> Item:
    """Ask for a text between two words."""
    name = draw.open(TEXT_NAMES)
    before, after = draw.opens(COLORS, 2)
    return _item(
        draw,
        verbs=("wrap", "enclose", "frame"),
        parameters=[name],
        says=(
            f'Return {name} with "{before} " in front of it and " {after}" behind it.',
            f'Put "{before} " before {name} and " {after}" after it, and return the result.',
        ),
        body=[f'return "{before} " + {name} + " {after}"'],
        calls=[[text] for text in (*draw.opens(PRODUCTS, 4), "")],
        answer=lambda text: f"{before} {text} {after}",
    )


@TEMPLATES.template("reserved")
def larger_plus(draw: Draw) -> Item:
    """Ask for the larger of two numbers, and more."""
    first, second = draw.opens(NUMBER_NAMES, 2)
    plus = draw.integer(10, 99)
    return _item(
        draw,
        verbs=("choose", "prefer", "select"),
        parameters=[first, second],
        says=(
            f"Return the larger one of {first} and {second}, plus {plus}.",
            f"Add {plus} to {first} or {second}, whichever is larger, and return the result.",
        ),
        body=[f"return max({first}, {second}) + {plus}"],
        calls=[_numbers(draw, 2) for _ in range(3)] + [[3, 8], [8, 3], [5, 5]],
        answer=lambda x, y: plus + (x if x > y else y),
    )
