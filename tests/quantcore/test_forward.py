from __future__ import annotations

import torch
from torch import Tensor, nn

from quantcore.discovery import discover
from quantcore.forward import Watch, capture_calls
from quantcore.structure import Matrix
from tests.conftest import tiny_model


def test_a_product_is_seen_however_it_is_written_and_may_be_replaced() -> None:
    linear = nn.Linear(3, 2, bias=False)
    x = torch.randn(5, 3)
    seen: list[tuple[str, bool]] = []

    def replace(matrix: Matrix, read: Tensor, _: Tensor) -> Tensor:
        assert read is x
        seen.append((matrix.name, matrix.transposed))
        return torch.zeros(5, 2)

    with Watch(nn.ModuleDict({"up": linear}), replace):
        assert not linear(x).any()
        assert not (x @ linear.weight.t()).any()
        assert (x @ torch.ones(3, 2)).any()
    assert seen == [("up", False), ("up", False)]


def test_a_model_runs_as_it_did_before_its_calls_were_captured() -> None:
    model, tokens = tiny_model("llama"), torch.arange(12).view(2, 6)
    with torch.no_grad():
        before = model(tokens).logits
        calls = capture_calls(model, tokens)
        assert torch.equal(model(tokens).logits, before)
    assert len(calls) == len(model.model.layers)


def test_a_mixture_runs_as_it_did_before_it_was_read() -> None:
    model = tiny_model("qwen3-moe")
    before = model.get_experts_implementation()
    discover(model)
    assert model.get_experts_implementation() == before
