"""Our judging of BFCL's data beside that of BFCL's own checker, answer by answer."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from suites.items import Item
from suites.tool_calls import bfcl
from suites.tool_calls.items import as_python

PACKAGE = importlib.util.find_spec("bfcl_eval")
if PACKAGE is None or not PACKAGE.submodule_search_locations:
    pytest.skip(
        "needs BFCL's data and checker: pip install --no-deps bfcl-eval", allow_module_level=True
    )
FOLDER = Path(PACKAGE.submodule_search_locations[0]) / "data"
WITH_GOLD = [name for name in bfcl.CATEGORIES if "relevance" not in name]

Call = dict[str, Any]
Damage = Callable[[random.Random, Any, list[Any]], Iterator[Any]]


@pytest.fixture(scope="module")
def their_checker() -> Iterator[Callable[[Item, list[Call]], bool]]:
    """Whether BFCL's checker takes calls as right.

    The checker's module imports the table of all models with their clients, to look up whether a
    model writes dots in names as underscores. That table alone is replaced, by one model that does
    not; all that judges is theirs. A crash of theirs counts as a refusal.
    """
    table = ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = {  # type: ignore[attr-defined]
        "model": SimpleNamespace(underscore_to_dot=False)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, table.__name__, table)
        checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
        python = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON

        def check(item: Item, calls: list[Call]) -> bool:
            given = [{call["name"]: copy.deepcopy(call["arguments"])} for call in calls]
            functions, gold = json.loads(item["tools_json"]), json.loads(item["gold_json"])
            try:
                found = checker.ast_checker(
                    functions, given, gold, python, bfcl.CATEGORIES[item["category"]], "model"
                )
            except (AttributeError, TypeError, KeyError):
                return False
            return bool(found["valid"])

        yield check
        sys.modules.pop(checker.__name__)


def loaded(category: str) -> list[Item]:
    return bfcl.load(category, FOLDER)


@pytest.mark.parametrize(
    ("category", "count"),
    {
        "simple": 400,
        "multiple": 200,
        "parallel": 200,
        "parallel_multiple": 200,
        "irrelevance": 240,
        "live_simple": 258,
        "live_multiple": 1053,
        "live_parallel": 16,
        "live_parallel_multiple": 24,
        "live_irrelevance": 884,
        "live_relevance": 16,
    }.items(),
)
def test_every_category_loads_whole(category: str, count: int) -> None:
    items = loaded(category)
    assert len(items) == len({item["id"] for item in items})
    assert len(items) == count
    for item in items:
        assert item["prompt"].endswith("### Answer\n")


# What is done to one argument: its value in the answer and its allowed values in the gold.


def _as_other_types(_: random.Random, value: Any, __: list[Any]) -> Iterator[Any]:
    yield from (one for one in (None, 7, 7.0, True, "7", [7], {"a": 7}, [], {}, "", "-", [True]))
    yield str(value)
    yield [value]
    yield (value,)
    if isinstance(value, int | float):
        yield float(value)
        yield bool(value)
        yield int(value)
    if isinstance(value, list):
        yield tuple(value)


def _as_other_values(rng: random.Random, value: Any, _: list[Any]) -> Iterator[Any]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield value + 1
            yield -value
        case str():
            yield value + "x"
            yield value[1:]
            yield f"{value} {value}"
            yield "-" + value
            yield rng.choice("Zqx") + value
        case list() if value:
            yield value[1:]
            yield [*value, value[0]]
            yield value[::-1]
            for other in _as_other_values(rng, value[0], []):
                yield [other, *value[1:]]
        case dict() if value:
            key = rng.choice(sorted(value))
            yield {name: one for name, one in value.items() if name != key}
            yield {**value, "surely_not_a_key": 1}
            for other in _as_other_values(rng, value[key], []):
                yield {**value, key: other}
        case _:
            yield 1


def _as_other_elements(rng: random.Random, value: Any, _: list[Any]) -> Iterator[Any]:
    """Elements turned into equal ones, or nearly so, of another type."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        for other in _equal_values(value[key]):
            yield {**value, key: other}
    elif isinstance(value, list) and value:
        for other in _equal_values(value[0]):
            yield [other, *value[1:]]
        yield [True if one == 1 else False if one == 0 else one for one in value]
        yield [float(one) if type(one) is int else one for one in value]
        yield [int(one) if type(one) is float else one for one in value]


def _equal_values(value: Any) -> Iterator[Any]:
    if isinstance(value, int | float):
        yield from (bool(value), float(value), int(value), str(value))
    else:
        yield from (True, 1, 1.5, None, [value], str(value))


def _with_other_marks(_: random.Random, value: Any, __: list[Any]) -> Iterator[Any]:
    """What a person would write as well: other case, spaces and marks."""

    def changed(one: Any) -> Iterator[Any]:
        if isinstance(one, str):
            yield from (one.upper(), one.lower(), f" {one}.", one.replace(" ", "_"))
            yield from (one.replace(".", ""), one.replace("-", "/"), one.replace("'", '"'))

    yield from changed(value)
    if isinstance(value, list) and value:
        yield from ([other, *value[1:]] for other in changed(value[0]))
    if isinstance(value, dict):
        for key, one in value.items():
            yield from ({**value, key: other} for other in changed(one))


