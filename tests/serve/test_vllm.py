"""vLLM's own server loads our folders, and gives every token what our own path gives it.

Both run the same codes, we in float32: what is left between them is the precision in which the
engine multiplies. Bounds are of the mean over tokens of the absolute difference, in nats.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from bench.reference import CALIBRATION_FILE
from quantcore.checkpoint import load
from tests.serve.server import serving, token_logprobs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="no vLLM here: tox -e serve",
)

BOUND = 0.005
"""float16 keeps 11 bits of a number: measured are 0.0009 to 0.0010. bfloat16 would round the scales
too, to 8 bits: 0.020 to 0.023, and 0.007 for the unquantized model."""


def prompts(vocabulary: int) -> torch.Tensor:
    """int64 [4, 256]: text of the reference model, or any token ids of another vocabulary."""
    ids = load_file(CALIBRATION_FILE)["input_ids"][:4, :256].to(torch.int64)
    return ids % vocabulary


def ours(folder: Path) -> torch.Tensor:
    """Natural log-probabilities [4, 255] of our own path, in float32."""
    cpu = torch.device("cpu")
    loaded = load(str(folder), folder=folder, dtype=torch.float32, device=cpu, packed=True)
    ids = prompts(loaded.model.config.vocab_size)
    with torch.inference_mode():
        logits = loaded.model(ids).logits[:, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]


def engines(folder: Path, tmp_path: Path) -> torch.Tensor:
    """The same of vLLM, over HTTP."""
    ids = prompts(int(1e9))
    with serving(folder, tmp_path / "server.log") as url:
        return torch.tensor([token_logprobs(url, row) for row in ids.tolist()])


def gap(folder: Path, tmp_path: Path) -> float:
    """Mean absolute difference between the engine on a folder and our path, in nats."""
    difference = float((engines(folder, tmp_path) - ours(folder)).abs().mean())
    print(f"mean absolute difference a token: {difference:.5f} nats")
    return difference


@pytest.mark.parametrize(
    ("checkpoint_format", "method", "scheme"),
    [
        ("awq", "awq+clip", "int4-g128"),
        ("gptq", "gptq", "int4-g128-sym"),
        ("compressed-tensors", "gptq", "int4-g32"),
    ],
)
def test_the_reference_model_is_served_as_it_was_measured(
    tmp_path: Path, checkpoint_format: str, method: str, scheme: str
) -> None:
    folder = quantize(
        Request.of(model="reference", calibration="embedded", calibration_samples=16),
        method=method,
        scheme=scheme,
        out=tmp_path / "model",
        checkpoint_format=checkpoint_format,
    )
    assert gap(folder, tmp_path) < BOUND


def nibbles_in_another_order(tensors: dict[str, torch.Tensor]) -> None:
    """Neighbours in a word change places."""
    for name, words in tensors.items():
        if name.endswith(".qweight"):
            low, high = words & 0x0F0F0F0F, (words >> 4) & 0x0F0F0F0F
            tensors[name] = (low << 4) | high


def zero_points_shifted(tensors: dict[str, torch.Tensor]) -> None:
    """Each is one more than was measured, as if a reader took v2 for v1."""
    for name, words in tensors.items():
        if name.endswith(".qzeros"):
            nibbles = [((words >> shift) + 1) & 15 for shift in range(0, 32, 4)]
            packed = sum(nibble.to(torch.int64) << (4 * n) for n, nibble in enumerate(nibbles))
            assert isinstance(packed, torch.Tensor)
            tensors[name] = packed.to(torch.int32)


@pytest.mark.parametrize("damage", [nibbles_in_another_order, zero_points_shifted])
def test_a_wrong_packing_is_caught(
    tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    folder = quantize(
        Request.of(model="reference"),
        method="rtn",
        scheme="int4-g128",
        out=tmp_path / "model",
        checkpoint_format="awq",
    )
    expected = ours(folder)
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert float((engines(folder, tmp_path) - expected).abs().mean()) > 10 * BOUND
