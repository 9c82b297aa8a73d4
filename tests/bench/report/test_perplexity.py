"""The first table's notes say how its cells were made, as their records have it."""

from __future__ import annotations

from bench.report import perplexity
from tests.bench.made import cell, record


def notes(*methods: tuple[str, str]) -> str:
    """Of a table with these methods, each with the order that its record names."""
    made = [
        record(cell(name, "int4-g128", method_settings={"order": order})) for name, order in methods
    ]
    return "\n".join(perplexity.grid(perplexity.rows([record(), *made])).notes)


def test_the_order_of_columns_is_that_of_the_records() -> None:
    # A record of before has the order that was `gptq`'s then, whatever it is today.
    assert "for every input, counted in the bits beside a cell (GPTQ)." in notes(("gptq", "on"))
    both = notes(("gptq", "static"), ("gptq+seq", "static"), ("gptq-off", "off"))
    assert "any rounding (GPTQ and GPTQ + seq); from left to right (GPTQ, no order)." in both
    assert "every input" not in both
    assert "Columns" not in notes(("rtn", "on"))
