from __future__ import annotations

import ast
import builtins
import copy
import json
import keyword
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suites.code import sandbox, scoring, tasks
from suites.code.items import TEMPLATES
from suites.code.sandbox import Limits
from suites.code.scoring import OUTCOMES, ends_open, find_code, job_of, judge
from suites.code.tasks import COUNTS, process_results, question_of
from suites.items import Item, fingerprint

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

SUITES = Path(__file__).parents[2] / "suites"
FINGERPRINT = "0977d9be7b5ca16e23e902622663b48fa524e7c196aa300276f4fa7776abfe34"
EVALUATION = [
    item
    for part, count in COUNTS.items()
    for item in TEMPLATES.items(split="evaluation", part=part, count=count)
]


class Completion(str):
    """As our adapter hands them over."""

    cut_off: bool = False

    @classmethod
    def of(cls, text: str, *, cut_off: bool) -> Completion:
        answer = cls(text)
        answer.cut_off = cut_off
        return answer


class Scripted(LM):
    """A model that answers from the row it is asked about."""

    def __init__(self, answer: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self.answer = answer
        self.prompts: list[str] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def evaluate(model: LM, names: list[Any], **more: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(SUITES), include_defaults=False)
    evaluated = lm_eval.simple_evaluate(
        model=model, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0, **more
    )
    assert evaluated is not None
    return dict(evaluated)


def outcomes(pairs: list[tuple[Item, str]], limits: Limits = sandbox.LIMITS) -> list[str]:
    """The outcome of each answer to its item, run several at a time."""
    questions = [question_of(item) for item, _ in pairs]
    jobs = [job_of(question, text) for question, (_, text) in zip(questions, pairs, strict=True)]
    programs = iter(sandbox.run_many([job for job in jobs if job is not None], limits))
    return [
        judge(question, text, None if job is None else next(programs))
        for question, (_, text), job in zip(questions, pairs, jobs, strict=True)
    ]


# --- the items -----------------------------------------------------------------------------------


def test_the_set_is_the_committed_one() -> None:
    assert fingerprint(EVALUATION) == FINGERPRINT
    assert len(EVALUATION) >= 200
    assert len({item["id"] for item in EVALUATION}) == len(EVALUATION)
    assert len({item["prompt"] for item in EVALUATION}) == len(EVALUATION)
    assert len(TEMPLATES.of("seen")) >= 14
    assert len(TEMPLATES.of("reserved")) >= 6
    for part, count in COUNTS.items():
        assert count % len(TEMPLATES.of(part)) == 0


def test_prompts_are_self_contained_and_short() -> None:
    for item in EVALUATION:
        assert item["prompt"].startswith("### Task\n")
        assert item["prompt"].endswith('    """\n### Answer\n')
        assert item["code"] in item["prompt"]
        assert len(item["prompt"]) < 700
        assert len(item["target"]) < 200
        tests = json.loads(item["tests_json"])
        assert len({json.dumps(arguments) for arguments, _ in tests}) >= 4
        assert len({json.dumps(expected) for _, expected in tests}) >= 2


def open_values(items: list[Item]) -> set[str | int]:
    """Nouns of function names, parameters, and the constants of the solutions (but counts)."""
    values: set[str | int] = set()
    for item in items:
        values.add(item["entry_point"].split("_", 1)[1])
        (function,) = ast.parse(item["target"]).body
        assert isinstance(function, ast.FunctionDef)
        values |= {parameter.arg for parameter in function.args.args}
        for node in ast.walk(function):
            if isinstance(node, ast.Constant):
                if type(node.value) is int and node.value > 9:
                    values.add(node.value)
                if type(node.value) is str:
                    values |= set(re.findall(r"[a-z]+", node.value))
    return values


def test_evaluation_uses_no_open_value_of_training() -> None:
    training = TEMPLATES.items(split="train", part="seen", count=2_000, seed=1)
    assert {item["part"] for item in training} == {"seen"}
    evaluated = open_values(EVALUATION)
    assert len(evaluated) > 100
    assert evaluated.isdisjoint(open_values(training))
    with pytest.raises(ValueError, match="reserved templates are for evaluation"):
        TEMPLATES.items(split="train", part="reserved", count=1)


def test_parameters_hide_nothing_of_python() -> None:
    training = TEMPLATES.items(split="train", part="seen", count=2_000)
    names = {
        parameter.arg
        for item in training + EVALUATION
        for node in ast.walk(ast.parse(item["target"]))
        if isinstance(node, ast.arguments)
        for parameter in node.args
    }
    assert not {name for name in names if hasattr(builtins, name) or keyword.iskeyword(name)}


def test_the_docstring_says_the_constants() -> None:
    """What the solution needs can be read in the prompt; the example alone would not do."""
    checked = 0
    for item in EVALUATION:
        says = item["prompt"].split(">>>")[0]
        for node in ast.walk(ast.parse(item["target"])):
            if isinstance(node, ast.Constant) and type(node.value) is int and node.value > 9:
                assert str(node.value) in says
                checked += 1
    assert checked > 100


# --- answers, damaged in each way ----------------------------------------------------------------


def as_body(item: Item) -> str:
    return item["target"].split("\n", 1)[1]


STYLES: dict[str, Callable[[Item], str]] = {
    "body": as_body,
    "body without its indent": lambda item: "\n".join(
        line[4:] for line in as_body(item).split("\n")
    ),
    "fence": lambda item: f"```python\n{item['target']}\n```",
    "fence without a language": lambda item: f"```\n{item['target']}\n```\n",
    "fence left open": lambda item: f"```python\n{item['target']}",
    "body in a fence": lambda item: f"```py\n{as_body(item)}\n```",
    "prose around a fence": lambda item: (
        f"Sure! Here it is:\n\n```python\n{item['target']}\n```\n\nIt returns what you asked for."
    ),
    "two fences": lambda item: (
        f"Call it so:\n```python\nprint({item['entry_point']})\n```\n```\n{item['target']}\n```\n"
    ),
    "prose around bare code": lambda item: (
        f"Here is the function:\n\n{item['target']}\n\nThis does as the docstring says."
    ),
    "the docstring with it": lambda item: item["code"] + as_body(item),
    "imports before": lambda item: f"import math\nfrom typing import Any\n\n{item['target']}",
    "a helper after": lambda item: f"{item['target']}\n\ndef helper(x):\n    return x\n",
    "a fence indented": lambda item: (
        "  ```python\n" + "\n".join(f"  {line}" for line in item["target"].split("\n")) + "\n  ```"
    ),
}


def definition(source: str, name: str) -> str:
    """The last function of that name, without its docstring, as a tree in text."""
    function = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ][-1]
    if ast.get_docstring(function) is not None:
        del function.body[0]
    return ast.dump(function)


