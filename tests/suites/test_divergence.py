from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from quantcore.errors import InputError
from suites import perplexity
from suites.divergence import Divergence, Reference, divergence_of_rows
from suites.perplexity import measure_windows, window_nll
from tests.conftest import tiny_model

WINDOWS = torch.arange(5 * 23).view(5, 23) * 37 % 160


def reference_of(
    model: PreTrainedModel, windows: Tensor = WINDOWS, *, batch_size: int = 3
) -> Reference:
    """As a comparison makes one: from the unquantized model's own pass."""
    reference = Reference(windows, memory_bytes=1 << 30, folder=Path("no such folder"))
    measure_windows(model, windows, batch_size=batch_size, keep=reference)
    return reference


@torch.no_grad()
def disturb(model: PreTrainedModel) -> None:
    """What a quantizer does, as far as this suite sees: other weights, the same norm and head."""
    torch.manual_seed(1)
    kept = {id(p) for p in model.get_output_embeddings().parameters()}
    for parameter in model.parameters():
        if parameter.dim() >= 2 and id(parameter) not in kept:
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter))


@torch.no_grad()
def whole_log_p(model: PreTrainedModel) -> Tensor:
    return model(WINDOWS).logits[:, :-1].double().log_softmax(-1)


@pytest.mark.parametrize("rows", [7, 256])
def test_every_family_against_the_definition(
    family_model: PreTrainedModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From whole logits in float64; chunks that divide nothing, a last batch that is smaller."""
    monkeypatch.setitem(perplexity._HEAD_ROWS, "cpu", rows)
    with torch.no_grad():  # logits of several nats, in families with small ones too
        spread = float(family_model(WINDOWS).logits.std())
        family_model.get_output_embeddings().weight.mul_(3 / spread)
    before = whole_log_p(family_model)
    reference = reference_of(family_model)
    disturb(family_model)
    after = whole_log_p(family_model)
    scores = measure_windows(family_model, WINDOWS, batch_size=3, reference=reference)
    expected = (before.exp() * (before - after)).sum(-1)
    assert 1e-3 < float(expected.mean()) < 10
    found = scores.divergence
    assert found is not None
    assert found.token_kl.shape == (5, 22)
    torch.testing.assert_close(found.token_kl.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.token_agrees, before.argmax(-1) == after.argmax(-1))
    assert scores.nll == window_nll(family_model, WINDOWS, batch_size=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_does_not_diverge_from_itself(dtype: torch.dtype) -> None:
    model = tiny_model("gemma2").to(dtype)
    found = measure_windows(model, WINDOWS, batch_size=3, reference=reference_of(model)).divergence
    assert found is not None
    assert found.mean == found.median == found.p99 == 0
    assert found.agreement == 1
    assert found.window_kl == [0] * 5
    assert found.window_agreement == [1] * 5


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_do_not_matter(batch_size: int) -> None:
    model = tiny_model("llama")
    reference = reference_of(model, batch_size=batch_size)
    disturb(model)
    by_three = measure_windows(model, WINDOWS, batch_size=3, reference=reference).divergence
    found = measure_windows(model, WINDOWS, batch_size=batch_size, reference=reference).divergence
    assert found is not None
    assert by_three is not None
    torch.testing.assert_close(found.token_kl, by_three.token_kl, rtol=1e-4, atol=1e-6)


def test_keeping_and_comparing_leave_the_likelihood_alone() -> None:
    """To the last bit: perplexity is one number, whether or not divergence was asked for."""
    model = tiny_model("qwen2")
    alone = window_nll(model, WINDOWS, batch_size=3)
    reference = Reference(WINDOWS, memory_bytes=1 << 30, folder=Path("no such folder"))
    assert measure_windows(model, WINDOWS, batch_size=3, keep=reference).nll == alone
    assert measure_windows(model, WINDOWS, batch_size=3, reference=reference).nll == alone


def test_a_reference_on_disk_is_the_one_in_memory(tmp_path: Path) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    on_disk = Reference(WINDOWS, memory_bytes=5 * 22 * 64 * 2 - 1, folder=tmp_path)
    measure_windows(model, WINDOWS, batch_size=3, keep=on_disk)
    in_memory = Reference(WINDOWS, memory_bytes=5 * 22 * 64 * 2, folder=tmp_path)
    measure_windows(model, WINDOWS, batch_size=3, keep=in_memory)
    assert (on_disk.on_disk, in_memory.on_disk) == (True, False)
    assert list(tmp_path.iterdir()) == []  # nothing to remove, whatever happens from here on
    disturb(model)
    found = [
        measure_windows(model, WINDOWS, batch_size=2, reference=one).divergence
        for one in (on_disk, in_memory)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].mean > 0
    assert torch.equal(found[0].token_kl, found[1].token_kl)


def test_a_full_disk_is_told_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=28_000))
    reference = Reference(WINDOWS, memory_bytes=0, folder=tmp_path)
    with pytest.raises(InputError, match=r"take 28,160 bytes.* has 28,000 free"):
        measure_windows(tiny_model("llama"), WINDOWS, batch_size=3, keep=reference)


def test_a_reference_of_other_windows_is_refused() -> None:
    model = tiny_model("llama")
    reference = reference_of(model)
    other = WINDOWS.clone()
    other[4, 22] += 1
    for windows in (other, WINDOWS[:4], WINDOWS[:, :22]):
        with pytest.raises(ValueError, match="made on other windows"):
            measure_windows(model, windows, batch_size=3, reference=reference)
        with pytest.raises(ValueError, match="made on other windows"):
            measure_windows(model, windows, batch_size=3, keep=reference)


def test_a_reference_that_was_never_finished_is_refused() -> None:
    model = tiny_model("llama")
    reference = Reference(WINDOWS, memory_bytes=1 << 30, folder=Path("no such folder"))

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_windows(model, WINDOWS, batch_size=3, keep=reference, done=stop)
    with pytest.raises(ValueError, match="holds 3 of 5 windows"):
        measure_windows(model, WINDOWS, batch_size=3, reference=reference)
    measure_windows(model, WINDOWS, batch_size=3, keep=reference)  # again, from the start
    found = measure_windows(model, WINDOWS, batch_size=3, reference=reference).divergence
    assert found is not None
    assert found.p99 == 0


class LogitsOfMore(LlamaForCausalLM):
    """Its logits need more than the final hidden states: the tokens themselves."""

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        output = super().forward(input_ids=input_ids, **options)
        output.logits = output.logits * (1 + input_ids[..., None] / 160)
        return output


def test_a_head_that_reads_more_than_hidden_states() -> None:
    """Perplexity takes whole logits there; divergence is refused."""
    model = LogitsOfMore(tiny_model("llama").config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    expected = -whole_log_p(model).gather(-1, WINDOWS[:, 1:, None]).mean((1, 2))
    assert window_nll(model, WINDOWS, batch_size=3) == pytest.approx(expected.tolist(), rel=1e-5)
    with pytest.raises(InputError, match="LogitsOfMore does not make its logits"):
        reference_of(model)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_model_is_its_own_again_afterwards(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family)
    moved: list[int] = []
    whole = model.base_model.forward

    def hooked(*args: Any, **options: Any) -> Any:  # as a model spread over devices has it
        moved.append(1)
        return whole(*args, **options)

    model.base_model.forward = hooked
    before = model(WINDOWS).logits
    calls = len(moved)
    monkeypatch.setattr(perplexity, "_token_nll", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        window_nll(model, WINDOWS, batch_size=3)
    assert model.base_model.forward is hooked
    assert "forward" not in vars(model.get_decoder()) or model.get_decoder() is model.base_model
    assert torch.equal(model(WINDOWS).logits, before)
    assert len(moved) > calls


def test_two_outcomes_by_hand() -> None:
    """P = (1/2, 1/2) and Q = (1/4, 3/4): KL = log 2 - log(3) / 2."""
    p = torch.tensor([[0.5, 0.5]]).log()
    q = torch.tensor([[0.25, 0.75]]).log()
    kl, agrees = divergence_of_rows(q + 3, p - 5)  # logits are free up to a constant
    assert float(kl) == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-6)
    assert agrees.tolist() == [False]


@pytest.mark.parametrize("size", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("change", [1e-5, 0.01, 1.0])
def test_rounding_stays_far_below_what_is_measured(size: float, change: float) -> None:
    torch.manual_seed(0)
    p = size * torch.randn(20, 5000)
    q = p + change * torch.randn(20, 5000)
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    kl, _ = divergence_of_rows(q, p)
    assert bool((kl >= 0).all())
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_token_that_is_ruled_out() -> None:
    """By both: it counts for nothing. By the quantized model alone: divergence has no bound."""
    p = torch.tensor([[1.0, 2.0, -math.inf], [1.0, 2.0, 0.5]])
    q = torch.tensor([[2.0, 1.0, -math.inf], [2.0, 1.0, -math.inf]])
    kl, _ = divergence_of_rows(q, p)
    small, _ = divergence_of_rows(q[:1, :2], p[:1, :2])
    assert float(kl[0]) == float(small)
    assert float(kl[1]) == math.inf


def test_a_divergence_without_bound_is_an_error() -> None:
    model = tiny_model("llama", vocab_size=160)
    windows = torch.full((2, 9), 5)
    reference = Reference(windows, memory_bytes=1 << 30, folder=Path("no such folder"))
    reference.keep(0, torch.full((2, 8, 64), torch.nan))
    with pytest.raises(ArithmeticError, match="divergence is not finite"):
        measure_windows(model, windows, batch_size=2, reference=reference)


def test_summaries_are_over_tokens_and_windows() -> None:
    kl = torch.arange(200, dtype=torch.float32).view(4, 50)
    agrees = torch.zeros(4, 50, dtype=torch.bool)
    agrees[1:, :5] = True
    found = Divergence(token_kl=kl, token_agrees=agrees)
    assert (found.mean, found.median) == (99.5, 99.5)
    assert found.p99 == pytest.approx(np.quantile(np.arange(200), 0.99))
    assert found.agreement == 15 / 200
    assert found.window_kl == [24.5, 74.5, 124.5, 174.5]
    assert found.window_agreement == [0, 0.1, 0.1, 0.1]


VOCABULARY, TOKENS = 150_000, 768


def peak_of_tensors(work: Callable[[], object]) -> int:
    """Most bytes of tensors alive at a time during ``work``, those inside of operations included.

    Resident memory is less reliable: the system drops libraries' pages and reads them back.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes))


def test_a_large_vocabulary_is_never_whole() -> None:
    """Two chunks of logits and a few slices of them: under half of both models' logits."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=TOKENS,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    windows = torch.arange(TOKENS)[None]
    reference = reference_of(model, windows)
    peak = peak_of_tensors(
        lambda: measure_windows(model, windows, batch_size=1, reference=reference)
    )
    chunk = 256 * VOCABULARY * 4
    assert 2 * chunk < peak < 2.75 * chunk < 2 * TOKENS * VOCABULARY * 4 / 2
