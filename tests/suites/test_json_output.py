import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from quantcore.errors import InputError
from suites.items import (
    CITIES,
    COLORS,
    FIRST_NAMES,
    LAST_NAMES,
    PRODUCTS,
    belongs,
    fingerprint,
)
from suites.json_output import tasks
from suites.json_output.items import ACCENTED, TEMPLATES
from suites.json_output.scoring import (
    OUTCOMES,
    VALIDATION,
    ends_open,
    judge,
    leaves,
    parse,
    share_right,
    without_fence,
)
from suites.json_output.validation import UnjudgedError, Validation

SUITES = Path(__file__).parents[2] / "suites"
ITEMS = [
    item
    for part, count in tasks.COUNTS.items()
    for item in TEMPLATES.items(split="evaluation", part=part, count=count)
]


class Scripted(LM):
    """Answers from the items themselves."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def generate_until(self, requests):
        self.requests = requests
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


class Stopped(str):
    """An answer of which the model's adapter knows whether the token limit stopped it."""

    cut_off: bool

    def __new__(cls, text, cut_off):
        answer = super().__new__(cls, text)
        answer.cut_off = cut_off
        return answer


def evaluate(answer, *names):
    manager = TaskManager(include_path=str(SUITES), include_defaults=False)
    model = Scripted(answer)
    found = simple_evaluate(
        model=model,
        tasks=list(names),
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
    )
    return found, model


def outcome(answer, item):
    """The one outcome, after checking that the ladder and the flags agree with it."""
    found = tasks.process_results(item, [answer])
    flags = [name for name in OUTCOMES if found[f"is_{name}"] == 1]
    assert len(flags) == 1
    assert found["acc"] <= found["schema_valid"] <= found["parses"]
    assert found["strict"] <= found["parses"]
    assert found["acc"] == (flags[0] in ("right", "right_in_fence"))
    assert 0 <= found["values"] <= 1
    return flags[0]


def judged(answer, schema, **options):
    return judge(answer, schema_json=json.dumps(schema), expected_json=None, **options).outcome


# Items


def test_there_are_enough_items_and_they_are_the_ones_committed():
    assert len(ITEMS) >= 200
    assert len(TEMPLATES.of("seen")) >= 14
    assert len(TEMPLATES.of("reserved")) >= 6
    assert len({item["id"] for item in ITEMS}) == len(ITEMS)
    assert len({item["prompt"] for item in ITEMS}) == len(ITEMS)
    assert fingerprint(ITEMS) == FINGERPRINT


FINGERPRINT = "2c7eb4603450dd3577c083ef42dc42d2cb64c6e9134bf246689452c1e07d6efc"


def test_prompts_are_whole_and_short():
    for item in ITEMS:
        sections = re.findall(r"^### .*$", item["prompt"], re.MULTILINE)
        assert sections == ["### Task", "### Text", "### Schema", "### Answer"]
        assert item["prompt"].endswith("\n### Answer\n")
        assert item["schema_json"] in item["prompt"]
        assert "\n###" not in item["target"]
        assert len(item["prompt"] + item["target"]) < 750


def test_every_value_stands_in_the_text():
    told_in_words = {"parcel_label", "sheet_row", "verse"}
    for item in ITEMS:
        text = item["prompt"].split("### Text\n")[1].split("\n### Schema")[0]
        for value in leaves(json.loads(item["expected_json"])).values():
            if isinstance(value, str) and item["template"] in told_in_words:
                assert all(piece in text for piece in re.split(r"[\n\t]+", value))
            elif isinstance(value, str) or type(value) in (int, float):
                assert str(value) in text


def test_kinds_of_values_are_all_there():
    values = [
        value for item in ITEMS for value in leaves(json.loads(item["expected_json"])).values()
    ]
    kinds = Counter(type(value).__name__ for value in values)
    assert {"str", "int", "float", "bool", "NoneType", "list"} <= kinds.keys()
    for sign in ('"', "\\", "\n", "\t", "é"):
        assert any(isinstance(value, str) and sign in value for value in values)


