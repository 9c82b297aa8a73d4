"""Batches give what one request at a time gives, and what Transformers itself gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers as hf
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bench.reference import MODEL_FOLDER
from quantcore.errors import InputError
from suites import decoding, texts
from suites.decoding import Work, arrange, fitting, generate, score
from suites.language_model import BatchedLM, Completion
from tests.conftest import FAMILIES, tiny_model

NEW = 14


def random_tokens(count: int, *, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 160, (count,), generator=generator).tolist()


BEGINNING = random_tokens(40, seed=0)
"""More than the windows of the tiny models that have one."""
PROMPTS = {
    "unlike": [random_tokens(count, seed=count) for count in (58, 5, 30, 1)],
    "one beginning": [
        *(BEGINNING + random_tokens(count, seed=count) for count in (3, 1, 20)),
        BEGINNING[:36],
    ],
}


def special_model(name: str) -> PreTrainedModel:
    """Memories that the families do not have: ALiBi, windows throughout, and states."""
    if name == "mistral-window":
        return tiny_model("mistral", sliding_window=24)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 160}
    if name == "falcon-alibi":
        return hf.FalconForCausalLM(
            hf.FalconConfig(**sizes, num_attention_heads=4, alibi=True, initializer_range=0.1)
        ).eval()
    if name == "mpt":
        config = hf.MptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=160, max_seq_len=128)
        return hf.MptForCausalLM(config).eval()
    if name == "qwen3-next":  # layers with states and layers with keys and values
        sizes |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        sizes |= {"head_dim": 16, "shared_expert_intermediate_size": 32, "intermediate_size": 96}
        sizes |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        sizes |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
        return hf.Qwen3NextForCausalLM(hf.Qwen3NextConfig(**sizes)).eval()
    return hf.MambaForCausalLM(hf.MambaConfig(**sizes, state_size=8)).eval()


def written(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], limits: Sequence[int]
) -> list[list[int]]:
    results: dict[int, list[int]] = {}
    generate(
        model,
        prompts,
        limits,
        ended=lambda row, tokens: False,
        finished=lambda row, tokens, cut_off: results.update({row: tokens}),
    )
    return [results[row] for row in range(len(prompts))]


def by_transformers(model: PreTrainedModel, prompt: Sequence[int]) -> list[int]:
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return output[0, len(prompt) :].tolist()


@torch.no_grad()
def by_full_pass(
    model: PreTrainedModel, context: Sequence[int], option: Sequence[int]
) -> tuple[float, bool]:
    logits = model(torch.tensor([[*context, *option]])).logits[0, len(context) - 1 : -1]
    targets = torch.tensor(option)
    chosen = logits.double().log_softmax(-1).gather(1, targets[:, None])
    return float(chosen.sum()), bool((logits.argmax(-1) == targets).all())


@pytest.mark.parametrize(
    "name", [*FAMILIES, "mistral-window", "falcon-alibi", "mpt", "mamba", "qwen3-next"]
)
def test_every_family_in_batches(name: str) -> None:
    model = tiny_model(name) if name in FAMILIES else special_model(name)
    for prompts in PROMPTS.values():
        together = written(model, prompts, [NEW] * len(prompts))
        assert together == [by_transformers(model, prompt) for prompt in prompts]
        limits = [NEW - 4 * number for number in range(len(prompts))]  # rows leave one by one
        assert written(model, prompts, limits) == [
            tokens[:limit] for tokens, limit in zip(together, limits, strict=True)
        ]
        options = [
            [random_tokens(1, seed=7), random_tokens(9, seed=8), tokens[:4], tokens[:1]]
            for tokens in together
        ]
        scored = score(model, prompts, options)
        for prompt, group, results in zip(prompts, options, scored, strict=True):
            for option, (value, greedy) in zip(group, results, strict=True):
                wanted, by_argmax = by_full_pass(model, prompt, option)
                assert value == pytest.approx(wanted, abs=1e-5)
                assert greedy == by_argmax
            assert [results[2][1], results[3][1]] == [True, True]


def test_states_that_cannot_be_continued_are_told() -> None:
    """Whole rows, and a message; one token may follow states that are seen to go on rightly.

    Mamba's do not where a row is padded, as the second is: it takes the mask of a step otherwise.
    """
    told: list[str] = []
    contexts = [[5, 6, 20, 33], [7]]
    for name, tokens, expected in (("mamba", 2, 1), ("qwen3-next", 3, 1), ("qwen3-next", 2, 0)):
        told.clear()
        model, options = special_model(name), [[8, 9, 4][:tokens], [3, 4, 8][:tokens]]
        results = score(model, contexts, [[option] for option in options], say=told.append)
        assert len(told) == expected
        assert all("ForCausalLM has no cache of keys and values" in one for one in told)
        for context, option, [(value, _)] in zip(contexts, options, results, strict=True):
            assert value == pytest.approx(by_full_pass(model, context, option)[0], abs=1e-5)


def test_states_that_were_seen_to_go_wrong_are_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which models keep such states differs between releases, so a plain one stands in for them."""
    tried: list[bool | None] = []
    prove, forward = decoding._Rows._prove, decoding._Rows._forward

    def seen(rows: decoding._Rows, *arguments: Any, **options: Any) -> torch.Tensor:
        tried.append(rows.proven)
        return prove(rows, *arguments, **options)

    def wrong(rows: decoding._Rows, *arguments: Any, **options: Any) -> torch.Tensor:
        continued = rows.cache is not None
        logits = forward(rows, *arguments, **options)
        return logits.flip(-1) if continued else logits

    monkeypatch.setattr(decoding._Rows, "_plain", lambda rows, **_: False)
    monkeypatch.setattr(decoding._Rows, "_prove", seen)
    model, prompts = tiny_model("llama"), [[5, 6, 20, 33], [7]]
    right = [written(model, [one], [6])[0] for one in prompts]
    tried.clear()
    monkeypatch.setattr(decoding._Rows, "_forward", wrong)
    assert written(model, prompts, [6, 6]) == right
    assert tried == [None]


