"""The tool-call suite: every class of answer lands where it belongs, with lm-eval and without."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcore.errors import InputError
from suites.items import Item, fingerprint
from suites.tool_calls import bfcl, tasks
from suites.tool_calls.items import TEMPLATES, as_python
from suites.tool_calls.reading import Call, ends_inside, read_calls
from suites.tool_calls.scoring import OUTCOMES, judge_item

SUITES = Path(__file__).parents[2] / "suites"
FINGERPRINT = "a7cf08f4906916d90057b49b72a6f80474e46d939d560f747453ee715340856b"

Calls = list[dict[str, Any]]


class Completion(str):
    """An answer of an adapter that knows whether the token limit ended it."""

    cut_off = False


def all_items() -> list[Item]:
    return [
        item
        for part, count in tasks.COUNTS.items()
        for item in TEMPLATES.items(split="evaluation", part=part, count=count)
    ]


ITEMS = all_items()


def calls_of(item: Item) -> Calls:
    return json.loads(item["calls_json"])


def tools_of(item: Item) -> dict[str, dict[str, Any]]:
    return {tool["name"]: tool for tool in json.loads(item["tools_json"])}


def outcome(item: Item, answer: str) -> str:
    return judge_item(item, answer).outcome


# Damages: the answers that the change makes of an item's right calls, none where it does not apply.


def _cut(item: Item) -> list[str]:
    return [item["target"][:length] for length in range(1, len(item["target"]))]


def _no_call(item: Item) -> list[str]:
    return (
        ["[]", "", "I cannot help with that; it is none of my tools' doing (sorry)."]
        if calls_of(item)
        else []
    )


def _unparsable(item: Item) -> list[str]:
    if not calls_of(item):
        return ["", "I cannot help with that.", "[none]", "{}"]
    positional = as_python(calls_of(item)).replace("=", "==")
    return [positional, item["target"] + "]", f"Here it is: {item['target']}", "[7]", '{"a": 1}']


def _called(item: Item) -> list[str]:
    if calls_of(item):
        return []
    return [as_python([{"name": name, "arguments": {}}]) for name in [*tools_of(item), "f"]]


def _count(item: Item) -> list[str]:
    calls = calls_of(item)
    fewer = [calls[1:], calls[:-1]] if len(calls) > 1 else []
    more = [[*calls, calls[0]]] if calls else []
    return [as_python(one) for one in fewer + more]


def _tool(item: Item) -> list[str]:
    calls = calls_of(item)
    others = [name for name in tools_of(item) if name not in {call["name"] for call in calls}]
    return [
        as_python([*calls[:at], {**call, "name": name}, *calls[at + 1 :]])
        for at, call in enumerate(calls)
        for name in [*others, "no_such_tool", call["name"].upper()]
    ]


def _per_argument(
    item: Item, change: Callable[[dict[str, Any], str, dict[str, Any]], list[dict[str, Any]]]
) -> list[str]:
    """``change`` makes of a call's arguments, an argument's name and its spec other arguments."""
    calls, tools = calls_of(item), tools_of(item)
    return [
        as_python([*calls[:at], {**call, "arguments": changed}, *calls[at + 1 :]])
        for at, call in enumerate(calls)
        for name in call["arguments"]
        for changed in change(
            copy.deepcopy(call["arguments"]), name, tools[call["name"]]["parameters"][name]
        )
    ]


def _missing(item: Item) -> list[str]:
    def drop(arguments: dict[str, Any], name: str, _: dict[str, Any]) -> list[dict[str, Any]]:
        return [{key: value for key, value in arguments.items() if key != name}]

    return _per_argument(item, drop)


def _unknown(item: Item) -> list[str]:
    def add(arguments: dict[str, Any], name: str, _: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**arguments, f"{name}_too": arguments[name]}]

    return _per_argument(item, add)


def _type(item: Item) -> list[str]:
    def retype(arguments: dict[str, Any], name: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
        value = arguments[name]
        others: list[Any] = [None, [value], (value,), {"a": value}]
        match spec["type"]:
            case "string":
                others += [7, True, [*value]]
            case "integer":
                others += [str(value), float(value), True]
            case "number":
                others += [str(value), True]
            case "boolean":
                others += [int(value), str(value)]
            case "array":
                others += [tuple(value), value[0], [*value[:-1], None], [*value[:-1], True]]
            case "object":
                key = next(iter(value))
                others += [json.dumps(value), {**value, key: None}, {**value, key: True}]
        return [{**arguments, name: other} for other in others if not _fits(spec, other)]

    return _per_argument(item, retype)


def _fits(spec: dict[str, Any], value: Any) -> bool:
    """An object of unknown keys is of the type all the same."""
    return spec["type"] == "object" and isinstance(value, dict) and "a" in value


def _value(item: Item) -> list[str]:
    def change(arguments: dict[str, Any], name: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
        value = arguments[name]
        match value:
            case bool():
                others: list[Any] = [not value]
            case str():
                others = [value + "x", value.upper() + "X", value[:-1], ""]
            case int() | float():
                others = [value + 1, -value]
            case list():
                others = [value[1:], value[::-1], [*value, value[0]], []]
            case _:
                key = next(iter(value))
                others = [{}, {**value, "a": 1}, {k: v for k, v in value.items() if k != key}]
        return [{**arguments, name: other} for other in others]

    return _per_argument(item, change) + _invented(item)


def _invented(item: Item) -> list[str]:
    """Optional arguments that the request does not give."""
    calls, tools = calls_of(item), tools_of(item)
    stand_ins = {"string": "x", "integer": 5, "boolean": False}
    return [
        as_python([{**call, "arguments": {**call["arguments"], name: stand_ins[spec["type"]]}}])
        for call in calls
        for name, spec in tools[call["name"]]["parameters"].items()
        if name not in call["arguments"]
    ]


DAMAGES = {
    "cut_off": (_cut, 200),
    "no_call": (_no_call, 200),
    "unparsable": (_unparsable, 240),
    "called_when_none_fits": (_called, 30),
    "wrong_count": (_count, 200),
    "wrong_tool": (_tool, 200),
    "missing_argument": (_missing, 200),
    "unknown_argument": (_unknown, 200),
    "wrong_type": (_type, 200),
    "wrong_value": (_value, 200),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_lands_in_its_class(name: str) -> None:
    damage, at_least = DAMAGES[name]
    applied = 0
    for item in ITEMS:
        answers = damage(item)
        applied += bool(answers)
        for answer in answers:
            assert outcome(item, answer) == name, (item["target"], answer)
    assert applied >= at_least


def test_every_outcome_but_right_has_a_damage() -> None:
    assert ("right", *DAMAGES) == OUTCOMES


def _as_json(calls: Calls) -> list[str]:
    one_by_one = [json.dumps(call) for call in calls]
    parameters = [{"name": call["name"], "parameters": call["arguments"]} for call in calls]
    packed = [{**call, "arguments": json.dumps(call["arguments"])} for call in calls]
    tagged = [f"<tool_call>\n{text}\n</tool_call>" for text in one_by_one]
    listed = json.dumps(calls)
    return [
        listed,
        json.dumps(parameters, indent=1),
        json.dumps(packed),
        f"```json\n{listed}\n```",
        f"Here:\n```\n{listed}\n```\nThat does it.",
        *(["\n".join(one_by_one), "\n".join(tagged), "Sure.\n" + "".join(tagged)] if calls else []),
    ]


def _as_other_python(calls: Calls) -> list[str]:
    listed = as_python(calls)
    alone = [as_python([call])[1:-1] for call in calls]
    return [
        f" {listed}\n",
        f"```python\n{listed}\n```",
        f"```tool_code\n{listed}",
        f"<tool_call>{listed}</tool_call>",
        listed.replace('"', "'"),
        as_python(calls[::-1]),
        *(["\n".join(alone), ", ".join(alone)] if calls else []),
    ]


def test_every_form_of_the_right_answer_is_right() -> None:
    for item in ITEMS:
        for answer in _as_json(calls_of(item)) + _as_other_python(calls_of(item)):
            judged = judge_item(item, answer)
            assert judged.outcome == "right", answer
            assert judged.calls_right == 1


def test_a_whole_number_is_a_number_and_an_optional_default_may_be_given() -> None:
    reading = next(item for item in ITEMS if item["template"] == "reading")
    calls = calls_of(reading)
    calls[0]["arguments"]["level"] = 7.0
    assert (
        outcome({**reading, "calls_json": json.dumps(calls)}, as_python(calls).replace("7.0", "7"))
        == "right"
    )
    rooms = [item for item in ITEMS if item["template"] == "booked_nights"]
    explicit = 0
    for item in rooms:
        calls = calls_of(item)
        if "order" not in calls[0]["arguments"]:
            calls[0]["arguments"]["order"] = "rating"
            assert outcome(item, as_python(calls)) == "right"
            explicit += 1
    assert explicit >= 3


def test_calls_are_paired_for_the_best() -> None:
    """Pairing in the order given would take the general call for the particular one."""
    tool = {"name": "f", "parameters": {"a": {"type": "integer", "default": 1}}, "required": []}
    item = {
        "tools_json": json.dumps([tool]),
        "calls_json": json.dumps(
            [
                {"name": "f", "arguments": {}},
                {"name": "f", "arguments": {"a": 2}},
                {"name": "f", "arguments": {"a": 1}},
            ]
        ),
    }
    for answer in ("[f(a=1), f(), f(a=2)]", "[f(a=2), f(), f()]", "[f(), f(a=2), f(a=1)]"):
        assert outcome(item, answer) == "right"
    judged = judge_item(item, "[f(a=2), f(a=2), f()]")
    assert judged.outcome == "wrong_value"
    assert judged.calls_right == pytest.approx(2 / 3)


def test_the_first_fault_in_order_decides() -> None:
    item = next(item for item in ITEMS if item["template"] == "forecast")
    name, city = calls_of(item)[0]["name"], calls_of(item)[0]["arguments"]["city"]
    expected = {
        f'[{name}(town="x"), f()]': "wrong_count",
        "[f(town=1)]": "wrong_tool",
        f"[{name}(town=1, city=2)]": "missing_argument",
        f'[{name}(town=1, city=2, days="x")]': "unknown_argument",
        f'[{name}(city="x", days="x")]': "wrong_type",
        f'[{name}(city="{city}", days=1)]': "wrong_value",
    }
    assert {answer: outcome(item, answer) for answer in expected} == expected


def test_the_adapter_knows_better_what_was_cut_off() -> None:
    item = ITEMS[0]
    whole, broken = Completion(item["target"]), Completion(item["target"][:-4])
    words = Completion("Let me see what tools there are.")
    assert [outcome(item, one) for one in (whole, broken, words)] == [
        "right",
        "unparsable",
        "no_call",
    ]
    for answer in (whole, broken, words):
        answer.cut_off = True
    assert [outcome(item, one) for one in (whole, broken, words)] == ["right", "cut_off", "cut_off"]


@pytest.mark.parametrize(
    "answer",
    [
        "f(a=b)", "f(a=1+1)", "f(a=g())", "f(1)", "f(**{'a': 1})", "f(a=1, a=2)", "x = f(a=1)",
        "[f(a=1) for _ in x]", "f(a=1)(b=2)", "'f'(a=1)", "[f]", "f", "f(a=__import__('os'))",
        '{"name": "f"}', '{"name": 1, "arguments": {}}', '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": "{"}', '{"name": "f", "name": "g", "arguments": {}}',
        '{"name": "f", "arguments": {"a": NaN}}', '[[{"name": "f", "arguments": {}}]]',
        "<tool_call>", "<tool_call>f()</tool_call><tool_call>", "f(a='\0')",
        "f(a=" + "(" * 5_000, "f(a=" + "9" * 5_000 + ")",
        "f(a=f'{1}')", "```python\n```", "", " ", "f()\nand more",
    ],
)  # fmt: skip
def test_what_is_not_calls_cannot_be_read(answer: str) -> None:
    assert read_calls(answer) is None


def test_calls_keep_names_and_literals() -> None:
    answer = "[a.b_1.c(x=-1, y='\\d', z=[None, {'k': (1.5, True)}]), d()]"
    arguments = {"x": -1, "y": "\\d", "z": [None, {"k": (1.5, True)}]}
    assert read_calls(answer) == [
        Call(name="a.b_1.c", arguments=arguments),
        Call(name="d", arguments={}),
    ]


def test_an_open_bracket_or_string_is_seen() -> None:
    for text in ("[", "f(", '{"a": "b]}', "[f(a='(')", '["\\"]', "I don't (know"):
        assert ends_inside(text)
    for text in ("", "I don't", "[f(a=')')]", '["\\"]"]', ":)"):
        assert not ends_inside(text)


def test_the_items_are_the_committed_ones() -> None:
    assert fingerprint(ITEMS) == FINGERPRINT
    assert len(ITEMS) == len({item["id"] for item in ITEMS}) == 240
    assert len({item["prompt"] for item in ITEMS}) == 240
    assert len(TEMPLATES.of("seen")) >= 14
    assert len(TEMPLATES.of("reserved")) >= 6
    assert len(TEMPLATES.all) >= 20
    kinds = Counter(item["category"] for item in ITEMS)
    assert set(kinds) == {"simple", "choice", "parallel", "optional", "none"}
    assert min(kinds.values()) >= 30
    for part in ("seen", "reserved"):
        assert len({item["category"] for item in ITEMS if item["part"] == part}) == 5


def open_values(items: list[Item]) -> set[str]:
    """Tools, texts and numbers, but for what tools list and truth values."""
    values: set[str] = set()

    def add(value: Any, spec: dict[str, Any]) -> None:
        if isinstance(value, list):
            for one in value:
                add(one, spec["items"])
        elif isinstance(value, dict):
            for key, one in value.items():
                add(one, spec["properties"][key])
        elif not isinstance(value, bool) and "enum" not in spec:
            values.add(str(value))

    for item in items:
        tools = tools_of(item)
        values |= set(tools)
        for call in calls_of(item):
            for name, value in call["arguments"].items():
                add(value, tools[call["name"]]["parameters"][name])
    return values


def test_training_never_sees_an_open_value_of_evaluation() -> None:
    training = TEMPLATES.items(split="train", part="seen", count=2_000)
    shared = open_values(ITEMS) & open_values(training)
    assert shared == set()
    assert len(open_values(ITEMS)) > 400
    assert not {item["prompt"] for item in ITEMS} & {item["prompt"] for item in training}
    with pytest.raises(ValueError, match="reserved templates"):
        TEMPLATES.items(split="train", part="reserved", count=1)
    for example in tasks.examples():
        assert example["part"] == "seen"
        assert not open_values([example]) & open_values(ITEMS)


def test_prompts_stand_alone() -> None:
    for item in ITEMS + tasks.examples():
        assert item["prompt"].startswith("### Task\nAnswer with the tool calls")
        assert item["prompt"].endswith("\n### Answer\n")
        assert 300 < len(item["prompt"]) < 900
        assert len(item["target"]) < 180
        for name in tools_of(item):
            assert f'{{"name":"{name}"' in item["prompt"]
        for value in open_values([item]):
            assert value in item["prompt"]
    assert [example["target"] == "[]" for example in tasks.examples()[:2]] == [False, True]


# Through lm-eval


def evaluate(name: str, answer: Callable[[Item], str], **metadata: str) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Scripted(LM):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            self.prompts = [request.args[0] for request in requests]
            return [answer(request.doc) for request in requests]

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

    model = Scripted()
    manager = TaskManager(include_path=SUITES, include_defaults=False, metadata=metadata)
    result = simple_evaluate(
        model=model, tasks=[name], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    assert result is not None
    return {**result, "prompts": model.prompts}


def test_right_answers_score_one_through_lm_eval() -> None:
    result = evaluate("awqbench_tool_calls", lambda doc: doc["target"])
    samples = [sample for part in result["samples"].values() for sample in part]
    assert len(samples) == 240
    assert all(sample["acc"] == sample["calls_right"] == 1 for sample in samples)
    assert {sample["doc"]["id"] for sample in samples} == {item["id"] for item in ITEMS}
    for part in ("seen", "reserved"):
        metrics = result["results"][f"awqbench_tool_calls_{part}"]
        assert {name: metrics[f"is_{name},none"] for name in OUTCOMES} == {
            name: float(name == "right") for name in OUTCOMES
        }
    assert result["results"]["awqbench_tool_calls"]["acc,none"] == 1
    for prompt in result["prompts"]:
        assert prompt.count("### Answer\n") == 3
        assert "### Answer\n[]\n\n### Task" in prompt
        assert len(prompt) < 1_700


def test_one_flag_is_set_for_every_answer() -> None:
    answers = {}
    for number, item in enumerate(ITEMS):
        damaged = [answer for damage, _ in DAMAGES.values() for answer in damage(item)]
        answers[item["id"]] = damaged[number * 7 % len(damaged)]
    result = evaluate("awqbench_tool_calls", lambda doc: answers[doc["id"]])
    seen = Counter()
    for part in result["samples"].values():
        for sample in part:
            flags = [name for name in OUTCOMES if sample[f"is_{name}"] == 1]
            assert len(flags) == 1
            assert sample["acc"] == sample["is_right"] == 0
            seen.update(flags)
    assert len(seen) > 5


def stand_in(folder: Path) -> Path:
    """BFCL's files, made up, with one entry a category."""
    function = {
        "name": "paint.wall",
        "description": "Paint a wall.",
        "parameters": {
            "type": "dict",
            "properties": {
                "color": {"type": "string", "description": "Which."},
                "coats": {"type": "integer", "description": "How many.", "default": 1},
            },
            "required": ["color"],
        },
    }
    (folder / "possible_answer").mkdir(parents=True)
    for category, file in bfcl.CATEGORIES.items():
        count = 2 if "parallel" in category else 1
        said = [{"role": "system", "content": "Be brief."}] if "live" in category else []
        asked = {"role": "user", "content": f"Paint {count} walls red."}
        entry = {"id": f"{file}_0", "question": [[*said, asked]], "function": [function]}
        gold = [{"paint.wall": {"color": ["red"], "coats": ["", 1]}}] * count
        answer = {"id": f"{file}_0", "ground_truth": gold}
        (folder / f"BFCL_v4_{file}.json").write_text(json.dumps(entry) + "\n")
        if "relevance" not in category:
            path = folder / "possible_answer" / f"BFCL_v4_{file}.json"
            path.write_text(json.dumps(answer) + "\n")
    return folder


