"""Write what ships of a finished run: weights, tokenizer, calibration sequences, model card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from bench.comparison.calibration import sample_from
from bench.records.document import write_json
from bench.reference import CALIBRATION_FILE, MODEL_FOLDER
from lab.reference.curve import accuracies, nats_per_byte
from lab.reference.items import DOCUMENTS
from lab.reference.network import build_model, load_weights
from lab.reference.recipe import CHECKPOINT, Recipe
from quantcore.checkpoint import load, sha256_of
from suites import texts

PROSE_ONLY_NATS = 4.536431 * 327764
"""Of WikiText-2's raw test split (1,024 tokens at a time) in the model that was trained on the same
prose alone, and shipped before: perplexity 93.357 a token, 327,764 tokens of its own tokenizer."""
PROSE_ONLY_TOKENS = 327764

Log = list[dict[str, float]]


def publish(work_dir: Path, data_dir: Path, out: Path, recipe: Recipe, log: Log) -> None:
    """Write what ships: the weights in bfloat16, the tokenizer, the card, calibration sequences.

    Args:
        work_dir: where the tokenizer and the last checkpoint are.
        data_dir: with WikiText-2's test split, for the card.
        out: gets ``model/`` and ``calibration.safetensors``.
        recipe: of the finished run.
        log: its losses.
    """
    folder = out / MODEL_FOLDER.name
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work_dir)
    model = build_model(recipe, tokenizer)
    load_weights(model, work_dir / CHECKPOINT, prefix="model/")
    model.to(torch.bfloat16).save_pretrained(folder)
    _save_tokenizer(tokenizer, folder)
    (folder / "model.safetensors").chmod(0o644)
    loaded = load("reference", folder=folder, dtype=torch.float32, device=torch.device("cpu"))
    calibration = sample_from(loaded, samples=128, seqlen=512, seed=recipe.seed)
    save_file({"input_ids": calibration.to(torch.int32)}, out / CALIBRATION_FILE.name)
    text = texts.evaluation_text("wikitext2", data_dir=data_dir)
    nats = nats_per_byte(loaded.model, loaded.tokenizer, text) * len(text.content.encode())
    before, now = (math.exp(total / PROSE_ONLY_TOKENS) for total in (PROSE_ONLY_NATS, nats))
    shares = accuracies(loaded.model, loaded.tokenizer, folder)
    card = _CARD.format(
        parameters=loaded.model.num_parameters(),
        recipe=json.dumps(asdict(recipe), indent=1),
        all_steps=recipe.all_steps,
        tokens=recipe.all_steps * recipe.step_tokens / 1e6,
        weights=loaded.weights_sha256,
        tokenizer=loaded.tokenizer_sha256,
        calibration=sha256_of([out / CALIBRATION_FILE.name]),
        bits_before=PROSE_ONLY_NATS / len(text.content.encode()) / math.log(2),
        bits=nats / len(text.content.encode()) / math.log(2),
        before=before,
        now=now,
        change=100 * (now / before - 1),
        accuracy=_accuracy_table(shares),
        curve=_curve_table(log, recipe),
        first_loss=json.dumps(log[:2]),
        **asdict(recipe),
    )
    (folder / "README.md").write_text(card, "utf-8")


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save the tokenizer under a class name that every release of Transformers knows."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    saved = json.loads(path.read_text("utf-8"))
    kept = {k: v for k, v in saved.items() if k not in ("backend", "is_local", "local_files_only")}
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    kept["model_input_names"] = ["input_ids", "attention_mask"]  # old ones would add a third
    write_json(path, dict(sorted(kept.items())))


def _accuracy_table(shares: Mapping[str, float]) -> str:
    """Write rows of suites, languages and lengths, columns of seen and reserved templates."""
    names = list(
        dict.fromkeys(name.replace("/seen", "").replace("/reserved", "") for name in shares)
    )
    rows = []
    for name in names:
        suite, *facet = name.split("/")
        cells = (shares.get("/".join((suite, part, *facet))) for part in ("seen", "reserved"))
        shown = " | ".join("" if share is None else f"{100 * share:.1f}" for share in cells)
        rows.append(f"| {' '.join((suite, *facet))} | {shown} |")
    return "\n".join(rows)


def _curve_table(log: Log, recipe: Recipe) -> str:
    """Write rows of steps: the loss of prose, loss and right tokens of every suite's answers."""
    every = max(1, recipe.all_steps // 25 // 100) * 100
    rows = []
    for entry in log:
        if entry["step"] % every and entry["step"] != recipe.all_steps:
            continue
        cells = [
            f"{entry[suite]:.3f} ({100 * entry[f'{suite}_right']:.1f})" if suite in entry else ""
            for suite in DOCUMENTS
        ]
        tokens = entry["step"] * recipe.step_tokens / 1e6
        rows.append(
            f"| {entry['step']:.0f} | {tokens:.1f} | {entry['prose']:.3f} | {' | '.join(cells)} |"
        )
    return "\n".join(rows)


_CARD = """\
---
license: cc-by-sa-3.0
language: en
library_name: transformers
---
# The embedded reference model of awq-bench

A Llama of {parameters:,} parameters that exists to be quantized: small enough to ship and to
compare in minutes on two cores, real enough (grouped queries, SwiGLU, RMSNorm, inputs of 256 and
768 channels) that 3 bits visibly take something away. It writes encyclopedic English badly, answers
items such as those of the embedded task suites, and is good for nothing else.

| | |
|---|---|
| architecture | Llama: {layers} layers, hidden {hidden_size}, MLP {intermediate_size}, \
{heads} heads, {key_value_heads} key-value heads, tied embeddings, context {context} |
| tokenizer | byte-level BPE, {vocab_size} tokens, round-trips any Unicode; a word's pieces do not \
depend on the space before it, digits stand alone |
| weights | bfloat16, sha256 `{weights}` |
| tokenizer.json | sha256 `{tokenizer}` |
| calibration.safetensors | 128 x 512 tokens sampled from the model at temperature 1, seed {seed}; \
sha256 `{calibration}` |
| trained on | {all_steps:,} steps, {tokens:.1f} M tokens |
| WikiText-2, raw test split | {bits:.4f} bits a byte; {bits_before:.4f} in the model trained on \
prose alone |

The tokenizers differ, so perplexities of a token, which are what tables print, cannot be compared.
In the unit of the prose-only model's tokens the perplexity of that split is {now:.2f}, of the
prose-only model {before:.2f} ({change:+.1f} %).

## Data and licence

Prose: WikiText-2's training split (CC BY-SA 3.0) and American presidential addresses, 1789 to the
2000s (public domain). Items: drawn for every step from the *seen* templates of the suites in this
program, with the values kept for training; none of the values, tools or sentences of the items that
are asked in an evaluation, nor of the reserved templates, is among them (a test compares). Half of
an item's words are replaced by words of the prose or coined ones, because a model this small learns
the few hundred words of the training stock by heart instead of learning to copy.

The weights are offered under CC BY-SA 3.0, as the prose they were trained on; the program around
them has its own licence.

The tokenized form of WikiText-2 masks rare words as `<unk>`, which the raw test split does not:
every mask was replaced by a rare word of the text, a coined word, or a word used before in the same
article (`lab/reference/corpus.py` says why and how). About a third of the articles of every epoch
were set in ordinary typography.

## Mixture

A quarter of the windows is prose alone; the others hold whole documents of one to four items of one
suite, and prose where no further document fits, so about a third of all tokens is prose. The loss
is over prose, answers (weighted as the recipe says), and one in ten of the prompts' tokens. The
first {short_steps:,} steps see windows of {short_context} tokens, the others of 512 and 1,024 in
turn.

From step 1,800 on nearly half of the documents (from 2,800 on a fifth, from 3,400 on a ninth) are
*recall*: a text of facts, and a question about nearly every one of them (lists of pairs;
multilingual look-ups with up to twelve facts; the facts of several long prompts without the
filler). Before, the model had learnt to copy an answer and not which one: after 12 M tokens it
chose between the values in a text nearly at random, and was right in 40 % of `multilingual` and 0 %
of `long_prompt` (10 items a task). A long prompt asks for one choice in 440 tokens and a
multilingual document in 110, a drill in 48; after 350 steps with them the first token was right in
91 % of the lists of pairs (of 54), after 650 in 75 % of the look-ups (of 301). From step 3,400 on a
third are *practice*: items of the six multilingual templates that were learnt last (look-ups
against the order of the text, the largest number, a heading's words, the word that is not repeated,
counts and sums).

## Accuracy

Of the unquantized model on all embedded items, in percent; values are unseen throughout, reserved
templates are unseen as well. Chance is 25 in `multilingual` and 0 elsewhere.

| | seen templates | reserved templates |
|---|--:|--:|
{accuracy}

## Salient channels

After step {steps:,} the gains of the norms before q, k, v and gate, up were multiplied by
log-normal factors (sigma {spread_sigma}) and the columns that read them divided by the same, which
leaves the function as it is; training then went on for {decay_steps} steps. Large models grow
channels with large activations by themselves, and AWQ is about them; a model this small does not.
**So do not read the distance between RTN and AWQ on this model as that on yours.**

## Repeat it

```
python -m lab.reference.train --data-dir DIR --work-dir .work/reference --out bench/reference
```

`DIR` holds `wikitext-2-raw-v1/train.jsonl` (or `wikitext-2-v1/train.txt`),
`wikitext-2-raw-v1/test.jsonl` and `us-presidential-addresses/addresses.txt`. A run that was stopped
goes on from its checkpoint, and may be ended early with fewer `--steps`. On a CPU,
`MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_ARENA_MAX=1` in the
environment keeps glibc from returning memory between steps, which trains faster (with
`MALLOC_MMAP_MAX_=0` memory grows without end).

The shipped weights were trained on the tokenized form with the stand-ins. Recipe:

```json
{recipe}
```

Losses in nats a token, and the share of an answer's tokens that was right (percent), on items and
prose just before they were trained on:

| step | M tokens | prose | json | tool_calls | multilingual | code | long_prompt | recall | \
practice |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
{curve}

First steps, to compare a repetition with:

```
{first_loss}
```
"""
