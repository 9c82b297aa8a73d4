"""An embedded item has tools, a request, and the calls that it asks for.

Every tool is named after a thing (``book_ferry``, ``list_museum_offers``), and things are open
values: no tool of an evaluation item is ever offered in training. What a call holds is written in
the request word for word, so that an item asks for reading and choosing, not for knowledge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from suites.items import CITIES, COLORS, PRODUCTS, Draw, Item, Templates, words

Category = Literal["simple", "choice", "parallel", "optional", "none"]
"""One call of one tool; one of several tools; several calls; arguments that the request may leave
out; a request that no tool fits."""

TEMPLATES = Templates("tool_calls")

INSTRUCTION = (
    'Answer with the tool calls that the request needs, as a Python list: [tool(text="a", n=2)]. '
    "Leave out what the request does not say. If no tool fits, answer []."
)

THINGS = words(
    "airport ambulance aquarium archive auction bakery ballet bank banquet battery boiler "
    "breakfast bridge bus cabin cable camping canal catering chess choir cinema circus clinic "
    "coffee concert contract cotton coupon court cruise customs dam database dentist dinner drone "
    "elevator energy engine exam excursion exhibit factory farm fashion ferry festival fire "
    "firewall fish flight flood forest fruit gallery garage garden gas gateway glacier grain "
    "grant greenhouse gym harbor heating highway hockey homework hostel hotel housing insurance "
    "interview invoice job kitchen laboratory lake laundry lecture library licence loan locker "
    "lottery luggage lunch magazine mail marathon market meadow medicine meeting menu metro mine "
    "mountain movie museum newsletter noise nursery ocean office opera orchard orchestra parcel "
    "park parking passport patient payroll pension permit pharmacy picnic pipeline playlist "
    "podcast police pollen pool port power prison quarry queue rail rain ranch recipe refund "
    "rescue restaurant river roof safari sailing salary sauna school sculpture seminar sensor "
    "server shipping shuttle skiing snow soccer solar spa stadium station steel storm studio "
    "subway supply surf surgery survey taxi tea tennis textile theater therapy ticket tide timber "
    "toll tower traffic trail train tram tunnel tutor university vaccine valley vehicle villa "
    "vineyard visa volcano voucher warehouse warranty waste water weather website wind wine "
    "workshop yacht yoga zoo"
)
"""What tools are about."""

TIMES = tuple(f"{hour:02}:{minute:02}" for hour in range(6, 23) for minute in range(0, 60, 5))


@TEMPLATES.template("seen")
def forecast(draw: Draw) -> Item:
    """Ask for a text and a number, both required."""
    thing, city, days = draw.open(THINGS), draw.open(CITIES), draw.integer(2, 60)
    name = f"get_{thing}_forecast"
    request = draw.closed(
        (
            f"What is the {thing} forecast for {city} for the next {days} days?",
            f"Give me the {thing} forecast for {days} days in {city}.",
            f"I am in {city} for {days} days. What does the {thing} forecast say?",
        )
    )
    return _item(
        "simple",
        [_tool(name, f"Forecast of the {thing}", city=STRING, days=INTEGER)],
        request,
        [_call(name, city=city, days=days)],
    )


@TEMPLATES.template("seen")
def reminder(draw: Draw) -> Item:
    """Ask for a person and a time of day."""
    thing, person, time = draw.open(THINGS), draw.person(), draw.open(TIMES)
    name = f"set_{thing}_reminder"
    request = draw.closed(
        (
            f"Remind {person} of the {thing} at {time}.",
            f"At {time}, {person} has to think of the {thing}. Set a reminder.",
            f"Set a reminder of the {thing} for {person} at {time}.",
        )
    )
    return _item(
        "simple",
        [_tool(name, f"Remind a person of the {thing}", person=STRING, time=STRING)],
        request,
        [_call(name, person=person, time=time)],
    )


@TEMPLATES.template("seen")
def sized_order(draw: Draw) -> Item:
    """Ask for a number and one of the sizes that the tool lists."""
    thing, city, count = draw.open(PRODUCTS), draw.open(CITIES), draw.integer(2, 60)
    size = draw.closed(("small", "medium", "large"))
    name = f"order_{thing}"
    request = draw.closed(
        (
            f"Order {count} of the {thing} in size {size} for {city}.",
            f"{city} needs the {thing} in {size}, {count} of them. Order them.",
            f"Please order the {thing}: size {size}, {count} pieces, to {city}.",
        )
    )
    sizes = {"type": "string", "enum": ["small", "medium", "large"]}
    return _item(
        "simple",
        [_tool(name, f"Order the {thing}", count=INTEGER, size=sizes, city=STRING)],
        request,
        [_call(name, count=count, size=size, city=city)],
    )


@TEMPLATES.template("seen")
def reading(draw: Draw) -> Item:
    """Ask for a code and a number with decimals."""
    thing, station, level = draw.open(THINGS), draw.code("AA-00"), draw.decimal(1, 90)
    name = f"log_{thing}_level"
    request = draw.closed(
        (
            f"Station {station} reads a {thing} level of {level}. Log it.",
            f"Log the {thing} level {level} for station {station}.",
            f"The {thing} level is {level} at station {station}; please note it down.",
        )
    )
    return _item(
        "simple",
        [_tool(name, f"Log a level of the {thing}", station=STRING, level=NUMBER)],
        request,
        [_call(name, station=station, level=level)],
    )


@TEMPLATES.template("seen")
def switch(draw: Draw) -> Item:
    """Ask for on or off."""
    thing, room, on = draw.open(PRODUCTS), draw.code("A-000"), draw.chance(0.5)
    name = f"switch_{thing}"
    word = "on" if on else "off"
    request = draw.closed(
        (
            f"Switch the {thing} {word} in room {room}.",
            f"In room {room}, turn the {thing} {word}.",
            f"Turn {word} the {thing} of room {room}.",
        )
    )
    return _item(
        "simple",
        [_tool(name, f"Switch the {thing} on or off", room=STRING, on=BOOLEAN)],
        request,
        [_call(name, room=room, on=on)],
    )


@TEMPLATES.template("seen")
def labels(draw: Draw) -> Item:
    """Ask for a list of texts."""
    thing, code, tags = draw.open(THINGS), draw.code("AA000"), draw.opens(COLORS, 3)
    name = f"label_{thing}"
    spoken = f"{tags[0]}, {tags[1]} and {tags[2]}"
    request = draw.closed(
        (
            f"Label {thing} {code} with {spoken}.",
            f"Put the labels {spoken} on {thing} {code}.",
            f"{thing.capitalize()} {code} needs the labels {spoken}.",
        )
    )
    return _item(
        "simple",
        [_tool(name, f"Put labels on a {thing}", code=STRING, labels=_array("string"))],
        request,
        [_call(name, code=code, labels=tags)],
    )


@TEMPLATES.template("seen")
def measured(draw: Draw) -> Item:
    """Ask for an object within the arguments."""
    thing, code = draw.open(PRODUCTS), draw.code("AA-000")
    width, height = draw.integer(10, 99), draw.integer(10, 99)
    name = f"store_{thing}"
    request = draw.closed(
        (
            f"Store the {thing} {code}; it is {width} wide and {height} high.",
            f"The {thing} {code} has width {width} and height {height}. Store it.",
            f"Please store a {thing} of width {width} and height {height} as {code}.",
        )
    )
    size = {"type": "object", "properties": {"width": INTEGER, "height": INTEGER}}
    return _item(
        "simple",
        [_tool(name, f"Store the {thing}", code=STRING, size=size)],
        request,
        [_call(name, code=code, size={"width": width, "height": height})],
    )


@TEMPLATES.template("seen")
def which_thing(draw: Draw) -> Item:
    """Offer tools that do the same to different things."""
    things = draw.opens(THINGS, draw.closed((2, 3)))
    thing, person, time = things[0], draw.person(), draw.open(TIMES)
    request = draw.closed(
        (
            f"Book the {thing} at {time} for {person}.",
            f"{person} wants the {thing} at {time}. Book it.",
            f"Please book for {person}, at {time}, the {thing}.",
        )
    )
    tools = [
        _tool(f"book_{one}", f"Book the {one}", person=STRING, time=STRING)
        for one in draw.shuffled(things)
    ]
    return _item("choice", tools, request, [_call(f"book_{thing}", person=person, time=time)])


@TEMPLATES.template("seen")
def which_deed(draw: Draw) -> Item:
    """Offer tools that do different things to the same one."""
    thing, person = draw.open(PRODUCTS), draw.person()
    deeds = draw.closeds(("rent", "repair", "clean", "paint", "sell", "weigh"), 3)
    deed = deeds[0].capitalize()
    request = draw.closed(
        (
            f"{deed} the {thing} for {person}.",
            f"For {person}: {deeds[0]} the {thing}, please.",
            f"{person} asks you to {deeds[0]} the {thing}.",
        )
    )
    tools = [
        _tool(f"{one}_{thing}", f"{one.capitalize()} the {thing}", person=STRING)
        for one in draw.shuffled(deeds)
    ]
    return _item("choice", tools, request, [_call(f"{deeds[0]}_{thing}", person=person)])


@TEMPLATES.template("seen")
def which_key(draw: Draw) -> Item:
    """Offer tools that look up the same by different keys."""
    thing = draw.open(THINGS)
    keys: list[tuple[str, str, str]] = [
        ("city", draw.open(CITIES), "in"),
        ("person", draw.person(), "of"),
        ("code", draw.code("AAA-000"), "with code"),
    ]
    key, value, before = draw.closed(keys)
    request = draw.closed(
        (
            f"Find the {thing} {before} {value}.",
            f"Which {thing} is there {before} {value}?",
            f"I need the {thing} {before} {value}.",
        )
    )
    tools = [
        _tool(f"find_{thing}_by_{one}", f"Find the {thing} by {one}", (), **{one: STRING})
        for one, _, _ in draw.shuffled(keys)
    ]
    return _item("choice", tools, request, [_call(f"find_{thing}_by_{key}", **{key: value})])


@TEMPLATES.template("seen")
def status_of_several(draw: Draw) -> Item:
    """Ask for the same tool for two or three cities."""
    thing, cities = draw.open(THINGS), draw.opens(CITIES, draw.closed((2, 3)))
    name = f"get_{thing}_status"
    spoken = f"{', '.join(cities[:-1])} and {cities[-1]}"
    request = draw.closed(
        (
            f"What is the {thing} status in {spoken}?",
            f"Check {spoken} for the {thing} status.",
            f"I want to know the {thing} status of {spoken}.",
        )
    )
    return _item(
        "parallel",
        [_tool(name, f"Status of the {thing} in one city", city=STRING)],
        request,
        [_call(name, city=city) for city in cities],
    )


@TEMPLATES.template("seen")
def move_twice(draw: Draw) -> Item:
    """Ask for the same tool twice, each time with its own two values."""
    thing, cities = draw.open(PRODUCTS), draw.opens(CITIES, 2)
    counts = [draw.integer(2, 60), draw.integer(2, 60)]
    name = f"move_{thing}"
    request = draw.closed(
        (
            f"Move {counts[0]} of the {thing} to {cities[0]} and {counts[1]} to {cities[1]}.",
            f"{cities[0]} gets {counts[0]} of the {thing}, {cities[1]} gets {counts[1]}.",
            f"Of the {thing}, {counts[0]} go to {cities[0]} and {counts[1]} go to {cities[1]}.",
        )
    )
    return _item(
        "parallel",
        [_tool(name, f"Move the {thing} to a city", city=STRING, count=INTEGER)],
        request,
        [_call(name, city=city, count=count) for city, count in zip(cities, counts, strict=True)],
    )


@TEMPLATES.template("seen")
def two_deeds(draw: Draw) -> Item:
    """Ask for two of the tools, once each."""
    (first, second, *others), person, city = (
        draw.opens(THINGS, draw.closed((2, 3))),
        draw.person(),
        draw.open(CITIES),
    )
    request = draw.closed(
        (
            f"Call the {first} for {person} and open the {second} in {city}.",
            f"Open the {second} in {city}, and call the {first} for {person}.",
            f"{person} needs a call to the {first}. Also open the {second} in {city}.",
        )
    )
    tools = [
        _tool(f"call_{first}", f"Call the {first}", person=STRING),
        _tool(f"open_{second}", f"Open the {second}", city=STRING),
        *(_tool(f"close_{one}", f"Close the {one}", city=STRING) for one in others),
    ]
    calls = [_call(f"call_{first}", person=person), _call(f"open_{second}", city=city)]
    return _item("parallel", draw.shuffled(tools), request, calls)


@TEMPLATES.template("seen")
def limited_list(draw: Draw) -> Item:
    """Ask for a list, with a limit that the request may give."""
    thing, city, limit = draw.open(THINGS), draw.open(CITIES), draw.integer(2, 60)
    name = f"list_{thing}_offers"
    given = {"limit": limit} if draw.chance(0.5) else {}
    request = draw.closed(
        (
            f"List the {thing} offers in {city}",
            f"Which {thing} offers are there in {city}",
            f"Show me {thing} offers of {city}",
        )
    )
    request += f", at most {limit}." if given else "."
    return _item(
        "optional",
        [_tool(name, f"List offers of the {thing}", ["limit"], city=STRING, limit=INTEGER)],
        request,
        [_call(name, city=city, **given)],
    )


@TEMPLATES.template("seen")
def unit_of_distance(draw: Draw) -> Item:
    """Ask for a distance, in a unit that the request may give."""
    thing, (start, end) = draw.open(THINGS), draw.opens(CITIES, 2)
    name = f"get_{thing}_distance"
    unit = draw.closed(("km", "miles", None))
    request = draw.closed(
        (
            f"What is the {thing} distance between {start} and {end}",
            f"Tell me the {thing} distance from {start} to {end}",
            f"From {start} to {end}, what is the {thing} distance",
        )
    )
    request += f" in {unit}?" if unit else "?"
    units = {"type": "string", "enum": ["km", "miles"]}
    return _item(
        "optional",
        [_tool(name, "Distance of cities", ["unit"], start=STRING, end=STRING, unit=units)],
        request,
        [_call(name, start=start, end=end, **({"unit": unit} if unit else {}))],
    )


@TEMPLATES.template("seen")
def with_note(draw: Draw) -> Item:
    """Ask for something to be closed, with a note that the request may give."""
    thing, code, note = draw.open(THINGS), draw.code("AA000"), draw.open(COLORS)
    name = f"close_{thing}"
    given = {"note": f"{note} {draw.open(PRODUCTS)}"} if draw.chance(0.5) else {}
    request = draw.closed(
        (
            f"Close {thing} {code}",
            f"The {thing} {code} can be closed",
            f"Please close {thing} {code}",
        )
    )
    request += f' and note "{given["note"]}".' if given else "."
    return _item(
        "optional",
        [_tool(name, f"Close a {thing}", ["note"], code=STRING, note=STRING)],
        request,
        [_call(name, code=code, **given)],
    )


@TEMPLATES.template("seen")
def other_thing(draw: Draw) -> Item:
    """Offer one tool, which is about something else."""
    (thing, other), city = draw.opens(THINGS, 2), draw.open(CITIES)
    request = draw.closed(
        (
            f"Reserve the {thing} in {city}.",
            f"I would like to reserve the {thing} in {city}.",
            f"In {city}, please reserve the {thing}.",
        )
    )
    return _item(
        "none", [_tool(f"reserve_{other}", f"Reserve the {other}", city=STRING)], request, []
    )


@TEMPLATES.template("seen")
def none_of_several(draw: Draw) -> Item:
    """Offer several tools, all about something else."""
    thing, *others = draw.opens(THINGS, draw.closed((3, 4)))
    person, deed = draw.person(), draw.closed(("check", "start", "stop"))
    request = draw.closed(
        (
            f"{deed.capitalize()} the {thing} for {person}.",
            f"{person} asks you to {deed} the {thing}.",
            f"Please {deed} the {thing}; {person} wants it.",
        )
    )
    tools = [
        _tool(f"{deed}_{one}", f"{deed.capitalize()} the {one}", person=STRING) for one in others
    ]
    return _item("none", tools, request, [])


@TEMPLATES.template("seen")
def small_talk(draw: Draw) -> Item:
    """Ask for nothing."""
    thing, person = draw.open(THINGS), draw.person()
    request = draw.closed(
        (
            f"Thank you, {person} says that all is well.",
            f"Good morning, this is {person}.",
            f"That is all for today. Greetings from {person}.",
        )
    )
    tool = _tool(f"cancel_{thing}", f"Cancel the {thing}", person=STRING, time=STRING)
    return _item("none", [tool], request, [])


@TEMPLATES.template("seen")
def which_seats(draw: Draw) -> Item:
    """Ask for two numbers, told apart by what they count, of tools about different things."""
    (thing, other), city, seats = draw.opens(THINGS, 2), draw.open(CITIES), draw.integer(2, 60)
    price = draw.integer(100, 900)
    request = draw.closed(
        (
            f"Get {seats} seats on the {thing} in {city}, for no more than {price}.",
            f"In {city}, find {seats} seats on the {thing} below {price}.",
            f"Spend up to {price} on {seats} seats on the {thing} of {city}.",
        )
    )
    tools = [
        _tool(f"seat_{one}", f"Seats on the {one}", city=STRING, seats=INTEGER, price=INTEGER)
        for one in draw.shuffled([thing, other])
    ]
    calls = [_call(f"seat_{thing}", city=city, seats=seats, price=price)]
    return _item("choice", tools, request, calls)


@TEMPLATES.template("reserved")
def transfer(draw: Draw) -> Item:
    """Ask for two values of one kind, told apart by their roles."""
    thing, amount = draw.open(THINGS), draw.integer(20, 900)
    giver, taker = draw.person(), draw.person()
    name = f"transfer_{thing}_points"
    request = draw.closed(
        (
            f"Transfer {amount} {thing} points from {giver} to {taker}.",
            f"{taker} shall get {amount} {thing} points from {giver}.",
        )
    )
    tool = _tool(
        name, f"Transfer points of the {thing}", giver=STRING, taker=STRING, amount=INTEGER
    )
    return _item("simple", [tool], request, [_call(name, giver=giver, taker=taker, amount=amount)])


@TEMPLATES.template("reserved")
def shipping_address(draw: Draw) -> Item:
    """Ask for an object of three values beside another argument."""
    thing, person = draw.open(PRODUCTS), draw.person()
    address = {
        "street": f"{draw.open(COLORS).capitalize()} Street",
        "number": draw.integer(2, 90),
        "city": draw.open(CITIES),
    }
    name = f"ship_{thing}"
    where = f"{address['street']} {address['number']} in {address['city']}"
    request = draw.closed(
        (
            f"Ship the {thing} to {person}, {where}.",
            f"{person} lives at {where}. Ship the {thing} there.",
        )
    )
    spec = {"type": "object", "properties": {"street": STRING, "number": INTEGER, "city": STRING}}
    tool = _tool(name, f"Ship the {thing}", person=STRING, address=spec)
    return _item("simple", [tool], request, [_call(name, person=person, address=address)])


@TEMPLATES.template("reserved")
def average_of_readings(draw: Draw) -> Item:
    """Ask for a list of numbers."""
    thing, values = draw.open(THINGS), [draw.decimal(1, 90, 1) for _ in range(3)]
    name = f"average_{thing}_readings"
    spoken = f"{values[0]}, {values[1]} and {values[2]}"
    request = draw.closed(
        (
            f"What is the average of the {thing} readings {spoken}?",
            f"The {thing} readings are {spoken}. Average them.",
        )
    )
    tool = _tool(name, f"Average readings of the {thing}", readings=_array("number"))
    return _item("simple", [tool], request, [_call(name, readings=values)])


@TEMPLATES.template("reserved")
def which_period(draw: Draw) -> Item:
    """Offer four tools that differ in the period alone."""
    thing, city = draw.open(THINGS), draw.open(CITIES)
    periods = draw.shuffled(("daily", "weekly", "monthly", "yearly"))
    period = draw.closed(periods)
    request = draw.closed(
        (
            f"Send me the {period} {thing} report for {city}.",
            f"I would like to read a {thing} report for {city}, the {period} one.",
        )
    )
    tools = [_tool(f"{one}_{thing}_report", f"The {one} report", city=STRING) for one in periods]
    return _item("choice", tools, request, [_call(f"{period}_{thing}_report", city=city)])


@TEMPLATES.template("reserved")
def three_calls_at_once(draw: Draw) -> Item:
    """Ask for two calls of one tool and one of another."""
    (thing, other), code = draw.opens(THINGS, 2), draw.code("AA-0000")
    persons = [draw.person(), draw.person()]
    request = draw.closed(
        (
            f"Invite {persons[0]} and {persons[1]} to the {thing}, and inspect {other} {code}.",
            f"Inspect {other} {code}. Then invite {persons[0]} and {persons[1]} to the {thing}.",
        )
    )
    tools = [
        _tool(f"invite_to_{thing}", f"Invite a person to the {thing}", person=STRING),
        _tool(f"inspect_{other}", f"Inspect a {other}", code=STRING),
    ]
    calls = [_call(f"invite_to_{thing}", person=person) for person in persons]
    calls.append(_call(f"inspect_{other}", code=code))
    return _item("parallel", draw.shuffled(tools), request, calls)


@TEMPLATES.template("reserved")
def booked_nights(draw: Draw) -> Item:
    """Offer three optional arguments, of which one is given; one has a default."""
    thing, city, guests = draw.open(THINGS), draw.open(CITIES), draw.integer(2, 60)
    name = f"search_{thing}_rooms"
    given: dict[str, Any] = draw.closed(({"guests": guests}, {"quiet": True}, {"order": "price"}))
    wish = {
        "guests": f"for {guests} guests",
        "quiet": "that are quiet",
        "order": "in order of price",
    }[next(iter(given))]
    request = draw.closed(
        (f"Search {thing} rooms in {city} {wish}.", f"In {city}, look for {thing} rooms {wish}.")
    )
    tool = _tool(
        name,
        f"Search rooms of the {thing}",
        ["guests", "quiet", "order"],
        city=STRING,
        guests=INTEGER,
        quiet=BOOLEAN,
        order={"type": "string", "enum": ["price", "rating"], "default": "rating"},
    )
    return _item("optional", [tool], request, [_call(name, city=city, **given)])


@TEMPLATES.template("reserved")
def other_deed(draw: Draw) -> Item:
    """Offer tools that are about the right thing, and do something else with it."""
    thing, person = draw.open(PRODUCTS), draw.person()
    wanted, *offered = draw.closeds(("borrow", "polish", "insure", "photograph"), 3)
    request = draw.closed(
        (f"{person} wants to {wanted} the {thing}.", f"Please {wanted} the {thing} for {person}.")
    )
    tools = [
        _tool(f"{one}_{thing}", f"{one.capitalize()} the {thing}", person=STRING) for one in offered
    ]
    return _item("none", tools, request, [])


@TEMPLATES.template("reserved")
def two_switches(draw: Draw) -> Item:
    """Ask for two calls of one tool that differ in a thing said only once, on or off."""
    thing, rooms = draw.open(PRODUCTS), [draw.code("A-000"), draw.code("A-000")]
    name = f"lock_{thing}"
    locked = draw.chance(0.5)
    first, second = ("Lock", "unlock") if locked else ("Unlock", "lock")
    request = draw.closed(
        (
            f"{first} the {thing} in room {rooms[0]} and {second} the one in room {rooms[1]}.",
            f"{first} room {rooms[0]}'s {thing}, then {second} room {rooms[1]}'s.",
        )
    )
    tool = _tool(name, f"Lock or unlock the {thing}", room=STRING, locked=BOOLEAN)
    calls = [
        _call(name, room=rooms[0], locked=locked),
        _call(name, room=rooms[1], locked=not locked),
    ]
    return _item("parallel", [tool], request, calls)


def prompt(tools: Sequence[Mapping[str, Any]], request: str, *, context: str = "") -> str:
    """Write the prompt of an item: instruction, tools as JSON, one a line, and the request.

    ``context`` is a section of its own, where a conversation begins with what the system says.
    """
    lines = "\n".join(json.dumps(tool, separators=(",", ":"), ensure_ascii=False) for tool in tools)
    before = f"### Context\n{context}\n" if context else ""
    return (
        f"### Task\n{INSTRUCTION}\n### Tools\n{lines}\n{before}### Request\n{request}\n### Answer\n"
    )


def as_python(calls: Sequence[Mapping[str, Any]]) -> str:
    """Write calls (``name`` and ``arguments``) as the prompt asks for them."""
    written = (
        f"{call['name']}("
        + ", ".join(f"{name}={_literal(value)}" for name, value in call["arguments"].items())
        + ")"
        for call in calls
    )
    return f"[{', '.join(written)}]"


STRING = {"type": "string"}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
BOOLEAN = {"type": "boolean"}


def _array(of: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": of}}


def _tool(
    name: str, description: str, optional: Sequence[str] = (), /, **parameters: dict[str, Any]
) -> dict[str, Any]:
    required = [parameter for parameter in parameters if parameter not in optional]
    return {
        "name": name,
        "description": description,
        "parameters": parameters,
        "required": required,
    }


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def _item(
    category: Category,
    tools: Sequence[dict[str, Any]],
    request: str,
    calls: Sequence[dict[str, Any]],
) -> Item:
    return {
        "category": category,
        "tools_json": json.dumps(tools),
        "calls_json": json.dumps(calls),
        "prompt": prompt([_shown(tool) for tool in tools], request),
        "target": as_python(calls),
    }


def _shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Show the tool with each parameter's spec in short, to spare tokens."""
    parameters = {name: _short(spec) for name, spec in tool["parameters"].items()}
    return {**tool, "parameters": parameters}


def _short(spec: Mapping[str, Any]) -> Any:
    """Shorten to ``"integer"``, ``["number"]`` for a list, the parts of an object; else keep it."""
    match spec:
        case {"items": items}:
            return [_short(items)]
        case {"properties": properties}:
            return {name: _short(part) for name, part in properties.items()}
        case {"type": kind, **others} if not others:
            return kind
        case {"type": _, **others}:
            return others


def _literal(value: Any) -> str:
    """Write a value as Python does, with texts in double quotes as in JSON."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(_literal(one) for one in value)}]"
        case dict():
            parts = (f"{_literal(key)}: {_literal(one)}" for key, one in value.items())
            return f"{{{', '.join(parts)}}}"
        case _:
            return repr(value)
