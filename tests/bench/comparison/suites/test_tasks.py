"""Task suites through the whole comparison, with scripted answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import lm_eval.tasks
import pandas as pd
import pytest
import torch
from lm_eval.api.model import LM
from lm_eval.tasks._index import TaskIndex
from safetensors.torch import load_file

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison.compare import Outcome, compare
from bench.comparison.request import Request
from bench.records.record import Record, read_record
from bench.reference import MODEL_FOLDER
from bench.report import draw
from bench.report.scores import language_differences, scores
from quantcore.errors import InputError
from suites import TASK_SUITES, harness, language_model
from suites.harness import TaskOptions, TaskSet

SCHEMA = json.loads((resources.files("bench.records") / "record.schema.json").read_text("utf-8"))
Script = Callable[[bool, dict[str, Any]], Any]
"""From (is the model quantized, item) to an answer, or to the likeliest option's number."""


class Scripted(LM):  # type: ignore[misc]
    """Stands in for `BatchedLM`: answers by script, and knows whether the model was changed."""

    script: Script
    original: float
    runs = 0

    def __init__(self, model: Any, tokenizer: Any, **settings: Any) -> None:
        super().__init__()
        Scripted.runs += 1
        self.done = settings["done"]
        self.quantized = self.original != size_of(model.model.layers[0].mlp.up_proj.weight)

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.done(len(requests))
        return [Scripted.script(self.quantized, one.doc) for one in requests]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        self.done(len(requests))
        return [
            (0.0 if one.idx == Scripted.script(self.quantized, one.doc) else -1.0, False)
            for one in requests
        ]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError


def size_of(weight: torch.Tensor) -> float:
    return float(weight.double().abs().sum())


@pytest.fixture(autouse=True, scope="module")
def _index() -> Iterator[None]:
    """lm-eval reads its thousands of files once, and not for every task that is its own."""
    real, folder = TaskIndex.build, Path(lm_eval.tasks.__file__).parent
    own = cache(lambda: real([folder]))

    def build(paths: list[Path]) -> dict[str, Any]:
        rest = [path for path in paths if path != folder]
        return (own() if len(rest) < len(paths) else {}) | real(rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskIndex, "build", staticmethod(build))
        yield


def install(patch: pytest.MonkeyPatch, tiny_folder: Path) -> type[Scripted]:
    weights = load_file(tiny_folder / "model.safetensors")
    original = size_of(weights["model.layers.0.mlp.up_proj.weight"])
    patch.setattr(language_model, "BatchedLM", Scripted)
    patch.setattr(Scripted, "original", original, raising=False)
    patch.setattr(Scripted, "runs", 0)
    return Scripted


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> type[Scripted]:
    return install(monkeypatch, tiny_folder)


def damaged(quantized: bool, item: dict[str, Any]) -> Any:
    """The quantized model drops braces in a third of json, an argument, and all of Hindi."""
    number = int(str(item["id"]).split("/")[2])
    if "options" in item:
        return item["gold"] if not quantized or item["language"] != "hi" else 3 - item["gold"]
    if quantized and item["id"].startswith("json/") and number % 3 == 0:
        return item["target"].removesuffix("}")
    if quantized and item["id"].startswith("tool_calls/") and number % 5 == 0:
        return "I do not know."
    return item["target"]


