"""Decode with a random Llama of about 1 B parameters in INT4, beside the unquantized model.

The weights exceed the caches, so that decoding is bound by their bytes: the bound beside each ratio
is the bytes that are read for a token (all weights but the embedding) over those in INT4.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bench.comparison.progress import Reporter
from bench.stats.windows import geometric_mean
from kernels import backends, install
from kernels.linear import QuantizedLinear
from lab.speed.options import add_random_llama, integers
from lab.speed.random_llama import random_llama
from lab.speed.timing import machine, markdown, summary
from quantcore.errors import InputError
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme
from suites import throughput

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add options of model, scheme, backend and load."""
    add_random_llama(parser)
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--backend", default="auto", help=f"one of {', '.join(backends.NAMES)}")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--batch-sizes", type=integers, default="1,4", help="sequences at once")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Run both models in turn, on the GPU if there is one.

    Raises:
        InputError: an unknown shape or backend, or one that does not run here.
    """
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype)
    scheme = QuantScheme.parse(options.scheme)
    total = options.prompt + options.new_tokens
    model = random_llama(options.shape, options.blocks, total, device=device, dtype=dtype)
    quantized = _quantized(model, scheme, options.backend, say)
    load = throughput.Load(
        batch_sizes=options.batch_sizes,
        prompt_lengths=(options.prompt,),
        new_tokens=options.new_tokens,
        rounds=options.rounds,
    )
    runs = throughput.runs_of(load, total, models=2)
    if not runs:
        raise InputError("--prompt and --new-tokens leave nothing to run")
    models = {"int4": quantized, "unquantized": model}
    with say.stage("decode", runs) as done:
        timed = throughput.measure(
            models, load, context=total, vocabulary=model.config.vocab_size, done=done
        )
    packed = [m for m in quantized.modules() if isinstance(m, QuantizedLinear)]
    return {
        "device": device.type,
        "dtype": options.dtype,
        "scheme": scheme.name,
        "parameters": model.num_parameters(),
        "backends": sorted({linear.backend for linear in packed}),
        "quantized_linears": len(packed),
        "bytes_read": {name: throughput.read_bytes(each) for name, each in models.items()},
        "peak_bytes_of_runs": {name: contender.peak_bytes for name, contender in timed.items()},
        "weight_bytes": {name: throughput.weight_bytes(each) for name, each in models.items()},
        "notices": [notice for contender in timed.values() for notice in contender.notices],
        "cases": _cases(timed["int4"].runs, timed["unquantized"].runs),
        "runs": [asdict(run) for run in timed["int4"].runs],
        "baseline_runs": [asdict(run) for run in timed["unquantized"].runs],
    }


def _quantized(
    model: PreTrainedModel, scheme: QuantScheme, backend: str, say: Reporter
) -> PreTrainedModel:
    """Return a twin of the model, the linears of its blocks rounded to nearest and packed."""
    quantized = install.twin(model)
    linears = {
        name: module
        for name, module in model.model.layers.named_modules(prefix="model.layers")
        if isinstance(module, nn.Linear)
    }
    with say.stage("quantize (round to nearest)", len(linears)) as done:
        for name, module in linears.items():
            weight = quantize(module.weight.detach().float(), scheme)
            install.install(quantized, {name: weight}, backend=backend)
            done(1)
    return quantized


def _cases(
    int4: Sequence[throughput.Run], unquantized: Sequence[throughput.Run]
) -> list[dict[str, Any]]:
    """Sum the runs up, by batch size and prompt; ratios are of neighbours."""
    cases = []
    for (batch, prompt), ratios in throughput.ratios(int4, unquantized).items():
        quantized, plain = (
            [run for run in runs if (run.batch_size, run.prompt_tokens) == (batch, prompt)]
            for runs in (int4, unquantized)
        )
        cases.append(
            {
                "batch_size": batch,
                "prompt_tokens": prompt,
                "int4_tokens_per_s": summary([run.decode_tokens_per_s for run in quantized]),
                "unquantized_tokens_per_s": summary([run.decode_tokens_per_s for run in plain]),
                "int4_first_s": summary([run.first_token_s for run in quantized]),
                "unquantized_first_s": summary([run.first_token_s for run in plain]),
                "token_s": throughput.quantiles([s for run in quantized for s in run.step_s]),
                "ratio": summary(ratios),
                "interval": asdict(geometric_mean([math.log(r) for r in ratios], seed=0)),
            }
        )
    return cases


def table(document: dict[str, Any]) -> str:
    """Show by batch size the tokens per second of both, their ratio, and latencies."""
    rows = []
    for case in document["cases"]:
        interval = case["interval"]
        rows.append(
            [
                f"{case['batch_size']}",
                f"{case['unquantized_tokens_per_s']['median']:.2f}",
                f"{case['int4_tokens_per_s']['median']:.2f}",
                f"{interval['estimate']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]",
                " / ".join(f"{1e3 * case['token_s'][p]:.0f}" for p in ("p50", "p95", "p99")),
                f"{case['unquantized_first_s']['median']:.2f}",
                f"{case['int4_first_s']['median']:.2f}",
            ]
        )
    read, held = document["bytes_read"], document["weight_bytes"]
    header = [
        "batch",
        f"{document['dtype']}, tokens/s",
        f"{document['scheme']}, tokens/s",
        "ratio",
        "a token, p50 / p95 / p99, ms",
        "first token, s",
        "in INT4, s",
    ]
    return (
        f"A random Llama of {document['parameters'] / 1e6:,.0f} M parameters, prompts of "
        f"{document['cases'][0]['prompt_tokens']} tokens, backend "
        f"{', '.join(document['backends'])}; runs alternate, ratios are of neighbours with their "
        f"95 % interval. Bound: {read['unquantized'] / 1e9:.2f} GB are read for a token, in INT4 "
        f"{read['int4'] / 1e9:.2f} GB: {read['unquantized'] / read['int4']:.2f} times. Weights in "
        f"memory: {held['unquantized'] / 1e9:.2f} and {held['int4'] / 1e9:.2f} GB.\n\n"
        + markdown(header, rows)
        + "\n"
        + machine(document)
    )
