"""The Berkeley Function Calling Leaderboard (BFCL v4) is run on a local copy and judged by us.

The data comes with the package ``bfcl-eval`` (2026.3.23), of which only the files are read: it is
located, never imported, since it would load dozens of clients. Of its categories we run those with
one turn and Python's conventions: simple_python (here ``simple``), multiple, parallel,
parallel_multiple, irrelevance and the six of the live set. Java and JavaScript are left out: their
arguments are source text of these languages, which needs a parser of each. The prompt is ours.

Answers are judged as BFCL's ``ast_checker`` judges their calls, but for these cases, in which we
are stricter (`STRICTER` names them):

- ``bool_for_number``: within a list or an object, Python's ``True == 1`` passes there. A truth
  value is no number here.
- ``element_type``: the types of a list's elements go unchecked there where the argument may be left
  out, so ``[1.0]`` passes for a list of integers. Here a list has to match, in types and values,
  one and the same of the allowed lists.
- ``number_in_text``: texts are compared there without the marks ``,./-_*^``, so ``"-5"`` passes for
  ``"5"`` and ``"1.5"`` for ``"15"``. Here two texts that are both numbers have to be equal numbers.
- ``marks_only``: a text of such marks alone (``"-"``) passes there for any other, and for leaving
  the argument out. Here it has to be the very text.

And parallel calls are paired for the best here, so that their order does not matter. There each
gold call takes the first given call that fits it, which may be the only one that fits a later gold
call: the same calls then pass in one order and not in another. Ours never takes calls that BFCL's
checker takes in no order. (Data with overlapping gold, such as parallel_96, shows the difference.)

Seven items are at odds with themselves: the gold names an argument that the function lacks, or
allows no value, or only the empty text for a required one. Hardly an answer to them is right, there
or here. They stay, so that accuracies compare.

What is no matter of calls differs as well. Reading: an argument that is a variable, a sum or a call
is not readable here (there it becomes text, or is evaluated); positional arguments are not
readable here (there they are dropped); calls in JSON, tags and fences are read here whatever the
model (there by each model's own reader). Where no tool fits, words decline, as there; but an empty
answer, or a call begun and not readable, is wrong here and right there. Where some tool fits
(live_relevance) any call is right there; here it has to be of an offered tool.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from quantcore.errors import InputError, nearest, setting_name
from suites.items import Item
from suites.texts import read_lines
from suites.tool_calls.items import as_python, prompt
from suites.tool_calls.reading import Call, read_calls
from suites.tool_calls.scoring import Answer, ArgumentFault, Spec, Tool, Wanted, judge

CATEGORIES = {
    "simple": "simple_python",
    "multiple": "multiple",
    "parallel": "parallel",
    "parallel_multiple": "parallel_multiple",
    "irrelevance": "irrelevance",
    "live_simple": "live_simple",
    "live_multiple": "live_multiple",
    "live_parallel": "live_parallel",
    "live_parallel_multiple": "live_parallel_multiple",
    "live_irrelevance": "live_irrelevance",
    "live_relevance": "live_relevance",
}
"""Our names, and those in the names of BFCL's files."""

STRICTER = ("bool_for_number", "element_type", "number_in_text", "marks_only")
"""The kinds of calls that BFCL's checker lets pass and ours does not."""

VARIABLE = "AWQ_BENCH_BFCL"
"""The environment variable that names a folder with BFCL's data."""

_WITHOUT_GOLD = {"irrelevance", "live_irrelevance", "live_relevance"}
_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def data_folder(given: str | None = None) -> Path:
    """Find BFCL's data: in ``given``, else where `VARIABLE` says, else within ``bfcl-eval``.

    Raises:
        InputError: it is nowhere.
    """
    named = given or os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise InputError(
                f"BFCL's data: {named!r} is no folder; name one that holds BFCL_v4_*.json and "
                f"possible_answer/, as metadata bfcl_data or in {VARIABLE}"
            )
        return Path(named)
    found = importlib.util.find_spec("bfcl_eval")
    for place in (found and found.submodule_search_locations) or ():
        return Path(place) / "data"
    raise InputError(
        "BFCL's data is not here; it comes with the package bfcl-eval, of which we need the files "
        "alone: pip install --no-deps bfcl-eval. A local copy (BFCL_v4_*.json and "
        f"possible_answer/) goes to DIR/bfcl with {setting_name('tasks_data')} DIR, or is named by "
        f"{VARIABLE}"
    )