def test_training_never_sees_an_open_value_of_evaluation():
    def open_values(items):
        for item in items:
            closed = {
                option
                for options in re.findall(r'"enum":(\[[^]]*\])', item["schema_json"])
                for option in json.loads(options)
            }
            for value in leaves(json.loads(item["expected_json"])).values():
                if type(value) in (int, float) or (isinstance(value, str) and value not in closed):
                    yield str(value)

    training = TEMPLATES.items(split="train", part="seen", count=2000)
    assert not set(open_values(training)) & set(open_values(ITEMS))

    stocks = {*FIRST_NAMES, *LAST_NAMES, *CITIES, *PRODUCTS, *COLORS, *ACCENTED}
    stock_words = {word.lower() for word in stocks}
    for items, split in ((training, "evaluation"), (ITEMS, "train")):
        words = {word for item in items for word in re.findall(r"\w+", item["prompt"].lower())}
        used = words & stock_words
        assert len(used) > 100
        assert not [word for word in used if belongs(word, split)]
    assert {item["part"] for item in training} == {"seen"}


# Through lm-eval


def test_right_answers_are_right_through_lm_eval():
    found, model = evaluate(lambda doc: doc["target"], "awqbench_json")
    for part, count in tasks.COUNTS.items():
        results = found["results"][f"awqbench_json_{part}"]
        for metric in ("acc", "schema_valid", "parses", "strict", "values", "is_right"):
            assert results[f"{metric},none"] == 1
        for name in OUTCOMES[1:]:
            assert results[f"is_{name},none"] == 0
        assert len(found["samples"][f"awqbench_json_{part}"]) == count
    assert found["results"]["awqbench_json"]["acc,none"] == 1
    context, options = model.requests[0].args
    assert context.count("### Answer\n") == 2  # one worked example
    assert options["until"] == ["\n###"]
    assert options["max_gen_toks"] == 256


def test_wrong_answers_are_not():
    found, _ = evaluate(lambda doc: "I do not know.", "awqbench_json_reserved")
    results = found["results"]["awqbench_json_reserved"]
    assert results["acc,none"] == 0
    assert results["is_unparsable,none"] == 1


# Answers judged


FENCES = [
    "```json\n{}\n```",
    "```\n{}\n```",
    "```JSON\n{}\n```\n",
    "Here it is:\n\n```json\n{}\n```\nI hope this helps.",
    "Sure: ```json\n{}\n```",
    "```json{}```",
    "```json\n{}",
]


@pytest.mark.parametrize("fence", FENCES)
def test_a_fence_costs_only_the_strict_rung(fence):
    for item in ITEMS:
        answer = fence.replace("{}", item["target"], 1)
        assert outcome(answer, item) == "right_in_fence"


def test_other_spellings_of_the_right_values_are_right():
    for item in ITEMS:
        value = json.loads(item["expected_json"])
        for answer in (
            "\n " + json.dumps(value, separators=(",", ":")) + "\n",
            json.dumps(value, indent=4, ensure_ascii=False),
            json.dumps(value, sort_keys=True, ensure_ascii=True),
            json.dumps(value, indent=2).replace("\n", "\n\n"),
        ):
            assert outcome(answer, item) == "right"


def test_cut_answers_are_cut_off():
    for item in ITEMS:
        target = item["target"]
        for length in range(1, len(target), 7):
            cut = target[:length]
            assert outcome(cut, item) == "cut_off"  # told by its open bracket
            assert outcome(Stopped(cut, cut_off=True), item) == "cut_off"
            assert outcome(Stopped(cut, cut_off=False), item) == "unparsable"
        assert outcome(f"```json\n{target[:-1]}", item) == "cut_off"
        assert outcome(Stopped(target, cut_off=True), item) == "right"
        chatter = f"{target}\n\nThis is the"
        assert outcome(Stopped(chatter, cut_off=True), item) == "cut_off"
        assert outcome(chatter, item) == "unparsable"


def _double_first_key(item):
    return "{" + item["target"][1 : item["target"].index(": ")] + ": 1, " + item["target"][1:]


UNPARSABLE = {
    "empty": lambda item: "",
    "prose": lambda item: f"The answer is {item['target']}",
    "chatter": lambda item: f"{item['target']} That is all.",
    "twice": lambda item: f"{item['target']}\n{item['target']}",
    "Python": lambda item: str(json.loads(item["target"])),
    "comma": lambda item: item["target"][:-1] + ",}",
    "key twice": _double_first_key,
    "comment": lambda item: item["target"][:-1] + "/* done */}",
    "NaN": lambda item: re.sub(r": -?\d+(\.\d+)?(?=[,}])", ": NaN", item["target"], count=1),
    "infinite": lambda item: re.sub(r": -?\d+(\.\d+)?(?=[,}])", ": 1e999", item["target"], count=1),
    "leading zero": lambda item: re.sub(r": (\d+)(?=[,}])", r": 0\1", item["target"], count=1),
    "bare line break": lambda item: item["target"].replace("\\n", "\n"),
    "bare tab": lambda item: item["target"].replace("\\t", "\t"),
    "bare quotes": lambda item: item["target"].replace('\\"', '"'),
    "bare backslash": lambda item: re.sub(r"\\\\(?=[A-Z])", r"\\", item["target"]),
}


