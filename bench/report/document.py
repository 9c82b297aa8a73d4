"""``report.md`` has tables, charts, the protocol that decides the numbers, and their origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.records.environment import Environment
from bench.records.protocols import TasksProtocol, ThroughputProtocol, WindowsProtocol
from bench.records.record import Record
from bench.report import escape
from bench.report.grid import Grid, markdown
from bench.report.notes import failures, ran_on


def document(
    records: Sequence[Record],
    layouts: Sequence[Grid],
    behind: Sequence[Grid],
    charts: Sequence[Path],
    *,
    no_charts: str | None = None,
) -> str:
    """Write the report of a comparison in Markdown.

    Args:
        records: of all its cells, the unquantized model's first.
        layouts: its tables.
        behind: the tables that stand after the protocol.
        charts: files beside it; those that end in ``.png`` are shown.
        no_charts: why there are none, where they could not be drawn.
    """
    first = records[0]
    quantized = [record.quantization for record in records if record.quantization]
    exempt = {name for quantization in quantized for name in quantization.exempt}
    notices = {notice for record in records for notice in record.notices}
    notices |= {notice for quantization in quantized for notice in quantization.notices}
    lines = [f"# Quantization of {escape.markdown(first.model_name)}", ""]
    lines += map(markdown, layouts)
    lines += [f"![{path.stem}]({path.name})\n" for path in charts if path.suffix == ".png"]
    if no_charts is not None:
        lines += [f"{escape.markdown(no_charts)}\n"]
    failed = failures(records, first.cell.suites)
    if failed:
        lines += ["## Failed", "", *[f"- {escape.markdown(note)}" for note in failed], ""]
    lines += ["## Protocol", "", *_protocol(records), ""]
    lines += ["## Provenance", "", *_provenance(records)]
    if behind:
        lines += ["", "## Tasks in parts", "", *map(markdown, behind)]
    if exempt:
        names = [f"- {escape.markdown_code(name)}" for name in sorted(exempt)]
        lines += ["", "## Not quantized", "", *names]
    if notices:
        lines += ["", "## Notices", "", *[f"- {escape.markdown(text)}" for text in sorted(notices)]]
    return "\n".join(lines) + "\n"


def _provenance(records: Sequence[Record]) -> list[str]:
    """Say which weights ran, where, and by which version of what."""
    first = records[0]
    where = first.environment
    packages = where.packages.items()
    versions = ", ".join(f"{name} {version}" for name, version in packages if version)
    return [
        f"- Weights sha256 `{first.cell.model}`, {first.parameters:,} parameters, run in "
        f"{first.cell.dtype} on {escape.markdown(where.gpu or where.cpu)} "
        f"({where.threads} threads).",
        f"- {escape.markdown(versions)}, Python {escape.markdown(where.python)}, "
        f"{escape.markdown(where.platform)}.",
        f"- Commit: {_commits(records)}.",
        "- Every record, with every window's likelihood and every item's answer, is in `records/`.",
    ]


def _commits(records: Sequence[Record]) -> str:
    """Say of which commits the cells are; of several, how many cells are of each.

    A comparison that went on later, or from kept records, may come from several.
    """
    counts = Counter(_commit(record.environment) for record in records)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{commit} ({count} cells)" for commit, count in counts.items())


def _commit(where: Environment) -> str:
    if not where.commit:
        return "not a checkout"
    return f"{where.commit[:12]}{' (changed)' if where.dirty else ''}"


def _protocol(records: Sequence[Record]) -> list[str]:
    """Say what decides the numbers, suite by suite."""
    lines = []
    for name, suite in records[0].cell.suites.items():
        if isinstance(suite, TasksProtocol):
            lines.append(_tasks(suite))
        elif isinstance(suite, ThroughputProtocol):
            lines.append(
                f"- Throughput, suite version {suite.version}: backend "
                f"{', '.join(suite.backends)}, "
                f"{suite.rounds} runs of each kind after one to warm up, alternating with the "
                f"unquantized model; {suite.new_tokens} new tokens, greedy, random prompts."
            )
        elif name == "perplexity":
            lines += _perplexity(suite)
        else:
            lines.append(
                f"- Metric {escape.markdown_code(suite.metric)}, suite version "
                f"{suite.version}: KL divergence of "
                "the quantized model's distribution of the next token from the unquantized one's, "
                "in nats, at the positions that perplexity scores."
            )
    how = (
        "Quantized models are evaluated with exactly the weights that a packed checkpoint decodes "
        "to"
    )
    if ran := ran_on(records):
        how = f"{ran.removesuffix('.')}; docs/kernels.md says what each rounds"
    lines.append(f"- {how}; scales are rounded to their storage dtype before codes are computed.")
    return lines


def _perplexity(suite: WindowsProtocol) -> list[str]:
    return [
        f"- Metric {escape.markdown_code(suite.metric)}: the text is tokenized once and cut "
        f"into windows of {suite.seqlen} tokens that do not overlap; each is one forward pass, "
        "its tokens from the second on are scored in float32; exp of the mean over windows.",
        f"- Text sha256 `{suite.text_sha256}`, suite version {suite.version}, "
        f"{suite.windows} windows.",
    ]


def _tasks(suite: TasksProtocol) -> str:
    tasks = suite.tasks.values()
    shots = sorted({str(task.num_fewshot) for task in tasks})
    versions = ", ".join(sorted({task.version for task in tasks}))
    return (
        f"- {escape.markdown_code(suite.metric)}: {suite.items} of {suite.of_items} items "
        f"of {len(tasks)} lm-eval tasks (lm-eval {suite.lm_eval}, task version "
        f"{escape.markdown(versions)}), worked examples in the prompt: {' or '.join(shots)}, "
        f"{'with' if suite.chat_template else 'without'} chat template, greedy; items "
        f"sha256 `{suite.items_sha256}`."
    )
