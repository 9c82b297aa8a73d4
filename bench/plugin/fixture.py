"""Tests get ``awq_bench`` to compare and gate models, and the cells of the options."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.plugin.options import option_of
from bench.plugin.session import REQUEST, TABLES
from quantcore.errors import InputError, settings_called

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.comparison.compare import Outcome
    from bench.gate.judge import Judgement
    from bench.report.grid import Grid


class AwqBench:
    """The ``awq_bench`` fixture compares and gates models from a test; tables follow at the end."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        """Write below ``folder``."""
        self._config, self._folder = config, folder
        self._count = 0

    def compare(self, model: str | None = None, **options: Any) -> Outcome:
        """Run a comparison; a request that cannot work fails the test.

        Args:
            model: a folder, a hub name, or ``reference``; default that of ``--awq-model``.
            options: of `awq-bench compare`, by name; those not given are as pytest was asked.
        """
        from bench.comparison.compare import compare
        from bench.report import escape

        if model is not None:
            options["model"] = model
        self._count += 1
        try:
            request = self._config.stash[REQUEST].but(**options)
            outcome = compare(request, out=self._folder / f"compare-{self._count}")
        except InputError as error:
            pytest.fail(escape.line(f"awq-bench: {error}"), pytrace=False)
        _show(self._config, outcome.folder, [*outcome.tables])
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

        So does a baseline, model or comparison that cannot be used.

        Args:
            baselines: files that ``awq-bench baseline`` wrote.
            model: to quantize as declared, or a quantized folder; None: the baseline's own.
            source: the unquantized model of a quantized folder.
            run: a finished comparison to judge instead of measuring.
            data_dir: local copies of texts.
            tasks_data: local copies of data sets of tasks.
        """
        from bench.gate import report as gate_report
        from bench.gate.run import gate
        from bench.report import escape

        try:
            results = gate(
                [Path(path) for path in baselines],
                model=model,
                source=source,
                run=None if run is None else Path(run),
                data_dir=None if data_dir is None else Path(data_dir),
                tasks_data=None if tasks_data is None else Path(tasks_data),
            )
        except InputError as error:
            pytest.fail(escape.line(f"awq-bench: {error}"), pytrace=False)
        for result in results:
            _show(self._config, result.path, [gate_report.grid(result)])
        if any(result.outcome != "pass" for result in results):
            pytest.fail(gate_report.markdown(results), pytrace=False)
        return results


@pytest.fixture
def awq_bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AwqBench:
    """Compare models from a test: ``awq_bench.compare("./my-model", methods=("awq",))``."""
    return AwqBench(request.config, tmp_path_factory.mktemp("awq-bench"))


@pytest.fixture(scope="session")
def awq_bench_cells(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Begin the comparison that the options ask for, once; its cells are measured one by one."""
    from bench.comparison.compare import begin
    from bench.report import escape

    out = request.config.getoption("--awq-out")
    with ExitStack() as held:
        try:
            with settings_called(option_of):
                comparison = held.enter_context(
                    begin(request.config.stash[REQUEST], out=Path(out) if out else None)
                )
        except InputError as error:  # the same for every cell: said once
            pytest.exit(escape.line(f"awq-bench: {error}"), returncode=pytest.ExitCode.USAGE_ERROR)
        yield comparison
        if not comparison.pending:
            with settings_called(option_of):
                outcome = comparison.finish()
            _show(request.config, outcome.folder, [*outcome.tables])


def _show(config: pytest.Config, path: Path, tables: list[Grid]) -> None:
    """Keep tables for the end."""
    config.stash.setdefault(TABLES, []).append((path, tables))