@pytest.mark.parametrize("damage", UNPARSABLE.values(), ids=UNPARSABLE)
def test_what_is_not_json_is_unparsable(damage):
    damaged = [(damage(item), item) for item in ITEMS if damage(item) != item["target"]]
    assert len(damaged) >= 10
    for answer, item in damaged:
        assert outcome(Stopped(answer, cut_off=False), item) == "unparsable"
        fenced = f"```json\n{answer}\n```"
        assert outcome(Stopped(fenced, cut_off=False), item) == "unparsable"


def _changed(item, change):
    """The answer after ``change(record, properties)``, or None where that changed nothing."""
    record = json.loads(item["expected_json"])
    change(record, json.loads(item["schema_json"]))
    answer = json.dumps(record, ensure_ascii=False)
    return None if answer == item["target"] else answer


def _each(kind, new):
    """Replace the first value of that kind in the record's top level."""

    def change(record, schema):
        for key, wanted in schema["properties"].items():
            if key in record and wanted == kind:
                record[key] = new(record[key])
                return

    return change


def _drop_required(record, schema):
    del record[schema["required"][-1]]


def _other_option(record, schema):
    for key, wanted in schema["properties"].items():
        if "enum" in wanted:
            record[key] = "none of these"


def _not_null(record, schema):
    for key, value in record.items():
        if value is None:
            record[key] = []


INVALID = {
    "key missing": _drop_required,
    "key too many": lambda record, schema: record.update(note="more"),
    "no option": _other_option,
    "number in quotes": _each({"type": "integer"}, str),
    "string as number": _each({"type": "string"}, len),
    "half": _each({"type": "integer"}, lambda value: value + 0.5),
    "true as 1": _each({"type": "boolean"}, int),
    "number as true": _each({"type": "number"}, lambda value: True),
    "no date": _each({"type": "string", "format": "date"}, lambda value: value[:-2] + "42"),
    "null": _each({"type": "string"}, lambda value: None),
    "null as array": _not_null,
}
WRONG = {
    "string": _each({"type": "string"}, lambda value: value + "s"),
    "space": _each({"type": "string"}, lambda value: value + " "),
    "case": _each({"type": "string"}, str.swapcase),
    "integer": _each({"type": "integer"}, lambda value: value + 1),
    "decimal": _each({"type": "number"}, lambda value: value + 0.01),
    "boolean": _each({"type": "boolean"}, lambda value: not value),
}


@pytest.mark.parametrize("change", INVALID.values(), ids=INVALID)
def test_what_the_schema_forbids_is_schema_invalid(change):
    changed = [(_changed(item, change), item) for item in ITEMS]
    changed = [(answer, item) for answer, item in changed if answer]
    assert len(changed) >= 10
    for answer, item in changed:
        assert outcome(answer, item) == "schema_invalid"


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_values_are_counted_by_leaf(change):
    changed = [(_changed(item, change), item) for item in ITEMS]
    changed = [(answer, item) for answer, item in changed if answer]
    assert len(changed) >= 10
    for answer, item in changed:
        assert outcome(answer, item) == "wrong_values"
        total = len(leaves(json.loads(item["expected_json"])))
        found = tasks.process_results(item, [answer])["values"]
        assert found == pytest.approx(1 - 1 / total)


def test_order_counts_in_arrays_only():
    item = next(item for item in ITEMS if item["template"] == "measurements")
    record = json.loads(item["expected_json"])
    turned = json.dumps(record | {"mm": record["mm"][::-1]})
    assert outcome(turned, item) == "wrong_values"
    assert outcome(json.dumps(dict(reversed(record.items()))), item) == "right"


@pytest.mark.parametrize(
    ("value", "expected", "share"),
    [
        (3.0, 3, 1),
        (True, 1, 0),
        (0, False, 0),
        ([], {}, 0),
        ([1, 2], [1, 2, 3, 4], 1 / 2),
        ([1, 2, 3, 4], [1, 2], 1 / 2),
        ({"a": {"b": 1}, "c": None}, {"c": None, "a": {"b": 1.0}}, 1),
        ({"0": "x"}, ["x"], 0),
        (10**20, 1e20, 1),
        ("é", "e\u0301", 0),
    ],
)
def test_leaves_alike(value, expected, share):
    assert share_right(value, expected) == share


