"""Seeded templates draw the items of the embedded task sets, split from training by value.

A template is a function that draws one item. Templates are *seen* (training may draw from them) or
*reserved* (only evaluation does). Everything open that an item holds (names, places, products,
numbers, codes) is drawn through `Draw`, which keeps two disjoint stocks: one for training, one for
evaluation. So an evaluation item never repeats a value of a training item, whatever its template.
Closed vocabulary (true, false, null, the options of an enumeration, units, weekdays) belongs to its
template and is shared.

The files of templates (``suites/*/items.py``) are long because there are many: each template is
read by itself, beside the others of its set.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Split = Literal["train", "evaluation"]
Part = Literal["seen", "reserved"]
Item = dict[str, Any]
"""JSON values only, flat: what nests is kept as a JSON string in a field named ``*_json``, because
a table of items has one type per column. Every item has ``id``, ``template``, ``part``, ``source``
(items that share one are not independent), ``prompt`` and ``target``."""

T = TypeVar("T")


def belongs(value: str, split: Split) -> bool:
    """Say whether an open value is of this split's stock: a third is kept for evaluation."""
    kept = hashlib.sha256(value.lower().encode()).digest()[0] % 3 == 0
    return kept == (split == "evaluation")


class Draw:
    """A `Draw` draws everything random in one item, from one split's stock."""

    def __init__(self, split: Split, seed: str) -> None:
        """Take any text as a ``seed``; the same one draws the same item on every machine."""
        self.split: Split = split
        self.rng = random.Random(f"{split}:{seed}")

    def open(self, stock: Sequence[str]) -> str:
        """Draw an open value: one of ``stock`` that belongs to this split."""
        return self.rng.choice([value for value in stock if belongs(value, self.split)])

    def opens(self, stock: Sequence[str], count: int) -> list[str]:
        """Draw ``count`` different open values."""
        return self.rng.sample([value for value in stock if belongs(value, self.split)], count)

    def closed(self, options: Sequence[T]) -> T:
        """Draw a value of closed vocabulary, shared by both splits."""
        return self.rng.choice(options)

    def closeds(self, options: Sequence[T], count: int) -> list[T]:
        """Draw ``count`` different values of closed vocabulary."""
        return self.rng.sample(options, count)

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number of this split from ``low`` to ``high``, ends included.

        Raises:
            ValueError: the range is too short to hold numbers of both splits.
        """
        if high - low < 8:
            raise ValueError(f"{low} to {high} is too short; use closed() for so few numbers")
        while True:
            value = self.rng.randint(low, high)
            if belongs(str(value), self.split):
                return value

    def decimal(self, low: int, high: int, digits: int = 2) -> float:
        """Draw a number with exactly ``digits`` decimals (the last not 0), of this split."""
        while True:
            whole = self.rng.randint(low * 10**digits, high * 10**digits)
            text = f"{whole / 10**digits:.{digits}f}"
            if not text.endswith("0") and belongs(text, self.split):
                return float(text)

    def code(self, pattern: str) -> str:
        """Draw a code such as ``AB-1234``: in ``pattern`` A stands for a letter, 0 for a digit."""
        while True:
            text = "".join(
                self.rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
                if char == "A"
                else self.rng.choice("0123456789")
                if char == "0"
                else char
                for char in pattern
            )
            if belongs(text, self.split):
                return text

    def chance(self, probability: float) -> bool:
        """Draw true with that probability."""
        return self.rng.random() < probability

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """Put the same values in random order."""
        return self.rng.sample(values, len(values))

    def person(self) -> str:
        """Draw a full name such as ``Ilse Okafor``."""
        return f"{self.open(FIRST_NAMES)} {self.open(LAST_NAMES)}"


@dataclass(frozen=True, kw_only=True)
class Template:
    """A `Template` is one way to draw an item."""

    name: str
    part: Part
    draw: Callable[[Draw], Item]
    """Returns the item's own fields, ``prompt`` and ``target`` among them."""


