"""The table of kernels: what ran, in milliseconds, and the ratio where both did."""

from __future__ import annotations

from bench.plugin import table


def test_the_ratio_stands_over_both() -> None:
    layout = table.grid(
        {
            ("bfloat16", 1): {"unquantized": [0.004, 0.002, 0.009], "int4-g128": [0.001]},
            ("bfloat16", 16): {"int4-g128": [0.002]},
            ("float32", 1): {"unquantized": [0.003]},
        }
    )
    assert layout.title == "INT4 linears, 4096 x 4096"
    assert [field.lines for field in layout.header] == [("tokens",), ("1",), ("16",)]
    assert [(dtype, [field.lines for field in row]) for dtype, row in layout.body] == [
        (
            "bfloat16",
            [("x4.00", "unquantized 4.00 ms", "int4-g128 1.00 ms"), ("int4-g128 2.00 ms",)],
        ),
        ("float32", [("unquantized 3.00 ms",), ()]),
    ]