def test_deep_brackets_do_no_harm():
    deep = "[" * 100_000
    assert judged(deep, {}) == "cut_off"
    assert judged(deep + "]" * 100_000, {}) == "unparsable"
    assert len(leaves(parse("[" * 400 + "]" * 400))) == 1


def test_ends_open_knows_strings():
    assert ends_open('It is {"a": "}')
    assert ends_open('{"a": "\\"}')
    assert not ends_open('{"a": "[\\\\"}')
    assert not ends_open('Say "hi')


def test_without_fence_keeps_letters_of_json():
    assert without_fence("```json\nnull\n```").strip() == "null"
    assert without_fence('"json"') == '"json"'


# Schemas


def test_each_schema_is_judged_by_its_own_draft():
    above = {"minimum": 3, "exclusiveMinimum": True}
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", **above}
    assert judged("3", draft4) == "schema_invalid"
    assert judged("4", draft4) == "right"
    for named in ({}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}):
        assert tasks.why_left_out(json.dumps(named | above)).startswith("not a valid schema")
    # In Draft 7 an array of items goes by position; Draft 2020-12 says prefixItems.
    by_position = [{"type": "string"}]
    draft7 = {"$schema": "https://json-schema.org/draft-07/schema", "items": by_position}
    assert judged("[3]", draft7) == "schema_invalid"
    assert judged("[3]", {"prefixItems": by_position}) == "schema_invalid"
    snowplow = "http://iglucentral.com/schemas/com.snowplowanalytics.self-desc/schema/jsonschema/"
    assert judged("3", {"$schema": f"{snowplow}1-0-0#", **above}) == "schema_invalid"


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("{", "not JSON"),
        ('{"type": "strng"}', "not a valid schema"),
        ('{"$schema": "http://example.org/mine"}', "unknown draft"),
        ('{"properties": {"a": {"pattern": "["}}}', "pattern"),
        ('{"patternProperties": {"(": {}}}', "pattern"),
        ('{"$ref": "#/definitions/a"}', "leads nowhere"),
        ('{"items": {"$ref": "https://example.org/a.json"}}', "leads nowhere"),
        ('{"$ref": "#"}', "without end"),
    ],
)
def test_unusable_schemas_are_named(schema, why):
    assert why in tasks.why_left_out(schema)