class Templates:
    """A `Templates` holds the templates of one suite, filled by the decorator `template`."""

    def __init__(self, suite: str) -> None:
        """Begin every item's id with ``suite``."""
        self.suite = suite
        self.all: list[Template] = []

    def template(self, part: Part) -> Callable[[Callable[[Draw], Item]], Callable[[Draw], Item]]:
        """Register a function under its own name."""

        def add(draw: Callable[[Draw], Item]) -> Callable[[Draw], Item]:
            self.all.append(Template(name=draw.__name__, part=part, draw=draw))
            return draw

        return add

    def of(self, part: Part) -> list[Template]:
        """Give the templates of one part."""
        return [template for template in self.all if template.part == part]

    def items(self, *, split: Split, part: Part, count: int, seed: int = 0) -> list[Item]:
        """Draw ``count`` items, templates in turn; the first n of a longer list are the same.

        Raises:
            ValueError: training items of reserved templates.
        """
        return list(self.stream(split=split, part=part, count=count, seed=seed))

    def stream(self, *, split: Split, part: Part, count: int, seed: int = 0) -> Iterator[Item]:
        """Draw items one at a time: training draws millions."""
        if split == "train" and part == "reserved":
            raise ValueError("reserved templates are for evaluation only")
        templates = self.of(part)
        for number in range(count):
            template = templates[number % len(templates)]
            name = f"{self.suite}/{template.name}/{number // len(templates)}"
            item = template.draw(Draw(split, f"{seed}:{name}"))
            yield {"id": name, "template": template.name, "part": part, "source": name} | item


def fingerprint(items: Sequence[Item]) -> str:
    """Hash the items: the sha256 names the embedded set in records."""
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()


def words(text: str) -> tuple[str, ...]:
    """Split a stock of open values, written with spaces between them."""
    return tuple(text.split())


