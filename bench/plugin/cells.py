"""Each cell of ``pytest --benchmark`` is a test here; `bench.plugin.hooks` collects them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from bench.comparison.request import Request
from bench.comparison.suites.throughput import backends_of
from bench.plugin import table
from bench.plugin.options import option_of
from bench.plugin.session import REQUEST
from bench.records.record import Record
from bench.report import escape
from kernels import backends
from kernels.place import Place
from quantcore.errors import settings_called
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme
from suites import TASK_SUITES

pytestmark = pytest.mark.awq_bench

KERNEL_TOKENS = (1, 4, 16, 64, 256)
_ROTATED_BYTES = 2**27
_NOTHING = pytest.param(None, marks=pytest.mark.awq_bench(nothing=True))
"""It stands where there are no cells, and is never run: see `bench.plugin.hooks`. What pytest makes
of no parameters at all is the project's own setting, and may be an error."""

Linear = Callable[[torch.Tensor, int], torch.Tensor]


def _dtypes() -> list[str]:
    return ["bfloat16", "float16" if torch.cuda.is_available() else "float32"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each cell and suite, with an id that says which."""
    request = metafunc.config.stash[REQUEST]
    name = request.model.rstrip("/").rsplit("/", 1)[-1]
    rows: list[tuple[str | None, str | None]] = [(None, None)]
    rows += [(method, scheme) for scheme in request.schemes for method in request.methods]
    ids = ["unquantized" if method is None else f"{method}-{scheme}" for method, scheme in rows]
    if "timed_cell" in metafunc.fixturenames:
        timed: list[Any] = []
        if "throughput" in request.suites:
            timed.append(pytest.param((*rows[0], None), id=f"{name}-{ids[0]}"))
            timed += [
                pytest.param((*row, backend), id=f"{name}-{cell}-{backend}")
                for row, cell in zip(rows[1:], ids[1:], strict=True)
                for backend in backends_of(request)
            ]
        metafunc.parametrize("timed_cell", timed or [_NOTHING])
    if "cell_and_suite" in metafunc.fixturenames:
        asked = (*request.suites, *request.tasks.names)
        measured = [
            pytest.param((*row, suite), id=f"{name}-{cell}-{suite}")
            for row, cell in zip(rows, ids, strict=True)
            for suite in asked
            if suite != "throughput" and _measured(request, suite, row[1])
        ]
        metafunc.parametrize("cell_and_suite", measured or [_NOTHING])


def _measured(request: Request, suite: str, scheme: str | None) -> bool:
    """Say whether cells of a scheme run a suite: ``tasks-schemes`` may leave tasks out."""
    task = suite in (*TASK_SUITES, *request.tasks.names)
    return not task or scheme is None or scheme in (request.tasks.schemes or (scheme,))


@pytest.fixture(scope="module", params=_dtypes(), ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Give the dtype that activations, and the unquantized weight, are kept in."""
    kept_in: torch.dtype = getattr(torch, request.param)
    return kept_in


@pytest.fixture(scope="module", params=[table.UNQUANTIZED, table.QUANTIZED])
def linear(request: pytest.FixtureRequest, dtype: torch.dtype) -> tuple[str, Linear]:
    """Copy one linear to more bytes than caches hold: quantized, or the vendor's product."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(table.OUT_FEATURES, table.IN_FEATURES, generator=generator)
    if request.param == table.UNQUANTIZED:
        size = plain.numel() * dtype.itemsize
        copies = [plain.to(device, dtype).clone() for _ in range(max(2, _ROTATED_BYTES // size))]
        return request.param, lambda x, turn: functional.linear(x, copies[turn % len(copies)])
    scheme = QuantScheme.parse(request.param)
    place = Place(
        device=device,
        dtype=dtype,
        scheme=scheme,
        out_features=table.OUT_FEATURES,
        in_features=table.IN_FEATURES,
    )
    name, _ = backends.choose("auto", place)
    module = backends.backend(name)
    packed = module.pack(quantize(plain.to(device), scheme), place)
    count = max(2, 2 * _ROTATED_BYTES // plain.numel())
    many = [{key: part.clone() for key, part in packed.items()} for _ in range(count)]
    return request.param, lambda x, turn: module.linear(x, many[turn % count], None, place)


@pytest.mark.parametrize("tokens", KERNEL_TOKENS, ids=lambda tokens: f"M{tokens}")
def test_kernel(
    benchmark: Any,
    linear: tuple[str, Linear],
    dtype: torch.dtype,
    tokens: int,
    request: pytest.FixtureRequest,
) -> None:
    """Time a 4096 x 4096 linear at INT4-g128, and unquantized."""
    cuda = torch.cuda.is_available()
    x = torch.randn(tokens, table.IN_FEATURES).to("cuda" if cuda else "cpu", dtype)
    kind, call = linear
    short = str(dtype).removeprefix("torch.")
    benchmark.group = f"linear {table.SHAPE}, {short}, {tokens} tokens"
    benchmark.extra_info |= {
        "shape": table.SHAPE,
        "scheme": kind,
        "dtype": short,
        "tokens": tokens,
    }
    turn = 0

    def run() -> None:
        nonlocal turn
        turn += 1
        call(x, turn)
        if cuda:
            torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=12, iterations=1, warmup_rounds=2)
    if benchmark.stats is not None:  # None with --benchmark-disable
        table.keep(request.config, short, tokens, kind, sorted(benchmark.stats.stats.data))


def test_cell(awq_bench_cells: Any, cell_and_suite: tuple[str | None, str | None, str]) -> None:
    """Measure one cell of the comparison, once; each of its suites is a test."""
    method, scheme, suite = cell_and_suite
    record = _record(awq_bench_cells, method, scheme, suite)
    assert math.isfinite(record.metrics[record.cell.suites[suite].metric].value)


class _SuiteClock:
    """A suite's clock stands still but for the seconds that it is told have passed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


_CLOCK = _SuiteClock()


@pytest.mark.benchmark(timer=_CLOCK)
def test_decode(
    benchmark: Any, awq_bench_cells: Any, timed_cell: tuple[str | None, str | None, str | None]
) -> None:
    """Give the seconds of a token when decoding, as the throughput suite measured them."""
    method, scheme, backend = timed_cell
    timings = _record(awq_bench_cells, method, scheme, "throughput").timings
    assert timings is not None
    model = timings.unquantized if backend is None else timings.backends[backend]
    case = timings.cases[0]
    seconds = [step for run in model.of(case) for step in run.step_s]
    benchmark.group = f"decoding: seconds of a token, batch {case[0]}, prompt {case[1]}"
    benchmark.extra_info["linears"] = model.linears
    # The suite's samples go through the fixture by a clock that advances by each of them: they
    # were taken in turn with the unquantized model's, which the fixture cannot do.
    left = iter(seconds)

    def call() -> None:
        _CLOCK.now += next(left, 0.0)

    benchmark.pedantic(call, rounds=len(seconds), iterations=1)


def _record(comparison: Any, method: str | None, scheme: str | None, suite: str) -> Record:
    """Return the record of a cell on which the suite was measured, now or before."""
    planned = next(
        planned
        for planned in comparison.plan
        if (planned.cell.method, planned.cell.scheme) == (method, scheme)
    )
    with settings_called(option_of):
        record: Record = comparison.measure(planned)
    assert suite not in record.reasons, escape.line(record.reasons[suite])
    return record
