from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bench.reference import MODEL_FOLDER
from quantcore.errors import InputError
from suites import texts
from suites.perplexity import cut_windows, window_nll
from tests.conftest import tiny_model

DATA = os.environ.get("AWQ_BENCH_DATA")


class Words:
    """A tokenizer of one token a word, as `cut_windows` uses one."""

    def __call__(self, text: str, *, verbose: bool) -> object:
        class Ids:
            def __init__(self) -> None:
                self.input_ids = [hash(word) % 100 for word in text.split()]

        return Ids()


def test_uniform_logits_give_the_vocabulary_size() -> None:
    model = tiny_model("llama", vocab_size=160)
    torch.nn.init.zeros_(model.lm_head.weight)
    nll = window_nll(model, torch.randint(160, (3, 20)), batch_size=2)
    assert [math.exp(value) for value in nll] == pytest.approx([160.0] * 3, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_windows_score_their_tokens_from_the_second_on(
    family_model: PreTrainedModel, batch_size: int
) -> None:
    windows = torch.randint(160, (5, 24))
    expected = []
    for window in windows:
        with torch.no_grad():
            log_p = family_model(window[None]).logits[0].double().log_softmax(-1)
        scored = [float(log_p[i, window[i + 1]]) for i in range(23)]
        expected.append(-sum(scored) / 23)
    assert window_nll(family_model, windows, batch_size=batch_size) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_head_that_does_more_is_not_cut_short() -> None:
    """Logits with a soft cap: scoring the bare head would give another number."""
    import transformers as hf

    config = hf.Gemma2Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=160, final_logit_softcapping=2.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(30)
        windows = torch.randint(160, (2, 16))
        log_p = model(windows).logits[:, :-1].double().log_softmax(-1)
        expected = -log_p.gather(-1, windows[:, 1:, None]).mean((1, 2))
    assert window_nll(model, windows, batch_size=2) == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_model_that_overflows_is_an_error() -> None:
    model = tiny_model("llama")
    torch.nn.init.constant_(model.lm_head.weight, torch.inf)
    with pytest.raises(ArithmeticError, match="not finite"):
        window_nll(model, torch.randint(160, (2, 10)), batch_size=1)


def test_the_tail_is_dropped_and_windows_do_not_overlap() -> None:
    words = " ".join(map(str, range(107)))
    windows = cut_windows("mine", words, Words(), seqlen=25)  # type: ignore[arg-type]
    assert windows.tokens.shape == (4, 25)
    assert windows.text_tokens == 107
    assert windows.tokens.flatten().tolist() == [hash(str(i)) % 100 for i in range(100)]
    assert windows.metric == "mine_ppl_25"


def test_part_of_the_windows_is_another_metric() -> None:
    words = " ".join(map(str, range(100)))
    windows = cut_windows("mine", words, Words(), seqlen=10, count=3)  # type: ignore[arg-type]
    assert windows.metric == "mine_ppl_10@3"
    assert windows.tokens[:, 0].tolist() == [hash(str(i)) % 100 for i in (0, 30, 60)]
    whole = cut_windows("mine", words, Words(), seqlen=10, count=10)  # type: ignore[arg-type]
    assert whole.metric == "mine_ppl_10"


@pytest.mark.parametrize("count", [0, 11])
def test_windows_that_are_not_there(count: int) -> None:
    with pytest.raises(InputError, match="has 10 windows of 10"):
        cut_windows("mine", "w " * 100, Words(), seqlen=10, count=count)  # type: ignore[arg-type]


def test_embedded_text_has_windows_enough_for_the_reference_model() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_FOLDER)
    windows = cut_windows("embedded", texts.embedded().content, tokenizer, seqlen=256)
    assert len(windows.tokens) >= 80


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="AWQ_BENCH_DATA names no data folder")
def test_the_protocol_reproduces_the_text_and_its_windows() -> None:
    text = texts.evaluation_text("wikitext2", data_dir=Path(str(DATA)))
    assert len(text.content) == 1_294_336
    assert text.sha256 == texts.WIKITEXT2_TEST_SHA256
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_FOLDER)
    windows = cut_windows("wikitext2", text.content, tokenizer, seqlen=1024)
    assert windows.of == windows.text_tokens // 1024 == len(windows.tokens)
    assert windows.tokens.flatten().tolist().count(tokenizer.bos_token_id) == 1
    assert int(windows.tokens[0, 0]) == tokenizer.bos_token_id


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="AWQ_BENCH_DATA names no data folder")
def test_a_changed_copy_is_not_the_protocol_text(tmp_path: Path) -> None:
    source = Path(str(DATA)) / texts.EVALUATION["wikitext2"].local
    copy = tmp_path / texts.EVALUATION["wikitext2"].local
    copy.parent.mkdir()
    copy.write_text(source.read_text("utf-8").replace("Boulter", "Bolter", 1), "utf-8")
    with pytest.raises(InputError, match="the protocol's text has 696cca6b"):
        texts.evaluation_text("wikitext2", data_dir=tmp_path)