def test_usable_schemas_are_kept():
    tree = {"$defs": {"t": {"properties": {"t": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"}
    named = {
        "$id": "https://example.org/a.json",
        "$defs": {"b": {"$id": "b.json", "type": "string"}},
        "items": {"$ref": "b.json"},
    }
    words = {"properties": {"pattern": {"type": "string"}}, "default": {"pattern": "["}}
    for schema in (tree, named, words, True, {}):
        assert tasks.why_left_out(json.dumps(schema)) is None
    assert judged('{"t": {"t": {}}}', tree) == "right"
    assert judged("[3]", named) == "schema_invalid"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2031-05-17", "20310517"),
        ("date", "2028-02-29", "2031-02-29"),
        ("time", "10:00:00Z", "10:00"),
        ("date-time", "2031-05-17T10:00:00.5+02:00", "2031-05-17 10:00"),
        ("email", "a@b.example", "a.example"),
        ("hostname", "a-b.example", "a_b.example"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("ipv6", "fe80::1", "fe80::1%eth0"),
        ("uri", "https://a.example/b?c#d", "a b"),
        ("uri-reference", "../a", "a b"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    ],
)
def test_formats_are_checked(name, good, bad):
    assert judged(json.dumps(good), {"format": name}) == "right"
    assert judged(json.dumps(bad), {"format": name}) == "schema_invalid"
    assert judged("3", {"format": name}) == "right"


def test_multiples_are_exact():
    cents = {"multipleOf": 0.01}
    assert judged("19.99", cents) == "right"
    assert judged("19.995", cents) == "schema_invalid"


def test_a_regular_expression_that_hangs_is_unjudged_from_any_thread():
    validation = Validation(cpu_limit_s=0.3)
    slow = {"pattern": "^(a+)+$"}
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(judged, f'"{"a" * 60}b"', slow, validation=validation)
        assert hanging.result(timeout=60) == "unjudged"
    assert judged('"aaa"', slow, validation=validation) == "right"  # started anew
    with pytest.raises(UnjudgedError, match="within 0"):
        validation.why_refused(json.dumps(slow), f'"{"a" * 60}b"')
    validation.close()


def test_threads_get_their_own_replies():
    def ask(number):
        schema = json.dumps({"const": number})
        return VALIDATION.why_refused(schema, str(number)), VALIDATION.why_refused(schema, "-1")

    with ThreadPoolExecutor(4) as threads:
        for number, (same, other) in enumerate(threads.map(ask, range(50))):
            assert same is None
            assert str(number) in other


# The standard set

SCHEMAS = {
    "a": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    "b": {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"},
    "bad": {"type": "objct"},
    "far": {"$ref": "https://example.org/elsewhere.json"},
}


@pytest.fixture
def local_copy(tmp_path):
    """A folder in the layout of the hub's repository."""
    configs = ("Github_easy", "Github_medium", "Github_hard", "Glaiveai2K", "Kubernetes")
    lines = ["---", "configs:"]
    for config in (*configs, "Snowplow", "WashingtonPost"):
        rows = {
            "json_schema": [json.dumps(schema) for schema in SCHEMAS.values()],
            "unique_id": [f"{config}-{name}" for name in SCHEMAS],
        }
        (tmp_path / config).mkdir()
        pd.DataFrame(rows).to_parquet(tmp_path / config / "test-00000-of-00001.parquet")
        lines += [f"- config_name: {config}", "  data_files:", "  - split: test"]
        lines += [f"    path: {config}/test-*"]
    (tmp_path / "README.md").write_text("\n".join([*lines, "---", ""]))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["easy", "medium", "hard", "glaive", "kubernetes", "snowplow", "washington_post"]
)
def test_standard_set_loads_from_a_local_copy(local_copy, name, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(local_copy / "cache"))
    # lm-eval overrides the keys of a task that it knows where a group names it, and only there.
    task = {"task": f"awqbench_json_standard_{name}", "dataset_path": str(local_copy)}
    found, model = evaluate(lambda doc: '{"n": 3}', {"group": "local", "task": [task]})
    results = found["results"][f"awqbench_json_standard_{name}"]
    assert results["acc,none"] == results["is_right,none"] == results["strict,none"] == 1
    docs = [sample["doc"] for sample in found["samples"][f"awqbench_json_standard_{name}"]]
    assert [doc["id"].split("-")[1] for doc in docs] == ["a", "b"]
    assert {(doc["left_out"], doc["left_out_of"]) for doc in docs} == {(2, 4)}
    context, options = model.requests[0].args
    assert context.count("### Answer\n") == 2
    assert context.endswith("\n### Answer\n")
    assert options["until"] == ["\n###"]  # a blank line ends no answer


def test_standard_group_holds_the_sets_of_rising_difficulty():
    manager = TaskManager(include_path=str(SUITES), include_defaults=False)
    group = yaml.safe_load(manager.task_index["awqbench_json_standard"].yaml_path.read_text())
    assert group["task"] == [
        f"awqbench_json_standard_{name}" for name in ("easy", "medium", "hard")
    ]
    assert set(group["task"]) < set(manager.all_subtasks)


def test_a_worker_that_was_killed_is_started_anew():
    validation = Validation()
    assert validation.why_refused("{}", "1") is None
    validation._process.kill()
    validation._process.wait()
    assert validation.why_refused("{}", "1") is None
    validation.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"n": 3}', "right"),
        ('```json\n{"n": 3}\n```', "right_in_fence"),
        ('{"n": "3"}', "schema_invalid"),
        ('{"n": ', "cut_off"),
        ("n is 3", "unparsable"),
    ],
)
def test_standard_outcomes(answer, expected):
    doc = {"schema_json": json.dumps(SCHEMAS["a"])}
    found = tasks.standard_results(doc, [answer])
    assert [name for name in tasks.STANDARD_OUTCOMES if found[f"is_{name}"]] == [expected]
    assert found["acc"] == found["schema_valid"] == (expected in ("right", "right_in_fence"))


def test_bare_words_of_json_keep_all_their_letters():
    # Taking off the letters of "json" at both ends would leave "ull" of this.
    doc = {"schema_json": '{"type": ["null", "string"]}'}
    for answer in ("null", "```json\nnull\n```", '```json\n"n"\n```'):
        assert tasks.standard_results(doc, [answer])["acc"] == 1


def test_worked_examples_of_the_standard_set_are_right():
    for example in tasks.standard_examples():
        schema = example["prompt"].split("### Schema\n")[1].removesuffix("\n### Answer\n")
        assert judged(example["target"], json.loads(schema)) == "right"


def test_a_set_without_a_usable_schema_is_refused():
    rows = datasets.Dataset.from_dict({"json_schema": ["{"], "unique_id": ["x"]})
    with pytest.raises(InputError, match="none of the 1 schemas"):
        tasks.standard_docs(rows)