def _allowed(_: random.Random, __: Any, allowed: list[Any]) -> Iterator[Any]:
    yield from allowed


ARGUMENT_DAMAGES: tuple[Damage, ...] = (
    _as_other_types,
    _as_other_values,
    _as_other_elements,
    _with_other_marks,
    _allowed,
)


def call_damages(item: Item, calls: list[Call], rng: random.Random) -> Iterator[list[Call]]:
    """The calls with one thing changed that is no argument's value."""
    names = [function["name"] for function in json.loads(item["tools_json"])]
    yield []
    yield calls[:-1]
    yield calls[1:]
    yield [*calls, calls[-1]]
    yield calls[::-1]
    yield rng.sample(calls, len(calls))
    yield [calls[0]] * len(calls)
    for name in [*names, "surely_no_tool"]:
        yield [*calls[:-1], {**calls[-1], "name": name}]
        yield [*calls, {"name": name, "arguments": {}}]
    for at, call in enumerate(calls):
        arguments = call["arguments"]
        for name in arguments:
            fewer = {key: one for key, one in arguments.items() if key != name}
            yield [*calls[:at], {**call, "arguments": fewer}, *calls[at + 1 :]]
            misnamed = {**fewer, f"{name}_": arguments[name]}
            yield [*calls[:at], {**call, "arguments": misnamed}, *calls[at + 1 :]]
        more = {**arguments, "surely_no_argument": 1}
        yield [*calls[:at], {**call, "arguments": more}, *calls[at + 1 :]]


def argument_damages(item: Item, calls: list[Call], rng: random.Random) -> Iterator[list[Call]]:
    """The calls with one argument's value changed, for every argument that the gold names."""
    gold = json.loads(item["gold_json"])
    for at, call in enumerate(calls):
        for name, allowed in gold[at][call["name"]].items():
            options = [one for one in allowed if one != ""]
            if not options:
                continue
            value = call["arguments"].get(
                name, bfcl.example_calls([{"": {name: options}}])[0]["arguments"][name]
            )
            for damage in ARGUMENT_DAMAGES:
                for other in damage(rng, value, allowed):
                    changed = {**call, "arguments": {**call["arguments"], name: other}}
                    yield [*calls[:at], changed, *calls[at + 1 :]]


def other_right_calls(gold: list[dict[str, Any]], rng: random.Random) -> list[Call]:
    """Calls in another order, each argument at any of its allowed values or left out if it may."""
    picked = [
        {name: {key: [rng.choice(allowed)] for key, allowed in arguments.items() if allowed}}
        for call in gold
        for name, arguments in call.items()
    ]
    return bfcl.example_calls(rng.sample(picked, len(picked)))


def kind_of_difference(calls: list[Call], gold: list[dict[str, Any]]) -> set[str]:
    """Which of the listed kinds could explain that BFCL takes these calls and we do not."""
    kinds = set()
    for call in calls:
        for wanted in gold:
            for name, value in call["arguments"].items():
                for allowed in wanted.get(call["name"], {}).get(name, []):
                    kinds |= _kinds(value, allowed, optional="" in wanted[call["name"]][name])
    return kinds


def _kinds(value: Any, gold: Any, *, optional: bool = False) -> set[str]:
    marks = str.maketrans("", "", " ,./-_*^")
    match value, gold:
        case str(), str() if value != gold and not value.translate(marks):
            return {"marks_only"} if optional or not gold.translate(marks) else set()
        case str(), str() if value != gold and value.translate(marks) == gold.translate(marks):
            try:
                return {"number_in_text"} if float(value) != float(gold) else set()
            except ValueError:
                return set()
        case (bool(), int() | float()) | (int() | float(), bool()) if value == gold:
            return {"bool_for_number"} if type(value) is not type(gold) else set()
        case list(), list() if len(value) == len(gold):
            kinds = {kind for pair in zip(value, gold, strict=True) for kind in _kinds(*pair)}
            pairs = zip(value, gold, strict=True)
            if value == gold and any(type(one) is not type(other) for one, other in pairs):
                kinds.add("element_type")
            return kinds
        case dict(), dict():
            return {
                kind
                for key, one in value.items()
                for other in gold.get(key, [])
                for kind in _kinds(one, other, optional="" in gold[key])
            }
    return set()


