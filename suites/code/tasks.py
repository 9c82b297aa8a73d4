"""The YAML files of this folder name these functions, the glue between lm-eval and the suite.

These tasks run code that a model wrote. Permission is lm-eval's: every YAML here says
``unsafe_code: true``, and lm-eval refuses such a task before it asks the model anything, unless it
was told ``confirm_run_unsafe_code`` (``--confirm_run_unsafe_code`` on its command line). Nothing
here grants, stores or overrides that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from suites.code import sandbox, scoring
from suites.code.items import TEMPLATES
from suites.code.sandbox import Job, ProgramRun
from suites.code.scoring import Question
from suites.items import Part

if TYPE_CHECKING:
    import datasets

COUNTS: dict[Part, int] = {"seen": 162, "reserved": 80}
"""Evaluation items of each part: the same number from each of its templates."""
_FEWSHOT = 8

_done_ahead: dict[Job, ProgramRun] = {}
"""Filled for a whole task at once, several at a time, and emptied as its answers are scored."""


def dataset(part: Part, **_: object) -> dict[str, datasets.Dataset]:
    """Give the embedded items: evaluation as ``test``, a few of training as ``fewshot``."""
    import datasets

    test = TEMPLATES.items(split="evaluation", part=part, count=COUNTS[part])
    fewshot = TEMPLATES.items(split="train", part="seen", count=_FEWSHOT)
    return {
        "test": datasets.Dataset.from_list(test),
        "fewshot": datasets.Dataset.from_list(fewshot),
    }


def question_of(doc: Mapping[str, Any]) -> Question:
    """Say what a row asks: an embedded item, or a row of HumanEval or MBPP, by its columns."""
    if "tests_json" in doc:
        tests = json.loads(doc["tests_json"])
        return Question(
            head=doc["code"],
            entry_point=doc["entry_point"],
            calls=tuple(json.dumps(arguments) for arguments, _ in tests),
            expected=tuple(json.dumps(value) for _, value in tests),
        )
    if "test_list" in doc:
        setup = [doc.get("test_setup_code") or "", *(doc.get("test_imports") or ())]
        return Question(
            head="",
            entry_point=_tested_function(doc["test_list"], doc["code"]),
            tests="\n".join([*setup, *doc["test_list"]]),
        )
    return Question(
        head=doc["prompt"],
        entry_point=doc["entry_point"],
        tests=f"{doc['test']}\n\ncheck({doc['entry_point']})\n",
    )


def _tested_function(tests: Sequence[str], solution: str) -> str:
    """Find the function of the solution that MBPP's tests call; its rows do not name it."""
    defined: list[str] = re.findall(r"^\s*def\s+(\w+)", solution, re.MULTILINE)
    called: list[str] = re.findall(r"(\w+)\s*\(", tests[0])
    return next((name for name in called if name in defined), (defined or called)[-1])


def run_ahead(responses: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Filter all answers of a task for lm-eval: the first of each, unchanged.

    On the way their code is run, several at a time, since lm-eval scores one by one.
    """
    answers = [response[0] for response in responses]
    jobs = [
        scoring.job_of(question_of(doc), answer) for doc, answer in zip(docs, answers, strict=True)
    ]
    distinct = list(dict.fromkeys(job for job in jobs if job is not None))
    _done_ahead.update(zip(distinct, sandbox.run_many(distinct), strict=True))
    return answers


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Give the metrics of one answer."""
    question, answer = question_of(doc), results[0]
    job = scoring.job_of(question, answer)
    program = None if job is None else _done_ahead.pop(job, None) or sandbox.run(job)
    return scoring.scores(scoring.judge(question, answer, program))
