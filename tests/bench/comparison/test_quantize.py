"""Folders are packed, decoded to what was measured, and refused where they cannot be."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from bench.comparison import quantize as quantizing
from bench.comparison.compare import compare
from bench.comparison.progress import Reporter
from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from quantcore import grid
from quantcore.checkpoint import MANIFEST, load
from quantcore.errors import InputError
from quantcore.formats import folder as folders
from quantcore.formats.folder import served_format
from quantcore.scheme import QuantScheme

SERVED = {
    "int4-g32": "awq",
    "int4-g32-sym": "gptq",
    "int8-channel-sym": "gptq",
    "int3-g32": "compressed-tensors",
    "int8-g32": "compressed-tensors",
}


def opened(path: Path) -> Any:
    return load("it", folder=path, dtype=torch.float32, device=torch.device("cpu"), packed=True)


def config_of(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
    return config


@pytest.mark.parametrize(("scheme", "served"), SERVED.items())
@pytest.mark.parametrize("method", ["rtn", "awq+clip"])
def test_a_packed_folder_is_what_was_measured(
    request_for: Request, tmp_path: Path, method: str, scheme: str, served: str
) -> None:
    """By default in the format that serves the scheme; its perplexity is the cell's, to the bit."""
    path = quantize(request_for, method=method, scheme=scheme, out=tmp_path / "packed")
    told = config_of(path)["quantization_config"]
    assert told["quant_method"] == served
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    assert manifest["format"]["name"] == served
    request = request_for.but(methods=(method,), schemes=(scheme,))
    measured = compare(request, out=tmp_path / "cells").records[1].perplexity
    alone = request_for.but(model=str(path), methods=(), schemes=())
    evaluated = compare(alone, out=tmp_path / "alone").records[0]
    # A gate holds the folder to what was quantized on the spot.
    assert manifest["grid_version"] == grid.version_of(QuantScheme.parse(scheme))
    assert measured is not None
    assert evaluated.perplexity is not None
    assert evaluated.perplexity.window_nll == measured.window_nll
    # From the codes, a backend computes the same; and what lies on disk is what is counted.
    run = compare(alone.but(backend="dequant"), out=tmp_path / "codes").records[0]
    assert run.perplexity is not None
    assert run.perplexity.window_nll == pytest.approx(measured.window_nll, rel=1e-5)
    assert sum(run.backends.values()) == 14
    assert evaluated.stored_bytes == (path / "model.safetensors").stat().st_size


def test_shards_have_an_index_and_are_read_again(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "SHARD", "40KB")
    path = quantize(request_for, method="rtn", scheme="int4-g32", out=tmp_path / "packed")
    assert (path / "model.safetensors.index.json").is_file()
    assert len(list(path.glob("*.safetensors"))) > 2
    assert len(opened(path).codes) == 14


def test_what_is_not_packed_keeps_the_checkpoints_dtype_where_nothing_is_lost(
    request_for: Request, tmp_path: Path
) -> None:
    model = Path(request_for.model)
    half = tmp_path / "half"
    half.mkdir()
    for file in model.iterdir():
        (half / file.name).write_bytes(file.read_bytes())
    tensors = {k: v.to(torch.bfloat16) for k, v in load_file(model / "model.safetensors").items()}
    save_file(tensors, half / "model.safetensors", metadata={"format": "pt"})
    request = request_for.but(model=str(half))
    path = quantize(request, method="awq", scheme="int4-g32", out=tmp_path / "packed")
    held = load_file(path / "model.safetensors")
    assert held["model.embed_tokens.weight"].dtype is torch.bfloat16
    assert torch.equal(held["model.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    assert held["model.layers.0.input_layernorm.weight"].dtype is torch.float32  # folded into
    assert config_of(path)["dtype"] == "bfloat16"


def test_linears_that_stay_are_named_to_the_engine(request_for: Request, tmp_path: Path) -> None:
    request = request_for.but(exclude=("*.down_proj",))
    for scheme, key in (("int4-g32", "modules_to_not_convert"), ("int3-g32", "ignore")):
        path = quantize(request, method="rtn", scheme=scheme, out=tmp_path / scheme)
        named = config_of(path)["quantization_config"][key]
        assert named == [
            "lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj",
        ]  # fmt: skip
        assert len(opened(path).codes) == 12
    path = quantize(request, method="rtn", scheme="int4-g32-sym", out=tmp_path / "gptq")
    assert (
        r"-:^model\.layers\.0\.mlp\.down_proj$" in config_of(path)["quantization_config"]["dynamic"]
    )


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("awq-article", "written as hf, dequantized: .*no place for scales of inputs"),
        ("gptq-actorder", "written as hf, dequantized: .*which vLLM 0.33 refuses"),
    ],
)
def test_what_no_engine_takes_is_written_dequantized_and_told(
    request_for: Request, tmp_path: Path, method: str, told: str
) -> None:
    said = io.StringIO()
    path = quantize(
        request_for,
        method=method,
        scheme="int4-g32",
        out=tmp_path / "folder",
        reporter=Reporter(Console(file=said, width=400)),
    )
    assert "quantization_config" not in config_of(path)
    assert re.search(told, said.getvalue())