def load(category: str, folder: Path) -> list[Item]:
    """Read the items of one of `CATEGORIES`, in BFCL's order and with BFCL's ids.

    Beside an item's usual fields: ``tools_json`` (BFCL's function documents) and ``gold_json`` (for
    each call wanted ``{name: {argument: allowed values}}``; null where any call is right).

    Raises:
        InputError: an unknown category, or files that are missing or not BFCL's.
    """
    if category not in CATEGORIES:
        raise InputError(f"BFCL category {category!r}; {nearest(category, CATEGORIES)}")
    file = f"BFCL_v4_{CATEGORIES[category]}.json"
    entries = _read(folder / file)
    golds: dict[str, Any] = {}
    if category not in _WITHOUT_GOLD:
        answers = _read(folder / "possible_answer" / file)
        golds = {answer["id"]: answer["ground_truth"] for answer in answers}
        missing = [entry["id"] for entry in entries if entry["id"] not in golds]
        if missing:
            raise InputError(
                f"{folder / 'possible_answer' / file} has no answer to {missing[0]} and "
                f"{len(missing) - 1} others of {file}; both have to be of one version of BFCL"
            )
    nothing: Any = None if category == "live_relevance" else []
    return [_item(entry, golds.get(entry["id"], nothing), category) for entry in entries]


def judge_item(item: Mapping[str, Any], answer: str) -> Answer:
    """Judge the answer to one of `load`'s items."""
    tools = [
        Tool(
            name=function["name"],
            parameters=function["parameters"]["properties"],
            required=frozenset(function["parameters"]["required"]),
        )
        for function in json.loads(item["tools_json"])
    ]
    gold = json.loads(item["gold_json"])
    if gold is None:
        return _judge_relevance(answer, tools)
    wanted = [
        Wanted(
            name=name,
            arguments=arguments,
            optional=frozenset(key for key, allowed in arguments.items() if "" in allowed),
        )
        for call in gold
        for name, arguments in call.items()
    ]
    return judge(answer, tools=tools, wanted=wanted, check=check_argument, words_decline=True)


