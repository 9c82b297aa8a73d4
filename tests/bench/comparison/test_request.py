"""A request: one model for the command line, files, the plugin and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.comparison.request import Request, Text, option_paths
from quantcore.errors import InputError, settings_called


def test_options_name_every_field_once() -> None:
    request = Request.of(calibration_samples=7, text="a.txt", tasks_schemes=(), rounds=3)
    assert request.calibration.samples == 7
    assert request.text.name == "a.txt"
    assert request.throughput.rounds == 3
    assert request.options() == {**Request().options(), "calibration_samples": 7, "text": "a.txt",
                                 "rounds": 3}  # fmt: skip
    assert len({*option_paths().values()}) == len(option_paths())
    assert Request.of(**request.options()) == request
    assert hash(Request.of(**request.options())) == hash(request)


def test_a_request_is_changed_by_its_options_and_stays_checked() -> None:
    request = Request().but(windows=3, methods="rtn,awq")
    assert (request.text.windows, request.methods) == (3, ("rtn", "awq"))
    assert Request().text.windows is None
    with pytest.raises(InputError, match="limit 0: must be at least 1 item of every task"):
        request.but(limit=0)
    with pytest.raises(ValidationError, match="frozen"):
        request.seed = 3  # type: ignore[misc]


def test_parts_are_checked_alone() -> None:
    assert Request(text=Text(windows=3)) == Request.of(windows=3)
    with pytest.raises(ValidationError, match="must be at least 1"):
        Text(batch_size=0)


@pytest.mark.parametrize("other", ["perplexity", "divergence", "throughput"])
def test_tasks_for_some_schemes_leave_the_others_what_is_no_task(other: str) -> None:
    request = Request.of(
        schemes=("int4-g32", "int3-g64"), suites=(other, "json"), tasks_schemes=("int3-g64",)
    )
    for alone in ({"suites": ("json",)}, {"suites": (), "tasks": ("a",)}):
        with pytest.raises(InputError, match="leaves nothing to measure at int4-g32"):
            request.but(**alone)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": "3"}, "limit must be a whole number, not '3'"),
        ({"seed": True}, "seed must be a whole number, not True"),
        ({"chat_template": 1}, "chat_template must be true or false, not 1"),
        ({"price_per_hour": "2"}, "price_per_hour must be a number, not '2'"),
        ({"text": "a\0"}, r"text must be a string without NUL, not 'a\\x00'"),
        ({"tasks_data": 3}, "tasks_data must be a string without NUL, not 3"),
        ({"methods": [1]}, r"methods must be a list of names, not \[1\]"),
        ({"lengths": ["1"]}, r"lengths must be a list of whole numbers, not \['1'\]"),
        ({"limti": 3}, "unknown option 'limti'; did you mean 'limit'"),
        ({"dtype": "float23"}, "unknown dtype 'float23'; did you mean 'float32'"),
        ({"seed": 2**63}, "seed 9223372036854775808: must be a whole number from 0 to"),
        ({"calibration_seed": -1}, "calibration_seed -1: must be a whole number from 0 to"),
        ({"methods": "rtn,rtn"}, "method rtn is given twice; name each once"),
        ({"methods": ()}, "no method given; known: rtn, "),
        ({"schemes": ()}, "no scheme given; name at least one, for example int4-g128"),
        ({"suites": ()}, "no suite given; known: perplexity"),
        ({"tasks": "json"}, "tasks json: that is a suite; give it with suites"),
        ({"backend": "cuda"}, "backend cuda: unknown; "),
        ({"price_per_hour": 2.0}, "price_per_hour 2.0: speed is not measured; add throughput to"),
        ({"revision": "main"}, "revision main: reference is local and has no revisions"),
        ({"suites": "code"}, "allow it with allow_code_execution"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Request.of(**options)


def test_options_are_called_as_they_were_given(tmp_path: Path) -> None:
    with settings_called(lambda name: f"--{name.replace('_', '-')}"):
        with pytest.raises(InputError, match=r"^--tasks-data .*nowhere: no such folder"):
            Request.of(tasks_data=tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"^--tasks json: .* give it with --suites$"):
            Request.of(tasks="json")


def test_every_option_is_described_in_the_schema() -> None:
    """One model gives the JSON Schema too, for editors and for other programs."""
    schema = Request.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    fields = {name: entry for part in parts for name, entry in part["properties"].items()}
    for path in option_paths().values():
        assert fields[path[-1]]["description"].endswith("."), path
    assert all(part["additionalProperties"] is False for part in parts)
