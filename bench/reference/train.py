"""Train the reference model: ``python -m bench.reference.train --data-dir DIR --work-dir DIR``.

Seeded, and a pure function of the step: a run that was killed goes on from its last checkpoint
and ends with the same batches. 18 M tokens take about an hour on two cores with bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.calibration import sample_from
from bench.reference import CALIBRATION_FILE, MODEL_FOLDER, corpus
from quantcore.checkpoint import load, sha256_of

BOS, EOS = "<|bos|>", "<|eos|>"
Tokens = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every number that decides the weights. Tokens seen: ``steps * step_tokens``."""

    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 2
    context: int = 1024
    first_context: int = 256  # most steps see short windows: twice the tokens a second on a CPU
    full_context_share: float = 0.2  # of the steps, the last ones, at the full context
    step_tokens: int = 4096
    steps: int = 3600
    warmup_steps: int = 200
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-4
    weight_decay: float = 0.1
    natural_share: float = 0.35  # of the WikiText articles, in ordinary typography
    # Then the norms' gains are spread log-normally and training goes on, see `spread_norms`.
    spread_steps: int = 700
    spread_sigma: float = 0.5
    spread_learning_rate: float = 1e-3
    seed: int = 0

    @property
    def all_steps(self) -> int:
        """Steps before and after the spread."""
        return self.steps + self.spread_steps


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: every byte is in the alphabet, so any Unicode text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


class TokenStream:
    """Training windows as a function of the step: documents reshuffled every epoch, then packed."""

    def __init__(
        self,
        documents: list[tuple[str, str]],
        tokenizer: PreTrainedTokenizerFast,
        recipe: Recipe,
    ) -> None:
        eos = tokenizer.eos_token_id

        def encode(text: str) -> Tokens:
            return np.array([*tokenizer(text, verbose=False).input_ids, eos], dtype=np.int64)

        self._forms = [(encode(raw), encode(prose)) for raw, prose in documents]
        self._recipe = recipe

    def batches(self, first_step: int) -> Iterator[torch.Tensor]:
        """Yields ``[step_tokens / context, context + 1]`` token ids, from ``first_step`` on."""
        recipe = self._recipe
        step = 0
        phases = (
            (recipe.first_context, round(recipe.steps * (1 - recipe.full_context_share))),
            (recipe.context, recipe.steps),
            (recipe.context, recipe.all_steps),
        )
        for phase, (context, last_step) in enumerate(phases):
            batch = recipe.step_tokens // context
            windows, epoch, position = self._windows(phase, 0, context), 0, 0
            while step < last_step:
                if position + batch > len(windows):
                    epoch, position = epoch + 1, 0
                    windows = self._windows(phase, epoch, context)
                if step >= first_step:
                    yield torch.from_numpy(windows[position : position + batch])
                position += batch
                step += 1

    def _windows(self, phase: int, epoch: int, context: int) -> Tokens:
        random = np.random.default_rng([self._recipe.seed, phase, epoch])
        stream = np.concatenate(
            [
                self._forms[i][int(random.random() < self._recipe.natural_share)]
                for i in random.permutation(len(self._forms))
            ]
        )
        width = context + 1
        stream = stream[int(random.integers(width)) :]
        windows = stream[: len(stream) // width * width].reshape(-1, width)
        return windows[random.permutation(len(windows))]


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of the recipe's sizes with seeded weights."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


@torch.no_grad()
def spread_norms(model: LlamaForCausalLM, recipe: Recipe) -> None:
    """Give every channel behind a norm a gain of its own, without changing the function.

    In large trained models a few input channels carry activations many times larger than the rest;
    they are what AWQ is about. A model this small does not grow them in 15 M tokens: 99 in 100 of
    its channels lay within twice the median, AWQ found next to nothing to scale, and which method
    came out ahead was rounding luck. So gains are multiplied by log-normal factors, the columns
    that read them divided by the same, and training goes on from there.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            noise = torch.randn(recipe.hidden_size, generator=generator)
            factors = torch.exp(recipe.spread_sigma * noise)
            norm.weight.mul_(factors)
            for reader in readers:
                reader.weight.div_(factors)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to the final rate; once more after the spread."""
    high, steps, warmup = recipe.learning_rate, recipe.steps, recipe.warmup_steps
    if step >= recipe.steps:
        step, steps = step - recipe.steps, recipe.spread_steps
        high, warmup = recipe.spread_learning_rate, recipe.warmup_steps // 4
    if step < warmup:
        return high * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    low = recipe.final_learning_rate
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * done))


