"""What runs a linear on a CPU is measured, kept, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import cpu, native, triton_w4a16, tune
from kernels.layout import TiledWeight
from kernels.linear import QuantizedLinear
from kernels.place import Place
from quantcore.errors import InputError
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme

PLACE = Place(
    device=torch.device("cpu"),
    dtype=torch.float32,
    scheme=QuantScheme.parse("int4-g32"),
    out_features=64,
    in_features=64,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    native.load()  # built in the user's cache, not in this test's
    monkeypatch.setenv("AWQ_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(cpu, "_measured", {})
    monkeypatch.setattr(cpu, "_ROTATED_BYTES", 2**16)
    return tmp_path


def test_every_way_is_timed_once_and_kept(own_cache: Path) -> None:
    table = cpu.table_for(PLACE)
    assert set(table) == set(cpu.TOKENS)
    assert set(table[1]) == set(cpu.ways(PLACE))
    assert all(seconds > 0 for row in table.values() for seconds in row.values())
    kept = json.loads(cpu.table_file().read_text("utf-8"))
    assert cpu.table_file().parent == own_cache
    assert list(kept["tables"]) == [cpu.key(PLACE)]


def test_what_was_kept_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = cpu.table_for(PLACE)
    monkeypatch.setattr(cpu, "_measured", {})
    monkeypatch.setattr(cpu, "_measure", lambda key, place: pytest.fail("measured again"))
    assert cpu.table_for(PLACE) == table


@pytest.mark.parametrize("damage", ["", "{", '{"version": 0}', '{"version": 1, "tables": []}'])
def test_a_damaged_file_is_measured_again(damage: str) -> None:
    cpu.table_for(PLACE)
    cpu.table_file().write_text(damage, "utf-8")
    cpu._measured.clear()
    assert set(cpu.table_for(PLACE)) == set(cpu.TOKENS)
    assert json.loads(cpu.table_file().read_text("utf-8"))["version"] == 1


def test_the_fastest_way_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = cpu.ways(PLACE)
    ran: list[str] = []
    real = cpu.run

    def watch(way: str, *rest: Any) -> torch.Tensor:
        ran.append(way)
        return real(way, *rest)

    monkeypatch.setattr(cpu, "run", watch)
    for fastest in ways:
        table = {m: {w: 1.0 if w == fastest else 2.0 for w in ways} for m in cpu.TOKENS}
        monkeypatch.setattr(cpu, "_measured", {cpu.key(PLACE): table})
        packed = cpu.pack(quantize(torch.randn(64, 64), PLACE.scheme), PLACE)
        cpu.linear(torch.randn(3, 64), packed, None, PLACE)
        assert ran[-1] == fastest


def test_layouts_of_ways_that_are_never_fastest_are_not_held() -> None:
    ways = cpu.ways(PLACE)
    table = {m: {w: 1.0 if w == "chunks" else 2.0 for w in ways} for m in cpu.TOKENS}
    cpu._measured[cpu.key(PLACE)] = table
    packed = cpu.pack(quantize(torch.randn(64, 64), PLACE.scheme), PLACE)
    assert {name.partition("_")[0] for name in packed} == {"columns"}


@pytest.mark.parametrize(
    ("aten", "chunks", "held"),
    [
        ((1.0, 1.0), (1.2, 0.9), ["aten", "columns"]),  # exact codes are wanted beside it
        ((1.0, 1.0), (1.2, 0.7), ["columns"]),  # the other is not worth the memory
        ((1.0, 3.0), (4.0, 1.0), ["columns", "aten"]),
        ((1.0, 2.9), (1.0, 1.0), ["columns"]),
    ],
)
def test_a_second_layout_is_held_where_it_is_much_faster(
    aten: tuple[float, float], chunks: tuple[float, float], held: list[str]
) -> None:
    rows = zip(aten, chunks, strict=True)
    table = {m: {"aten": a, "chunks": c} for m, (a, c) in zip((1, 64), rows, strict=True)}
    assert sorted(cpu.layouts_worth_holding(["chunks", "aten"], table)) == sorted(held)


def weight(outputs: int, inputs: int) -> TiledWeight:
    empty = torch.empty(0, dtype=torch.int16)
    return TiledWeight(
        codes=empty, grid=empty, out_features=outputs, in_features=inputs, group_size=128
    )


def test_a_way_that_won_elsewhere_is_not_taken_where_it_does_not_run() -> None:
    """One table serves all inputs of a size; PyTorch's product takes few sizes of one group."""
    layer = QuantizedLinear(
        quantize(torch.randn(40, 96), QuantScheme.parse("int4-channel")),
        None,
        backend="cpu",
        dtype=torch.bfloat16,
    )
    place = layer._at
    assert "aten" not in cpu.ways(place)
    won = {way: 1.0 if way == "aten" else 2.0 for way in cpu.WAYS}
    cpu._measured[cpu.key(place)] = dict.fromkeys(cpu.TOKENS, won)
    layer._hold(layer.quantized())
    x = torch.randn(3, 96).bfloat16()
    expected = x.float() @ layer.quantized().dequantize().T
    assert torch.allclose(layer(x).float(), expected, rtol=0.05, atol=0.2)


