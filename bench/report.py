"""What a comparison leaves for people and programs, drawn from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import charts, tables
from bench.records import Record, write_json

CHART_SCHEME = "int4-g128"


def write(records: Sequence[Record], folder: Path) -> tables.Grid:
    """Write ``table.md``, ``table.csv``, ``table.json``, the chart, and ``report.md``.

    Returns:
        the table's layout, to be printed.
    """
    rows = tables.rows(records)
    layout = tables.grid(rows)
    long = tables.long_table(rows)
    (folder / "table.md").write_text(tables.markdown(layout), "utf-8")
    long.to_csv(folder / "table.csv", index=False)
    write_json(
        folder / "table.json",
        [
            {key: None if value != value else value for key, value in line.items()}
            for line in long.astype(object).to_dict(orient="records")
        ],
    )
    schemes = [row.record.cell.scheme for row in rows if row.record.cell.scheme]
    chart: list[Path] = []
    if schemes:
        drawn = CHART_SCHEME if CHART_SCHEME in schemes else str(schemes[0])
        chart = charts.perplexity_bars(rows, drawn, folder)
    (folder / "report.md").write_text(_report(records, layout, chart), "utf-8")
    return layout


def _commit(where: Mapping[str, Any]) -> str:
    if not where["commit"]:
        return "not a checkout"
    return f"{where['commit'][:12]}{' (changed)' if where['dirty'] else ''}"


def _report(records: Sequence[Record], layout: tables.Grid, chart: Sequence[Path]) -> str:
    first = records[0]
    where = first.environment
    versions = ", ".join(f"{name} {found}" for name, found in where["packages"].items() if found)
    suite = first.cell.suites["perplexity"]
    notices = sorted({n for r in records for n in r.quantization.get("notices", [])})
    exempt = sorted({n for r in records for n in r.quantization.get("exempt", [])})
    # A comparison that went on later, or from kept records, may come from several.
    commits = dict.fromkeys(_commit(record.environment) for record in records)
    commit = ", ".join(
        f"{one} ({sum(_commit(r.environment) == one for r in records)} cells)"
        if len(commits) > 1
        else one
        for one in commits
    )
    lines = [
        f"# Quantization of {first.model_name}",
        "",
        tables.markdown(layout),
    ]
    lines += [f"![{path.stem}]({path.name})\n" for path in chart if path.suffix == ".png"]
    lines += [
        "## Protocol",
        "",
        f"- Metric `{suite['metric']}`: the text is tokenized once and cut into windows of "
        f"{suite['seqlen']} tokens that do not overlap; each is one forward pass, its tokens from "
        "the second on are scored in float32; exp of the mean over windows.",
        f"- Text sha256 `{suite['text_sha256']}`, suite version {suite['version']}, "
        f"{suite['windows']} windows.",
        "- Quantized models are evaluated with exactly the weights that a packed checkpoint "
        "decodes to; scales are rounded to their storage dtype before codes are computed.",
        "",
        "## Provenance",
        "",
        f"- Weights sha256 `{first.cell.model}`, {first.parameters:,} parameters, run in "
        f"{first.cell.dtype} on {where['gpu'] or where['cpu']} ({where['threads']} threads).",
        f"- {versions}, Python {where['python']}, {where['platform']}.",
        f"- Commit: {commit}.",
        "- Every record, with every window's likelihood, is in `records/`.",
    ]
    if exempt:
        lines += ["", "## Not quantized", "", *[f"- `{name}`" for name in exempt]]
    if notices:
        lines += ["", "## Notices", "", *[f"- {notice}" for notice in notices]]
    return "\n".join(lines) + "\n"