def example_calls(gold: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make right calls: every argument that the gold has a value for, at its first allowed one."""
    return [
        {
            "name": name,
            "arguments": {key: _value(one) for key, one in _first_values(arguments).items()},
        }
        for call in gold
        for name, arguments in call.items()
    ]


def check_argument(spec: Spec, allowed: Sequence[Any], value: Any) -> ArgumentFault | None:
    """Judge one argument by BFCL's rule, with our stricter cases.

    The type is the declared one (a whole number passes for a float, a tuple for a declared tuple)
    or that of the allowed values, where it differs from the declared one: then the allowed values
    are meant exactly. Otherwise texts are compared without case and marks, at the top, in a list,
    and among an object's values; an object's values are lists of allowed ones, and ``""`` among
    them means that the key may lack.
    """
    declared, given = _TYPES[spec["type"]], type(value)
    if spec["type"] == "tuple" and given is tuple:
        value, given = list(value), list
    if spec["type"] == "float" and given is int:
        given = float
    meant = _first_type(allowed)
    if given is not declared and given is not meant:
        return "wrong_type"
    if meant is not None and meant is not declared:
        right = any(_same(value, one) for one in allowed)
    elif declared is list:
        return _check_list(_TYPES[spec["items"]["type"]], allowed, value)
    elif declared is dict:
        right = any(_same_object(value, one) for one in allowed if one != "")
    elif declared is str:
        right = any(_same_text(value, one) for one in allowed if isinstance(one, str))
    else:
        right = any(_same(value, one) for one in allowed)
    return None if right else "wrong_value"


def _judge_relevance(answer: str, tools: Sequence[Tool]) -> Answer:
    """Judge an answer where some tool fits: any call of an offered one is right."""
    calls: list[Call] = read_calls(answer) or []
    offered = {tool.name for tool in tools}
    wanted = [Wanted(name="", arguments={})]
    if not calls:
        return judge(answer, tools=tools, wanted=wanted)
    known = all(call.name in offered for call in calls)
    return Answer(outcome="right" if known else "wrong_tool", calls_right=float(known))


def _check_list(element: type, allowed: Sequence[Any], value: list[Any]) -> ArgumentFault | None:
    if not value and "" in allowed:
        return None
    typed = [
        one
        for one in allowed
        if isinstance(one, list)
        and all(type(part) is element or type(part) is _first_type(one) for part in value)
    ]
    if not typed:
        return "wrong_type"
    same = _same_object if element is dict else _same_text_or_value
    for one in typed:
        if len(one) == len(value) and all(map(same, value, one)):
            return None
    return "wrong_value"


def _first_type(allowed: Sequence[Any]) -> type | None:
    return next((type(one) for one in allowed if one != ""), None)


def _same_object(value: dict[str, Any], gold: Mapping[str, Sequence[Any]]) -> bool:
    absent = [key for key in gold if key not in value]
    return all("" in gold[key] for key in absent) and all(
        key in gold and any(_same_text_or_value(one, other) for other in gold[key])
        for key, one in value.items()
    )


def _same_text_or_value(value: Any, gold: Any) -> bool:
    if isinstance(value, str) and isinstance(gold, str):
        return _same_text(value, gold)
    return _same(value, gold)


def _same_text(value: str, gold: str) -> bool:
    """Compare without case and marks, but numbers stay what they are, and marks are not nothing."""
    if value == gold:
        return True
    if not _plain(gold) or _plain(value) != _plain(gold):
        return False
    numbers = _NUMBER.fullmatch(value) and _NUMBER.fullmatch(gold)
    return not numbers or Decimal(value) == Decimal(gold)


def _plain(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _same(value: Any, gold: Any) -> bool:
    """Compare at every depth; a truth value equals no number."""
    if isinstance(value, list) and isinstance(gold, list):
        return len(value) == len(gold) and all(map(_same, value, gold))
    if isinstance(value, dict) and isinstance(gold, dict):
        return value.keys() == gold.keys() and all(_same(value[key], gold[key]) for key in gold)
    return bool(value == gold) and isinstance(value, bool) == isinstance(gold, bool)


def _first_values(arguments: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    given = {name: [one for one in allowed if one != ""] for name, allowed in arguments.items()}
    return {name: allowed[0] for name, allowed in given.items() if allowed}


def _value(gold: Any) -> Any:
    """Give an allowed value as a call does: an object holds lists of allowed ones in its turn."""
    if isinstance(gold, list):
        return [_value(one) for one in gold]
    return _first_values(gold) if isinstance(gold, dict) else gold


def _item(entry: Mapping[str, Any], gold: Any, category: str) -> Item:
    turns: list[Mapping[str, str]] = entry["question"][0]
    said = {
        role: "\n".join(turn["content"] for turn in turns if turn["role"] == role)
        for role in ("system", "user")
    }
    functions: list[Mapping[str, Any]] = entry["function"]
    shown = [
        {
            "name": function["name"],
            "description": function["description"],
            "parameters": function["parameters"]["properties"],
            "required": function["parameters"]["required"],
        }
        for function in functions
    ]
    return {
        "id": entry["id"],
        "template": f"bfcl_{category}",
        "part": "standard",
        "source": entry["id"],
        "category": category,
        "tools_json": json.dumps(functions),
        "gold_json": json.dumps(gold),
        "prompt": prompt(shown, said["user"], context=said["system"]),
        "target": "" if gold is None else as_python(example_calls(gold)),
    }


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(
            f"BFCL's data: there is no {path}; the folder needs BFCL v4's files "
            "(pip install --no-deps bfcl-eval)"
        )
    return [entry for _, entry in read_lines(path)]