class TestTunedPlans:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Any:
        triton_w4a16.tuned.cache_clear()
        yield
        triton_w4a16.tuned.cache_clear()

    def test_a_measured_plan_is_taken_from_its_tokens_on(self, own_cache: Path) -> None:
        small = triton_w4a16.Config(outputs=128, tokens=8, split=2, stages=3, warps=2)
        large = triton_w4a16.Decode(rows=512)
        plans = {"1": small, "64": large}
        document = {
            "gpus": {
                "interpreter": {
                    "shapes": {
                        "4096x4096 g128 float16": {
                            tokens: triton_w4a16.document_of(plan) for tokens, plan in plans.items()
                        }
                    }
                }
            }
        }
        (own_cache / "tuned.json").write_text(json.dumps(document), "utf-8")
        for tokens, expected in ((1, small), (63, small), (64, large), (999, large)):
            x = torch.empty(tokens, 4096, dtype=torch.float16)
            assert triton_w4a16.plan_for(x, weight(4096, 4096)) == expected
        other = triton_w4a16.plan_for(torch.empty(1, 4096).half(), weight(4096, 8192))
        assert other == triton_w4a16.default_plan(1, 4096, 8192, 1)

    @pytest.mark.parametrize(
        "text", ["[]", "{", '{"gpus": {"a": {"shapes": {"b": {"1": {"x": 1}}}}}}']
    )
    def test_a_damaged_file_is_named(self, own_cache: Path, text: str) -> None:
        (own_cache / "tuned.json").write_text(text, "utf-8")
        with pytest.raises(InputError, match=r"tuned\.json is no file of tuned configurations"):
            triton_w4a16.tuned()


@pytest.mark.parametrize("tokens", [1, 7, 16, 17, 64, 65, 256, 257, 4096])
@pytest.mark.parametrize("shape", [(128, 128), (4096, 4096), (28672, 8192), (130, 200)])
def test_default_plans_are_ones_that_compile(tokens: int, shape: tuple[int, int]) -> None:
    plan = triton_w4a16.default_plan(tokens, *shape, 132)
    if isinstance(plan, triton_w4a16.Decode):
        assert plan.rows % 128 == 0
        return
    assert plan.outputs in (64, 128, 256)
    assert plan.tokens >= min(tokens, 64)
    assert plan.split * 128 <= max(128, shape[1] + 127)


def test_tuning_tries_what_the_defaults_are() -> None:
    for tokens in (1, 16, 64):
        plan = triton_w4a16.default_plan(tokens, 14336, 4096, 132)
        tried = list(tune.candidates(tokens, 14336, 4096))
        assert isinstance(plan, triton_w4a16.Config)
        assert any(
            isinstance(one, triton_w4a16.Config)
            and (one.outputs, one.tokens, one.warps) == (plan.outputs, plan.tokens, plan.warps)
            for one in tried
        ), plan


def test_tuning_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        tune.main([])
    assert stop.value.code == 2
    assert "PyTorch sees none" in capsys.readouterr().err