def _save_checkpoint(
    folder: Path,
    model: LlamaForCausalLM,
    optimizer: torch.optim.AdamW,
    step: int,
    log: list[dict[str, float]],
) -> None:
    """Write weights and optimizer moments without pickle; the step file comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    temporary = folder / "checkpoint.tmp"
    save_file(tensors, temporary, metadata={"step": str(step), "log": json.dumps(log)})
    os.replace(temporary, folder / "checkpoint.safetensors")


def _load_checkpoint(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, recipe: Recipe
) -> tuple[int, list[dict[str, float]]]:
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return 0, []
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    step = int(metadata["step"])
    taken = step if step <= recipe.steps else step - recipe.steps  # since the moments were cleared
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(taken)),
                "exp_avg": tensors[f"exp_avg.{name}"],
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"],
            }
    return step, json.loads(metadata["log"])


def train(
    data_dir: Path, work_dir: Path, recipe: Recipe, *, stop_after: int | None = None
) -> list[dict[str, float]]:
    """Train, or go on from the checkpoint in ``work_dir``; returns the losses by step."""
    articles = corpus.wikitext_articles(data_dir, seed=recipe.seed)
    documents = [(article, corpus.natural(article)) for article in articles]
    speeches = corpus.addresses(data_dir)
    documents.append((speeches, speeches))
    tokenizer = train_tokenizer([text for pair in documents for text in pair], recipe.vocab_size)
    tokenizer.save_pretrained(work_dir)
    stream = TokenStream(documents, tokenizer, recipe)
    model = build_model(recipe, tokenizer)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    kept = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=True,
    )
    first, log = _load_checkpoint(work_dir, model, optimizer, recipe)
    started, total, count = time.monotonic(), 0.0, 0
    last = min(recipe.all_steps, stop_after or recipe.all_steps)
    for step, tokens in zip(range(first, last), stream.batches(first), strict=False):
        if step == recipe.steps:
            spread_norms(model, recipe)
            optimizer.state.clear()  # its moments are of the gradients before
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total, count = total + float(loss.detach()), count + 1
        if (step + 1) % 50 == 0 or step + 1 == last:
            seconds = time.monotonic() - started
            rate = (step + 1 - first) * recipe.step_tokens / seconds
            left = (last - step - 1) * seconds / (step + 1 - first)
            log.append({"step": step + 1, "loss": round(total / count, 4)})
            print(
                f"step {step + 1}/{recipe.all_steps}  loss {total / count:.3f}  "
                f"{rate:,.0f} tokens/s  {left / 60:.0f} min left",
                flush=True,
            )
            total, count = 0.0, 0
        if (step + 1) % 250 == 0 or step + 1 == last:
            _save_checkpoint(work_dir, model, optimizer, step + 1, log)
    return log


def publish(work_dir: Path, out: Path, recipe: Recipe, log: list[dict[str, float]]) -> None:
    """Write what ships: the weights in bfloat16, the tokenizer, the card, calibration sequences.

    Args:
        work_dir: where the tokenizer and the last checkpoint are.
        out: gets ``model/`` and ``calibration.safetensors``.
        recipe: of the finished run.
        log: its losses.
    """
    folder = out / MODEL_FOLDER.name
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work_dir)
    model = build_model(recipe, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters())
    _load_checkpoint(work_dir, model, optimizer, recipe)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    loaded = load("reference", folder=folder, dtype=torch.float32, device=torch.device("cpu"))
    calibration = sample_from(loaded, samples=128, seqlen=512, seed=recipe.seed)
    save_file({"input_ids": calibration.to(torch.int32)}, out / CALIBRATION_FILE.name)
    final = sum(entry["loss"] for entry in log[-5:]) / len(log[-5:])
    card = _CARD.format(
        parameters=loaded.model.num_parameters(),
        recipe=json.dumps(asdict(recipe), indent=1),
        all_steps=recipe.all_steps,
        tokens=recipe.all_steps * recipe.step_tokens / 1e6,
        loss=final,
        perplexity=math.exp(final),
        weights=loaded.weights_sha256,
        tokenizer=loaded.tokenizer_sha256,
        calibration=sha256_of([out / CALIBRATION_FILE.name]),
        curve="\n".join(
            f"| {entry['step']:.0f} | {entry['loss']:.3f} |"
            for entry in log
            if entry["step"] % 400 == 0
        ),
        **asdict(recipe),
    )
    (folder / "README.md").write_text(card, "utf-8")


_CARD = """\
---
license: cc-by-sa-3.0
language: en
library_name: transformers
---
# The embedded reference model of awq-bench