@pytest.mark.parametrize("style", STYLES)
def test_right_in_every_style(style: str) -> None:
    for item in EVALUATION:
        job = job_of(question_of(item), STYLES[style](item))
        assert job is not None
        name = item["entry_point"]
        assert definition(job.source, name) == definition(item["target"], name)
    chosen = [EVALUATION[0], EVALUATION[200]]
    assert outcomes([(item, STYLES[style](item)) for item in chosen]) == ["right", "right"]


def another_constant(item: Item) -> str | None:
    """One more where a number is said, in the body."""
    header, body = item["target"].split("\n", 1)
    found = re.search(r"(?<![\w\"])\d+", body)
    if found is None or "[-1]" in body:  # a place that a list of one does not have raises
        return None
    number = str(int(found.group()) + 1)
    return f"{header}\n{body[: found.start()]}{number}{body[found.end() :]}"


def another_word(item: Item) -> str | None:
    header, body = item["target"].split("\n", 1)
    if '["' in body:  # a key that is not there raises
        return None
    changed = re.sub(r'"([^"]*)"', r'"\1x"', body, count=1)
    return f"{header}\n{changed}" if changed != body else None


def another_comparison(item: Item) -> str | None:
    changed = re.sub(
        r"([<>])(=?) ", lambda sign: f"{sign[1]}{'' if sign[2] else '='} ", item["target"]
    )
    return changed if changed != item["target"] else None


def returns(value: str) -> Callable[[Item], str]:
    return lambda item: f"{item['target'].splitlines()[0]}\n    return {value}"


def before_return(line: str) -> Callable[[Item], str]:
    return lambda item: item["target"].replace(":\n", f":\n    {line}\n", 1)


def in_a_string(item: Item) -> str | None:
    """Cut after the first quote of the body."""
    start = item["target"].find('"')
    return item["target"][: start + 3] if start >= 0 else None