@pytest.mark.parametrize(
    ("method", "scheme", "said"),
    [
        ("awq-article", "int4-g32", "awq has no place for scales of inputs.*use .* hf"),
        ("gptq-actorder", "int4-g32", "awq has no place for a group for every input.*use .* hf"),
        ("rtn", "int3-g32", "hold 4 bits, and this is 3; use .* compressed-tensors"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_any_work(
    request_for: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    scheme: str,
    said: str,
) -> None:
    monkeypatch.setattr(quantizing, "_quantized", None)  # it would be called for the work
    with pytest.raises(InputError, match=f"^checkpoint_format awq: .*{said}"):
        quantize(
            request_for,
            method=method,
            scheme=scheme,
            out=tmp_path / "refused",
            checkpoint_format="awq",
        )
    assert not (tmp_path / "refused").exists()


def drop(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def cut(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name][:-1].contiguous()


def plain(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = torch.zeros(64, 64)


def ones(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = torch.ones(64)


PLACE = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (drop, "qzeros", rf"{PLACE}\.qzeros is missing; download it again"),
        (cut, "qweight", rf"{PLACE}\.qweight is int32 .*, and must be int32"),
        (cut, "scales", rf"{PLACE}\.scales is float16 .*, and must be float16 or"),
        (drop, "qweight", rf"{PLACE}\.qweight is missing beside the linear's other tensors"),
        (plain, "weight", rf"{PLACE} is packed, and {PLACE}\.weight is there too"),
        (ones, "bias", rf"{PLACE}\.bias is not 0, and the model has no place for it"),
    ],
)
def test_a_damaged_folder_is_refused_by_the_tensors_name(
    request_for: Request,
    tmp_path: Path,
    damage: Callable[[dict[str, torch.Tensor], str], None],
    name: str,
    said: str,
) -> None:
    path = quantize(request_for, method="rtn", scheme="int4-g32", out=tmp_path / "packed")
    tensors = load_file(path / "model.safetensors")
    damage(tensors, f"{PLACE}.{name}")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=said):
        opened(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": 3}, "has 3 bits; AWQ checkpoints hold 4"),
        ({"group_size": 64}, "scales is float16 .* must be float16 .*"),
        ({"w_bit": 3}, "contradicts itself: bits 4 and w_bit 3"),
        ({"group_size": "all"}, "group_size 'all'; it must be a whole number"),
        ({"version": "gemv"}, "AWQ's version 'gemv' is not read here"),
        ({"quant_method": "bitsandbytes"}, r"already quantized \(bitsandbytes\), by a format that"),
        ({"quant_method": "compressed-tensors"}, "format None is not read here"),
        ({"quant_method": "gptq"}, r"down_proj\.\w+ is .*must be"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    request_for: Request, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = quantize(request_for, method="rtn", scheme="int4-g32", out=tmp_path / "packed")
    config = config_of(path)
    config["quantization_config"] |= change
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(InputError, match=said):
        opened(path)


@pytest.mark.parametrize(
    ("desc_act", "damage", "said"),
    [
        (False, "flip", r"g_idx orders the inputs, and quantization_config says that nothing does"),
        (True, "drop", r"g_idx is missing, and quantization_config says that there is one"),
    ],
)
def test_a_group_index_and_its_configuration_agree(
    request_for: Request, tmp_path: Path, desc_act: bool, damage: str, said: str
) -> None:
    """Engines take the configuration's word, and would decode other weights."""
    path = quantize(request_for, method="rtn", scheme="int4-g32-sym", out=tmp_path / "packed")
    config = config_of(path)
    config["quantization_config"]["desc_act"] = desc_act
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    tensors = load_file(path / "model.safetensors")
    index = tensors.pop(f"{PLACE}.g_idx")
    if damage == "flip":
        tensors[f"{PLACE}.g_idx"] = index.flip(0).contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"{PLACE}\.{said}"):
        opened(path)


def test_a_packed_folder_is_not_quantized_again(request_for: Request, tmp_path: Path) -> None:
    path = quantize(request_for, method="rtn", scheme="int4-g32", out=tmp_path / "packed")
    with pytest.raises(InputError, match=r"is already quantized \(awq\); give the unquantized"):
        compare(request_for.but(model=str(path)), out=tmp_path / "run")


def test_the_served_format_holds_the_shapes() -> None:
    scheme = QuantScheme.parse("int4-g32")
    assert served_format(scheme, {(64, 64)}) == "awq"
    assert served_format(scheme, {(64, 64), (60, 64)}) == "compressed-tensors"
