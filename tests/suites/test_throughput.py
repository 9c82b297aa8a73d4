"""Throughput: what is run, and in which order."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from suites import memory, throughput
from suites.throughput import Load, Run

LOAD = Load(batch_sizes=(1, 2), prompt_lengths=(8, 16), new_tokens=4, rounds=3)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=97,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def test_every_kind_of_run_is_kept_and_paired(model: LlamaForCausalLM) -> None:
    told: list[int] = []
    models = {"one": model, "other": copy.deepcopy(model)}
    found = throughput.measure(models, LOAD, context=64, vocabulary=97, done=told.append)
    assert sum(told) == throughput.runs_of(LOAD, 64, models=2) == 4 * (3 + 1) * 2
    expected = [(b, n, r) for b in (1, 2) for n in (8, 16) for r in range(3)]
    for contender in found.values():
        kinds = [(run.batch_size, run.prompt_tokens, run.round) for run in contender.runs]
        assert kinds == expected
        for run in contender.runs:
            assert len(run.step_s) == 3
            assert min(run.first_token_s, *run.step_s) > 0
        assert contender.joules_per_token is None
        assert contender.peak_bytes["host"] >= throughput.weight_bytes(model)
    across = throughput.ratios(found["one"].runs, found["other"].runs)
    assert set(across) == {(1, 8), (1, 16), (2, 8), (2, 16)}


def test_what_a_run_takes_is_counted_and_the_outer_peak_is_not_lost() -> None:
    memory.reset_peak()
    large = torch.ones(2**25)  # 128 MiB, gone before the run
    before = memory.peak_bytes()["host"]
    del large
    peaks = memory.RunPeaks(torch.device("cpu"))
    with peaks.over():
        torch.ones(2**24)
    found = peaks.with_weights(1000)["host"]
    slack = 2**20  # the system counts in batches
    assert 2**26 - slack <= found < 2**26 + 2**25
    assert memory.peak_bytes()["host"] >= before - slack


def test_an_embedding_is_not_read_by_a_pass_unless_it_is_the_head(model: LlamaForCausalLM) -> None:
    table = model.get_input_embeddings().weight
    assert throughput.read_bytes(model) == throughput.weight_bytes(model) - 4 * table.numel()
    tied = copy.deepcopy(model)
    tied.lm_head.weight = tied.get_input_embeddings().weight
    assert throughput.read_bytes(tied) == throughput.weight_bytes(tied)


def test_the_bound_goes_from_bytes_to_arithmetic() -> None:
    roof = throughput.Roofline(bytes_per_s=100.0, operations_per_s=1000.0)
    # 40 bytes take 0.4 s, 10 bytes 0.1 s; 10 weights take 0.02 s a token.
    found = [throughput.bound(tokens, (40, 10), 10, roof) for tokens in (1, 5, 10, 20, 100)]
    assert found == pytest.approx([4, 4, 2, 1, 1])


def test_rates_are_what_the_device_does() -> None:
    found = throughput.roofline(torch.device("cpu"), torch.float32)
    assert 1e8 < found.bytes_per_s < 1e13
    assert 1e9 < found.operations_per_s < 1e16


def test_the_model_and_its_baseline_take_turns(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, order = copy.deepcopy(model), []
    for name, one in (("A", model), ("B", other)):
        real = one.forward

        def seen(
            *args: object, _name: str = name, _real: object = real, **kwargs: object
        ) -> object:
            if kwargs["input_ids"].shape[1] > 1:  # type: ignore[attr-defined]
                order.append(_name)
            return _real(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(one, "forward", seen)
    load = Load(batch_sizes=(1,), prompt_lengths=(8,), new_tokens=2, rounds=2)
    throughput.measure({"A": model, "B": other}, load, context=64, vocabulary=97)
    assert "".join(order) == "ABABAB"


def test_decoding_goes_on_from_the_prompt(model: LlamaForCausalLM) -> None:
    """A step with the cache gives the token that the whole sequence gives."""
    ids = torch.randint(97, (2, 8), generator=torch.Generator().manual_seed(1))
    decoder = throughput._Eager(model)
    with torch.inference_mode():
        token = decoder.first(ids)
        for _ in range(4):
            ids = torch.cat([ids, token], dim=1)
            token = decoder.step(token)
            assert torch.equal(token[:, 0], model(input_ids=ids).logits[:, -1].argmax(-1))


def test_a_static_cache_goes_on_from_the_prompt(model: LlamaForCausalLM) -> None:
    """What a CUDA graph captures, run without one, prompt after prompt in the same cache."""
    decoder = throughput._Graph(model, 2, 16)
    for seed in (1, 2):
        ids = torch.randint(97, (2, 8), generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            token = decoder.first(ids)
            for at in range(8, 12):
                ids = torch.cat([ids, token], dim=1)
                decoder._token.copy_(token)
                decoder._at.fill_(at)
                token = decoder._forward()
                assert torch.equal(token[:, 0], model(input_ids=ids).logits[:, -1].argmax(-1))


def test_prompts_that_do_not_fit_are_left_out() -> None:
    assert LOAD.fits(64) == (8, 16)
    assert LOAD.fits(19) == (8,)
    assert LOAD.fits(11) == ()
    assert LOAD.fits(None) == (8, 16)


def test_quantiles_of_one_and_of_many() -> None:
    assert throughput.quantiles([2.0]) == {"p50": 2.0, "p95": 2.0, "p99": 2.0}
    found = throughput.quantiles([float(n) for n in range(101)])
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_shared_weights_count_once(model: LlamaForCausalLM) -> None:
    expected = sum(p.numel() * 4 for p in model.parameters())
    extra = sum(b.numel() * b.element_size() for b in model.buffers())
    assert throughput.weight_bytes(model) == expected + extra


def test_a_run_counts_tokens_of_the_whole_batch() -> None:
    one = Run(batch_size=4, prompt_tokens=10, round=0, first_token_s=2.0, step_s=(0.5, 0.5))
    assert one.decode_tokens_per_s == 8
    assert one.prefill_tokens_per_s == 20
