"""Linears that run from their codes: in a comparison, from a folder, and when speed is measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bench.comparison.compare import Outcome, compare
from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from bench.comparison.suites.throughput import ThroughputSuite
from bench.records.record import Record
from bench.report import draw
from kernels.linear import QuantizedLinear
from quantcore import codes
from quantcore.errors import InputError
from suites.throughput import METRIC

PERPLEXITY = "evaluation_ppl_32"
SCHEMA = Path(__file__).parents[3] / "bench" / "records" / "record.schema.json"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWQ_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def small(request_for: Request) -> Request:
    return request_for.but(
        methods=("rtn", "awq+clip"),
        schemes=("int4-g32",),
        batch_sizes=(1, 2),
        prompt_lengths=(8,),
        new_tokens=3,
        rounds=2,
    )


@pytest.fixture(scope="module")
def exact(small: Request, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """From the weights, without a backend; for reading only."""
    return compare(small, out=tmp_path_factory.mktemp("exact") / "run")


def value(record: Record) -> float:
    return float(record.metrics[PERPLEXITY].value)


def valid(outcome: Outcome) -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    for path in (outcome.folder / "records").iterdir():
        jsonschema.validate(json.loads(path.read_text("utf-8")), schema)


@pytest.mark.parametrize("backend", ["cpu", "dequant", "auto"])
def test_suites_run_on_the_backend_and_the_record_says_so(
    small: Request, exact: Outcome, tmp_path: Path, backend: str
) -> None:
    run = compare(small.but(backend=backend), out=tmp_path / "run")
    valid(run)
    for one, other in zip(exact.records, run.records, strict=True):
        assert value(one) == pytest.approx(value(other), rel=1e-4)
        assert one.backends == {}
        if one.cell.method is None:
            assert other.cell.id == one.cell.id  # it has no codes: the cell is the same
        else:
            assert (other.cell.backend, one.cell.backend) == (backend, None)
            assert other.cell.id != one.cell.id
            assert set(other.backends) == {"cpu" if backend == "auto" else backend}


def test_what_a_backend_does_not_take_falls_back_with_a_notice(
    small: Request, tmp_path: Path
) -> None:
    run = compare(
        small.but(schemes=("int3-g32",), methods=("rtn",), backend="auto"),
        out=tmp_path / "run",
    )
    quantized = run.records[1]
    assert set(quantized.backends) == {"dequant"}
    assert any("takes 4 bits, not 3" in one for one in quantized.notices)


@pytest.mark.parametrize(
    ("method", "checkpoint_format"),
    [("gptq", None), ("gptq-actorder", "hf"), ("gptq-actorder", "gptq")],
)
def test_a_folder_runs_from_its_codes(
    small: Request, tmp_path: Path, method: str, checkpoint_format: str | None
) -> None:
    folder = quantize(
        small,
        method=method,
        scheme="int4-g32",
        out=tmp_path / "folder",
        checkpoint_format=checkpoint_format,
    )
    loaded = open_model(small.but(model=str(folder), methods=(), schemes=()))
    kept = codes.of(loaded)
    for name, weight in kept.items():
        linear = loaded.model.get_submodule(name)
        assert torch.equal(weight.dequantize(), linear.weight.detach()), name
    request = small.but(model=str(folder), methods=(), schemes=())
    exact = compare(request, out=tmp_path / "exact").records[0]
    run = compare(request.but(backend="cpu"), out=tmp_path / "run").records[0]
    assert value(run) == pytest.approx(value(exact), rel=1e-4)
    assert run.backends == {"cpu": len(kept)}


def test_tables_and_reports_say_what_ran(small: Request, tmp_path: Path) -> None:
    run = compare(small.but(methods=("rtn",), backend="auto"), out=tmp_path / "run")
    (layout,) = draw.write(run.records, run.folder)
    linears = run.records[1].backends["cpu"]
    said = f"ran from their codes on backend auto (linears by backend: cpu {linears})"
    assert any(said in note for note in layout.notes)
    text = (run.folder / "report.md").read_text("utf-8")
    assert said in text
    assert "exactly the weights that a packed checkpoint" not in text
    folder = quantize(small, method="rtn", scheme="int4-g32", out=tmp_path / "folder")
    request = small.but(model=str(folder), methods=(), schemes=(), backend="cpu")
    own = compare(request, out=tmp_path / "own")
    (layout,) = draw.write(own.records, own.folder)
    assert layout.title.startswith(f"{folder} (RTN INT4-g32, from its codes)")
    assert layout.body[0][0] == "codes, FP32"


def test_codes_that_are_not_the_weights_are_refused(small: Request, tmp_path: Path) -> None:
    folder = quantize(
        small, method="rtn", scheme="int4-g32", out=tmp_path / "folder", checkpoint_format="hf"
    )
    path = folder / codes.FILE
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name = next(name for name in tensors if name.endswith(".codes4"))
    tensors[name][3, 5] ^= 1  # one step of one weight
    save_file(tensors, path, metadata)
    request = small.but(model=str(folder), methods=(), schemes=(), backend="cpu")
    with pytest.raises(InputError, match="do not decode to the weights beside them"):
        compare(request, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_speed_is_measured_on_every_backend_and_quality_on_the_exact_weights(
    small: Request, exact: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, set[type]]] = []
    real = ThroughputSuite._models

    def seen(self: ThroughputSuite, *args: object) -> object:
        models, linears = real(self, *args)  # type: ignore[arg-type]
        for name, model in models.items():
            kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear | QuantizedLinear)}
            ran.append((name, kinds))
        return models, linears

    monkeypatch.setattr(ThroughputSuite, "_models", seen)
    request = small.but(
        suites=("perplexity", "throughput"),
        throughput_backends=("cpu", "dequant"),
        price_per_hour=2.0,
    )
    outcome = compare(request, out=tmp_path / "run")
    valid(outcome)
    assert [value(one) for one in outcome.records] == [value(one) for one in exact.records]
    both = {nn.Linear, QuantizedLinear}  # the output head is not quantized
    assert ran == [("unquantized", {nn.Linear})] + 2 * [
        ("cpu", both),
        ("dequant", both),
        ("unquantized", {nn.Linear}),
    ]
    base, *quantized = [record.metrics[METRIC] for record in outcome.records]
    assert base.backends == {}
    assert len(base.unquantized.runs) == 2 * 2
    for metric in quantized:
        assert list(metric.backends) == ["cpu", "dequant"]
        for name, model in metric.backends.items():
            assert set(model.linears) == {name}
            assert len(model.runs) == 2 * 2
            assert model.weight_bytes < metric.unquantized.weight_bytes
    draw.write(outcome.records, outcome.folder, price_per_hour=2.0)
    written = {path.name for path in outcome.folder.iterdir()}
    assert {"throughput.md", "throughput.csv", "throughput.png", "throughput.svg"} <= written
    lines = pd.read_csv(outcome.folder / "throughput.csv")
    assert len(lines) == 2 + 2 * 2 * 2
    assert set(lines["backend"].dropna()) == {"cpu", "dequant"}
    assert (lines["modelled_cost_per_million_tokens"] > 0).all()
    assert "Throughput" in (outcome.folder / "report.md").read_text("utf-8")


def test_a_second_run_measures_nothing_again(small: Request, tmp_path: Path) -> None:
    request = small.but(suites=("throughput",), methods=("rtn",))
    first = compare(request, out=tmp_path / "run").records
    again = compare(request, out=tmp_path / "run").records
    assert [one.metrics for one in first] == [one.metrics for one in again]