@pytest.fixture(scope="module")
def finished(
    tiny_folder: Path, request_for: Request, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Request, Outcome]:
    request = request_for.but(
        methods=("rtn",),
        suites=("perplexity", "divergence", "json", "tool_calls", "multilingual"),
        tasks_schemes=("int3-g64",),
    )
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tiny_folder).script = staticmethod(damaged)
        return request, compare(request, out=tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def measured(
    scripted: type[Scripted], finished: tuple[Request, Outcome], tmp_path: Path
) -> tuple[Request, Path, tuple[Record, ...]]:
    """A finished comparison, in a folder of the test's own."""
    scripted.script = staticmethod(damaged)
    request, outcome = finished
    folder = Path(shutil.copytree(outcome.folder, tmp_path / "run"))
    return request, folder, outcome.records


def test_every_damage_is_counted_where_it_belongs(
    measured: tuple[Request, Path, tuple[Record, ...]],
) -> None:
    _, _, (base, int4, int3) = measured
    assert [record.status for record in (base, int4, int3)] == ["done"] * 3
    assert set(int4.cell.suites) == {"perplexity", "divergence"}
    assert set(int3.cell.suites) == set(base.cell.suites) == {
        "perplexity", "divergence", "json", "tool_calls", "multilingual",
    }  # fmt: skip
    for metric in ("json_acc", "tool_calls_acc", "multilingual_acc"):
        assert base.metrics[metric].value == 1.0
        assert set(base.metrics[metric].columns.outcome) == {"right"}
    found = {one.suite: one for one in scores([base, int3]) if one.against}
    columns = found["json"].columns
    dropped = [i for i, name in enumerate(columns.id) if int(name.split("/")[2]) % 3 == 0]
    assert len(dropped) > 70
    for index, outcome in enumerate(columns.outcome):
        assert (outcome != "right") == (index in dropped)
    against = found["json"].against
    assert against is not None
    assert (against.lost, against.gained) == (len(dropped), 0)
    assert against.difference == pytest.approx(-len(dropped) / len(columns.id))
    assert against.low < against.difference < against.high < 0
    assert against.significant()
    # Tool calls: what is no call is no call, except where none was due.
    assert Counter(found["tool_calls"].columns.outcome)["no_call"] > 20
    # Nine languages: only Hindi is lost, and only Hindi's loss is beyond English's.
    losses = language_differences(
        found["multilingual"],
        next(o for o in scores([base]) if o.suite == "multilingual"),
    )
    assert losses["hi"].difference == -1.0
    assert losses["hi"].significant()
    assert not any(loss.significant() for name, loss in losses.items() if name != "hi")
    assert found["multilingual"].own is not None
    assert found["multilingual"].own.clusters == 104


def test_the_table_says_it(measured: tuple[Request, Path, tuple[Record, ...]]) -> None:
    _, folder, records = measured
    layouts = draw.write(records, folder)
    assert [layout.title for layout in layouts[1:]] == [
        f"{records[0].model_name}, INT4-G32: divergence".replace("G32", "g32"),
        f"{records[0].model_name}, INT3-g64: accuracy by suite, %",
    ]
    rows = dict(layouts[2].body)
    assert list(rows) == ["KL, nats", "json", "tool_calls", "multilingual"]
    assert rows["json"][0].lines[0] == "100.0"
    lost = sum(value == 0 for value in records[2].metrics["json_acc"].columns.value)
    assert f"-{lost} +0" in rows["json"][1].lines
    assert any(line.endswith("*") for line in rows["json"][1].lines)
    text = (folder / "tasks.md").read_text("utf-8")
    assert "RTN: loses" in text
    assert "outcome no_call" in text
    assert "language hi" in text
    table = pd.read_csv(folder / "tasks.csv")
    hindi = table[(table.facet == "language") & (table.of == "hi") & (table.method == "rtn")]
    assert hindi["value"].tolist() == [0.0]
    assert {path.name for path in folder.glob("tasks*")} == {
        "tasks.md", "tasks.csv", "tasks.json", "tasks_int3-g64.png", "tasks_int3-g64.svg",
    }  # fmt: skip


def test_records_are_valid_and_a_second_call_asks_nothing(
    measured: tuple[Request, Path, tuple[Record, ...]],
) -> None:
    request, folder, _ = measured
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for path in folder.glob("records/*.json"):
        validator.validate(json.loads(path.read_text("utf-8")))
    before = Scripted.runs
    compare(request, out=folder)
    assert Scripted.runs == before


def test_a_resumed_comparison_makes_its_reference_anew(
    measured: tuple[Request, Path, tuple[Record, ...]],
) -> None:
    request, folder, records = measured
    (folder / "records" / "rtn_int3-g64.json").unlink()
    again = compare(request, out=folder).records
    metric = records[2].cell.suites["divergence"].metric
    assert again[2].metrics[metric] == records[2].metrics[metric]
    assert again[2].metrics[metric].value > 0


def test_an_interrupted_cell_keeps_its_finished_suites(
    scripted: type[Scripted], request_for: Request, tmp_path: Path
) -> None:
    asked: list[str] = []
    broken = False

    def script(quantized: bool, item: dict[str, Any]) -> Any:
        suite = str(item["id"]).partition("/")[0]
        asked.append(suite)
        if quantized and suite == "tool_calls" and broken:
            raise KeyboardInterrupt
        return damaged(quantized, item)

    scripted.script = staticmethod(script)
    request = request_for.but(
        methods=("rtn",), schemes=("int3-g64",), suites=("json", "tool_calls")
    )
    whole, broken = compare(request, out=tmp_path / "whole").records, True
    with pytest.raises(KeyboardInterrupt):
        compare(request, out=tmp_path / "run")
    asked.clear()
    broken = False
    outcome = compare(request, out=tmp_path / "run")
    assert set(asked) == {"tool_calls"}
    for one, other in zip(outcome.records, whole, strict=True):
        for metric in ("json_acc", "tool_calls_acc"):
            assert one.metrics[metric].columns == other.metrics[metric].columns
    assert not (outcome.folder / "unfinished").exists()


def test_no_loss_says_what_would_have_been_seen(
    scripted: type[Scripted], request_for: Request, tmp_path: Path
) -> None:
    scripted.script = staticmethod(lambda quantized, item: item["target"])
    request = request_for.but(methods=("rtn",), schemes=("int4-g32",), suites=("json",))
    outcome = compare(request, out=tmp_path / "run")
    (layout,) = draw.write(outcome.records, outcome.folder)
    said = next(note for note in layout.notes if note.startswith("RTN:"))
    assert "no loss found; losses above" in said
    assert not (outcome.folder / "table.md").exists()


def test_a_model_that_knows_nothing_has_nothing_to_lose(
    scripted: type[Scripted], request_for: Request, tmp_path: Path
) -> None:
    scripted.script = staticmethod(lambda quantized, item: "no idea")
    request = request_for.but(methods=("rtn",), schemes=("int4-g32",), suites=("json",))
    outcome = compare(request, out=tmp_path / "run")
    (layout,) = draw.write(outcome.records, outcome.folder)
    said = next(note for note in layout.notes if note.startswith("RTN:"))
    assert "no loss found" not in said
    assert "json (0.0 % right before)" in said


def test_two_cells_on_request(
    measured: tuple[Request, Path, tuple[Record, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, _ = measured
    assert cli.main(["pair", str(folder), "rtn@int3-g64", "unquantized"]) == exit_codes.DONE
    printed = capsys.readouterr().out
    assert "perplexity" in printed
    assert "loses" in printed
    assert cli.main(["pair", str(folder), "rtn@int3-g64", "rtn@int4-g32"]) == exit_codes.DONE
    assert "json" not in capsys.readouterr().out
    assert cli.main(["pair", str(folder), "rtn@int3-g64", "rtn@int3-g64"]) == exit_codes.BAD_INPUT
    assert "give two cells" in capsys.readouterr().err
    assert cli.main(["pair", str(folder), "rtn@int3-g6", "unquantized"]) == exit_codes.BAD_INPUT
    assert "rtn@int3-g64" in capsys.readouterr().err


def task_set(folder: Path, name: str = "multilingual", **options: Any) -> TaskSet:
    return TaskSet(
        name,
        f"awqbench_{name}",
        TaskOptions(**options),
        tokenizer_folder=folder,
        context=1024,
    )


def test_a_subset_is_drawn_by_seed_and_translations_stay_together(tiny_folder: Path) -> None:
    one, same, other = (task_set(tiny_folder, limit=5, seed=seed).samples for seed in (0, 0, 1))
    assert one == same != other
    assert {len(rows) for rows in one.values()} == {5}
    seen = [rows for name, rows in one.items() if name.endswith("_seen")]
    assert len(seen) == 9
    assert all(rows == seen[0] for rows in seen)
    assert task_set(tiny_folder, limit=5).metric == "multilingual_acc@90"
    assert task_set(tiny_folder).metric == "multilingual_acc"


def test_the_protocol_changes_with_the_items(tiny_folder: Path) -> None:
    whole = task_set(tiny_folder, "json").protocol()
    assert whole == task_set(tiny_folder, "json").protocol()
    assert whole["items"] == whole["of_items"] >= 200
    part = task_set(tiny_folder, "json", limit=7).protocol()
    assert part["items_sha256"] != whole["items_sha256"]
    shots = task_set(tiny_folder, "json", num_fewshot=0).protocol()
    assert {task["num_fewshot"] for task in shots["tasks"].values()} == {0}


@pytest.mark.parametrize("suite", TASK_SUITES)
def test_every_suite_is_large_and_has_two_parts(suite: str) -> None:
    tasks = task_set(MODEL_FOLDER, suite, allow_code_execution=True)
    assert tasks.of_items >= 200
    assert {name.rpartition("_")[2] for name in tasks.samples} == {"seen", "reserved"}


def test_a_real_model_answers_and_long_prompts_are_told(
    request_for: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model takes 128 tokens, fewer than any of these prompts."""
    out = tmp_path / "run"
    arguments = ["evaluate", request_for.model, "--suites", "tool_calls", "--limit", "2"]
    assert cli.main([*arguments, "--out", str(out)]) == exit_codes.DONE
    printed = capsys.readouterr()
    assert "do not fit the model's context of 128 tokens" in printed.err
    assert "tool_calls" in printed.out
    record = json.loads((out / "records/unquantized.json").read_text("utf-8"))
    metric = record["metrics"]["tool_calls_acc@4"]
    assert metric["too_long"] == 4
    assert "none fits" in printed.out
    assert "nothing was measured" in printed.out


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"suites": ("jsn",)}, ("unknown suite 'jsn'", "json")),
        ({"suites": (), "tasks": ("awqbench_jsom",)}, ("unknown task", "awqbench_json")),
        ({"suites": (), "tasks": ("json",)}, ("that is a suite", "suites")),
        ({"suites": ("code",)}, ("allow_code_execution", "sandbox")),
        ({"suites": ("json",), "chat_template": True}, ("no chat template", "leave the option")),
        ({"suites": ("json",), "limit": 0}, ("limit 0", "at least 1")),
        ({"suites": ("json",), "num_fewshot": -1}, ("num_fewshot -1", "0 or more")),
        ({"suites": ("long_prompt",), "lengths": (10,)}, ("lengths 10", "128")),
        ({"suites": ("long_prompt",), "lengths": (5000,)}, ("lengths 5000", "128 tokens")),
        ({"suites": ("long_prompt",)}, ("context of 128", "leave this suite out")),
        ({"suites": ("json",), "tasks_source": "standart"}, ("standart", "standard")),
        ({"suites": ("json",), "tasks_schemes": ("int2-g64",)}, ("int2-g64", "not among")),
        (
            {"suites": ("json",), "tasks_schemes": ("int3-g64",)},
            ("nothing to measure at int4-g32", "add perplexity"),
        ),
        (
            {"suites": ("perplexity",), "tasks_schemes": ("int3-g64",)},
            ("tasks_schemes int3-g64", "no tasks are asked for", "suites"),
        ),
        ({"suites": ("json",), "tasks_data": Path("nowhere")}, ("nowhere", "no such folder")),
        (
            {"suites": ("json",), "tasks_source": "standard"},
            ("epfl-dlab/JSONSchemaBench", "tasks_data DIR", "tasks_source embedded"),
        ),
        (
            {"suites": ("tool_calls",), "tasks_source": "standard", "tasks_data": Path()},
            ("bfcl-eval", "pip install --no-deps"),
        ),
    ],
    ids=str,
)
def test_bad_requests_name_value_rule_and_fix(
    changes: dict[str, Any],
    wanted: tuple[str, ...],
    request_for: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quantcore.hub.unreachable", lambda: "no network here")
    if "bfcl-eval" in wanted:
        monkeypatch.setattr("importlib.util.find_spec", lambda *names: None)
    with pytest.raises(InputError) as caught:
        compare(request_for.but(**changes), out=tmp_path / "run")
    for part in wanted:
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_divergence_alone(request_for: Request, tmp_path: Path) -> None:
    request = request_for.but(
        methods=("rtn",), schemes=("int4-g32", "int3-g64"), suites=("divergence",)
    )
    outcome = compare(request, out=tmp_path / "run")
    values = [next(iter(record.metrics.values())).value for record in outcome.records]
    assert 0 == values[0] < values[1] < values[2]
    assert len(draw.write(outcome.records, outcome.folder)) == 2
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for path in outcome.folder.glob("records/*.json"):
        validator.validate(json.loads(path.read_text("utf-8")))


def test_divergence_needs_two_models(
    request_for: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", request_for.model, "--suites", "divergence"]
    assert cli.main(arguments) == exit_codes.BAD_INPUT
    assert "awq-bench compare" in capsys.readouterr().err


def json_schemas(folder: Path) -> None:
    folder.mkdir(parents=True)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    rows = [{"json_schema": json.dumps(schema), "unique_id": f"o{i}"} for i in range(3)]
    pd.DataFrame(rows).to_json(folder / "test.jsonl", orient="records", lines=True)


def test_a_copy_without_its_configurations_is_refused(request_for: Request, tmp_path: Path) -> None:
    json_schemas(tmp_path / "sets/epfl-dlab/JSONSchemaBench")
    request = request_for.but(suites=("json",), tasks_source="standard")
    with pytest.raises(InputError, match="no folder 'Github_easy'"):
        compare(request.but(tasks_data=tmp_path / "sets"), out=tmp_path / "run")


def test_a_standard_suite_from_files_by_configuration(
    scripted: type[Scripted], request_for: Request, tmp_path: Path
) -> None:
    for name in ("easy", "medium", "hard"):
        json_schemas(tmp_path / f"sets/epfl-dlab/JSONSchemaBench/Github_{name}")
    scripted.script = staticmethod(
        lambda quantized, item: '{"a": 1}' if item["id"] != "o2" else '{"a": "1"}'
    )
    request = request_for.but(
        methods=(),
        schemes=(),
        suites=("json",),
        tasks_source="standard",
        tasks_data=tmp_path / "sets",
    )
    (record,) = compare(request, out=tmp_path / "run").records
    metric = record.metrics["json_standard_acc"]
    assert metric.columns.outcome == ["right", "right", "schema_invalid"] * 3
    assert metric.value == pytest.approx(2 / 3)


def test_standard_sets_from_a_local_copy(
    scripted: type[Scripted], request_for: Request, tmp_path: Path
) -> None:
    """HumanEval's columns in a folder; one solution is wrong."""
    folder = tmp_path / "sets" / "openai" / "openai_humaneval"
    folder.mkdir(parents=True)
    rows = [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": f'def add(x):\n    """Add {number}."""\n',
            "canonical_solution": f"    return x + {number}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {1 + number}\n",
            "entry_point": "add",
        }
        for number in range(3)
    ]
    pd.DataFrame(rows).to_json(folder / "test.jsonl", orient="records", lines=True)
    solutions = {row["task_id"]: row["canonical_solution"] for row in rows}
    solutions["HumanEval/2"] = "    return x - 2\n"
    scripted.script = staticmethod(lambda quantized, item: solutions[item["task_id"]])
    request = request_for.but(
        methods=(),
        schemes=(),
        suites=(),
        tasks=("awqbench_humaneval",),
        tasks_data=tmp_path / "sets",
        allow_code_execution=True,
    )
    (record,) = compare(request, out=tmp_path / "run").records
    columns = record.metrics["awqbench_humaneval_acc"].columns
    assert columns.value == [1.0, 1.0, 0.0]
    assert columns.outcome == ["right", "right", "wrong_result"]


@pytest.mark.slow
def test_plain_lm_eval_runs_the_suites(tmp_path: Path) -> None:
    """Its own command and its own model adapter, from a folder that knows nothing of us."""
    pytest.importorskip("accelerate", reason="lm-eval's adapter of Transformers needs it")
    root = Path(__file__).parents[4]
    ran = subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu",
            "--model_args", f"pretrained={MODEL_FOLDER}", "--include_path", str(root / "suites"),
            "--tasks", "awqbench_json,awqbench_tool_calls,awqbench_long_prompt,"
            "awqbench_multilingual_hi", "--limit", "1", "--log_samples",
            "--output_path", str(tmp_path / "out"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    (scores,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(scores.read_text("utf-8"))["results"]
    assert results["awqbench_multilingual_hi"]["acc,none"] in (0.0, 0.5, 1.0)
    # The committed record has our own adapter's verdict on the same first items.
    record = read_record(root / "results/reference/tasks/records/unquantized.json")
    for suite in ("json", "tool_calls", "long_prompt"):
        columns = record.metrics[f"{suite}_acc"].columns
        for part in ("seen", "reserved"):
            task = f"awqbench_{suite}_{part}"
            assert results[task]["acc,none"] == columns.value[columns.task.index(task)]
    assert len(list((tmp_path / "out").rglob("samples_*.jsonl"))) == 8


def write_pages(folder: Path, text_folder: Path) -> None:
    """Task ``awqbench_pages``: word_perplexity of three pages."""
    folder.mkdir()
    page = (text_folder / "evaluation.txt").read_text("utf-8")[:400]
    rows = "".join(json.dumps({"page": page[start:]}) + "\n" for start in (0, 100, 200))
    (folder / "pages.jsonl").write_text(rows, "utf-8")
    (folder / "pages.yaml").write_text(
        "task: awqbench_pages\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'pages.jsonl'}}}}}\n"
        "test_split: test\noutput_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: page\n'
        "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n"
        "metadata: {version: 1}\n",
        "utf-8",
    )


def test_a_metric_of_the_whole_set_is_shown_and_not_paired(
    request_for: Request, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as lm-eval's word_perplexity: no item has a value between 0 and 1."""
    write_pages(folder := tmp_path / "tasks", text_folder)
    monkeypatch.setattr(harness, "FOLDER", folder)
    request = request_for.but(
        methods=("rtn",), schemes=("int3-g64",), suites=(), tasks=("awqbench_pages",)
    )
    outcome = compare(request, out=tmp_path / "run")
    metrics = [one.metrics["awqbench_pages_word_perplexity"] for one in outcome.records]
    assert all(metric.value > 1 for metric in metrics)
    assert metrics[0].value != metrics[1].value
    assert metrics[0].columns.value == [None] * 3
    (layout,) = draw.write(outcome.records, outcome.folder)
    assert [entry.lines for _, row in layout.body for entry in row] == [
        (f"{metric.value:.4g}",) for metric in metrics
    ]
    assert any("nothing can be paired" in note for note in layout.notes)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for path in outcome.folder.glob("records/*.json"):
        validator.validate(json.loads(path.read_text("utf-8")))


def test_tasks_of_a_group_keep_each_its_own_metric(
    request_for: Request, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items with a value stay paired beside a task that has only an aggregate."""
    write_pages(folder := tmp_path / "tasks", text_folder)
    words = [{"context": f"{one} ", "answer": n % 2} for n, one in enumerate(("ba", "di", "fo"))]
    (folder / "words.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in words), "utf-8")
    (folder / "words.yaml").write_text(
        "task: awqbench_words\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'words.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: context\ndoc_to_target: answer\ndoc_to_choice: [ba, di]\n"
        "metric_list: [{metric: acc}]\nmetadata: {version: 1}\n",
        "utf-8",
    )
    (folder / "both.yaml").write_text(
        "group: awqbench_both\ntask: [awqbench_pages, awqbench_words]\n", "utf-8"
    )
    monkeypatch.setattr(harness, "FOLDER", folder)
    request = request_for.but(
        methods=("rtn",), schemes=("int3-g64",), suites=(), tasks=("awqbench_both",)
    )
    outcome = compare(request, out=tmp_path / "run")
    metrics = [one.metrics["awqbench_both_word_perplexity+acc"] for one in outcome.records]
    for metric in metrics:
        columns = metric.columns
        assert columns.task == ["awqbench_pages"] * 3 + ["awqbench_words"] * 3
        assert columns.value[:3] == [None] * 3
        assert set(columns.value[3:]) <= {0.0, 1.0}
        assert metric.value == sum(columns.value[3:]) / 3
        assert set(metric.aggregates) == {"awqbench_pages"}
        assert metric.aggregates["awqbench_pages"] > 1
    (layout,) = draw.write(outcome.records, outcome.folder)
    (_, entries) = layout.body[0]
    assert [entry.lines[0] for entry in entries] == [f"{100 * one.value:.1f}" for one in metrics]
    assert any("points" in note for note in layout.notes)
    assert any("beside it awqbench_pages" in note for note in layout.notes)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for path in outcome.folder.glob("records/*.json"):
        validator.validate(json.loads(path.read_text("utf-8")))
