from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from quantcore import calibration as module
from quantcore.calibration import BlockWalk, StatsStore, calibrate, stats_bytes
from quantcore.discovery import discover
from quantcore.gram import InputStats, output_error, per_row_output_error
from tests.conftest import tiny_model

TOKENS = torch.arange(5 * 24).view(5, 24) * 11 % 160


def statistics_of(model: PreTrainedModel, folder: Path | None = None) -> StatsStore:
    store = StatsStore(folder)
    calibrate(model, discover(model), TOKENS, store, batch_size=2)
    return store


def captured_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """What every matrix reads when the whole model simply runs, float64 [tokens, K]."""
    inputs: dict[str, Tensor] = {}
    handles = []
    for name, linear in model.named_modules():
        if isinstance(getattr(linear, "gate_up_proj", None), nn.Parameter):

            def route(
                experts: Any, args: tuple[Tensor, ...], kwargs: Any, *, name: str = name
            ) -> None:
                x, chosen = args[0].double(), args[1]
                for expert in range(len(experts.gate_up_proj)):
                    mine = x[(chosen == expert).any(-1)]
                    gate, up = (mine @ experts.gate_up_proj[expert].double().t()).chunk(2, dim=-1)
                    inputs[f"{name}.gate_up_proj.{expert}"] = mine
                    inputs[f"{name}.down_proj.{expert}"] = experts.act_fn(gate) * up

            handles.append(linear.register_forward_pre_hook(route, with_kwargs=True))
        elif isinstance(linear, nn.Linear | Conv1D):

            def keep(_: nn.Module, args: tuple[Tensor, ...], *, name: str = name) -> None:
                inputs[name] = args[0].detach().reshape(-1, args[0].shape[-1]).double()

            handles.append(linear.register_forward_pre_hook(keep))
    with torch.no_grad():
        model(TOKENS)
    for handle in handles:
        handle.remove()
    return inputs


def statistics_equal_the_plain_run(model: PreTrainedModel) -> None:
    """Oracle: H, mean |x| and the loss equal those of inputs captured from an ordinary forward."""
    store, inputs, structure = statistics_of(model), captured_inputs(model), discover(model)
    for index, block in enumerate(structure.blocks):
        for group in block.groups:
            for linear in group.linears:
                x = inputs[f"{block.name}.{linear}"]
                if not len(x):  # an expert that no router chose
                    assert group.index not in store[index]
                    continue
                stats = store[index][group.index]
                assert stats.tokens == len(x)
                assert torch.allclose(stats.mean_abs.double(), x.abs().mean(0), rtol=1e-4)
                error = torch.randn(7, group.in_features, dtype=torch.float64)
                direct = (x @ error.t()).square().sum()
                through_gram = output_error(error.float(), stats.gram)
                assert abs(float(through_gram / direct) - 1) < 1e-5
                rows = per_row_output_error(error.float(), stats.gram)
                assert abs(float(rows.sum() / direct) - 1) < 1e-5


def test_statistics_equal_the_plain_run(family_model: PreTrainedModel) -> None:
    statistics_equal_the_plain_run(family_model)


def test_the_oracle_catches_a_transposed_gram(monkeypatch: pytest.MonkeyPatch) -> None:
    """X X^T in place of X^T X: of the right shape where a batch has as many tokens as channels."""

    def planted(self: object, x: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1]).float()
        square = x[: x.shape[1]]
        if len(square) == x.shape[1]:
            self.gram.addmm_(square, square.t())  # type: ignore[attr-defined]
        self.sum_abs += x.abs().sum(0)  # type: ignore[attr-defined]
        self.tokens += len(x)  # type: ignore[attr-defined]

    monkeypatch.setattr(module._Accumulator, "add", planted)
    with pytest.raises(AssertionError):
        statistics_equal_the_plain_run(tiny_model("llama", hidden_size=32, intermediate_size=48))


def test_disk_and_memory_hold_the_same(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    memory, disk = statistics_of(model), statistics_of(model, tmp_path)
    for index in range(2):
        for number, stats in memory[index].items():
            other = disk[index][number]
            assert torch.equal(stats.gram.triu(), other.gram.triu())
            assert torch.equal(other.gram, other.gram.t())
            assert torch.equal(stats.mean_abs, other.mean_abs)
            assert stats.tokens == other.tokens
    files = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert abs(files / stats_bytes(discover(model), on_disk=True) - 1) < 0.1


def test_a_killed_pass_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, structure = tiny_model("llama"), None
    whole = statistics_of(model, tmp_path / "whole")
    structure = discover(model)

    class Killed(Exception):
        pass

    def kill(index: int) -> None:
        raise Killed

    store = StatsStore(tmp_path / "killed")
    with pytest.raises(Killed):
        calibrate(model, structure, TOKENS, store, batch_size=2, done=kill)
    assert 0 in store
    assert 1 not in store
    first = (tmp_path / "killed" / "block-000.safetensors").stat().st_mtime_ns
    calibrate(model, structure, TOKENS, store, batch_size=2)
    assert (tmp_path / "killed" / "block-000.safetensors").stat().st_mtime_ns == first
    assert torch.equal(store[1][0].gram, whole[1][0].gram)


def test_statistics_are_on_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure the next run would take up whatever lies under that name."""
    steps: list[str] = []

    def noted(name: str, call: Any) -> Any:
        return lambda *given: (steps.append(name), call(*given))[1]

    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync))
    monkeypatch.setattr(os, "replace", noted("name", os.replace))
    stats = InputStats(gram=torch.eye(4), mean_abs=torch.ones(4), tokens=3)
    StatsStore(tmp_path).put(0, {0: stats})
    assert steps == ["sync", "name", "sync"]  # the file, then the folder that names it
    assert [path.name for path in tmp_path.iterdir()] == ["block-000.safetensors"]


def test_a_walk_ends_where_the_model_does() -> None:
    model = tiny_model("mistral")
    walk = BlockWalk(model, discover(model), TOKENS, batch_size=2)
    for index in range(2):
        walk.observe(index, advance=True)
    with torch.no_grad():
        expected = model.model(TOKENS).last_hidden_state
        walked = model.model.norm(torch.cat(walk._hidden))
    assert torch.allclose(walked, expected, atol=1e-4)