FIRST_NAMES = words(
    "Ada Aiko Alma Amara Amir Anders Anika Anton Aria Arjun Astrid Bao Beatriz Benno Bianca Bruno "
    "Callum Carmen Cecilia Chidi Clara Cosima Dara Darius Davor Delia Dmitri Dora Edda Edwin Eero "
    "Elif Emeka Enzo Esther Farah Felix Fiona Florin Freya Gita Goran Greta Gustav Hana Harun "
    "Hedda Hugo Ida Idris Ilse Imani Ines Ingrid Iris Ivo Jana Jasper Joana Jonas Judit Kaia Kamal "
    "Karim Katya Kenji Kira Lars Laszlo Leila Lena Leon Lidia Linus Livia Lucas Magda Malik Mara "
    "Marcus Marta Mateo Mei Milan Mina Mirko Nadia Nara Naveen Nils Nina Noor Nuno Olaf Olga Omar "
    "Oskar Otto Paola Pavel Petra Pia Priya Quinn Rafael Ravi Rhea Roman Rosa Ruben Sami Sanna "
    "Selma Sergio Silas Sofia Soren Stella Sven Talia Tariq Tessa Theo Tilda Tomas Ulla Uma Uri "
    "Vera Viktor Wanda Wei Willa Xenia Yara Yusuf Zane Zara Zeno Zoe"
)
LAST_NAMES = words(
    "Abbott Achterberg Adeyemi Aldana Almeida Amato Andrade Arslan Bakker Banerjee Barros Becker "
    "Bell Bianchi Boateng Borg Bowen Brandt Bruun Calloway Campos Castel Chandra Chen Cho Costa "
    "Crane Dahl Darrow Demir Diallo Dorn Drummond Eklund Engel Eriksen Esposito Falk Farrow "
    "Ferreira Fischer Fontaine Frost Gallo Garrido Ghosh Gomes Grant Gruber Haas Haddad Halloran "
    "Hansen Hartley Hoang Holm Horvat Ibarra Ibrahim Iyer Jansen Jarvis Joshi Juhl Kaplan Kask "
    "Keller Khan Kimura Klein Kovac Kumar Lang Larsen Laurent Leclerc Lindholm Lopes Lowell Lund "
    "Madsen Maier Malone Marchetti Mbeki Meyer Moreau Moritz Nakamura Navarro Neumann Novak "
    "Nwosu Okafor Olsen Ortega Osei Pace Park Patel Pereira Petrov Pham Pollard Quist Rahman "
    "Ramos Rao Reyes Ricci Rossi Roth Rowe Sakai Salonen Santos Sato Schmid Serrano Sharma Silva "
    "Singh Sorensen Steiner Sutter Tanaka Thorne Tran Turner Ueda Vance Varga Vega Vidal Vogel "
    "Wagner Walsh Weber Weiss Wolff Yamada Yilmaz Young Zhang Ziegler Zimmer"
)
CITIES = words(
    "Aarhus Accra Adelaide Almaty Amman Antwerp Arequipa Athens Auckland Baku Bamako Bangkok Basel "
    "Beirut Belgrade Bergen Bilbao Bogota Bologna Bordeaux Bremen Brno Bruges Bucharest Cairo "
    "Calgary Cardiff Cartagena Chennai Cologne Cordoba Cork Dakar Davao Denver Dhaka Dresden "
    "Dublin Durban Ghent Geneva Genoa Glasgow Gothenburg Graz Hamburg Hanoi Harare Havana Helsinki "
    "Hobart Innsbruck Izmir Jaipur Kampala Kigali Kobe Krakow Kyoto Lagos Lahore Leeds Leipzig "
    "Lima Limerick Linz Lisbon Ljubljana Lusaka Lyon Madrid Malaga Malmo Manila Maputo Marseille "
    "Melbourne Merida Milan Minsk Montreal Munich Nagoya Nairobi Nantes Naples Odense Oslo Ottawa "
    "Oulu Padua Palermo Perth Porto Prague Pune Quito Rabat Recife Riga Rotterdam Salzburg Sapporo "
    "Seville Sofia Split Stavanger Stockholm Sydney Tallinn Tampere Tbilisi Tirana Toledo Toronto "
    "Trieste Trondheim Tunis Turin Utrecht Valencia Verona Vienna Vilnius Warsaw Wellington Zagreb "
    "Zurich"
)
PRODUCTS = words(
    "anvil apron armchair backpack banjo barometer basket bench bicycle binoculars blanket blender "
    "bookcase bracelet broom bucket cabinet camera candle canoe carpet cello chair chisel clarinet "
    "clock coat compass cradle crate cupboard curtain cushion desk dictionary drill drum dryer "
    "easel fan ferry flask flute folder fork frame freezer funnel glove goggles grater guitar "
    "hammer hammock harness harp heater helmet hinge hose jacket jar kayak kettle keyboard ladder "
    "ladle lamp lantern lens lever locker loom magnet mallet mattress microscope mirror mixer "
    "modem monitor mop mug napkin needle notebook oboe oven paddle pan parasol pencil pillow "
    "pitcher plate pliers printer projector pulley pump quilt rack radio rake razor rope rug ruler "
    "saddle saw scale scanner scarf scissors scooter screen shelf shovel sieve skillet sled sofa "
    "spade speaker stapler stool stove suitcase tablet tent thermos toaster towel tractor tray "
    "tripod trowel trumpet umbrella vase vest violin wagon wallet wardrobe whistle wrench"
)
COLORS = words(
    "amber aqua azure beige black blue bronze brown coral cream crimson cyan emerald gold gray "
    "green indigo ivory jade khaki lavender lilac lime magenta maroon mint navy ochre olive orange "
    "peach pink plum purple red rose ruby rust salmon scarlet silver tan teal turquoise violet "
    "white yellow"
)
