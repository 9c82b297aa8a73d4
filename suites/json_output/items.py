r"""An item of the suite ``json`` is a record told in prose, to be written as JSON under a schema.

Every value stands in the text as it must stand in the answer, so an item asks for copying and for
JSON's own rules, not for knowledge: nesting, arrays, enumerations, numbers, booleans, null, and
strings that need escapes (quotes, the backslashes of Windows paths, line breaks and tabs named in
words) or hold letters beyond ASCII. The answer is written with a space after commas and colons, as
most models write JSON; scoring compares values, so another spacing is as right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from suites.items import (
    CITIES,
    COLORS,
    FIRST_NAMES,
    LAST_NAMES,
    PRODUCTS,
    Draw,
    Item,
    Templates,
    belongs,
    words,
)

TEMPLATES = Templates("json")

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
DATE: Schema = {"type": "string", "format": "date"}

ACCENTED = words(
    "Année Ångbåt Århus Açaí Böhme Brûlée Cañón Château Çelik Crème Dvořák Élan Érable Façade Fête "
    "Fjäll Garçon Größe Gruyère Håkon Île Jalapeño Jólin Kärnten København Łódź Lübeck Mañana "
    "Málaga Måne Mélange Müller Naïve Ñandú Noël Øresund Öland Pâté Piñata Plzeň Poésie Québec "
    "Résumé Rhône Räven Señor Škoda Skåne Smörgås Søren Straße Sørlie Tórshavn Über Vänern Voilà "
    "Würfel Zoë Žižkov Zürich"
)


def one_of(options: Sequence[str]) -> Schema:
    """Make a schema of closed vocabulary."""
    return {"enum": list(options)}


def or_null(schema: Schema) -> Schema:
    """Allow null beside what a schema allows."""
    return schema | {"type": [schema["type"], "null"]}


def array(items: Schema) -> Schema:
    """Make a schema of an array."""
    return {"type": "array", "items": items}


def record(properties: Mapping[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    """Make a schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _item(draw: Draw, text: str, schema: Schema, expected: dict[str, Any], hint: str = "") -> Item:
    """Make the item; ``hint`` is a rule that this schema needs beside the task's own sentence."""
    task = draw.closed(
        (
            "Write the facts of the text as JSON that fits the schema. Answer with the JSON only.",
            "Turn the text into a JSON object that follows the schema. Give only the JSON.",
            "Fill in the schema from the text, copying every value. Reply with JSON alone.",
        )
    )
    schema_json = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    expected_json = json.dumps(expected, ensure_ascii=False)
    return {
        "prompt": f"### Task\n{' '.join([task, hint]).strip()}\n"
        f"### Text\n{text}\n### Schema\n{schema_json}\n### Answer\n",
        "target": expected_json,
        "schema_json": schema_json,
        "expected_json": expected_json,
    }


_MISSING_IS_NULL = "What the text calls unknown is null."
_LEAVE_OUT = "Leave out keys of which the text says nothing."


def _own(draw: Draw, make: Callable[[], str]) -> str:
    """Give what ``make`` returns, once it is of this split's stock."""
    while not belongs(text := make(), draw.split):
        pass
    return text