DAMAGES: dict[str, tuple[str, int, Callable[[Item], str | None]]] = {
    "another constant": ("wrong_result", 100, another_constant),
    "another word": ("wrong_result", 60, another_word),
    "another comparison": ("wrong_result", 20, another_comparison),
    "nothing": ("wrong_result", 200, returns("None")),
    "an object": ("wrong_result", 200, returns("object()")),
    "an early return": ("wrong_result", 200, before_return("return")),
    "an unknown name": ("raised", 200, before_return("nonsense")),
    "an exception": ("raised", 200, before_return("raise SystemExit(0)")),
    "another function": (
        "wrong_result", 200, lambda item: item["target"].replace("def ", "def other_", 1),
    ),
    "a colon too few": (
        "syntax_error", 200, lambda item: item["target"].replace("):\n", ")\n", 1),
    ),
    "a bracket too many": ("syntax_error", 200, lambda item: f"{item['target']})"),
    "empty": ("no_code", 200, lambda item: ""),
    "prose": ("no_code", 200, lambda item: "I would rather not write this function."),
    "cut in the header": (
        "cut_off", 200, lambda item: item["target"][: item["target"].index("(") + 2],
    ),
    "cut after the header": ("cut_off", 200, lambda item: item["target"].splitlines()[0]),
    "cut in a string": ("cut_off", 60, in_a_string),
}  # fmt: skip
"""Outcome, how many items it applies to at least, and the damage (None where it does not apply)."""
SAMPLE = 16


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_has_its_outcome(name: str) -> None:
    expected, least, damage = DAMAGES[name]
    pairs = [(item, text) for item in EVALUATION if (text := damage(item)) is not None]
    assert len(pairs) >= least
    if expected != "no_code":  # each costs a process
        pairs = random.Random(name).sample(pairs, SAMPLE)
    wrong = [
        (outcome, text)
        for (_, text), outcome in zip(pairs, outcomes(pairs), strict=True)
        if outcome != expected
    ]
    assert not wrong


def test_what_does_not_end_or_takes_too_much() -> None:
    item = EVALUATION[0]
    slow = before_return("while True: pass")(item)
    large = before_return("x = bytearray(1 << 40)")(item)
    assert outcomes([(item, slow)], Limits(timeout_s=0.2)) == ["timed_out"]
    assert outcomes([(item, large)]) == ["out_of_limits"]


def test_the_adapter_knows_what_was_cut_off() -> None:
    item = EVALUATION[0]
    wrong = returns("None")(item)
    pairs = [
        (item, Completion.of(item["target"], cut_off=True)),
        (item, Completion.of(wrong, cut_off=True)),
        (item, Completion.of("", cut_off=True)),
        (item, Completion.of(wrong, cut_off=False)),
        (item, Completion.of(item["target"].splitlines()[0], cut_off=False)),
    ]
    assert outcomes(pairs) == ["right", "cut_off", "cut_off", "wrong_result", "syntax_error"]


@pytest.mark.parametrize(
    ("code", "open_"),
    [
        ("def f(x):\n    return (1,", True), ("def f(x):\n    return 'ab", True),
        ("def f(x):", True), ("def f(x):\n    return x +", True), ('x = """abc', True),
        ("def f(x):\n    return", True), ("def f(x)\n    return 1", False), ("", False),
        ("def f(x):\n        y = 1\n    return x", False), ("def f(x):\n    return 1)", False),
    ],
)  # fmt: skip
def test_where_code_ends_open(code: str, open_: bool) -> None:
    assert ends_open(code) is open_


def test_prose_is_not_code() -> None:
    for text in ("The answer\nis 3.", "from what I see, it adds", "Define f."):
        assert find_code(text, "f") is None


# --- through lm-eval -----------------------------------------------------------------------------


def test_right_answers_score_one() -> None:
    model = Scripted(lambda doc: doc["target"])
    result = evaluate(model, ["awqbench_code"], confirm_run_unsafe_code=True)
    for name, count in (("awqbench_code_seen", 162), ("awqbench_code_reserved", 80)):
        scores = result["results"][name]
        assert scores["acc,none"] == scores["is_right,none"] == 1.0
        assert len(result["samples"][name]) == count
    assert result["results"]["awqbench_code"]["acc,none"] == 1.0
    assert all(prompt.count("### Answer\n") == 2 for prompt in model.prompts)
    assert max(map(len, model.prompts)) < 1_400
    assert not tasks._done_ahead


def test_without_confirmation_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_launch", lambda *_, **__: pytest.fail("code was run"))
    model = Scripted(lambda doc: doc["target"])
    for name in ("awqbench_code_seen", "awqbench_code_reserved"):
        with pytest.raises(ValueError, match="marked as unsafe"):
            evaluate(model, [name])
    assert model.prompts == []


def test_every_outcome_is_a_flag_of_its_own() -> None:
    for outcome in OUTCOMES:
        scores = scoring.scores(outcome)
        flags = {name for name, value in scores.items() if name.startswith("is_") and value}
        assert flags == {f"is_{outcome}"}
        assert scores["acc"] == (outcome == "right")
    assert process_results(EVALUATION[0], [""])["is_no_code"] == 1.0