def test_a_token_at_the_last_position_and_rows_beside_it() -> None:
    """GPT-2 has 128 learned positions and fails beyond them; a finished row must stay within."""
    model = tiny_model("gpt2")
    prompts = [random_tokens(120, seed=1), random_tokens(20, seed=2)] + [[3 + n] for n in range(7)]
    limits = [8] + [40] * 8
    together = written(model, prompts, limits)
    assert together[1] == written(model, prompts[1:2], [40])[0]


class Spy:
    """Counts forward passes and sees their shapes."""

    def __init__(self, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.logits: list[int] = []
        self.widths: list[int] = []
        original = model.forward

        def forward(
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            position_ids: torch.Tensor,
            logits_to_keep: int = 0,
            **given: Any,
        ) -> Any:
            self.before(input_ids)
            output = original(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                logits_to_keep=logits_to_keep,
                **given,
            )
            self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
            self.widths.append(attention_mask.numel())
            self.logits.append(output.logits.numel())
            return output

        monkeypatch.setattr(model, "forward", forward)

    def before(self, input_ids: torch.Tensor) -> None:
        """Where a test lets a pass fail."""


def test_what_is_common_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    spy = Spy(model, monkeypatch)
    score(model, PROMPTS["one beginning"], [[[5]], [[6]], [[7]], [[8]]])
    assert spy.shapes == [(1, 36), (4, 24)]
    spy.shapes.clear()
    score(model, [[*BEGINNING, 3], BEGINNING], [[[5], [6], [7, 8]], [[9]]])
    assert spy.shapes == [(1, 40), (2, 1), (1, 1)], "one row continues, by one token"


def test_what_depends_on_the_length_is_not_shared() -> None:
    """Phi-3's rotary embedding is another one beyond 48 tokens; its beginning alone has 40."""
    torch.manual_seed(0)
    config = hf.Phi3Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=160, pad_token_id=1, original_max_position_embeddings=48,
        max_position_embeddings=128, initializer_range=0.1,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8},
    )  # fmt: skip
    model = hf.Phi3ForCausalLM(config).eval()
    prompts = [BEGINNING + random_tokens(count, seed=count) for count in (12, 15, 20)]
    options = [[random_tokens(6, seed=4), random_tokens(1, seed=5)] for _ in prompts]
    scored = score(model, prompts, options)
    for prompt, group, results in zip(prompts, options, scored, strict=True):
        wanted = [by_full_pass(model, prompt, option)[0] for option in group]
        assert [value for value, _ in results] == pytest.approx(wanted, abs=1e-5)