def _date(draw: Draw) -> str:
    """Draw a date, such as ``2031-05-17``."""
    rng = draw.rng
    return _own(
        draw,
        lambda: f"20{rng.randint(10, 79)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    )


def _clock(draw: Draw) -> str:
    """Draw a time, such as ``14:35``."""
    return _own(draw, lambda: f"{draw.rng.randint(0, 23):02}:{draw.rng.randint(0, 59):02}")


def _listed(values: Sequence[str]) -> str:
    """Write values as a list: ``a``, ``a and b``, ``a, b and c``."""
    *others, last = values
    return f"{', '.join(others)} and {last}" if others else last


@TEMPLATES.template("seen")
def stored_file(draw: Draw) -> Item:
    """Ask for a Windows path, whose backslashes need escapes."""
    owner, folder = draw.opens(FIRST_NAMES, 2)
    drive, end = draw.closed("CDEF"), draw.closed(("txt", "csv", "png"))
    path = f"{drive}:\\{folder}\\{draw.open(PRODUCTS)}\\{draw.code('AA00')}.{end}"
    size, hidden = draw.integer(20, 9000), draw.chance(0.5)
    seen = "It is hidden." if hidden else "It is not hidden."
    text = draw.closed(
        (
            f"{owner} keeps the file {path} of {size} kB. {seen}",
            f"The file {path} belongs to {owner}. Its size is {size} kB. {seen}",
        )
    )
    schema = record({"path": STRING, "owner": STRING, "size_kb": INTEGER, "hidden": BOOLEAN})
    expected = {"path": path, "owner": owner, "size_kb": size, "hidden": hidden}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def order(draw: Draw) -> Item:
    """Ask for a flat record: code, name, integer, decimal, enumeration."""
    number, buyer = draw.code("AA-0000"), draw.person()
    count, price = draw.integer(2, 400), draw.decimal(3, 90)
    way = draw.closed(("post", "courier", "pickup"))
    text = draw.closed(
        (
            f"Order {number}: {buyer} buys {count} pieces at {price} each, sent by {way}.",
            f"{buyer} placed order {number} for {count} pieces. Each costs {price}. "
            f"Delivery: {way}.",
        )
    )
    schema = record(
        {
            "order": STRING,
            "buyer": STRING,
            "count": INTEGER,
            "price": NUMBER,
            "delivery": one_of(("post", "courier", "pickup")),
        }
    )
    expected = {"order": number, "buyer": buyer, "count": count, "price": price, "delivery": way}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def contact(draw: Draw) -> Item:
    """Ask for a string that may be null."""
    name, city = draw.person(), draw.open(CITIES)
    phone = draw.code("000-000-000") if draw.chance(0.5) else None
    news = draw.chance(0.5)
    call = "The phone number is unknown." if phone is None else f"The phone number is {phone}."
    letter = "wants" if news else "does not want"
    text = draw.closed(
        (
            f"{name} lives in {city} and {letter} the newsletter. {call}",
            f"{call} The contact, {name} from {city}, {letter} the newsletter.",
        )
    )
    schema = record(
        {"name": STRING, "city": STRING, "phone": or_null(STRING), "newsletter": BOOLEAN}
    )
    expected = {"name": name, "city": city, "phone": phone, "newsletter": news}
    return _item(draw, text, schema, expected, _MISSING_IS_NULL)


@TEMPLATES.template("seen")
def door_sign(draw: Draw) -> Item:
    """Ask for quotes inside a string."""
    city, name, product = draw.open(CITIES), draw.open(FIRST_NAMES), draw.open(PRODUCTS)
    number = draw.integer(10, 900)
    words_on_it = draw.closed(
        (
            f'Ask for "{name}" at the {product}',
            f'The "{product}" is for {name}',
            f'"{name}" says: mind the {product}',
        )
    )
    text = draw.closed(
        (
            f"Sign {number} hangs in {city}. These are its words:\n{words_on_it}",
            f"In {city}, sign {number} has these words:\n{words_on_it}",
        )
    )
    schema = record({"sign": INTEGER, "city": STRING, "words": STRING})
    return _item(draw, text, schema, {"sign": number, "city": city, "words": words_on_it})


@TEMPLATES.template("seen")
def parcel_label(draw: Draw) -> Item:
    """Ask for line breaks, named in words."""
    name, city, code = draw.person(), draw.open(CITIES), draw.code("00000")
    kilos = draw.decimal(1, 40, 1)
    text = draw.closed(
        (
            f"A parcel of {kilos} kg. Its label: {name}, then a line break, then {code} {city}.",
            f"The label of a parcel reads {name}, a line break, and {code} {city}. "
            f"It weighs {kilos} kg.",
        )
    )
    schema = record({"label": STRING, "kg": NUMBER})
    return _item(draw, text, schema, {"label": f"{name}\n{code} {city}", "kg": kilos})


@TEMPLATES.template("seen")
def sheet_row(draw: Draw) -> Item:
    """Ask for a tab, named in words."""
    product, color = draw.open(PRODUCTS), draw.open(COLORS)
    row, last = draw.integer(10, 999), draw.chance(0.5)
    place = "It is the last row." if last else "It is not the last row."
    text = draw.closed(
        (
            f"Row {row} holds {product}, then a tab, then {color}. {place}",
            f"{place} Row {row} reads {product}, a tab, {color}.",
        )
    )
    schema = record({"row": INTEGER, "content": STRING, "last": BOOLEAN})
    return _item(draw, text, schema, {"row": row, "content": f"{product}\t{color}", "last": last})


@TEMPLATES.template("seen")
def sensor(draw: Draw) -> Item:
    """Ask for numbers below zero."""
    code, city = draw.code("A0-000"), draw.open(CITIES)
    value, unit = draw.decimal(-40, 60, 1), draw.closed(("celsius", "fahrenheit", "kelvin"))
    working = draw.chance(0.5)
    state = "working" if working else "not working"
    text = draw.closed(
        (
            f"Sensor {code} in {city} shows {value} {unit}. It is {state}.",
            f"In {city}, sensor {code} is {state}. Its value is {value} {unit}.",
        )
    )
    schema = record(
        {
            "sensor": STRING,
            "city": STRING,
            "value": NUMBER,
            "unit": one_of(("celsius", "fahrenheit", "kelvin")),
            "working": BOOLEAN,
        }
    )
    expected = {"sensor": code, "city": city, "value": value, "unit": unit, "working": working}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def cart(draw: Draw) -> Item:
    """Ask for an array of objects."""
    buyer = draw.open(FIRST_NAMES)
    lines = [
        {"product": product, "count": draw.integer(2, 500)}
        for product in draw.opens(PRODUCTS, draw.closed((2, 3)))
    ]
    told = _listed([f"{line['count']} of the {line['product']}" for line in lines])
    text = draw.closed((f"{buyer} put {told} into the cart.", f"The cart of {buyer}: {told}."))
    schema = record(
        {"buyer": STRING, "lines": array(record({"product": STRING, "count": INTEGER}))}
    )
    return _item(draw, text, schema, {"buyer": buyer, "lines": lines})


@TEMPLATES.template("seen")
def event(draw: Draw) -> Item:
    """Ask for a nested object and an array of strings."""
    city, hall, start = draw.open(CITIES), draw.integer(10, 300), _clock(draw)
    guests = draw.opens(FIRST_NAMES, draw.closed((1, 2, 3)))
    text = draw.closed(
        (
            f"The event at {start} is in {city}, hall {hall}. The guests are {_listed(guests)}.",
            f"{_listed(guests)} will be guests of the event in hall {hall} in {city} at {start}.",
        )
    )
    schema = record(
        {
            "start": STRING,
            "place": record({"city": STRING, "hall": INTEGER}),
            "guests": array(STRING),
        }
    )
    expected = {"start": start, "place": {"city": city, "hall": hall}, "guests": guests}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def festival(draw: Draw) -> Item:
    """Ask for letters beyond ASCII."""
    first, second, maker = draw.opens(ACCENTED, 3)
    sold, price = draw.integer(100, 9000), draw.decimal(5, 80)
    text = draw.closed(
        (
            f"The festival {first} {second} by {maker} sold {sold} tickets at {price} each.",
            f"{maker} leads the festival {first} {second}. Tickets cost {price}; {sold} were sold.",
        )
    )
    schema = record({"title": STRING, "leader": STRING, "sold": INTEGER, "price": NUMBER})
    expected = {"title": f"{first} {second}", "leader": maker, "sold": sold, "price": price}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def invoice(draw: Draw) -> Item:
    """Ask for a date that may be null, and a nested object."""
    total, name, city = draw.decimal(100, 3000), draw.person(), draw.open(CITIES)
    paid = _date(draw) if draw.chance(0.5) else None
    when = "The day of payment is unknown." if paid is None else f"It was paid on {paid}."
    text = draw.closed(
        (
            f"The invoice over {total} went to {name} in {city}. {when}",
            f"{name}, {city}, received an invoice. {when} The total is {total}.",
        )
    )
    schema = record(
        {
            "customer": record({"name": STRING, "city": STRING}),
            "total": NUMBER,
            "paid": or_null(DATE),
        }
    )
    expected = {"customer": {"name": name, "city": city}, "total": total, "paid": paid}
    return _item(draw, text, schema, expected, _MISSING_IS_NULL)


@TEMPLATES.template("seen")
def craft_kit(draw: Draw) -> Item:
    """Ask for an array of strings beside an enumeration."""
    parts = draw.opens(PRODUCTS, draw.closed((2, 3, 4)))
    color, minutes = draw.open(COLORS), draw.integer(15, 600)
    level = draw.closed(("easy", "medium", "hard"))
    text = draw.closed(
        (
            f"The {color} kit is {level} and takes {minutes} minutes. It needs {_listed(parts)}.",
            f"For the {color} kit take {_listed(parts)}. Level: {level}. Minutes: {minutes}.",
        )
    )
    schema = record(
        {
            "kit": STRING,
            "level": one_of(("easy", "medium", "hard")),
            "minutes": INTEGER,
            "parts": array(STRING),
        }
    )
    return _item(
        draw, text, schema, {"kit": color, "level": level, "minutes": minutes, "parts": parts}
    )


@TEMPLATES.template("seen")
def trip(draw: Draw) -> Item:
    """Ask for an array that may be empty, and an integer that may be null."""
    start, goal, *stops = draw.opens(CITIES, draw.closed((2, 3, 4)))
    seat = draw.integer(10, 300) if draw.chance(0.5) else None
    via = f"with stops in {_listed(stops)}" if stops else "without stops"
    place = "The seat is unknown." if seat is None else f"The seat is {seat}."
    text = draw.closed(
        (
            f"The trip goes from {start} to {goal} {via}. {place}",
            f"{place} The train runs from {start} to {goal} {via}.",
        )
    )
    schema = record(
        {"from": STRING, "to": STRING, "stops": array(STRING), "seat": or_null(INTEGER)}
    )
    expected = {"from": start, "to": goal, "stops": stops, "seat": seat}
    return _item(draw, text, schema, expected, _MISSING_IS_NULL)


@TEMPLATES.template("seen")
def device(draw: Draw) -> Item:
    """Ask for booleans in a nested object."""
    code, level = draw.code("AAA000"), draw.integer(10, 999)
    sound, light = draw.chance(0.5), draw.chance(0.5)
    on = {True: "on", False: "off"}
    text = draw.closed(
        (
            f"Device {code} runs at power {level}. Sound is {on[sound]}, light is {on[light]}.",
            f"Sound {on[sound]}, light {on[light]}: so device {code} is set, at power {level}.",
        )
    )
    schema = record(
        {
            "device": STRING,
            "power": INTEGER,
            "on": record({"sound": BOOLEAN, "light": BOOLEAN}),
        }
    )
    expected = {
        "device": code,
        "power": level,
        "on": {"sound": sound, "light": light},
    }
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def measurements(draw: Draw) -> Item:
    """Ask for an array of decimals."""
    product, by = draw.open(PRODUCTS), draw.person()
    values = [draw.decimal(1, 300) for _ in range(draw.closed((2, 3, 4)))]
    checked = draw.chance(0.5)
    told = _listed([str(value) for value in values])
    state = "They were checked." if checked else "They were not checked."
    text = draw.closed(
        (
            f"{by} measured the {product}: {told} mm. {state}",
            f"The {product} has these measurements in mm, taken by {by}: {told}. {state}",
        )
    )
    schema = record({"object": STRING, "by": STRING, "mm": array(NUMBER), "checked": BOOLEAN})
    expected = {"object": product, "by": by, "mm": values, "checked": checked}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def map_point(draw: Draw) -> Item:
    """Ask for numbers in a nested object, two strings that look like numbers."""
    east, north = draw.decimal(-180, 180, 3), draw.decimal(-90, 90, 3)
    zone, code = draw.code("00"), draw.code("000000")
    text = draw.closed(
        (
            f"Point {code} in zone {zone} lies at x {east} and y {north}.",
            f"At x {east}, y {north} is point {code} of zone {zone}.",
        )
    )
    schema = record(
        {
            "point": STRING,
            "zone": STRING,
            "at": record({"x": NUMBER, "y": NUMBER}),
        }
    )
    expected = {"point": code, "zone": zone, "at": {"x": east, "y": north}}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("seen")
def member(draw: Draw) -> Item:
    """Ask for keys to be left out where the text is silent."""
    name, number = draw.person(), draw.integer(100, 9999)
    expected: dict[str, Any] = {"name": name, "number": number}
    text = draw.closed((f"Member {number} is {name}.", f"{name} is member {number}."))
    if draw.chance(0.5):
        expected["city"] = draw.open(CITIES)
        text += f" The city is {expected['city']}."
    if draw.chance(0.5):
        expected["since"] = _date(draw)
        text += f" Member since {expected['since']}."
    schema = record(
        {"name": STRING, "number": INTEGER, "city": STRING, "since": DATE},
        optional=("city", "since"),
    )
    return _item(draw, text, schema, expected, _LEAVE_OUT)


@TEMPLATES.template("seen")
def storeroom(draw: Draw) -> Item:
    """Ask for three levels: an array in an object in an array."""
    rooms: list[dict[str, Any]] = [
        {"room": draw.code("A0"), "holds": draw.opens(PRODUCTS, draw.closed((1, 2)))}
        for _ in range(2)
    ]
    keeper = draw.open(LAST_NAMES)
    told = "; ".join(f"room {room['room']} holds {_listed(room['holds'])}" for room in rooms)
    text = draw.closed((f"Under keeper {keeper}, {told}.", f"The keeper is {keeper}: {told}."))
    schema = record(
        {"keeper": STRING, "rooms": array(record({"room": STRING, "holds": array(STRING)}))}
    )
    return _item(draw, text, schema, {"keeper": keeper, "rooms": rooms})


@TEMPLATES.template("reserved")
def book_loan(draw: Draw) -> Item:
    """Ask for a nested object, an array of codes, and a date."""
    name, card = draw.person(), draw.integer(100, 99999)
    books, due = [draw.code("AA.000") for _ in range(draw.closed((1, 2, 3)))], _date(draw)
    text = draw.closed(
        (
            f"{name}, card {card}, borrowed {_listed(books)}. The loan is due on {due}.",
            f"Due on {due}: {_listed(books)}, lent to {name} with card {card}.",
        )
    )
    schema = record(
        {
            "borrower": record({"name": STRING, "card": INTEGER}),
            "books": array(STRING),
            "due": DATE,
        }
    )
    expected = {"borrower": {"name": name, "card": card}, "books": books, "due": due}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("reserved")
def log_line(draw: Draw) -> Item:
    """Ask for quotes and backslashes in one string."""
    level, at = draw.closed(("info", "warning", "error")), _clock(draw)
    folder, name = draw.opens(LAST_NAMES, 2)
    message = draw.closed(
        (
            f'cannot open "X:\\{folder}\\{name}.log"',
            f'"{name}" is missing in Y:\\{folder}\\',
        )
    )
    code = draw.integer(100, 9999)
    text = draw.closed(
        (
            f"At {at} the program logged a line of level {level}, code {code}:\n{message}",
            f"A line of level {level} with code {code} came at {at}:\n{message}",
        )
    )
    schema = record(
        {
            "level": one_of(("info", "warning", "error")),
            "time": STRING,
            "code": INTEGER,
            "message": STRING,
        }
    )
    expected = {"level": level, "time": at, "code": code, "message": message}
    return _item(draw, text, schema, expected)


@TEMPLATES.template("reserved")
def backup(draw: Draw) -> Item:
    """Ask for network paths with two backslashes in front, in an array."""
    server = draw.open(CITIES).lower()
    shares = [f"\\\\{server}\\{name}" for name in draw.opens(PRODUCTS, draw.closed((1, 2)))]
    gigabytes, done = draw.decimal(1, 900, 1), draw.chance(0.5)
    state = "is complete" if done else "is not complete"
    text = draw.closed(
        (
            f"The backup of {_listed(shares)} {state}. It holds {gigabytes} GB.",
            f"A backup of {gigabytes} GB was made of {_listed(shares)}. It {state}.",
        )
    )
    schema = record({"shares": array(STRING), "gb": NUMBER, "complete": BOOLEAN})
    return _item(draw, text, schema, {"shares": shares, "gb": gigabytes, "complete": done})


@TEMPLATES.template("reserved")
def auction(draw: Draw) -> Item:
    """Ask for arrays of numbers, perhaps empty, in an array of objects."""
    house = draw.open(LAST_NAMES)
    lots: list[dict[str, Any]] = [
        {
            "lot": draw.integer(10, 900),
            "thing": thing,
            "bids": [draw.integer(20, 5000) for _ in range(draw.closed((0, 1, 2)))],
        }
        for thing in draw.opens(PRODUCTS, 2)
    ]
    told = "; ".join(
        f"lot {lot['lot']}, the {lot['thing']}, with "
        + (f"bids of {_listed([str(bid) for bid in lot['bids']])}" if lot["bids"] else "no bids")
        for lot in lots
    )
    text = draw.closed((f"House {house} sells {told}.", f"At the auction of {house}: {told}."))
    schema = record(
        {
            "house": STRING,
            "lots": array(record({"lot": INTEGER, "thing": STRING, "bids": array(INTEGER)})),
        }
    )
    return _item(draw, text, schema, {"house": house, "lots": lots})


@TEMPLATES.template("reserved")
def verse(draw: Draw) -> Item:
    """Ask for a line break and a tab in one string."""
    poet = draw.person()
    first, second = draw.opens(COLORS, 2)
    night = draw.open(PRODUCTS)
    text = draw.closed(
        (
            f"{poet} wrote a verse: {first} {night}, then a line break, then a tab, then {second}.",
            f"This is a verse by {poet}: {first} {night}, a line break, a tab, {second}.",
        )
    )
    schema = record({"poet": STRING, "verse": STRING})
    return _item(draw, text, schema, {"poet": poet, "verse": f"{first} {night}\n\t{second}"})


@TEMPLATES.template("reserved")
def hotel_stay(draw: Draw) -> Item:
    """Ask for keys to be left out, an array of an enumeration among them."""
    guest, room = draw.person(), draw.integer(100, 990)
    expected: dict[str, Any] = {"guest": guest, "room": room}
    text = draw.closed((f"{guest} has room {room}.", f"Room {room} is kept for {guest}."))
    if draw.chance(0.5):
        expected["rate"] = draw.decimal(40, 400)
        text += f" The rate is {expected['rate']}."
    if draw.chance(0.5):
        expected["meals"] = draw.closeds(("breakfast", "lunch", "dinner"), draw.closed((1, 2)))
        text += f" The meals are {_listed(expected['meals'])}."
    schema = record(
        {
            "guest": STRING,
            "room": INTEGER,
            "rate": NUMBER,
            "meals": array(one_of(("breakfast", "lunch", "dinner"))),
        },
        optional=("rate", "meals"),
    )
    return _item(draw, text, schema, expected, _LEAVE_OUT)


@TEMPLATES.template("reserved")
def weather(draw: Draw) -> Item:
    """Ask for two numbers that may be null."""
    city, sky = draw.open(CITIES), draw.closed(("clear", "cloudy", "rainy"))
    low = draw.decimal(-30, 20, 1)
    wind = draw.integer(10, 120) if draw.chance(0.5) else None
    rain = draw.decimal(1, 60, 1) if draw.chance(0.5) else None
    told_wind = "the wind is unknown" if wind is None else f"the wind is {wind}"
    told_rain = "the rain is unknown" if rain is None else f"the rain is {rain}"
    text = draw.closed(
        (
            f"{city} is {sky}, with a low of {low}; {told_wind} and {told_rain}.",
            f"In {city}, {told_rain} and {told_wind}. It is {sky}. The low is {low}.",
        )
    )
    schema = record(
        {
            "city": STRING,
            "sky": one_of(("clear", "cloudy", "rainy")),
            "low": NUMBER,
            "wind": or_null(INTEGER),
            "rain": or_null(NUMBER),
        }
    )
    expected = {"city": city, "sky": sky, "low": low, "wind": wind, "rain": rain}
    return _item(draw, text, schema, expected, _MISSING_IS_NULL)


@TEMPLATES.template("reserved")
def roster(draw: Draw) -> Item:
    """Ask for arrays of an enumeration, and letters beyond ASCII."""
    shifts: list[dict[str, Any]] = [
        {"worker": worker, "days": draw.closeds(("Mon", "Tue", "Wed", "Thu", "Fri"), count)}
        for worker, count in zip(
            draw.opens(ACCENTED, 2), draw.closed(((1, 2), (2, 1), (2, 3))), strict=True
        )
    ]
    team = draw.code("A-00")
    told = "; ".join(f"{shift['worker']} works {_listed(shift['days'])}" for shift in shifts)
    text = draw.closed((f"In team {team}, {told}.", f"This is team {team}: {told}."))
    days = array(one_of(("Mon", "Tue", "Wed", "Thu", "Fri")))
    schema = record({"team": STRING, "shifts": array(record({"worker": STRING, "days": days}))})
    return _item(draw, text, schema, {"team": team, "shifts": shifts})
