"""Time task requests in batches of so many tokens, beside one by one and so many rows.

The rows are what lm-eval's own adapter runs: sorted by length, padded, `ROWS` at a time, with
Transformers' ``generate`` to the end of the longest answer, and for options with the logits of
whole rows. It is written out here because the adapter itself needs accelerate.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance

from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from lab.speed.timing import (
    interleave,
    machine,
    markdown,
    matmul_rate,
    now,
    paired_ratio,
    seconds_of,
    spread,
    summary,
)
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError
from suites import texts
from suites.language_model import BatchedLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 32
PEER = f"rows of {ROWS}"
OPTIONS = 4
OPTION_TOKENS = 6
"""At most; an option has 1 to so many."""

Likelihood = tuple[float, bool]
Tokens = list[int]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes of both parts."""
    parser.add_argument("--model", default="reference")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=240, help="to be continued")
    parser.add_argument("--new-tokens", type=int, default=64, help="of each continuation")
    parser.add_argument("--items", type=int, default=400, help=f"questions of {OPTIONS} options")
    parser.add_argument("--lengths", default="100-500", help="tokens of prompts and questions")
    parser.add_argument("--common", type=int, default=0, help="tokens that all begin with")
    parser.add_argument("--until", help="text that ends a continuation before that")
    parser.add_argument("--batch-tokens", type=int, default=16384)


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Measure both parts: continuations, and options to choose from."""
    sizes = (options.rounds, options.prompts, options.new_tokens, options.items)
    if min(sizes) < 1 or options.common < 0:
        raise InputError("--rounds, --prompts, --new-tokens and --items must be at least 1")
    lengths = _lengths(options.lengths)
    loaded = open_model(Request.of(model=options.model, device=options.device))
    longest = lengths[1] + max(options.new_tokens, OPTION_TOKENS)
    if loaded.context is not None and longest > loaded.context:
        raise InputError(
            f"--lengths {options.lengths} and --new-tokens {options.new_tokens} need {longest} "
            f"tokens, more than the context of {loaded.context}; give less"
        )
    draw = random.Random(0)
    ids = loaded.tokenizer(
        texts.embedded().content, add_special_tokens=False, verbose=False
    ).input_ids
    prompts = [_window(ids, lengths, options.common, draw) for _ in range(options.prompts)]
    questions = [
        (
            _window(ids, lengths, options.common, draw),
            [_window(ids, (1, OPTION_TOKENS), 0, draw) for _ in range(OPTIONS)],
        )
        for _ in range(options.items)
    ]
    rate = matmul_rate(loaded.device, dtype=loaded.dtype)
    return {
        "device": loaded.device.type,
        "model": options.model,
        "lengths": lengths,
        "common": options.common,
        "until": options.until,
        "batch_tokens": options.batch_tokens,
        "writing": _writing(loaded, prompts, options, rate, say),
        "choosing": _choosing(loaded, questions, options, rate, say),
    }


def _writing(
    loaded: LoadedModel,
    prompts: list[Tokens],
    options: argparse.Namespace,
    rate: float,
    say: Reporter,
) -> dict[str, Any]:
    """Time continuations by each, compare them, and say what the machine would need."""
    new = options.new_tokens
    words = [loaded.tokenizer.decode(prompt) for prompt in prompts]
    until = [options.until] if options.until else []
    settings = {"until": until, "max_gen_toks": new, "do_sample": False}
    requests = [Instance("generate_until", {}, (text, settings), 0) for text in words]
    answers: dict[str, list[str]] = {}

    def ours(name: str, batch_tokens: int) -> Callable[[int], float]:
        def work() -> None:
            answers[name] = list(_language_model(loaded, batch_tokens).generate_until(requests))

        return lambda _: seconds_of(work, loaded.device)

    def peer() -> None:
        answers[PEER] = generate_rows(loaded, words, new, until)

    runs = {
        "ours": ours("ours", options.batch_tokens),
        "one by one": ours("one by one", 1),
        PEER: lambda _: seconds_of(peer, loaded.device),
    }
    part = _race(runs, options.rounds, loaded, say, "continuations")
    tokens = sum(map(len, prompts))
    written = len(prompts) * new
    if until:
        ids = loaded.tokenizer(answers["ours"], add_special_tokens=False).input_ids
        written = sum(map(len, ids))
    body, head = _sizes(loaded.model)
    operations = 2 * body * (tokens + written) + 2 * head * written
    return part | {
        "prompts": len(prompts),
        "prompt_tokens": tokens,
        "new_tokens": written,
        "same_answers": {
            name: sum(a == b for a, b in zip(answers["ours"], other, strict=True))
            for name, other in answers.items()
            if name != "ours"
        },
        "least_s": operations / rate,
        "least_alone_s": written * _weight_bytes(loaded.model) / read_rate(loaded.device),
    }


def _choosing(
    loaded: LoadedModel,
    questions: list[tuple[Tokens, list[Tokens]]],
    options: argparse.Namespace,
    rate: float,
    say: Reporter,
) -> dict[str, Any]:
    """Time log-likelihoods of options by each, and say how far they are apart."""
    requests = [(("", ""), a, b) for a, group in questions for b in group]
    results: dict[str, list[Likelihood]] = {}

    def keep(name: str, work: Callable[[], list[Likelihood]]) -> Callable[[int], float]:
        return lambda _: seconds_of(lambda: results.update({name: work()}), loaded.device)

    lm = _language_model(loaded, options.batch_tokens)
    pairs = [(a, b) for _, a, b in requests]
    runs = {
        "ours": keep("ours", lambda: lm._loglikelihood_tokens(requests)),
        "one by one": keep("one by one", lambda: score_rows(loaded.model, pairs, 1)),
        PEER: keep(PEER, lambda: score_rows(loaded.model, pairs, ROWS)),
    }
    part = _race(runs, options.rounds, loaded, say, "options")
    context_tokens = sum(len(context) for context, _ in questions)
    option_tokens = sum(len(option) for _, group in questions for option in group)
    body, head = _sizes(loaded.model)
    fed = context_tokens + option_tokens - len(requests)
    operations = 2 * body * fed + 2 * head * option_tokens
    return part | {
        "items": len(questions),
        "options": len(requests),
        "context_tokens": context_tokens,
        "option_tokens": option_tokens,
        "largest_difference": max(
            abs(a - b)
            for (a, _), (b, _) in zip(results["ours"], results["one by one"], strict=True)
        ),
        "least_s": operations / rate,
    }


def _race(
    runs: dict[str, Callable[[int], float]],
    rounds: int,
    loaded: LoadedModel,
    say: Reporter,
    what: str,
) -> dict[str, Any]:
    """Run all in turn, and say how many times longer the others take than ours."""
    with torch.no_grad():
        loaded.model(torch.ones(1, 8, dtype=torch.long, device=loaded.device))
    seconds = interleave(runs, rounds)
    ratios = {name: paired_ratio(s, seconds["ours"]) for name, s in seconds.items()}
    for name in ("one by one", PEER):
        say.say(f"  {what}, {name} / ours: {spread(ratios[name], digits=1)}")
    return {
        "seconds": {name: summary(samples) for name, samples in seconds.items()},
        "ratios": ratios,
    }


@torch.no_grad()
def generate_rows(
    loaded: LoadedModel, prompts: Sequence[str], new_tokens: int, until: list[str]
) -> list[str]:
    """Continue the longest first, `ROWS` at a time, by Transformers' ``generate``."""
    tokenizer = loaded.tokenizer
    encoded = [tokenizer(prompt, verbose=False).input_ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
    answers = [""] * len(prompts)
    stops: dict[str, Any] = {"stop_strings": until, "tokenizer": tokenizer} if until else {}
    for start in range(0, len(order), ROWS):
        here = order[start : start + ROWS]
        width = len(encoded[here[0]])
        ids = torch.tensor([[0] * (width - len(encoded[i])) + encoded[i] for i in here])
        mask = torch.tensor([[0] * (width - len(encoded[i])) + [1] * len(encoded[i]) for i in here])
        output = loaded.model.generate(
            ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
            **stops,
        )
        for index, row in zip(here, output[:, width:].tolist(), strict=True):
            answers[index] = tokenizer.decode(row, skip_special_tokens=True)
            for stop in until:
                answers[index] = answers[index].partition(stop)[0]
    return answers


@torch.no_grad()
def score_rows(
    model: PreTrainedModel, pairs: Sequence[tuple[Tokens, Tokens]], rows: int
) -> list[Likelihood]:
    """Score options after their contexts, the longest first, from the logits of whole rows.

    Options of one token after the same context share a row, as in lm-eval's adapter.
    """
    device = next(model.parameters()).device
    sharing: dict[tuple[int, ...], list[int]] = {}
    for number, (context, option) in enumerate(pairs):
        sharing.setdefault((*context, *option[:-1]), []).append(number)
    inputs = sorted(sharing, key=len, reverse=True)
    results: list[Likelihood] = [(0.0, False)] * len(pairs)
    for start in range(0, len(inputs), rows):
        here = inputs[start : start + rows]
        padded = [[*row, *[0] * (len(here[0]) - len(row))] for row in here]
        logits = model(torch.tensor(padded, device=device), use_cache=False).logits
        scores = logits.float().log_softmax(-1)
        for row, numbers, values in zip(here, map(sharing.__getitem__, here), scores, strict=True):
            for number in numbers:
                targets = torch.tensor(pairs[number][1], device=device)
                part = values[len(row) - len(targets) : len(row)]
                chosen = part.gather(1, targets[:, None]).sum()
                results[number] = (float(chosen), bool((part.argmax(-1) == targets).all()))
    return results


def read_rate(device: torch.device, *, size: int = 2**26, trials: int = 5) -> float:
    """Return the best bytes per second of a matrix read once, as weights are for one token."""
    matrix = torch.ones(size // 4096, 4096, device=device)
    vector = torch.ones(4096, device=device)
    started = now(device)
    _ = matrix @ vector
    best = now(device) - started
    for _ in range(trials):
        best = min(best, seconds_of(lambda: matrix @ vector, device))
    return 4 * size / best


def table(document: dict[str, Any]) -> str:
    """Show seconds, rates and ratios of both parts."""
    writing, choosing = document["writing"], document["choosing"]
    low, high = document["lengths"]
    names = {
        "ours": f"ours, batches of {document['batch_tokens']:,} tokens",
        "one by one": "one by one",
        PEER: f"rows of {ROWS}, by Transformers",
    }

    def rows(part: dict[str, Any], count: int) -> list[list[str]]:
        return [
            [
                label,
                spread(part["seconds"][name]),
                f"{count / part['seconds'][name]['median']:,.1f}",
                "" if name == "ours" else spread(part["ratios"][name], digits=1),
                f"{part['least_s'] / part['seconds'][name]['median']:.0%}",
            ]
            for name, label in names.items()
        ]

    header = ["", "seconds", "{} a second", "times ours", "of the machine's rate"]
    same = ", ".join(f"{name} {count}" for name, count in writing["same_answers"].items())
    begins = f", the first {document['common']} in common" if document["common"] else ""
    ends = f" until {document['until']!r}" if document["until"] else ""
    return (
        f"**{writing['prompts']} prompts of {low} to {high} tokens{begins}, continued by "
        f"{writing['new_tokens'] / writing['prompts']:.0f} tokens each on the mean{ends}, "
        f"`{document['model']}`**\n\n"
        + markdown(
            [title.format("tokens") for title in header], rows(writing, writing["new_tokens"])
        )
        + f"\nThe same answers as ours, of {writing['prompts']}: {same}. Reading the weights once "
        f"for every token alone takes {writing['least_alone_s']:.1f} s.\n"
        + f"\n**{choosing['items']} items of {low} to {high} tokens{begins}, {OPTIONS} options of "
        f"1 to {OPTION_TOKENS} tokens**\n\n"
        + markdown(
            [title.format("options") for title in header], rows(choosing, choosing["options"])
        )
        + f"\nLargest difference of a log-likelihood from one by one: "
        f"{choosing['largest_difference']:.1e}.\n\n"
        "Median [range] of rounds in turn, ratios paired by round. The machine's rate is that of "
        "a square product, for two operations a weight and token, every token once. "
        + machine(document)
    )


def _language_model(loaded: LoadedModel, batch_tokens: int) -> BatchedLM:
    return BatchedLM(
        loaded.model, loaded.tokenizer, context=loaded.context, batch_tokens=batch_tokens
    )


def _window(ids: Tokens, lengths: tuple[int, int], common: int, draw: random.Random) -> list[int]:
    """Draw a stretch of the text; its first ``common`` tokens are the text's own."""
    length = draw.randint(*lengths)
    begin = ids[: min(common, length - 1)]
    rest = length - len(begin)
    at = draw.randrange(len(ids) - rest)
    return begin + ids[at : at + rest]


def _lengths(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and 2 <= int(low) <= int(high)):
        raise InputError(f"--lengths {text!r}: give the least and the most tokens, as 100-500")
    return int(low), int(high)


def _sizes(model: PreTrainedModel) -> tuple[int, int]:
    """Count the weights that every token goes through, and those of the head."""
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    body = sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)
    return body, model.get_output_embeddings().weight.numel()


def _weight_bytes(model: PreTrainedModel) -> int:
    body, head = _sizes(model)
    return int((body + head) * next(model.parameters()).element_size())