def test_logits_of_long_options_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma2")
    option = random_tokens(60, seed=3)
    whole = score(model, [[5, 6]], [[option, option[:7]]])
    monkeypatch.setitem(decoding._LOGIT_BYTES, "cpu", 4 * 160 * 2 * 8)
    spy = Spy(model, monkeypatch)
    parts = score(model, [[5, 6]], [[option, option[:7]]])
    assert spy.shapes[1:] == [(2, 8)] * 7 + [(2, 3)]
    assert max(spy.logits) == 2 * 8 * 160
    for (value, greedy), (wanted, by_argmax) in zip(parts[0], whole[0], strict=True):
        assert value == pytest.approx(wanted, abs=1e-5)
        assert greedy == by_argmax


def test_batches_are_of_neighbours_within_the_budget() -> None:
    works = [Work(tokens=tuple(random_tokens(n, seed=n)), room=8) for n in (9, 70, 3, 40, 41)]
    works += [Work(tokens=(1,) * 64 + (n,), room=8) for n in range(8)]
    works.append(Work(tokens=(5, 6), room=300))
    order = arrange(works)
    assert order[0] == 13, "the most room first"
    assert set(order[1:9]) == set(range(5, 13)), "those with a common beginning"
    assert order[9:] == [1, 4, 3, 0, 2], "then by length"
    assert fitting([works[index] for index in order], 100) == 1
    assert fitting([works[index] for index in order[1:]], 3 * 73) == 3
    assert fitting([works[index] for index in order[1:]], 10**6) == 13


@pytest.fixture(scope="module")
def reference() -> tuple[PreTrainedModel, Any]:
    model = AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL_FOLDER)


def lm_of(reference: tuple[PreTrainedModel, Any], **changes: Any) -> BatchedLM:
    return BatchedLM(*reference, **{"context": 1024, "batch_tokens": 2000, **changes})


def to_write(prompt: str, **settings: Any) -> Instance:
    settings = {"until": [], "max_gen_toks": 24, "do_sample": False, **settings}
    return Instance("generate_until", {}, (prompt, settings), 0)


def to_score(context: str, option: str) -> Instance:
    return Instance("loglikelihood", {}, (context, option), 0)


TEXTS = [part.strip() for part in texts.embedded().content.split("\n\n") if len(part) > 300]


