"""Train the reference model: ``python -m lab.reference.train --data-dir DIR --work-dir DIR``.

Training is seeded, and a pure function of the step: a run that was killed goes on from its last
checkpoint and ends with the same batches. Prose is learned from as before, and answers of the task
suites' training items beside it, so that what a quantized model loses of them can be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lab.reference import corpus
from lab.reference.items import DOCUMENTS, SUITES, Documents, Vocabulary
from lab.reference.network import attend_in_blocks, build_model, spread_norms
from lab.reference.publish import publish
from lab.reference.recipe import CHECKPOINT, Recipe, learning_rate
from lab.reference.stream import CLASSES, Batch, TokenStream
from lab.reference.tokenizer import train_tokenizer
from quantcore.errors import InputError
from suites.long_prompt.items import estimated_tokens

LOG_STEPS, CHECKPOINT_STEPS, SNAPSHOT_STEPS = 25, 100, 500
FIRST_STEPS = 2  # logged one by one: what a repetition is compared with
Optimizers = tuple[torch.optim.Muon, torch.optim.AdamW]


def build_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> Optimizers:
    """Return Muon for the matrices within layers, AdamW for the embedding and the gains.

    Muon (Jordan et al. 2024) with steps as long as AdamW's (Liu et al. 2025, arXiv:2502.16982)
    takes fewer tokens to the same loss; its orthogonalization costs a tenth of a step here.
    """
    named = dict(model.named_parameters())
    matrices = {n: p for n, p in named.items() if p.dim() == 2 and ".layers." in n}
    others = [p for n, p in named.items() if n not in matrices]
    return (
        torch.optim.Muon(
            list(matrices.values()),
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def _states(
    model: LlamaForCausalLM, optimizers: Optimizers
) -> Iterator[tuple[str, torch.nn.Parameter, dict[str, Any]]]:
    """Yield each parameter with its name and what its optimizer remembers of it."""
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            if any(
                parameter is held for group in optimizer.param_groups for held in group["params"]
            ):
                yield name, parameter, optimizer.state[parameter]


def _save_checkpoint(
    folder: Path,
    model: LlamaForCausalLM,
    optimizers: Optimizers,
    step: int,
    log: list[dict[str, float]],
    recipe: Recipe,
) -> None:
    """Write weights and the optimizers' memory without pickle, in one atomic step."""
    tensors = {}
    for name, parameter, state in _states(model, optimizers):
        tensors[f"model/{name}"] = parameter.detach()
        tensors |= {f"{key}/{name}": value for key, value in state.items()}
    temporary = folder / "checkpoint.tmp"
    metadata = {"step": str(step), "log": json.dumps(log), "recipe": json.dumps(asdict(recipe))}
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, folder / CHECKPOINT)


def _load_checkpoint(
    folder: Path, model: LlamaForCausalLM, optimizers: Optimizers, recipe: Recipe
) -> tuple[int, list[dict[str, float]]]:
    """Load the weights; return step and log, nothing of either where there is no checkpoint.

    Raises:
        InputError: the checkpoint is of another recipe, or past its constant rate with other steps.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0, []
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    step, of = int(metadata["step"]), json.loads(metadata["recipe"])
    now = json.loads(json.dumps(asdict(recipe)))
    changed = [name for name in now if now[name] != of.get(name)]
    if not set(changed) <= {"steps", "decay_steps"} or (
        changed and step > min(now["steps"], of["steps"])
    ):
        raise InputError(
            f"{path} is at step {step} of a recipe with other {', '.join(changed)}; give the same, "
            "or another --work-dir"
        )
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter, state in _states(model, optimizers):
            parameter.copy_(tensors.pop(f"model/{name}"))
            for key in [key for key in tensors if key.endswith(f"/{name}")]:
                state[key.removesuffix(f"/{name}")] = tensors.pop(key)
    return step, json.loads(metadata["log"])


def _save_snapshot(folder: Path, model: LlamaForCausalLM, step: int) -> None:
    """Write the weights alone, for the learning curve."""
    folder.mkdir(exist_ok=True)
    tensors = {n: p.detach().to(torch.bfloat16) for n, p in model.named_parameters()}
    save_file(tensors, folder / f"step-{step:06}.safetensors")


@dataclass(frozen=True, kw_only=True)
class _ShardResult:
    """A shard's result is what one shard of a step gave."""

    gradients: tuple[torch.Tensor, ...]
    tokens: torch.Tensor
    """Asked for, by class."""
    nats: torch.Tensor
    """Sums of their losses, by class."""
    right: torch.Tensor
    """Of them, those that were the most probable, by class."""