def test_the_standard_set_runs_from_a_local_copy(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "bfcl")

    def answer(doc: Item) -> str:
        return doc["target"] or "[paint.wall(color='blue')]"

    result = evaluate("awqbench_tool_calls_standard", answer, bfcl_data=str(folder))
    assert set(result["samples"]) == {f"awqbench_bfcl_{name}" for name in bfcl.CATEGORIES}
    for samples in result["samples"].values():
        assert [sample["acc"] for sample in samples] == [1]
    assert result["results"]["awqbench_tool_calls_standard"]["acc,none"] == 1
    for prompt in result["prompts"]:
        assert '{"name":"paint.wall"' in prompt
        assert prompt.count("### Answer") == 1
        assert prompt.endswith(" walls red.\n### Answer\n")
    assert sum("### Context\nBe brief.\n" in prompt for prompt in result["prompts"]) == 6


def test_bfcl_is_found_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bfcl.VARIABLE, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install --no-deps bfcl-eval"):
        bfcl.data_folder()
    with pytest.raises(InputError, match="'nowhere' is no folder"):
        bfcl.data_folder("nowhere")
    monkeypatch.setenv(bfcl.VARIABLE, str(tmp_path))
    assert bfcl.data_folder() == tmp_path
    with pytest.raises(InputError, match=r"there is no .*BFCL_v4_simple_python\.json"):
        bfcl.load("simple", tmp_path)
    with pytest.raises(InputError, match="did you mean 'multiple'"):
        bfcl.load("multipel", tmp_path)
    folder = stand_in(tmp_path / "bfcl")
    answers = folder / "possible_answer" / "BFCL_v4_multiple.json"
    answers.write_text(answers.read_text().replace("multiple_0", "multiple_1"))
    with pytest.raises(InputError, match="no answer to multiple_0"):
        bfcl.load("multiple", folder)