def test_answers_are_those_of_transformers(reference: tuple[PreTrainedModel, Any]) -> None:
    model, tokenizer = reference
    prompts = [text[: 60 + 37 * number] for number, text in enumerate(TEXTS[:6])]
    finished: list[int] = []
    lm = lm_of(reference, done=finished.append)
    answers = lm.generate_until([to_write(prompt) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**ids, max_new_tokens=24, do_sample=False, pad_token_id=1)
        new = output[0, ids.input_ids.shape[1] :]
        assert answer == tokenizer.decode(new, skip_special_tokens=True)
        assert answer.cut_off == (int(new[-1]) != tokenizer.eos_token_id)
        assert not answer.too_long
    assert sum(finished) == 6
    assert any(answer.cut_off for answer in answers)


def test_every_stop_string_is_seen_at_once(
    reference: tuple[PreTrainedModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stretch of an answer as a stop string: at token borders, across them, inside."""
    model, tokenizer = reference
    lm = lm_of(reference)
    (whole,) = lm.generate_until([to_write(TEXTS[0][:200])])
    stretches = {whole[a : a + n] for n in (1, 2, 4, 9) for a in range(4, len(whole) - n, 7)}
    spy = Spy(model, monkeypatch)
    for stop in sorted(stretches):
        spy.shapes.clear()
        (answer,) = lm.generate_until([to_write(TEXTS[0][:200], until=[stop, "not there"])])
        end = whole.find(stop)
        assert answer == whole[:end]
        assert not answer.cut_off
        needed = len(tokenizer(whole[: end + len(stop)]).input_ids)
        assert len(spy.shapes) <= needed + 1, "and nothing is generated behind it"


def test_end_tokens(
    reference: tuple[PreTrainedModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of them, and a stop string that is a special token, which decoding would skip."""
    model, tokenizer = reference
    prompt = tokenizer(TEXTS[0][:200]).input_ids
    (tokens,) = written(model, [prompt], [24])
    first = next(  # no earlier token is it, or spells it
        n
        for n, token in enumerate(tokens)
        if n > 5 and tokenizer.convert_ids_to_tokens(token) not in tokenizer.decode(tokens[:n])
    )
    changed = copy.copy(model)
    changed.generation_config = copy.deepcopy(model.generation_config)
    changed.generation_config.eos_token_id = [8000, tokens[first]]
    (answer,) = lm_of((changed, tokenizer)).generate_until([to_write(TEXTS[0][:200])])
    assert answer == tokenizer.decode(tokens[:first])
    assert not answer.cut_off
    marked = copy.deepcopy(tokenizer)
    piece = marked.convert_ids_to_tokens(tokens[first])
    marked.add_special_tokens({"additional_special_tokens": [piece]})
    lm = lm_of((model, marked))
    monkeypatch.setattr(lm, "tok_encode", lambda text: prompt)  # not that of the new token
    (answer,) = lm.generate_until([to_write("", until=piece)])
    assert answer == tokenizer.decode(tokens[:first])
    assert not answer.cut_off


def test_what_does_not_fit_is_not_run(reference: tuple[PreTrainedModel, Any]) -> None:
    tokenizer = reference[1]
    count = len(tokenizer(TEXTS[0][:200]).input_ids)
    finished: list[int] = []
    lm = lm_of(reference, context=count, done=finished.append)
    answers = lm.generate_until([to_write(TEXTS[0][:200]), to_write("Once"), to_write(TEXTS[0])])
    assert [answer.too_long for answer in answers] == [True, False, True]
    assert [bool(answer) for answer in answers] == [False, True, False]
    assert lm.too_long == 2
    assert sum(finished) == 3
    (answer,) = lm_of(reference, context=count + 2).generate_until([to_write(TEXTS[0][:200])])
    assert answer.cut_off, "the context ended it"
    assert len(tokenizer(answer).input_ids) <= 3
    assert lm_of(reference, context=None).max_length == 2048


def test_budget_duplicates_and_rows_that_leave(
    reference: tuple[PreTrainedModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [text[:150] for text in TEXTS[:9]]
    alone = [lm_of(reference).generate_until([to_write(one)])[0] for one in prompts]
    spy = Spy(reference[0], monkeypatch)
    requests = [
        to_write(one, until=[answer[2 + 4 * n]])
        for n, (one, answer) in enumerate(zip(prompts, alone, strict=True))
    ]
    finished: list[int] = []
    lm = lm_of(reference, batch_tokens=300, done=finished.append)
    answers = lm.generate_until([*requests, *requests])
    assert answers[:9] == answers[9:]
    assert sum(finished) == 18
    assert max(spy.widths) <= 300
    starts = [rows for rows, columns in spy.shapes if columns > 1]
    assert sum(starts) == 9, "the same request is run once"
    assert 1 < max(starts) < 9
    sizes = [rows for rows, _ in spy.shapes]
    assert any(b < a for a, b in pairwise(sizes) if a > 1)


def test_out_of_memory_halves_the_budget(
    reference: tuple[PreTrainedModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(reference[0], monkeypatch)

    def before(input_ids: torch.Tensor) -> None:
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("planted")

    most, told, finished = 10, [], []
    requests = [to_write(text[:100], max_gen_toks=4) for text in TEXTS[:9]]
    spy.before = before  # type: ignore[method-assign]
    wanted = lm_of(reference).generate_until(requests)
    most = 2
    lm = lm_of(reference, say=told.append, done=finished.append)
    assert lm.generate_until(requests) == wanted
    assert lm.batch_tokens < 200
    assert sum(finished) == 9
    assert f"batches of {lm.batch_tokens:,} tokens" in told[-1]
    most = 0
    with pytest.raises(InputError, match="even by itself"):
        lm.generate_until(requests)


def test_likelihoods_in_any_company(reference: tuple[PreTrainedModel, Any]) -> None:
    model, tokenizer = reference
    requests = [
        to_score(text[: 80 + 21 * number], option)
        for number, text in enumerate(TEXTS[:5])
        for option in (" the", " a longer option that goes on for a while", " A", text[80:120])
    ]
    requests += [to_score("", "Once upon a time"), requests[0]]
    finished: list[int] = []
    lm = lm_of(reference, batch_tokens=700, done=finished.append)
    results = lm.loglikelihood(requests)
    assert sum(finished) == len(requests)
    assert results[0] == results[-1]
    for request, (value, greedy) in zip(requests, results, strict=True):
        ((alone, alone_greedy),) = lm_of(reference).loglikelihood([request])
        assert value == pytest.approx(alone, abs=1e-5)
        context, option = request.args
        pair = (
            lm._encode_pair(context, option)
            if context
            else ([tokenizer.bos_token_id], tokenizer(option, add_special_tokens=False).input_ids)
        )
        wanted, by_argmax = by_full_pass(model, *pair)
        assert value == pytest.approx(wanted, abs=1e-5 + 1e-7 * abs(wanted))
        assert greedy == alone_greedy == by_argmax
    assert lm.too_long == 0


def test_contexts_that_do_not_fit_are_cut_and_counted(
    reference: tuple[PreTrainedModel, Any],
) -> None:
    lm = lm_of(reference, context=40)
    context, option = random_tokens(60, seed=1), random_tokens(5, seed=2)
    requests = [(("", ""), context, option), (("", ""), context[-36:], option)]
    cut, fitting_one = lm._loglikelihood_tokens(requests)
    assert lm.too_long == 1
    assert cut == fitting_one
    assert cut[0] == pytest.approx(by_full_pass(reference[0], context[-36:], option)[0], abs=1e-5)
    for bad in ([], random_tokens(41, seed=3)):
        with pytest.raises(InputError, match=f"an option of {len(bad)} tokens"):
            lm._loglikelihood_tokens([(("text", "option"), [5], bad)])


def test_rolling_scores_every_token_once(reference: tuple[PreTrainedModel, Any]) -> None:
    model, tokenizer = reference
    tokens = tokenizer(TEXTS[0]).input_ids
    lm = lm_of(reference, context=32)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in TEXTS[:2]]
    begin = [lm.prefix_token_id, *tokens]
    wanted = 0.0
    for start in range(0, len(tokens), 32):
        end = min(start + 32, len(tokens))
        context = begin[max(0, end - 32) : start + 1]  # the last window reaches back
        wanted += by_full_pass(model, context, tokens[start:end])[0]
    assert lm.loglikelihood_rolling(requests)[0] == pytest.approx(wanted, abs=1e-3)


def test_settings_that_would_change_the_answer_are_refused(
    reference: tuple[PreTrainedModel, Any],
) -> None:
    lm = lm_of(reference)
    plain, *others = lm.generate_until(
        [
            to_write("Once upon a time"),
            to_write("Once upon a time", temperature=0.7, top_p=0.9, num_beams=1),
            Instance("generate_until", {}, ("Once upon a time", {"max_new_tokens": 24}), 0),
        ]
    )
    assert others == [plain, plain]
    for settings, message in (
        ({"do_sample": True}, "asks for sampling"),
        ({"do_sample": None, "temperature": 0.5}, "asks for sampling"),
        ({"num_beams": 4}, "num_beams: 4"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"max_gen_toks": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            lm.generate_until([to_write("Once", **settings)])
    with pytest.raises(InputError, match="at least 1"):
        lm_of(reference, batch_tokens=0)


def test_chat_template(reference: tuple[PreTrainedModel, Any]) -> None:
    model, tokenizer = reference
    lm = lm_of(reference)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    with pytest.raises(InputError, match="leave out chat_template"):
        lm.apply_chat_template(messages)
    with pytest.raises(InputError, match="leave out chat_template"):
        lm.chat_template(True)
    assert lm.chat_template(False) is None
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    lm = lm_of((model, chatty))
    assert lm.chat_template(True) == chatty.chat_template
    text = lm.apply_chat_template(messages)
    assert text == "<|bos|>system: Be kind.\nuser: Hello\nassistant:"
    assert lm.tok_encode(text).count(tokenizer.bos_token_id) == 1
    begun = [*messages, {"role": "assistant", "content": "Good"}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False).endswith("assistant: Good")
    told: list[str] = []
    chatty.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    lm = lm_of((model, chatty), say=told.append)
    assert lm.apply_chat_template(messages) == lm.apply_chat_template(messages) == "Hello"
    assert len(told) == 1
    assert "takes no system message" in told[0]


def test_begin_of_text_as_the_tokenizer_has_it(reference: tuple[PreTrainedModel, Any]) -> None:
    lm = lm_of(reference)
    plain = lm.tok_encode("Hello", add_special_tokens=False)
    assert lm.tok_encode("<|bos|>Hello") == [0, *plain]
    assert lm.prefix_token_id == 0
    assert lm.eot_token_id == 1
    assert lm.device == torch.device("cpu")
    assert (lm.rank, lm.world_size) == (0, 1)
    assert "/" not in lm.tokenizer_name


def test_answers_keep_how_they_ended() -> None:
    answer = Completion("text", cut_off=True)
    for other in (copy.deepcopy(answer), copy.copy(answer)):
        assert (other, other.cut_off, other.too_long) == ("text", True, False)
