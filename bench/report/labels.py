"""Labels are what tables, charts and progress call a dtype, a scheme, a method, a cell."""

from __future__ import annotations

from bench.records.cell import Cell
from bench.records.record import Record
from bench.registry import METHODS

DTYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}
THIS_FOLDER = "this folder's codes"
"""What was timed where a quantized folder ran as it is."""


def of_dtype(name: str) -> str:
    """Write a dtype as ``FP32``; one that has no such name keeps its own."""
    return DTYPES.get(name, name)


def of_scheme(name: str) -> str:
    """Write a scheme as ``INT4-g128``."""
    return name.replace("int", "INT")


def of_method(name: str) -> str:
    """Write a method as ``AWQ + clip``; one of another version's records keeps its own name."""
    return METHODS[name].label if name in METHODS else name


def of_cell(cell: Cell, *, scheme: str | None = None, codes: str | None = None) -> str:
    """Write a cell as ``FP32``, ``AWQ + clip`` or ``AWQ + clip int4-g128``.

    Args:
        cell: what has the label.
        scheme: what stands behind the method; None where a title or a column has the scheme.
        codes: what a model is called that is not quantized but ran a folder's codes; None where
            that makes no difference.
    """
    if cell.method is None:
        return codes or of_dtype(cell.dtype)
    label = of_method(cell.method)
    return label if scheme is None else f"{label} {scheme}"


def of_declared(model: str, method: str | None, scheme: str | None) -> str:
    """Write a gate's model as ``my-model, awq+clip int4-g128``, with the names of its command."""
    return model if method is None else f"{model}, {method} {scheme}"


def of_row(record: Record) -> str:
    """Write a row of the perplexity table as ``FP32``, ``codes, FP32`` or ``AWQ + clip``."""
    codes = f"codes, {of_dtype(record.cell.dtype)}" if record.backends else None
    return of_cell(record.cell, codes=codes)


def of_timed(cell: Cell, backend: str) -> str:
    """Write what was timed as ``FP32``, ``AWQ + clip INT4-g128`` or `THIS_FOLDER`.

    Args:
        cell: what was timed.
        backend: what ran its linears; empty for the unquantized model.
    """
    scheme = None if cell.scheme is None else of_scheme(cell.scheme)
    return of_cell(cell, scheme=scheme, codes=THIS_FOLDER if backend else None)


def of_stage(cell: Cell) -> str:
    """Write what progress is about as ``int4-g128 AWQ + clip``, or the unquantized dtype."""
    if cell.method is None or cell.scheme is None:
        return cell.dtype
    return of_quantizing(cell.method, cell.scheme)


def of_quantizing(method: str, scheme: str) -> str:
    """Write what is being quantized as ``int4-g128 AWQ + clip``."""
    return f"{scheme} {of_method(method)}"
