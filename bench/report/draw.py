"""A comparison's tables, charts and report are drawn from its records, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.records.document import write_json
from bench.records.record import Record
from bench.report import breakdowns, charts, document, escape, perplexity, tasks, throughput
from bench.report.grid import Grid, markdown
from bench.report.scores import scores
from quantcore import files
from quantcore.errors import writing

CHART_SCHEME = "int4-g128"


def write(
    records: Sequence[Record], folder: Path, *, price_per_hour: float | None = None
) -> list[Grid]:
    """Write the tables (``.md``, ``.csv``, ``.json``), the charts, and ``report.md``.

    ``table`` is of perplexity, ``tasks`` of divergence and the task suites; each is there if it
    was measured.

    Returns:
        the tables' layouts, to be printed.

    Raises:
        InputError: the folder cannot be written.
    """
    with writing(folder, "make room and give rights there; the same command draws them again"):
        layouts, behind, chart = _tables(records, folder, price_per_hour)
        missing = None if charts.available() else charts.MISSING
        text = document.document(records, layouts, behind, chart, no_charts=missing)
        files.write_text(folder / "report.md", text)
    return layouts


def _tables(
    records: Sequence[Record], folder: Path, price_per_hour: float | None
) -> tuple[list[Grid], list[Grid], list[Path]]:
    """Write all but the report; return tables, those behind them, and charts."""
    layouts: list[Grid] = []
    behind: list[Grid] = []
    chart: list[Path] = []
    drawable = charts.available()
    schemes = [record.cell.scheme for record in records if record.cell.scheme]
    asked = {suite for record in records for suite in record.cell.suites}
    if "perplexity" in asked:
        rows = perplexity.rows(records)
        layouts.append(perplexity.grid(rows))
        files.write_text(folder / "table.md", markdown(layouts[0]))
        _write_long(perplexity.long_table(rows), folder / "table")
        if schemes and drawable:
            drawn = CHART_SCHEME if CHART_SCHEME in schemes else schemes[0]
            chart += charts.perplexity_bars(rows, drawn, folder)
    scored = scores(records)
    if scored or "divergence" in asked or any(record.failed_tasks for record in records):
        across = tasks.grids(records, scored)
        behind = breakdowns.grids(records, scored)
        files.write_text(folder / "tasks.md", "\n".join(map(markdown, [*across, *behind])))
        _write_long(tasks.long_table(records, scored), folder / "tasks")
        compared = (score.record.cell.scheme for score in scored if score.against)
        for scheme in dict.fromkeys(compared if drawable else ()):
            chart += charts.task_changes(scored, str(scheme), folder)
        layouts += across
    timed = throughput.speeds(records)
    if timed:
        layouts.append(throughput.grid(timed, price_per_hour))
        files.write_text(folder / "throughput.md", markdown(layouts[-1]))
        _write_long(throughput.long_table(timed, price_per_hour), folder / "throughput")
        chart += charts.speed_up(timed, folder) if drawable else []
    return layouts, behind, chart


def _write_long(table: pd.DataFrame, stem: Path) -> None:
    """Write a table as CSV and as JSON."""
    with files.whole(stem.with_suffix(".csv")) as file:
        table.map(escape.csv).to_csv(file, index=False)
    write_json(
        stem.with_suffix(".json"),
        [
            {key: None if value != value else value for key, value in line.items()}
            for line in table.astype(object).to_dict(orient="records")
        ],
    )
