"""What a comparison leaves for people and programs, drawn from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records.items import failed_suites
from bench.records.record import Record, write_json
from bench.report import charts, escape, tables
from bench.report import tasks as task_tables
from bench.report import throughput as throughput_tables
from quantcore import files
from quantcore.errors import writing

CHART_SCHEME = "int4-g128"


def write(
    records: Sequence[Record], folder: Path, *, price_per_hour: float | None = None
) -> list[tables.Grid]:
    """Write the tables (``.md``, ``.csv``, ``.json``), the charts, and ``report.md``.

    ``table`` is of perplexity, ``tasks`` of divergence and the task suites; each is there if it
    was measured.

    Returns:
        the tables' layouts, to be printed.

    Raises:
        InputError: the folder cannot be written.
    """
    with writing(folder, "make room and give rights there; the same command draws them again"):
        return _write(records, folder, price_per_hour)


def _write(
    records: Sequence[Record], folder: Path, price_per_hour: float | None
) -> list[tables.Grid]:
    layouts: list[tables.Grid] = []
    chart: list[Path] = []
    schemes = [record.cell.scheme for record in records if record.cell.scheme]
    if any("perplexity" in record.cell.suites for record in records):
        rows = tables.rows(records)
        layouts.append(tables.grid(rows))
        files.write_text(folder / "table.md", tables.markdown(layouts[0]))
        _write_long(tables.long_table(rows), folder / "table")
        if schemes:
            drawn = CHART_SCHEME if CHART_SCHEME in schemes else str(schemes[0])
            chart += charts.perplexity_bars(rows, drawn, folder)
    found = task_tables.results(records)
    behind: list[tables.Grid] = []
    asked = [name for record in records for name in record.cell.suites]
    if found or "divergence" in asked or any(map(failed_suites, records)):
        across = task_tables.grids(records, found)
        behind = task_tables.breakdowns(records, found)
        text = "\n".join(tables.markdown(one) for one in [*across, *behind])
        files.write_text(folder / "tasks.md", text)
        _write_long(task_tables.long_table(records, found), folder / "tasks")
        for scheme in dict.fromkeys(one.record.cell.scheme for one in found if one.against):
            chart += charts.task_changes(found, str(scheme), folder)
        layouts += across
    speeds = throughput_tables.speeds(records)
    if speeds:
        layouts.append(throughput_tables.grid(speeds, price_per_hour))
        files.write_text(folder / "throughput.md", tables.markdown(layouts[-1]))
        _write_long(throughput_tables.long_table(speeds, price_per_hour), folder / "throughput")
        chart += charts.speed_up(speeds, folder)
    files.write_text(folder / "report.md", _report(records, layouts, behind, chart))
    return layouts


def _write_long(table: pd.DataFrame, stem: Path) -> None:
    with files.whole(stem.with_suffix(".csv")) as file:
        table.map(escape.csv).to_csv(file, index=False)
    write_json(
        stem.with_suffix(".json"),
        [
            {key: None if value != value else value for key, value in line.items()}
            for line in table.astype(object).to_dict(orient="records")
        ],
    )


def _commit(where: Mapping[str, Any]) -> str:
    if not where["commit"]:
        return "not a checkout"
    return f"{where['commit'][:12]}{' (changed)' if where['dirty'] else ''}"


def _report(
    records: Sequence[Record],
    layouts: Sequence[tables.Grid],
    behind: Sequence[tables.Grid],
    chart: Sequence[Path],
) -> str:
    first = records[0]
    where = first.environment
    versions = ", ".join(f"{name} {found}" for name, found in where["packages"].items() if found)
    notices = sorted({n for r in records for n in (*r.quantization.get("notices", []), *r.notices)})
    failed = tables.failures(records, first.cell.suites)
    exempt = sorted({n for r in records for n in r.quantization.get("exempt", [])})
    # A comparison that went on later, or from kept records, may come from several.
    commits = dict.fromkeys(_commit(record.environment) for record in records)
    commit = ", ".join(
        f"{one} ({sum(_commit(r.environment) == one for r in records)} cells)"
        if len(commits) > 1
        else one
        for one in commits
    )
    lines = [f"# Quantization of {escape.markdown(first.model_name)}", ""]
    lines += [tables.markdown(layout) for layout in layouts]
    lines += [f"![{path.stem}]({path.name})\n" for path in chart if path.suffix == ".png"]
    if failed:
        lines += ["## Failed", "", *[f"- {escape.markdown(note)}" for note in failed], ""]
    lines += ["## Protocol", "", *_protocol(first, records), ""]
    lines += [
        "## Provenance",
        "",
        f"- Weights sha256 `{first.cell.model}`, {first.parameters:,} parameters, run in "
        f"{first.cell.dtype} on {escape.markdown(where['gpu'] or where['cpu'])} "
        f"({where['threads']} threads).",
        f"- {escape.markdown(versions)}, Python {escape.markdown(where['python'])}, "
        f"{escape.markdown(where['platform'])}.",
        f"- Commit: {commit}.",
        "- Every record, with every window's likelihood and every item's answer, is in `records/`.",
    ]
    if behind:
        lines += ["", "## Tasks in parts", "", *[tables.markdown(layout) for layout in behind]]
    if exempt:
        lines += [
            "",
            "## Not quantized",
            "",
            *[f"- {escape.markdown_code(name)}" for name in exempt],
        ]
    if notices:
        lines += ["", "## Notices", "", *[f"- {escape.markdown(notice)}" for notice in notices]]
    return "\n".join(lines) + "\n"


def _protocol(first: Record, records: Sequence[Record]) -> list[str]:
    """What decides the numbers, suite by suite."""
    lines = []
    for name, suite in first.cell.suites.items():
        metric = escape.markdown_code(suite["metric"])
        if name == "perplexity":
            lines += [
                f"- Metric {metric}: the text is tokenized once and cut into windows of "
                f"{suite['seqlen']} tokens that do not overlap; each is one forward pass, its "
                "tokens from the second on are scored in float32; exp of the mean over windows.",
                f"- Text sha256 `{suite['text_sha256']}`, suite version {suite['version']}, "
                f"{suite['windows']} windows.",
            ]
        elif name == "divergence":
            lines.append(
                f"- Metric {metric}, suite version {suite['version']}: KL divergence of "
                "the quantized model's distribution of the next token from the unquantized one's, "
                "in nats, at the positions that perplexity scores."
            )
        elif name == "throughput":
            lines.append(
                f"- Throughput, suite version {suite['version']}: backend "
                f"{', '.join(suite['backends'])}, "
                f"{suite['rounds']} runs of each kind after one to warm up, alternating with the "
                f"unquantized model; {suite['new_tokens']} new tokens, greedy, random prompts."
            )
        else:
            shots = sorted({str(task["num_fewshot"]) for task in suite["tasks"].values()})
            versions = ", ".join(sorted({task["version"] for task in suite["tasks"].values()}))
            lines.append(
                f"- {metric}: {suite['items']} of {suite['of_items']} items of "
                f"{len(suite['tasks'])} lm-eval tasks (lm-eval {suite['lm_eval']}, task version "
                f"{escape.markdown(versions)}), worked examples in the prompt: "
                f"{' or '.join(shots)}, "
                f"{'with' if suite['chat_template'] else 'without'} chat template, greedy; items "
                f"sha256 `{suite['items_sha256']}`."
            )
    how = (
        "Quantized models are evaluated with exactly the weights that a packed checkpoint decodes "
        "to"
    )
    if text := tables.ran_on(records):
        how = f"{text[:-1]}; docs/kernels.md says what each rounds"
    lines.append(f"- {how}; scales are rounded to their storage dtype before codes are computed.")
    return lines