def compared(
    items: list[Item], their_checker: Callable[[Item, list[Call]], bool]
) -> tuple[Counter[str], list[str]]:
    """Counts of answers, agreements and differences by kind; and what no kind explains."""
    counts: Counter[str] = Counter()
    unexplained = []
    for item in items:
        rng = random.Random(item["id"])
        gold = json.loads(item["gold_json"])
        calls = bfcl.example_calls(gold)
        answers = [
            calls,
            *(other_right_calls(gold, rng) for _ in range(8)),
            *call_damages(item, calls, rng),
            *argument_damages(item, calls, rng),
        ]
        for answer in answers:
            theirs = their_checker(item, answer)
            ours = bfcl.judge_item(item, as_python(answer)).outcome == "right"
            counts["answers"] += 1
            counts["right for both"] += ours and theirs
            if ours == theirs:
                continue
            counts["differences"] += 1
            if ours:
                if any(their_checker(item, list(order)) for order in permutations(answer)):
                    counts["theirs takes another order"] += 1
                else:
                    unexplained.append(f"{item['id']}: lenient: {as_python(answer)} for {gold}")
                continue
            kinds = kind_of_difference(answer, gold)
            counts.update(kinds)
            if not kinds:
                unexplained.append(f"{item['id']}: strict: {as_python(answer)} for {gold}")
    return counts, unexplained


@pytest.mark.parametrize("category", WITH_GOLD)
def test_answers_are_judged_as_by_bfcl_or_stricter_for_a_listed_reason(
    category: str, their_checker: Callable[[Item, list[Call]], bool]
) -> None:
    items = loaded(category)
    counts, unexplained = compared(items[:: max(len(items) // 12, 1)], their_checker)
    assert unexplained == []
    assert counts["answers"] > 1_000
    assert counts["right for both"] > 200


REFUSED_GOLD = {
    "parallel_multiple_12",
    "parallel_multiple_26",
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_507-149-4",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
}
"""Items whose gold, at its first values, BFCL's checker refuses itself."""


def test_first_values_of_the_gold_are_right_for_both(
    their_checker: Callable[[Item, list[Call]], bool],
) -> None:
    ours, theirs, count = set(), set(), 0
    for category in WITH_GOLD:
        for item in loaded(category):
            count += 1
            if bfcl.judge_item(item, item["target"]).outcome != "right":
                ours.add(item["id"])
            if not their_checker(item, bfcl.example_calls(json.loads(item["gold_json"]))):
                theirs.add(item["id"])
    assert ours == theirs == REFUSED_GOLD
    assert count == 2_351


def test_declining_and_calling_at_all() -> None:
    for category in ("irrelevance", "live_irrelevance"):
        for item in loaded(category):
            names = [function["name"] for function in json.loads(item["tools_json"])]
            assert _outcome(item, "[]") == "right"
            assert _outcome(item, "None of the tools can do that.") == "right"
            assert _outcome(item, "") == "unparsable"
            for name in names:
                assert _outcome(item, f"[{name}(x=1)]") == "called_when_none_fits"
                assert _outcome(item, f"[{name}(x=1") == "cut_off"
                assert _outcome(item, f"{name}(1)") == "unparsable"
    for item in loaded("live_relevance"):
        name = json.loads(item["tools_json"])[0]["name"]
        assert _outcome(item, f"[{name}(x=1)]") == "right"
        assert _outcome(item, f"[{name}(x=1), surely_no_tool()]") == "wrong_tool"
        assert _outcome(item, "[]") == _outcome(item, "I cannot.") == "no_call"


def _outcome(item: Item, answer: str) -> str:
    return bfcl.judge_item(item, answer).outcome


@pytest.mark.slow
def test_answers_to_all_items(their_checker: Callable[[Item, list[Call]], bool]) -> None:
    counts: Counter[str] = Counter()
    for category in WITH_GOLD:
        found, unexplained = compared(loaded(category), their_checker)
        assert unexplained == []
        counts += found
    assert counts["answers"] > 250_000
    assert counts["right for both"] > 80_000
    assert counts["differences"] < 2_000
    assert counts["theirs takes another order"] > 0
    assert counts["marks_only"] > 0
    assert counts["number_in_text"] > 0


@pytest.mark.parametrize(
    ("kind", "spec", "allowed", "value"),
    [
        ("bool_for_number", {"type": "dict"}, [{"a": [1]}], {"a": True}),
        (
            "bool_for_number",
            {"type": "array", "items": {"type": "boolean"}},
            [[1, 0]],
            [True, False],
        ),
        ("element_type", {"type": "array", "items": {"type": "integer"}}, [[1, 2], ""], [1.0, 2.0]),
        ("number_in_text", {"type": "string"}, ["5"], "-5"),
        ("number_in_text", {"type": "string"}, ["15"], "1.5"),
        ("marks_only", {"type": "string"}, ["a", ""], "-"),
    ],
)
def test_every_listed_difference_is_one(
    kind: str,
    spec: dict[str, Any],
    allowed: list[Any],
    value: Any,
    their_checker: Callable[[Item, list[Call]], bool],
) -> None:
    function = {"name": "f", "parameters": {"properties": {"x": spec}, "required": []}}
    gold = [{"f": {"x": allowed}}]
    item = {
        "category": "simple",
        "tools_json": json.dumps([function]),
        "gold_json": json.dumps(gold),
    }
    calls = [{"name": "f", "arguments": {"x": value}}]
    assert their_checker(item, calls)
    assert bfcl.judge_item(item, as_python(calls)).outcome != "right"
    assert kind in kind_of_difference(calls, gold)
    assert kind in bfcl.STRICTER
