"""What commands leave in a folder, and what of it is the same each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from bench.gate.baseline import read
from bench.records.record import Record, read_record
from bench.report import perplexity
from bench.report import tasks as task_tables
from bench.report.grid import markdown
from bench.report.scores import scores
from quantcore import files


class Alone(NamedTuple):
    """What a command does that nobody kills."""

    steps: int
    found: dict[str, Any]
    largest: int
    """Bytes of the largest file."""


def outcome(record: Record | None) -> Any:
    """What a record says that is the same when it is measured again."""
    losses = record and record.quantization and record.quantization.relative_losses
    return record and (record.cell.id, record.status, record.metrics, losses)


def found(place: Path) -> dict[str, Any]:
    """Every file that commands left, with what it says that is the same each time.

    Of comparisons without a name, the folders are numbered.
    """
    numbers = {path.name: f"{number}" for number, path in enumerate(runs(place))}
    left: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        if path.parent == place / "tmp" and path.is_dir() and not any(path.iterdir()):
            continue  # what is empty where passing files go, the system clears
        says = None
        if path.parent.name == "records":
            says = outcome(read_record(path))
        elif path.name == "baseline.json":
            made = read(path)
            reruns = [{k: list(v) for k, v in one.samples.items()} for one in made.reruns]
            says = outcome(made.unquantized), outcome(made.quantized), reruns
        elif path.suffix == ".safetensors":
            tensors = load_file(path)  # its header's order is another each time
            says = {name: (one.dtype, one.numpy().tobytes()) for name, one in tensors.items()}
        elif path.name == "comparison.json":
            says = json.loads(path.read_text("utf-8"))
            check_tables(path.parent)
        parts = path.relative_to(place).parts
        left["/".join(numbers.get(part, part) for part in parts)] = says
    return left


def check_tables(folder: Path) -> None:
    """They are those of the records beside them."""
    names = ("unquantized", "rtn_int4-g32", "awq_int4-g32")
    records = [read_record(folder / "records" / f"{name}.json") for name in names]
    table = markdown(perplexity.grid(perplexity.rows(records)))
    tasks = markdown(*task_tables.grids(records, scores(records)))
    assert (folder / "table.md").read_text("utf-8") == table
    assert tasks in (folder / "tasks.md").read_text("utf-8")
    report = (folder / "report.md").read_text("utf-8")
    assert table in report
    assert tasks in report


def runs(place: Path) -> list[Path]:
    """Folders of comparisons without a name, except those of which nothing was written yet."""
    return sorted(path.parent for path in place.glob("awq-bench-runs/*/comparison.json"))


def whole_records(place: Path) -> dict[Path, bytes]:
    """Records that are there, each read with all checks."""
    paths = [path for path in place.rglob("records/*.json") if not files.is_unfinished(path)]
    assert all(read_record(path).status == "done" for path in paths)
    return {path: path.read_bytes() for path in paths}