HUMANEVAL = [
    {
        "task_id": "Made/0",
        "prompt": "from typing import List\n\n\ndef half(x: int) -> int:\n    return x // 2\n\n\n"
        'def halves(xs: List[int]) -> List[int]:\n    """Each number halved, downwards.\n    """\n',
        "canonical_solution": "    return [half(x) for x in xs]\n",
        "test": "def check(candidate):\n    assert candidate([4, 7]) == [2, 3]\n"
        "    assert candidate([]) == []\n    assert candidate([9]) == [half(9)]\n",
        "entry_point": "halves",
    },
    {
        "task_id": "Made/1",
        "prompt": 'def sign(x):\n    """-1, 0 or 1."""\n',
        "canonical_solution": "    if x == 0:\n        return 0\n    return 1 if x > 0 else -1\n",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(-3) == -1\n"
        "    assert candidate(0) == 0, 'zero'\n    assert candidate(8) == 1\n",
        "entry_point": "sign",
    },
]
MBPP = [
    {
        "task_id": number,
        "text": f"Write a function to add {number} to a number.",
        "code": f"def add(x):\r\n    return x + {number}",
        "test_setup_code": "",
        "test_list": [f"assert add({x}) == {x + number}" for x in (1, 2, 3)],
        "challenge_test_list": [],
    }
    for number in range(1, 6)
]


def standard(
    name: str, folder: Path, splits: dict[str, list[dict[str, Any]]], config: str | None = None
) -> dict[str, Any]:
    """The task on a folder laid out as the hub's data set; within a group, since lm-eval lays
    options over a registered task only there."""
    folder.mkdir()
    files = ""
    for split, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
        files += f"  - split: {split}\n    path: {split}.jsonl\n"
    header = f"configs:\n- config_name: {config or 'default'}\n  data_files:\n{files}"
    (folder / "README.md").write_text(f"---\n{header}---\n")
    task = {"task": name, "dataset_path": str(folder)}
    if config is not None:
        task["dataset_name"] = config
    return {"group": "made_up", "task": [task]}


def test_humaneval_from_a_local_folder(tmp_path: Path) -> None:
    task = standard("awqbench_humaneval", tmp_path / "h", {"test": HUMANEVAL})

    def score(answer: Callable[[dict[str, Any]], str]) -> float:
        result = evaluate(Scripted(answer), [copy.deepcopy(task)], confirm_run_unsafe_code=True)
        return float(result["results"]["awqbench_humaneval"]["acc,none"])

    assert score(lambda doc: doc["canonical_solution"]) == 1.0
    assert score(lambda doc: f"```python\n{doc['prompt']}{doc['canonical_solution']}```") == 1.0
    assert score(lambda doc: "    return 0\n") == 0.0
    assert score(lambda doc: "    import os\n    os._exit(0)\n") == 0.0
    assert score(lambda doc: doc["canonical_solution"] if "sign" in doc["prompt"] else "") == 0.5


@pytest.mark.parametrize("kind", ["full", "sanitized"])
def test_mbpp_from_a_local_folder(tmp_path: Path, kind: str) -> None:
    rows = MBPP
    if kind == "sanitized":
        rows = [
            {
                "source_file": "made", "task_id": row["task_id"], "prompt": row["text"],
                "code": row["code"], "test_imports": ["import math"],
                "test_list": [*row["test_list"], "assert math.isclose(add(0), add(0))"],
            }
            for row in MBPP
        ]  # fmt: skip
    splits = {"prompt": rows[:3], "test": rows[3:]}
    task = standard("awqbench_mbpp", tmp_path / "m", splits, kind)

    def score(model: Scripted) -> float:
        result = evaluate(model, [copy.deepcopy(task)], confirm_run_unsafe_code=True)
        return float(result["results"]["awqbench_mbpp"]["acc,none"])

    model = Scripted(lambda doc: doc["code"])
    assert score(model) == 1.0
    assert all(prompt.count("### Answer\n") == 4 for prompt in model.prompts)
    assert "assert add(1) == 5" in model.prompts[0]
    assert score(Scripted(lambda doc: f"```python\n{doc['code']}\n```")) == 1.0
    assert score(Scripted(lambda doc: "def add(x):\n    return x + 4\n")) == 0.5
    assert score(Scripted(lambda doc: "def add(x):\n    return 0\n")) == 0.0


def test_the_standard_sets_want_a_confirmation_too(tmp_path: Path) -> None:
    task = standard("awqbench_humaneval", tmp_path / "h", {"test": HUMANEVAL})
    with pytest.raises(ValueError, match="marked as unsafe"):
        evaluate(Scripted(lambda doc: ""), [task])