A Llama of {parameters:,} parameters that exists to be quantized: small enough to ship and to
compare in minutes on two cores, real enough (grouped queries, SwiGLU, RMSNorm, inputs of 256 and
768 channels) that 3 bits visibly take something away. It writes encyclopedic English badly and is
good for nothing else.

| | |
|---|---|
| architecture | Llama: {layers} layers, hidden {hidden_size}, MLP {intermediate_size}, \
{heads} heads, {key_value_heads} key-value heads, tied embeddings, context {context} |
| tokenizer | byte-level BPE, {vocab_size} tokens, round-trips any Unicode |
| weights | bfloat16, sha256 `{weights}` |
| tokenizer.json | sha256 `{tokenizer}` |
| calibration.safetensors | 128 x 512 tokens sampled from the model at temperature 1, seed {seed}; \
sha256 `{calibration}` |
| trained on | {all_steps:,} steps, {tokens:.1f} M tokens |
| final training loss | {loss:.3f} nats a token (perplexity {perplexity:.1f}), mean of the last \
250 steps |

## Data and licence

WikiText-2's training split (CC BY-SA 3.0) and American presidential addresses, 1789 to the 2000s
(public domain). The weights are offered under CC BY-SA 3.0, as the text they were trained on; the
program around them has its own licence.

The tokenized form of WikiText-2 masks rare words as `<unk>`, which the raw test split does not:
every mask was replaced by a rare word of the text, a coined word, or a word used before in the same
article (`bench/reference/corpus.py` says why and how). About a third of the articles of every epoch
were set in ordinary typography.

## Salient channels

After step {steps:,} the gains of the norms before q, k, v and gate, up were multiplied by
log-normal factors (sigma {spread_sigma}) and the columns that read them divided by the same, which
leaves the function as it is; training then went on for {spread_steps} steps. Large models grow
channels with large activations by themselves, and AWQ is about them; a model this small does not
in 15 M tokens.
**So do not read the distance between RTN and AWQ on this model as that on yours.**

## Repeat it

```
python -m bench.reference.train --data-dir DIR --work-dir .work/reference --out bench/reference
```

`DIR` holds `wikitext-2-raw-v1/train.jsonl` (or `wikitext-2-v1/train.txt`) and
`us-presidential-addresses/addresses.txt`. A run that was stopped goes on from its checkpoint. On a
CPU, `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000` in the environment keeps glibc from
returning memory between steps and trains a quarter faster.

The shipped weights were trained on the tokenized form with the stand-ins. Recipe:

```json
{recipe}
```

| step | loss |
|--:|--:|
{curve}
"""


def main() -> None:
    """Entry point of ``python -m bench.reference.train``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the texts")
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="gets model/ and calibration")
    arguments = parser.parse_args()
    recipe = Recipe()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    log = train(arguments.data_dir, arguments.work_dir, recipe)
    publish(arguments.work_dir, arguments.out, recipe, log)


if __name__ == "__main__":
    main()
