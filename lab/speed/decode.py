"""Decoding of a random Llama of about 1 B parameters in INT4, beside the unquantized model.

The weights exceed the caches, so that decoding is bound by their bytes: the bound beside each ratio
is the bytes that are read for a token (all weights but the embedding) over those in INT4.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from bench.comparison.progress import Reporter
from bench.stats import windows as statistics
from kernels import backends, install
from kernels.linear import QuantizedLinear
from lab.speed.large import SHAPES, random_llama
from lab.speed.timing import machine, markdown, summary
from quantcore.errors import InputError
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme
from suites import throughput


def add_options(parser: argparse.ArgumentParser) -> None:
    """Model, scheme, backend and load."""
    parser.add_argument("--shape", default="1b", help=f"one of {', '.join(SHAPES)}")
    parser.add_argument("--blocks", type=int, help="fewer blocks, to try it out")
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--backend", default="auto", help=f"one of {', '.join(backends.NAMES)}")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--batch-sizes", default="1,4", help="sequences at once")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Both models in turn, on the GPU if there is one.

    Raises:
        InputError: an unknown shape or backend, or one that does not run here.
    """
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype)
    scheme = QuantScheme.parse(options.scheme)
    total = options.prompt + options.new_tokens
    model = random_llama(options.shape, options.blocks, total, device=device, dtype=dtype)
    quantized = install.twin(model)
    linears = {
        name: module
        for name, module in model.model.layers.named_modules(prefix="model.layers")
        if isinstance(module, nn.Linear)
    }
    with say.stage("quantize (round to nearest)", len(linears)) as done:
        for name, module in linears.items():
            weight = quantize(module.weight.detach().float(), scheme)
            install.install(quantized, {name: weight}, backend=options.backend)
            done(1)
    load = throughput.Load(
        batch_sizes=tuple(int(one) for one in options.batch_sizes.split(",")),
        prompt_lengths=(options.prompt,),
        new_tokens=options.new_tokens,
        rounds=options.rounds,
    )
    runs = throughput.runs_of(load, total, models=2)
    if not runs:
        raise InputError("--prompt and --new-tokens leave nothing to run")
    with say.stage("decode", runs) as done:
        found = throughput.measure(
            {"int4": quantized, "unquantized": model},
            load,
            context=total,
            vocabulary=model.config.vocab_size,
            done=done,
        )
    packed = [m for m in quantized.modules() if isinstance(m, QuantizedLinear)]
    timed, base_runs = found["int4"].runs, found["unquantized"].runs
    cases = []
    for (batch, prompt), ratios in throughput.ratios(timed, base_runs).items():
        chosen = [r for r in timed if (r.batch_size, r.prompt_tokens) == (batch, prompt)]
        base = [r for r in base_runs if (r.batch_size, r.prompt_tokens) == (batch, prompt)]
        cases.append(
            {
                "batch_size": batch,
                "prompt_tokens": prompt,
                "int4_tokens_per_s": summary([r.decode_tokens_per_s for r in chosen]),
                "unquantized_tokens_per_s": summary([r.decode_tokens_per_s for r in base]),
                "int4_first_s": summary([r.first_token_s for r in chosen]),
                "unquantized_first_s": summary([r.first_token_s for r in base]),
                "token_s": throughput.quantiles([s for r in chosen for s in r.step_s]),
                "ratio": summary(ratios),
                "interval": asdict(_interval(ratios)),
            }
        )
    return {
        "device": device.type,
        "dtype": options.dtype,
        "scheme": scheme.name,
        "parameters": model.num_parameters(),
        "backends": sorted({one.backend for one in packed}),
        "quantized_linears": len(packed),
        "bytes_read": {
            "unquantized": throughput.read_bytes(model),
            "int4": throughput.read_bytes(quantized),
        },
        "peak_bytes_of_runs": {name: one.peak_bytes for name, one in found.items()},
        "weight_bytes": {
            "unquantized": throughput.weight_bytes(model),
            "int4": throughput.weight_bytes(quantized),
        },
        "notices": [notice for one in found.values() for notice in one.notices],
        "cases": cases,
        "runs": [asdict(run) for run in timed],
        "baseline_runs": [asdict(run) for run in base_runs],
    }


def _interval(ratios: list[float]) -> statistics.Interval:
    """Geometric mean with its interval over pairs of neighbours."""
    import math

    return statistics.geometric_mean([math.log(one) for one in ratios], seed=0)


def table(document: dict[str, Any]) -> str:
    """By batch size: tokens per second of both, their ratio, latency."""
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