def _shard(
    model: LlamaForCausalLM,
    parameters: list[torch.nn.Parameter],
    batch: Batch,
    rows: slice,
    recipe: Recipe,
    whole: float,
) -> _ShardResult:
    """Run some windows; ``whole`` is the sum of all windows' weights, which the loss is over."""
    tokens, marks = batch.tokens[rows], batch.marks[rows, 1:].flatten().long()
    asked = marks.nonzero().flatten()
    kinds = marks[asked]
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[asked]).float()
    goal = tokens[:, 1:].flatten()[asked]
    nats = torch.nn.functional.cross_entropy(logits, goal, reduction="none")
    loss = (nats * _weights(kinds, recipe)).sum() / whole
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        right = (logits.argmax(-1) == goal).float()
        sums = [
            torch.zeros(len(CLASSES)).index_add_(0, kinds, values)
            for values in (torch.ones_like(right), nats.detach(), right)
        ]
    return _ShardResult(gradients=gradients, tokens=sums[0], nats=sums[1], right=sums[2])


def _backward(
    pool: ThreadPoolExecutor, model: LlamaForCausalLM, batch: Batch, recipe: Recipe
) -> torch.Tensor:
    """Set the gradients of a step; return its shards' sums, [3, classes]: see `_ShardResult`."""
    parameters = list(model.parameters())
    whole = float(_weights(batch.marks[:, 1:], recipe).sum())
    shards = [slice(start, None, recipe.shards) for start in range(recipe.shards)]
    results = list(
        pool.map(lambda rows: _shard(model, parameters, batch, rows, recipe, whole), shards)
    )
    for parameter, *gradients in zip(
        parameters, *(result.gradients for result in results), strict=True
    ):
        parameter.grad = sum(gradients[1:], gradients[0])
    return torch.stack(
        [torch.stack((result.tokens, result.nats, result.right)) for result in results]
    ).sum(0)


def _weights(marks: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return what each token's loss counts, by its mark."""
    others = [float(name != "unasked") for name in CLASSES if name not in DOCUMENTS]
    table = torch.tensor(others + [recipe.answer_weights[name] for name in DOCUMENTS])
    return table[marks.long()]


def prepare(
    data_dir: Path, work_dir: Path, recipe: Recipe
) -> tuple[PreTrainedTokenizerFast, TokenStream]:
    """Return the tokenizer, also written to ``work_dir``, and the stream of batches."""
    articles = corpus.wikitext_articles(data_dir, seed=recipe.seed)
    documents = [(article, corpus.natural(article)) for article in articles]
    speeches = corpus.addresses(data_dir)
    documents.append((speeches, speeches))
    vocabulary = Vocabulary.of("\n".join(articles))
    prose = [text for pair in documents for text in pair]
    if (work_dir / CHECKPOINT).is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work_dir)
        return tokenizer, TokenStream(documents, tokenizer, vocabulary, recipe)
    # Words of the training stock must not get tokens of their own: evaluation's would have none.
    items = Documents(vocabulary=vocabulary, wide_share=1.0, count_tokens=estimated_tokens)
    shown = [
        "".join(text for text, _ in items.draw(suite, f"{recipe.seed}:tokenizer/{n}", room=400))
        for suite in SUITES
        for n in range(recipe.tokenizer_documents * (3 if suite == "multilingual" else 1))
    ]
    tokenizer = train_tokenizer(
        prose + shown, recipe.vocab_size, prose=prose, spaced=recipe.spaced_pieces
    )
    tokenizer.save_pretrained(work_dir)
    return tokenizer, TokenStream(documents, tokenizer, vocabulary, recipe)


