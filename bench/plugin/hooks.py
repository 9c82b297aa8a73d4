"""``pytest --benchmark``: kernels, throughput and comparison cells as tests, in any project.

Without ``--benchmark`` nothing of this is collected, and the ``awq_bench`` fixture alone is there.
With it only benchmarks run: the cells of `bench.plugin.cells`, and tests of the project that
are marked ``awq_bench``, use that fixture, or pytest-benchmark's, whose options keep working.
"""

from __future__ import annotations

import io
import statistics
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.records import processors
from quantcore.errors import InputError, nearest, settings_called

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.comparison.compare import Outcome
    from bench.comparison.request import Request
    from bench.gate.judge import Judgement
    from bench.report.grid import Grid

_OPTIONS = {
    "model": "model of the comparison cells: a folder, a hub name, or 'reference'",
    "methods": "methods, separated by commas",
    "schemes": "schemes, separated by commas",
    "suites": "suites, separated by commas",
    "text": "evaluation text",
    "backend": "what runs quantized linears",
}
_DEFAULTS: dict[str, Any] = {
    "text": "embedded",
    "windows": 32,
    "schemes": ("int4-g128", "int3-g128"),
    "suites": ("perplexity", "throughput"),
    "calibration_samples": 32,
    "batch_sizes": (1,),
    "prompt_lengths": (128,),
    "rounds": 5,
}
_CELLS = Path(__file__).with_name("cells.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options, each with a dash of its own so that none shadows another plugin's."""
    group = parser.getgroup("awq-bench", "awq-bench: what quantization costs and gives")
    group.addoption(
        "--benchmark",
        action="store_true",
        help="run benchmark cells, and only those: INT4 kernels, decoding speed, and the "
        "comparison of quantized models",
    )
    for name, about in _OPTIONS.items():
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
    """Register the mark, and collect our cells where they are asked for."""
    config.addinivalue_line("markers", "awq_bench: a benchmark cell; only with --benchmark")
    if config.getoption("--benchmark"):
        if not config.pluginmanager.hasplugin("benchmark"):
            raise pytest.UsageError(
                "--benchmark takes its times with pytest-benchmark, which is not installed: "
                "pip install pytest-benchmark"
            )
        config.args.append(str(_CELLS))
        processors.share(config.stash.setdefault(_TOLD, []).append)
        config.stash[_REQUEST] = _request(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What to know of this machine before its seconds are read."""
    return [f"awq-bench: {line}" for line in config.stash.get(_TOLD, [])]


_TOLD: pytest.StashKey[list[str]] = pytest.StashKey()
_REQUEST: pytest.StashKey[Request] = pytest.StashKey()
_TABLES: pytest.StashKey[list[tuple[Path, list[Grid]]]] = pytest.StashKey()


_KERNELS: pytest.StashKey[dict[tuple[str, int], dict[str, list[float]]]] = pytest.StashKey()


def request_of(config: pytest.Config) -> Request:
    """What the options ask for."""
    return config.stash[_REQUEST]


def timed_backends(request: Request) -> tuple[str, ...]:
    """The backends whose speed is measured, as `bench.comparison.measure` takes them."""
    return request.throughput_backends or (request.backend or "auto",)


def keep_kernel(
    config: pytest.Config, dtype: str, tokens: int, kind: str, seconds: list[float]
) -> None:
    """Remember a linear's seconds for the table at the end."""
    kept = config.stash.setdefault(_KERNELS, {})
    kept.setdefault((dtype, tokens), {})[kind] = seconds


def option_of(setting: str) -> str:
    """The option of ours that gives a field of the request; else its key in ``--awq-config``."""
    own = setting in (*_OPTIONS, "out")
    return f"--awq-{setting}" if own else setting.replace("_", "-")


@settings_called(option_of)
def _request(config: pytest.Config) -> Request:
    from bench import registry
    from bench.comparison import measure
    from bench.comparison.config import config_values
    from bench.comparison.request import Request
    from bench.report import escape
    from quantcore.scheme import QuantScheme

    values: dict[str, Any] = {}
    path = config.getoption("--awq-config")
    try:
        if path is not None:
            values = config_values(Path(path))
            values.pop("out", None)  # that of --awq-out counts
        kinds = {one.name: str(one.type) for one in fields(Request)}
        for name in _OPTIONS:
            given = config.getoption(f"--awq-{name}")
            if given is not None:
                listed = kinds[name].startswith("tuple")
                values[name] = tuple(given.split(",")) if listed else given
        request = Request(**{**_DEFAULTS, **values})
        measure.check(request)
        for method in request.methods:
            registry.method(method)
        for scheme in request.schemes:
            QuantScheme.parse(scheme)
    except InputError as error:
        raise pytest.UsageError(escape.line(f"awq-bench: {error}")) from error
    return request


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--benchmark`` no cell of ours; with it only benchmarks, a project's own as well."""
    asked = bool(config.getoption("--benchmark"))
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        fixtures: Sequence[str] = getattr(item, "fixturenames", ())
        ours = item.get_closest_marker("awq_bench") is not None or "awq_bench" in fixtures
        if asked:
            empty = ours and "NOTSET" in item.name  # nothing of this kind was asked for
            (kept if (ours or "benchmark" in fixtures) and not empty else left).append(item)
        else:
            (left if ours else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


class AwqBench:
    """What the ``awq_bench`` fixture gives: comparisons from a test, with the tables at the end."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        """Write below ``folder``."""
        self._config, self._folder = config, folder
        self._count = 0

    def compare(self, model: str | None = None, **options: Any) -> Outcome:
        """Run a comparison.

        Args:
            model: a folder, a hub name, or ``reference``; default that of ``--awq-model``.
            options: fields of `bench.comparison.request.Request`; the others are those of the
                command line.

        A request that cannot work fails the test.
        """
        from bench.comparison.compare import compare
        from bench.report import escape

        known = [one.name for one in fields(request_of(self._config))]
        for name in options:
            if name not in known:
                pytest.fail(f"awq-bench: no option {name!r}; {nearest(name, known)}", pytrace=False)
        request = replace(request_of(self._config), **options)
        if model is not None:
            request = replace(request, model=model)
        self._count += 1
        try:
            outcome = compare(request, out=self._folder / f"compare-{self._count}")
        except InputError as error:
            pytest.fail(escape.line(f"awq-bench: {error}"), pytrace=False)
        _show(self._config, outcome)
        return outcome

    def gate(
        self,
        *baselines: str | Path,
        model: str | None = None,
        source: str | None = None,
        run: str | Path | None = None,
        data_dir: str | Path | None = None,
        tasks_data: str | Path | None = None,
    ) -> list[Judgement]:
        """Hold a model to baselines; anything but a pass fails the test, with the table.

        Args:
            baselines: files that ``awq-bench baseline`` wrote.
            model: to quantize as declared, or a quantized folder; None: the baseline's own.
            source: the unquantized model of a quantized folder.
            run: a finished comparison to judge instead of measuring.
            data_dir: local copies of texts.
            tasks_data: local copies of data sets of tasks.

        A baseline, model or comparison that cannot be used fails the test too.
        """
        from bench.gate import report as gate_report
        from bench.gate.run import gate
        from bench.report import escape

        try:
            results = gate(
                [Path(one) for one in baselines],
                model=model,
                source=source,
                run=None if run is None else Path(run),
                data_dir=None if data_dir is None else Path(data_dir),
                tasks_data=None if tasks_data is None else Path(tasks_data),
            )
        except InputError as error:
            pytest.fail(escape.line(f"awq-bench: {error}"), pytrace=False)
        kept = self._config.stash.setdefault(_TABLES, [])
        kept += [(result.path, [gate_report.grid(result)]) for result in results]
        if any(result.outcome != "pass" for result in results):
            pytest.fail(gate_report.markdown(results), pytrace=False)
        return results


@pytest.fixture
def awq_bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AwqBench:
    """Compare models from a test: ``awq_bench.compare("./my-model", methods=("awq",))``."""
    return AwqBench(request.config, tmp_path_factory.mktemp("awq-bench"))


@pytest.fixture(scope="session")
def awq_bench_cells(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The comparison that the options ask for, begun once; its cells are measured one by one."""
    from bench.comparison.compare import begin
    from bench.report import escape

    out = request.config.getoption("--awq-out")
    with ExitStack() as held:
        try:
            with settings_called(option_of):
                comparison = held.enter_context(
                    begin(request_of(request.config), out=Path(out) if out else None)
                )
        except InputError as error:  # the same for every cell: said once
            pytest.exit(escape.line(f"awq-bench: {error}"), returncode=pytest.ExitCode.USAGE_ERROR)
        yield comparison
        if not comparison.pending:
            _show(request.config, comparison.finish())


def _show(config: pytest.Config, outcome: Outcome) -> None:
    """Print a comparison's tables at the end."""
    config.stash.setdefault(_TABLES, []).append((outcome.folder, [*outcome.tables]))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Kernels by tokens, and the tables of every comparison that ran."""
    layouts: list[tuple[str, list[Grid]]] = []
    kernels = config.stash.get(_KERNELS, {})
    if kernels:
        layouts.append(("awq-bench: kernels", [_kernel_table(kernels)]))
    for folder, tables in config.stash.get(_TABLES, []):
        layouts.append((f"awq-bench: {folder}", tables))
    if not layouts:
        return
    from rich.console import Console

    from bench.report import escape
    from bench.report.grid import print_table

    for title, tables in layouts:
        terminalreporter.section(escape.line(title))
        for layout in tables:
            text = io.StringIO()
            print_table(Console(file=text, width=120), layout)
            terminalreporter.write("\n".join(map(str.rstrip, text.getvalue().splitlines())) + "\n")


def _kernel_table(kernels: dict[tuple[str, int], dict[str, list[float]]]) -> Grid:
    """Dtypes down, tokens across: milliseconds of both kinds, and how much faster INT4 is."""
    from bench.plugin.cells import KERNEL_SHAPE
    from bench.report.grid import Field, Grid

    dtypes = list(dict.fromkeys(dtype for dtype, _ in kernels))
    tokens = list(dict.fromkeys(tokens for _, tokens in kernels))
    body = []
    for dtype in dtypes:
        entries = []
        for count in tokens:
            found = {k: statistics.median(v) for k, v in kernels.get((dtype, count), {}).items()}
            lines = [f"{kind} {1e3 * seconds:.2f} ms" for kind, seconds in found.items()]
            if len(found) == 2:
                plain, quantized = found["unquantized"], found["int4-g128"]
                lines.insert(0, f"x{plain / quantized:.2f}")
            entries.append(Field(lines=tuple(lines)))
        body.append((dtype, entries))
    return Grid(
        title=f"INT4 linears, {KERNEL_SHAPE}",
        header=[Field(lines=("tokens",)), *(Field(lines=(str(count),)) for count in tokens)],
        body=body,
        notes=[
            "Medians of 12 calls each on copies that exceed the caches. x: the unquantized "
            "linear's seconds over INT4's; they did not take turns (python -m lab.speed kernels "
            "has them so, with ranges)."
        ],
    )
