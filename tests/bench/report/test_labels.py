"""Every place has its own label of a cell; all are made in one module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.report import labels
from tests.bench.made import but, cell, record

ROOT = Path(__file__).parents[3]


PLAIN, AWQ = cell(), cell("awq+clip", "int4-g128")


def test_a_cell_is_named_as_its_place_needs() -> None:
    assert labels.of_cell(PLAIN) == labels.of_cell(PLAIN, scheme=PLAIN.scheme) == "FP32"
    assert labels.of_cell(but(PLAIN, dtype="float64")) == "float64"
    assert labels.of_cell(AWQ) == "AWQ + clip"
    assert labels.of_cell(AWQ, scheme=AWQ.scheme) == "AWQ + clip int4-g128"
    assert labels.of_stage(PLAIN) == "float32"
    assert labels.of_stage(AWQ) == "int4-g128 AWQ + clip"


def test_a_method_of_another_version_keeps_its_name() -> None:
    assert labels.of_cell(cell("gptq-static", "int4-g128")) == "gptq-static"


@pytest.mark.parametrize(
    ("backends", "plain"), [({}, "FP32"), ({"cpu": 7}, "codes, FP32")], ids=["plain", "codes"]
)
def test_a_row_says_if_codes_ran(backends: dict[str, int], plain: str) -> None:
    made = record(PLAIN, backends=backends)
    assert labels.of_row(made) == plain
    assert labels.of_row(record(AWQ, backends=backends)) == "AWQ + clip"


def test_what_was_timed_says_its_scheme() -> None:
    assert labels.of_timed(PLAIN, "") == "FP32"
    assert labels.of_timed(PLAIN, "cpu") == "this folder's codes"
    assert labels.of_timed(AWQ, "cpu") == "AWQ + clip INT4-g128"


def test_nothing_else_makes_a_label() -> None:
    """Neither of a scheme nor of a dtype; METHODS' own labels are read by `bench list` too."""
    made = re.compile(r"""replace\(["']int["'], *["']INT["']\)|["']FP32["']""")
    sources = [path for room in ("bench", "lab") for path in (ROOT / room).rglob("*.py")]
    assert [path.name for path in sources if made.search(path.read_text("utf-8"))] == ["labels.py"]