def train(
    data_dir: Path, work_dir: Path, recipe: Recipe, *, stop_after: int | None = None
) -> list[dict[str, float]]:
    """Train, or go on from the checkpoint in ``work_dir``; return losses by step and class."""
    work_dir.mkdir(parents=True, exist_ok=True)
    tokenizer, stream = prepare(data_dir, work_dir, recipe)
    model = build_model(recipe, tokenizer)
    attend_in_blocks(model)
    parameters = list(model.parameters())
    optimizers = build_optimizers(model, recipe)
    first, log = _load_checkpoint(work_dir, model, optimizers, recipe)
    last = min(recipe.all_steps, stop_after or recipe.all_steps)
    started, sums = time.monotonic(), torch.zeros(3, len(CLASSES))
    batches = stream.batches(first)
    # One thread a shard: they meet once a step, not in every operation, which costs less and bears
    # other programs on the same cores.
    with ThreadPoolExecutor(
        recipe.shards, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for step in range(first, last):
            batch = next(batches)
            if step == recipe.steps:
                spread_norms(model, recipe)
                for optimizer in optimizers:
                    optimizer.state.clear()  # its memory is of the gradients before
            sums += _backward(pool, model, batch, recipe)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, recipe)
                optimizer.step()  # type: ignore[no-untyped-call]
            if step < FIRST_STEPS or (step + 1) % LOG_STEPS == 0 or step + 1 == last:
                log.append(_entry(step + 1, sums))
                rate = (step + 1 - first) * recipe.step_tokens / (time.monotonic() - started)
                left = (recipe.all_steps - step - 1) * recipe.step_tokens / rate
                print(_line(log[-1], rate, left, recipe), flush=True)
                sums.zero_()
            if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == last:
                _save_checkpoint(work_dir, model, optimizers, step + 1, log, recipe)
            if (step + 1) % SNAPSHOT_STEPS == 0:
                _save_snapshot(work_dir / "snapshots", model, step + 1)
    return log


def _entry(step: int, sums: torch.Tensor) -> dict[str, float]:
    """Return the mean loss of every class, and the share of the answers' tokens that was right."""
    entry: dict[str, float] = {"step": step}
    for name, (tokens, nats, right) in zip(CLASSES, sums.T.tolist(), strict=True):
        if tokens:
            entry[name] = round(nats / tokens, 4)
            if name in DOCUMENTS:
                entry[f"{name}_right"] = round(right / tokens, 4)
    return entry


def _line(entry: dict[str, float], rate: float, left: float, recipe: Recipe) -> str:
    suites = "  ".join(
        f"{name} {entry[name]:.3f} ({100 * entry[f'{name}_right']:.0f} %)"
        for name in DOCUMENTS
        if name in entry
    )
    return (
        f"step {entry['step']:.0f}/{recipe.all_steps}  prose {entry.get('prose', 0):.3f}  "
        f"{suites}  {rate:,.0f} tokens/s  {left / 60:.0f} min left"
    )


def main() -> None:
    """Run ``python -m lab.reference.train``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the texts")
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints")
    parser.add_argument("--out", type=Path, help="gets model/ and calibration at the end")
    parser.add_argument(
        "--steps",
        type=int,
        default=Recipe.steps,
        help="at the constant rate (default %(default)s); with fewer a run is ended early",
    )
    parser.add_argument(
        "--decay-steps",
        type=int,
        default=Recipe.decay_steps,
        help="after them, to the end (default %(default)s)",
    )
    arguments = parser.parse_args()
    recipe = Recipe(steps=arguments.steps, decay_steps=arguments.decay_steps)
    log = train(arguments.data_dir, arguments.work_dir, recipe)
    if arguments.out is not None:
        publish(arguments.work_dir, arguments.data_dir, arguments.out, recipe, log)


if __name__ == "__main__":
    main()
