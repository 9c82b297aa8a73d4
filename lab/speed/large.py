"""Time every method on a random Llama of 1 B parameters, calibrated once, phase by phase.

Operations are counted from shapes and divided by the measured rate of a matrix product: the
seconds that arithmetic alone would take are the bound beside every phase. Rounding is bound by
memory, not by operations, and has none.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench import registry
from bench.comparison.progress import Reporter
from bench.report import quantities
from bench.report.labels import of_scheme
from lab.speed import operations
from lab.speed.options import add_calibration, add_random_llama
from lab.speed.phases import TimedMethod, count_operators
from lab.speed.random_llama import random_llama
from lab.speed.timing import machine, markdown, matmul_rate, mib, now
from quantcore.calibration import BlockWalk, StatsStore, calibrate, stats_bytes
from quantcore.discovery import discover
from quantcore.errors import InputError
from quantcore.method import Method
from quantcore.quantize import Snapshot, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure
from suites import memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_METHODS = "rtn,gptq,awq,awq+clip,awq-article"
_STATS_SHARE = 0.5  # of a GPU's free memory


def add_options(
    parser: argparse.ArgumentParser,
    *,
    shape: str = "1b",
    samples: int = 16,
    methods: str = _METHODS,
    batch_tokens: int = 2048,
) -> None:
    """Add model, calibration and methods."""
    add_random_llama(parser, shape=shape)
    add_calibration(parser, samples=samples)
    parser.add_argument("--methods", default=methods, help="separated by commas")
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--batch-tokens", type=int, default=batch_tokens, help="of calibration")


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Measure on the CPU, in bfloat16."""
    return quantize_random(options, say, device=torch.device("cpu"), dtype=torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A subject is the model that every method quantizes, with the tokens that calibrate it."""

    model: PreTrainedModel
    build_s: float
    structure: Structure
    discover_s: float
    tokens: Tensor
    """int64 [samples, seqlen]."""
    device: torch.device
    scheme: QuantScheme


def quantize_random(
    options: argparse.Namespace,
    say: Reporter,
    *,
    device: torch.device,
    dtype: torch.dtype,
    operators: bool = False,
) -> dict[str, Any]:
    """Calibrate once, quantize by every method, put the weights back in between.

    Args:
        options: see `add_options`.
        say: who shows progress.
        device: where the model is.
        dtype: what it runs in.
        operators: count, for one block, the operators dispatched and the kernels launched.

    Raises:
        InputError: an unknown shape, scheme or method, or sizes that do not fit.
    """
    if min(options.samples, options.seqlen, options.batch_tokens) < 1:
        raise InputError("--samples, --seqlen and --batch-tokens must be at least 1")
    methods = [registry.method(name) for name in options.methods.split(",")]
    scheme = QuantScheme.parse(options.scheme)
    dtype_name = str(dtype).removeprefix("torch.")
    rates = {"float32": matmul_rate(device), dtype_name: matmul_rate(device, dtype=dtype)}
    subject = _subject(options, scheme, device=device, dtype=dtype)
    structure = subject.structure
    counts = {
        "calibrate": operations.of_calibration(structure, subject.tokens),
        **{method.name: operations.of_method(structure, method, scheme) for method in methods},
    }
    _announce(subject, options.shape, rates, counts, dtype_name, say)
    on_disk = _too_large(structure, device)
    with tempfile.TemporaryDirectory() as folder:
        store = StatsStore(Path(folder) if on_disk else None)
        calibration = _calibrate(subject, store, options, say)
        runs, counted = _by_method(subject, methods, store, say, operators=operators)
    return {
        "device": device.type,
        "shape": options.shape,
        "blocks": len(structure.blocks),
        "parameters": subject.model.num_parameters(),
        "dtype": dtype_name,
        "scheme": scheme.name,
        "samples": options.samples,
        "seqlen": options.seqlen,
        "matmul_per_s": rates,
        "build_s": subject.build_s,
        "discover_s": subject.discover_s,
        "statistics_bytes": stats_bytes(structure, on_disk=on_disk),
        "statistics_on_disk": on_disk,
        "operations": counts,
        "calibration": calibration,
        "methods": runs,
        "operators": counted,
    }


def _subject(
    options: argparse.Namespace, scheme: QuantScheme, *, device: torch.device, dtype: torch.dtype
) -> _Subject:
    """Make the model and its tokens, and read its structure."""
    started = now(device)
    model = random_llama(options.shape, options.blocks, options.seqlen, device=device, dtype=dtype)
    build_s = now(device) - started
    generator = torch.Generator().manual_seed(0)
    size = (options.samples, options.seqlen)
    tokens = torch.randint(model.config.vocab_size, size, generator=generator)
    started = now(device)
    structure = discover(model)
    discover_s = now(device) - started
    structure.check_scheme(scheme)
    return _Subject(
        model=model,
        build_s=build_s,
        structure=structure,
        discover_s=discover_s,
        tokens=tokens,
        device=device,
        scheme=scheme,
    )


def _announce(
    subject: _Subject,
    shape: str,
    rates: Mapping[str, float],
    counts: Mapping[str, Mapping[str, float]],
    dtype_name: str,
    say: Reporter,
) -> None:
    """Say what is quantized, and the least that it can take."""
    say.say(
        f"  {shape}: {subject.model.num_parameters() / 1e9:.2f} B parameters in "
        f"{len(subject.structure.blocks)} blocks, "
        f"{subject.tokens.numel():,} calibration tokens; a product runs at "
        + ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates.items())
    )
    forward = counts["calibrate"]["forward"]
    others = sum(sum(phases.values()) for phases in counts.values()) - forward
    least = others / rates["float32"] + forward / rates[dtype_name]
    say.say(f"  arithmetic alone takes {quantities.duration(least)}; expect once or twice that")


def _by_method(
    subject: _Subject, methods: list[Method], store: StatsStore, say: Reporter, *, operators: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Time every method, then count its operators if asked; weights are put back in between."""
    snapshot = Snapshot(subject.structure)
    runs = {}
    for method in methods:
        runs[method.name] = _quantize(subject, method, store, say)
        snapshot.restore()
    counted = {}
    for method in methods if operators else ():
        counted[method.name] = count_operators(subject.structure, method, subject.scheme, store)
        snapshot.restore()
    return runs, counted


def _too_large(structure: Structure, device: torch.device) -> bool:
    """Say whether a GPU's memory should not be asked to hold all statistics."""
    if device.type != "cuda":
        return False
    free = torch.cuda.mem_get_info(device)[0]
    return stats_bytes(structure, on_disk=False) > _STATS_SHARE * free


def _progress(say: Reporter, label: str, total: int) -> Callable[[int], None]:
    """Return a function that says after every block how far it is and what is left."""
    started = time.perf_counter()

    def done(index: int) -> None:
        passed = time.perf_counter() - started
        left = passed / (index + 1) * (total - index - 1)
        say.say(f"  {label:<10} block {index + 1:>2} of {total}  {passed:7.1f} s, {left:7.1f} left")

    return done


def _calibrate(
    subject: _Subject, store: StatsStore, options: argparse.Namespace, say: Reporter
) -> dict[str, Any]:
    """Time the shared pass; the first block, run without, shows what of it is statistics."""
    model, structure, device = subject.model, subject.structure, subject.device
    batch_size = max(1, options.batch_tokens // options.seqlen)
    walk = BlockWalk(model, structure, subject.tokens, batch_size=batch_size)
    walk.observe(0, advance=False)
    started = now(device)
    walk.observe(0, advance=False)
    observed = now(device)
    walk.advance(0)
    first_block = {"observe_s": observed - started, "forward_s": now(device) - observed}
    del walk
    memory.reset_peak()
    started = now(device)
    calibrate(
        model,
        structure,
        subject.tokens,
        store,
        batch_size=batch_size,
        done=_progress(say, "calibrate", len(structure.blocks)),
    )
    return {
        "seconds": now(device) - started,
        "first_block": first_block,
        "peak_bytes": memory.peak_bytes(),
    }


def _quantize(
    subject: _Subject, method: Method, store: StatsStore, say: Reporter
) -> dict[str, Any]:
    """Time one method on the whole model."""
    timed = TimedMethod(method, subject.device)
    memory.reset_peak()
    started = now(subject.device)
    report = quantize_model(
        subject.structure,
        timed,
        subject.scheme,
        stats=store if method.calibration == "shared" else None,
        done=_progress(say, method.name, len(subject.structure.blocks)),
    )
    seconds = now(subject.device) - started
    losses = list(report.relative_losses.values())
    return {
        "label": registry.METHODS[method.name].label,
        "seconds": seconds,
        "fold_s": report.fold_s,
        "round_s": report.round_s,
        "besides_s": seconds - report.fold_s - report.round_s,
        "fold_by_group_s": timed.fold_s,
        "round_by_group_s": timed.round_s,
        "mean_relative_loss": sum(losses) / len(losses) if losses else None,
        "notices": report.notices,
        "peak_bytes": memory.peak_bytes(),
    }


def table(document: dict[str, Any]) -> str:
    """Show phases against their bounds, then linears, then operators where they were counted."""
    rates = document["matmul_per_s"]
    return (
        f"**A random Llama of {document['parameters'] / 1e9:.2f} B parameters "
        f"({document['shape']}, {document['blocks']} blocks) in {document['dtype']}, "
        f"{of_scheme(document['scheme'])}, {document['samples']} x "
        f"{document['seqlen']} calibration tokens**\n\n"
        + markdown(["phase", "seconds", "bound, s", "GFLOP/s", "peak memory"], _phases(document))
        + "\nSeconds by the linears that share an input:\n\n"
        + _by_group(document["methods"])
        + (_operators(document) if document["operators"] else "")
        + "\nBound: operations at the measured rate of a product, "
        f"{rates['float32'] / 1e9:,.0f} GFLOP/s in float32, "
        f"{rates[document['dtype']] / 1e9:,.0f} in {document['dtype']}. Building the model took "
        f"{document['build_s']:.1f} s, reading its structure {document['discover_s']:.1f} s; "
        f"statistics take {mib(document['statistics_bytes'])}"
        + (" on disk. " if document["statistics_on_disk"] else ". ")
        + machine(document)
    )


def _phases(document: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the calibration and of every method, with the phases of each."""
    rates, counts = document["matmul_per_s"], document["operations"]
    slow, fast = rates["float32"], rates[document["dtype"]]
    place = "gpu" if document["device"] == "cuda" else "host"

    def whole(label: str, seconds: str, entry: dict[str, Any]) -> list[str]:
        return [label, seconds, "", "", mib(entry["peak_bytes"][place])]

    def phase(label: str, seconds: float, count: float, rate: float) -> list[str]:
        bound = f"{count / rate:,.1f}" if count else ""
        reached = f"{count / seconds / 1e9:,.0f}" if count and seconds else ""
        return [label, f"{seconds:,.1f}", bound, reached, ""]

    calibration = document["calibration"]
    all_s, first = calibration["seconds"], calibration["first_block"]
    forward_s = all_s * (first["forward_s"] / max(first["observe_s"], first["forward_s"]))
    rows = [
        whole("**calibrate**, once", f"{all_s:,.1f}", calibration),
        phase("blocks forward", forward_s, counts["calibrate"]["forward"], fast),
        phase("statistics", all_s - forward_s, counts["calibrate"]["statistics"], slow),
    ]
    for name, run in document["methods"].items():
        seconds = f"{run['seconds']:,.1f}"
        if counts[name]["besides"]:  # it used the statistics
            seconds += f" ({run['seconds'] + all_s:,.1f} with calibration)"
        rows.append(whole(f"**{run['label']}**", seconds, run))
        for part in ("fold", "round", "besides"):
            label = "install, losses for the record" if part == "besides" else part
            rows.append(phase(label, run[f"{part}_s"], counts[name][part], slow))
    return rows


def _by_group(runs: Mapping[str, Any]) -> str:
    """Return a table of methods and phases by groups of linears."""
    groups = list(next(iter(runs.values()))["round_by_group_s"])
    rows = [
        [
            f"{run['label']}, {part}",
            *(f"{run[f'{part}_by_group_s'][group]:,.2f}" for group in groups),
        ]
        for run in runs.values()
        for part in ("fold", "round")
    ]
    return markdown(["", *groups], rows)


def _operators(document: dict[str, Any]) -> str:
    """Return the operators of one block by group, and the kernels launched on a GPU."""
    labels = {name: run["label"] for name, run in document["methods"].items()}
    rows = [
        [
            labels[name],
            group,
            *(f"{count[key]:,}" for key in ("fold", "round", "columns")),
            f"{count['round_per_column']:.2f}",
        ]
        for name, counted in document["operators"].items()
        for group, count in counted["groups"].items()
    ]
    launches = [
        f"{labels[name]} {counted['launches']:,}"
        for name, counted in document["operators"].items()
        if counted["launches"] is not None
    ]
    return (
        "\nOperators dispatched for one block (on a GPU each is a launch or a few):\n\n"
        + markdown(["", "linears", "fold", "round", "columns", "round, per column"], rows)
        + (f"\nKernels launched for one block: {', '.join(launches)}.\n" if launches else "")
    )
