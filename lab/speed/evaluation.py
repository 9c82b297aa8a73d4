"""Time perplexity against bare forward passes, and score a vocabulary without all its logits."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch

from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from bench.comparison.suites.windows import evaluation_windows
from lab.speed.options import add_windows
from lab.speed.timing import (
    fresh,
    interleave,
    machine,
    markdown,
    mib,
    paired_ratio,
    seconds_of,
    spread,
    summary,
)
from quantcore.errors import InputError
from suites import memory, texts
from suites.perplexity import window_nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGET = 1.10
Form = Literal["ours", "whole logits"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes of both parts."""
    parser.add_argument("--rounds", type=int, default=7)
    add_windows(parser)
    parser.add_argument("--batch-size", type=int, default=8, help="windows of 256 tokens a pass")
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--tokens", type=int, default=2048, help="of the one window scored on it")


def large_vocabulary(form: Form, vocabulary: int, tokens: int, threads: int) -> dict[str, Any]:
    """Score one window with a small random Llama; call it in a process of its own."""
    import transformers as hf

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=tokens,
    )
    model = hf.LlamaForCausalLM(config).eval()
    ids = torch.randint(vocabulary, (1, tokens))
    window_nll(model, ids[:, :16], batch_size=1)  # threads and buffers that every run makes
    memory.reset_peak()
    before = memory.peak_bytes()["host"]
    score = window_nll if form == "ours" else whole_logits
    nll = score(model, ids, batch_size=1)
    return {
        "before_bytes": before,
        "added_bytes": memory.peak_bytes()["host"] - before,
        "nll": nll[0],
        "logits_bytes": 4 * tokens * vocabulary,
    }


@torch.no_grad()
def whole_logits(model: PreTrainedModel, windows: torch.Tensor, *, batch_size: int) -> list[float]:
    """Return the same as `window_nll`, from all logits of a pass at once."""
    results: list[float] = []
    for ids in windows.split(batch_size):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        results += losses.view(len(ids), -1).double().mean(1).tolist()
    return results


@torch.no_grad()
def bare_forward(model: PreTrainedModel, windows: torch.Tensor, *, batch_size: int) -> None:
    """Run the model's own forward passes, output head included, and drop what comes out."""
    for ids in windows.split(batch_size):
        _ = model(input_ids=ids, use_cache=False).logits


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Measure both parts."""
    if min(options.rounds, options.batch_size) < 1 or options.tokens < 32:
        raise InputError("--rounds and --batch-size must be at least 1, --tokens at least 32")
    request = Request.of(text="embedded", windows=options.windows, device="cpu")
    loaded = open_model(request)
    tokens = evaluation_windows(request, loaded, texts.embedded()).tokens
    size = options.batch_size
    runs: dict[str, Callable[[int], float]] = {
        "ours": lambda _: seconds_of(lambda: window_nll(loaded.model, tokens, batch_size=size)),
        "bare": lambda _: seconds_of(lambda: bare_forward(loaded.model, tokens, batch_size=size)),
        "whole": lambda _: seconds_of(lambda: whole_logits(loaded.model, tokens, batch_size=size)),
    }
    for run in runs.values():
        run(0)
    seconds = interleave(runs, options.rounds)
    ratio = paired_ratio(seconds["ours"], seconds["bare"])
    say.say(f"  ours / bare forward: {spread(ratio, digits=3)}")
    forms: tuple[Form, ...] = ("whole logits", "ours")
    peaks = {
        form: fresh(
            large_vocabulary, form, options.vocabulary, options.tokens, torch.get_num_threads()
        )
        for form in forms
    }
    return {
        "target": TARGET,
        "windows": list(tokens.shape),
        "batch_size": size,
        "seconds": {name: summary(samples) for name, samples in seconds.items()},
        "ratio": ratio,
        "vocabulary": options.vocabulary,
        "vocabulary_tokens": options.tokens,
        "memory": peaks,
    }


def table(document: dict[str, Any]) -> str:
    """Show seconds on the reference model, and memory on the large vocabulary."""
    seconds = document["seconds"]
    count, length = document["windows"]
    names = {
        "bare": "bare forward passes, `model(tokens).logits`",
        "ours": "perplexity, ours",
        "whole": "perplexity from whole logits",
    }
    rows = [
        [
            label,
            spread(seconds[name]),
            spread(document["ratio"], digits=3) if name == "ours" else "",
        ]
        for name, label in names.items()
    ]
    memory = [
        [form, mib(run["added_bytes"]), mib(run["logits_bytes"]), f"{run['nll']:.6f}"]
        for form, run in document["memory"].items()
    ]
    return (
        f"**Evaluation of the reference model in float32, {count} windows of {length} tokens, "
        f"{document['batch_size']} a pass**\n\n"
        + markdown(["", "seconds", f"ratio (target: at most {document['target']:.2f})"], rows)
        + f"\n**One window of {document['vocabulary_tokens']:,} tokens with a vocabulary of "
        f"{document['vocabulary']:,}, a process each**\n\n"
        + markdown(["", "memory added at the peak", "all logits would take", "nats"], memory)
        + "\nMedian [range] of rounds in turn, ratio paired by round. "
        + machine(document)
    )
