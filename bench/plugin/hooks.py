"""``pytest --benchmark`` runs kernels, throughput and comparison cells as tests, in any project.

Without ``--benchmark`` nothing of this is collected, and the fixtures of `bench.plugin.fixture`
alone are there. With it only benchmarks run: the cells of `bench.plugin.cells`, and tests of the
project that are marked ``awq_bench``, use that fixture, or pytest-benchmark's, whose options keep
working.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.plugin import fixture
from bench.plugin.options import OPTIONS, request_of
from bench.plugin.session import KERNELS, MACHINE, REQUEST, TABLES
from bench.records import processors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.grid import Grid

_CELLS = Path(__file__).with_name("cells.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options, each with a prefix of its own so that none shadows another plugin's."""
    group = parser.getgroup("awq-bench", "awq-bench: what quantization costs and gives")
    group.addoption(
        "--benchmark",
        action="store_true",
        help="run benchmark cells, and only those: INT4 kernels, decoding speed, and the "
        "comparison of quantized models",
    )
    for name, about in OPTIONS.items():
        group.addoption(f"--awq-{name}", metavar=name.upper(), help=about)
    group.addoption(
        "--awq-config",
        metavar="FILE.toml",
        help="the same and every other option of `awq-bench compare`, as TOML",
    )
    group.addoption(
        "--awq-out", metavar="DIR", help="folder for records and tables (default: a new one)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark and the fixtures, and collect our cells where they are asked for."""
    config.pluginmanager.register(fixture, "awq_bench_fixture")
    config.addinivalue_line("markers", "awq_bench: a benchmark cell; only with --benchmark")
    if config.getoption("--benchmark"):
        if not config.pluginmanager.hasplugin("benchmark"):
            raise pytest.UsageError(
                "--benchmark takes its times with pytest-benchmark, which is not installed: "
                "pip install pytest-benchmark"
            )
        config.args.append(str(_CELLS))
        processors.share(config.stash.setdefault(MACHINE, []).append)
        config.stash[REQUEST] = request_of(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what to know of this machine before its seconds are read."""
    return [f"awq-bench: {line}" for line in config.stash.get(MACHINE, [])]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run no cell of ours without ``--benchmark``, and with it only benchmarks, all of them."""
    asked = bool(config.getoption("--benchmark"))
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        fixtures: Sequence[str] = getattr(item, "fixturenames", ())
        ours = item.get_closest_marker("awq_bench") is not None or "awq_bench" in fixtures
        if asked:
            nothing = any(mark.kwargs.get("nothing") for mark in item.iter_markers("awq_bench"))
            (kept if (ours or "benchmark" in fixtures) and not nothing else left).append(item)
        else:
            (left if ours else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show kernels by tokens, and the tables of every comparison and gate that ran."""
    kernels, shown = config.stash.get(KERNELS, {}), config.stash.get(TABLES, [])
    if not kernels and not shown:
        return
    from rich.console import Console

    from bench.plugin import table
    from bench.report import escape
    from bench.report.grid import print_table

    layouts: list[tuple[str, list[Grid]]] = [(f"{path}", tables) for path, tables in shown]
    if kernels:
        layouts.insert(0, ("kernels", [table.grid(kernels)]))
    for title, tables in layouts:
        terminalreporter.section(escape.line(f"awq-bench: {title}"))
        for layout in tables:
            text = io.StringIO()
            print_table(Console(file=text, width=120), layout)
            terminalreporter.write("\n".join(map(str.rstrip, text.getvalue().splitlines())) + "\n")
