"""Every way that a CPU runs a quantized linear, against the float32 oracle."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kernels import backends, cpu, dequant, install, native, reference
from kernels.layout import tile, untile
from kernels.linear import QuantizedLinear
from kernels.place import Place
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight, quantize
from quantcore.scheme import QuantScheme

CPU = torch.device("cpu")
SHAPES = ((48, 64), (1, 32), (200, 256), (65, 352), (130, 1056))
SCHEMES = ("int4-g32", "int4-g64-sym", "int4-g128", "int4-channel", "int4-g96")


def random_weight(rows: int, columns: int, scheme: str, *, seed: int = 0) -> QuantizedWeight:
    """All codes, scales from the smallest that float16 holds up, zero points 0 and 15.

    Symmetric schemes have scales of both signs.
    """
    generator = torch.Generator().manual_seed(seed)
    parsed = QuantScheme.parse(scheme)
    groups = columns // parsed.group_of(columns)
    top = parsed.top_code
    codes = torch.randint(0, top + 1, (rows, columns), generator=generator).to(torch.uint8)
    scales = torch.rand(rows, groups, generator=generator) * 0.1 + 0.01
    zeros = torch.randint(0, top + 1, (rows, groups), generator=generator).to(torch.uint8)
    if parsed.symmetric:
        zeros.fill_(2 ** (parsed.bits - 1))
    else:
        zeros[0, 0], zeros[-1, -1] = 0, top
    scales[0, 0], scales[-1, -1] = 2.0**-24, 50.0
    if parsed.symmetric:
        scales[::2] *= -1
    return QuantizedWeight(codes=codes, scales=scales.to(torch.float16), zeros=zeros, scheme=parsed)


def place_of(weight: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Place:
    rows, columns = weight.codes.shape
    return Place(
        device=CPU, dtype=dtype, scheme=weight.scheme, out_features=rows, in_features=columns
    )


def pairs(shapes: Sequence[tuple[int, int]], schemes: Sequence[str]) -> list[Any]:
    """Those of which the group size divides the inputs."""
    return [
        pytest.param(shape, scheme, id=f"{shape[0]}x{shape[1]}-{scheme}")
        for shape in shapes
        for scheme in schemes
        if shape[1] % (QuantScheme.parse(scheme).group_size or 1) == 0
    ]


def close(y: Tensor, x: Tensor, weight: QuantizedWeight, bias: Tensor | None, way: str) -> None:
    expected = reference.linear(x, weight, bias)
    allowed = reference.tolerance(
        x,
        weight,
        expected,
        rounded_weights=way in ("chunks", "native-decode", "dequant"),
        rounded_scales=way == "aten",
    )
    if bias is not None and way != "native":  # added to an answer that was rounded already
        unit = torch.finfo(x.dtype).eps
        allowed = allowed + unit * (expected.abs() + 2 * bias.float().abs())
    excess = ((y.float() - expected).abs() / allowed).max()
    assert float(excess) <= 1, (way, float(excess))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "scheme"), pairs(SHAPES, SCHEMES))
def test_every_way_gives_the_oracles_answer(
    shape: tuple[int, int], scheme: str, dtype: torch.dtype
) -> None:
    weight = random_weight(*shape, scheme)
    place = place_of(weight, dtype)
    for tokens in (1, 2, 3, 5, 8, 13, 33):
        generator = torch.Generator().manual_seed(tokens)
        x = torch.randn(tokens, shape[1], generator=generator).to(dtype)
        bias = torch.randn(shape[0], generator=generator).to(dtype) if tokens % 2 else None
        for way in cpu.ways(place):
            packed = cpu._pack(cpu._LAYOUT[way], weight, place)
            y = cpu.run(way, x, packed, bias, place)
            assert y.dtype is dtype
            assert y.shape == (tokens, shape[0])
            close(y, x, weight, bias, way)
            assert torch.equal(y, cpu.run(way, x, packed, bias, place)), "not repeatable"
        close(
            dequant.linear(x, dequant.pack(weight, place), bias, place), x, weight, bias, "dequant"
        )


def test_the_native_kernel_is_there_where_a_compiler_is() -> None:
    found = native.load()
    assert isinstance(found, native.Native), found
    assert native.LEVELS[found.level]


@pytest.mark.parametrize("flags", ["-mno-avx512bf16", "-mno-avx512f", "-mno-avx512f -mno-avx2"])
def test_older_processors_get_the_same_answers(
    flags: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWQ_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, *flags.split()))
    older = native.load.__wrapped__()
    assert isinstance(older, native.Native), older
    newest = native.load()
    assert isinstance(newest, native.Native)
    assert older.level < max(newest.level, 1)
    for dtype in (torch.float32, torch.bfloat16):
        weight = random_weight(65, 352, "int4-g32")
        packed = native.pack(weight)
        for tokens in (1, 3, 7, 13):
            x = torch.randn(tokens, 352).to(dtype)
            y = native.linear(older, x, packed, None, 65)
            close(y, x, weight, None, "native")
        out = torch.empty(33, 352, dtype=dtype)
        native.decode(older, packed, 32, out, 352)
        assert torch.equal(out, weight.dequantize()[32:].to(dtype))


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWQ_BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = native.load.__wrapped__()
    assert isinstance(found, native.Missing)
    assert "no C++ compiler" in found.reason


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWQ_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", ("-no-such-flag",))
    found = native.load.__wrapped__()
    assert isinstance(found, native.Missing)
    assert "no-such-flag" in found.reason
    assert not list(tmp_path.iterdir()), "something half-built stays behind"


@pytest.mark.parametrize(
    ("shape", "scheme"),
    pairs([*SHAPES, (300, 384), (129, 768)], [*SCHEMES, "int4-g192", "int4-g256-sym"]),
)
def test_layouts_keep_every_weight(shape: tuple[int, int], scheme: str) -> None:
    weight = random_weight(*shape, scheme)
    codes, scales, zeros = untile(tile(weight))
    assert torch.equal(codes, weight.codes)
    assert torch.equal(scales, weight.scales)
    assert torch.equal(zeros, weight.zeros)
    place = place_of(weight)
    for layout in {cpu._LAYOUT[way] for way in cpu.ways(place)} - {"aten"}:
        packed = {f"{layout}_{n}": t for n, t in cpu._pack(layout, weight, place).items()}
        again = cpu.unpack(packed, place)
        for field in ("codes", "scales", "zeros"):
            assert torch.equal(getattr(again, field), getattr(weight, field)), (layout, field)


class TestQuantizedLinear:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWQ_BENCH_CACHE", str(tmp_path))

    @pytest.mark.parametrize("backend", ["auto", "cpu", "dequant"])
    def test_answers_like_the_dequantized_layer(self, backend: str) -> None:
        weight = random_weight(48, 64, "int4-g32")
        layer = QuantizedLinear(weight, torch.randn(48), backend=backend, dtype=torch.float32)
        x = torch.randn(2, 3, 64)
        assert layer.bias is not None
        expected = reference.linear(x.view(6, 64), weight, layer.bias).view(2, 3, 48)
        assert torch.allclose(layer(x), expected, rtol=1e-4, atol=1e-2)

    def test_takes_columns_in_activation_order(self) -> None:
        plain = random_weight(48, 64, "int4-g32")
        index = torch.arange(64).remainder(2)
        weight = replace(plain, group_index=index)
        layer = QuantizedLinear(weight, None, backend="cpu", dtype=torch.float32)
        x = torch.randn(5, 64)
        assert torch.allclose(layer(x), x @ weight.dequantize().T, rtol=1e-4, atol=1e-2)

    def test_divides_by_scales_kept_beside_the_weights(self) -> None:
        plain = random_weight(48, 64, "int4-g32")
        weight = replace(plain, input_scales=torch.rand(64).add(0.5).half())
        layer = QuantizedLinear(weight, None, backend="cpu", dtype=torch.float32)
        x = torch.randn(5, 64)
        assert torch.allclose(layer(x), x @ weight.dequantize().T, rtol=1e-4, atol=1e-2)

    def test_a_change_of_dtype_keeps_the_weight(self) -> None:
        weight = random_weight(48, 64, "int4-g32")
        layer = QuantizedLinear(weight, torch.randn(48), backend="cpu", dtype=torch.float32)
        layer.to(torch.bfloat16)
        assert torch.equal(layer.quantized().scales, weight.scales)
        assert torch.equal(layer.quantized().codes, weight.codes)
        x = torch.randn(4, 64, dtype=torch.bfloat16)
        assert layer(x).dtype is torch.bfloat16
        with pytest.raises(InputError, match=r"packed for torch\.bfloat16"):
            layer(x.float())

    @pytest.mark.parametrize("backend", ["cpu", "dequant"])
    def test_a_dtype_and_back_leave_the_layer_as_it_was(self, backend: str) -> None:
        plain = random_weight(48, 64, "int4-g32")
        weight = replace(
            plain,
            group_index=torch.arange(64).remainder(2),
            input_scales=torch.rand(64).add(0.5).half(),
        )
        bias = torch.randn(48).bfloat16().float()  # it takes the activations' dtype, as any does
        layer = QuantizedLinear(weight, bias, backend=backend, dtype=torch.float32)
        x = torch.randn(4, 64)
        expected, buffers = layer(x), {n: one.clone() for n, one in layer.named_buffers()}
        state = {n: one.clone() for n, one in layer.state_dict().items()}
        layer.to(torch.bfloat16)
        assert layer.input_scales is not None
        assert torch.equal(layer.input_scales, buffers["input_scales"])
        layer.to(torch.float32)
        for before, after in ((buffers, dict(layer.named_buffers())), (state, layer.state_dict())):
            assert before.keys() == after.keys()
            for name, tensor in before.items():
                assert after[name].dtype is tensor.dtype, name
                assert torch.equal(after[name], tensor), name
        assert torch.equal(layer(x), expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_input_scales_are_not_rounded_to_the_activations_dtype(
        self, dtype: torch.dtype
    ) -> None:
        scales = torch.rand(64).add(0.5).half()
        identity = QuantizedWeight(
            codes=torch.eye(64, dtype=torch.uint8),
            scales=torch.ones(64, 2, dtype=torch.float16),
            zeros=torch.zeros(64, 2, dtype=torch.uint8),
            scheme=QuantScheme.parse("int4-g32"),
            input_scales=scales,
        )
        layer = QuantizedLinear(identity, None, backend="dequant", dtype=dtype)
        x = torch.randn(4, 64).to(dtype)
        assert torch.equal(layer(x), (x.float() / scales.float()).to(dtype))

    @pytest.mark.parametrize("scheme", ["int4-g32", "int3-g32", "int8-channel"])
    def test_a_saved_state_loads_into_another_backend(self, scheme: str) -> None:
        weight = random_weight(48, 64, scheme)
        first = "cpu" if scheme.startswith("int4") else "dequant"
        one = QuantizedLinear(weight, torch.randn(48), backend=first, dtype=torch.float32)
        state = one.state_dict()
        assert set(state) == {"bias", "codes", "scales", "zeros"}
        other = random_weight(48, 64, scheme, seed=1)
        two = QuantizedLinear(other, torch.zeros(48), backend="dequant", dtype=torch.float32)
        two.load_state_dict(state)
        assert torch.equal(two.quantized().codes, weight.codes)
        assert torch.equal(two.quantized().scales, weight.scales)
        assert two.bias is not None
        assert one.bias is not None
        assert torch.equal(two.bias, one.bias)
        state["scales"] = state["scales"][:1]
        with pytest.raises(RuntimeError, match="size mismatch for scales"):
            two.load_state_dict(state)
        del state["codes"]
        with pytest.raises(RuntimeError, match="codes"):
            two.load_state_dict(state)

    def test_compiles_without_a_graph_break(self) -> None:
        weight = random_weight(48, 64, "int4-g32")
        layer = QuantizedLinear(weight, torch.randn(48), backend="cpu", dtype=torch.float32)
        x = torch.randn(4, 64)
        found = torch.compile(layer, backend="eager", fullgraph=True)(x)
        assert torch.equal(found, layer(x))

    def test_a_copy_is_independent(self) -> None:
        layer = QuantizedLinear(
            random_weight(48, 64, "int4-g32"), None, backend="cpu", dtype=torch.float32
        )
        again = copy.deepcopy(layer)
        x = torch.randn(4, 64)
        assert torch.equal(again(x), layer(x))


def test_installing_replaces_and_removing_restores() -> None:
    model = nn.ModuleDict({"a": nn.Linear(64, 48), "b": nn.Sequential(nn.Linear(64, 32))})
    before = dict(model.named_modules())
    weights = {
        "a": quantize(model["a"].weight.detach(), QuantScheme.parse("int4-g32")),
        "b.0": quantize(model["b"][0].weight.detach(), QuantScheme.parse("int4-g32")),
        "experts.3": random_weight(8, 64, "int4-g32"),
    }
    other = install.twin(model)
    with install.installed(other, weights, backend="dequant") as done:
        assert isinstance(other.get_submodule("b.0"), QuantizedLinear)
        assert isinstance(model.get_submodule("b.0"), nn.Linear)
        assert done.backends == {"dequant": 2}
        assert "experts.3" in done.notices[0]
        x = torch.randn(3, 64)
        expected = reference.linear(x, weights["a"], model["a"].bias.detach())
        assert torch.allclose(other.get_submodule("a")(x), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(other.get_submodule("a"), nn.Linear)
    assert dict(model.named_modules()) == before
    assert other.get_submodule("a").weight is model["a"].weight


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("triton", {}, "^backend triton: it runs on CUDA GPUs, and this is cpu; here backend "
         "cpu or dequant works"),
        ("cpu", {"scheme": QuantScheme.parse("int3-g32")}, "it takes 4 bits, not 3"),
        ("cpu", {"dtype": torch.float64}, "float64; here backend dequant works"),
        ("cuda", {}, "^backend cuda: unknown"),
    ],
)  # fmt: skip
def test_what_a_backend_does_not_take_is_refused(name: str, changes: dict, said: str) -> None:
    place = replace(place_of(random_weight(48, 64, "int4-g32")), **changes)
    with pytest.raises(InputError, match=said):
        backends.choose(name, place)


def test_auto_falls_back_and_says_so() -> None:
    place = replace(place_of(random_weight(48, 64, "int3-g32")))
    name, notice = backends.choose("auto", place)
    assert name == "dequant"
    assert notice is not None
    assert "int3-g32" in notice


def test_a_cpu_without_the_native_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(random_weight(48, 64, "int4-g32"))
    assert backends.choose("cpu", place) == ("cpu", None)
    monkeypatch.setattr(native, "load", lambda: native.Missing(reason="there is no compiler"))
    name, notice = backends.choose("auto", place)
    assert name == "cpu"
    assert notice is not None
    assert "no native kernel (there is no compiler)" in notice
