"""A random Llama of about 1 B parameters by every method, with one calibration: phase by phase.

Operations are counted from shapes and divided by the measured rate of a matrix product: the
seconds that arithmetic alone would take are the bound beside every phase. Rounding is bound by
memory, not by operations, and has none.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench import registry
from bench.comparison.progress import Reporter
from bench.report import quantities
from bench.report.labels import of_scheme
from lab.speed.timing import machine, markdown, matmul_rate, mib, now
from quantcore.calibration import BlockWalk, StatsStore, calibrate, stats_bytes
from quantcore.discovery import discover
from quantcore.errors import InputError
from quantcore.gram import symmetric_flop
from quantcore.grid import QuantizedWeight
from quantcore.method import CalibrationKind, GroupTask, Method, Work
from quantcore.quantize import Snapshot, loss_work, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import Block, Fold, LinearGroup, Structure
from suites import memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPES: dict[str, dict[str, int]] = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "llama-2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 160,
    },
}
"""Llamas by name; ``tiny`` is for trying the command out."""
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
    """Model, calibration and methods."""
    parser.add_argument("--shape", default=shape, help=f"one of {', '.join(SHAPES)}")
    parser.add_argument("--blocks", type=int, help="fewer blocks, to try it out")
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--methods", default=methods, help="those not registered are left out")
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--batch-tokens", type=int, default=batch_tokens, help="of calibration")


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """On the CPU, in bfloat16."""
    return quantize_random(options, say, device=torch.device("cpu"), dtype=torch.bfloat16)


def random_llama(
    shape: str, blocks: int | None, seqlen: int, *, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """A Llama with random weights, made where it will live.

    Raises:
        InputError: an unknown shape, or more blocks than it has.
    """
    import transformers as hf

    if shape not in SHAPES:
        raise InputError(f"--shape {shape!r} is unknown; known: {', '.join(SHAPES)}")
    sizes = dict(SHAPES[shape])
    if blocks is not None:
        if not 1 <= blocks <= sizes["num_hidden_layers"]:
            raise InputError(
                f"--blocks {blocks}: must be 1 to {sizes['num_hidden_layers']}, as {shape} has"
            )
        sizes["num_hidden_layers"] = blocks
    config = hf.LlamaConfig(**sizes, max_position_embeddings=max(seqlen, 64))
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = hf.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


@dataclass
class Watched:
    """A method whose two functions are timed and whose operators are counted, by group."""

    method: Method
    device: torch.device
    fold_s: dict[str, float] = field(default_factory=dict)
    round_s: dict[str, float] = field(default_factory=dict)
    dispatched: dict[str, Counter[str]] = field(default_factory=dict)
    """Operators dispatched for the first block, by group's label and phase."""
    counting: bool = False

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    @property
    def calibration(self) -> CalibrationKind:
        """The method's."""
        return self.method.calibration

    def settings(self) -> dict[str, object]:
        """The method's."""
        return self.method.settings()

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """The method's, timed."""
        with self._watch(tasks[0].group, "fold", self.fold_s):
            return self.method.fold(fold, tasks)

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """The method's, timed."""
        with self._watch(task.group, "round", self.round_s):
            return self.method.round(task)

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        """The method's."""
        return self.method.work(group, rows, scheme)

    @contextmanager
    def _watch(self, group: LinearGroup, phase: str, sums: dict[str, float]) -> Iterator[None]:
        started = now(self.device)
        if self.counting:
            with _Operators() as operators:  # type: ignore[no-untyped-call]
                yield
            counts = self.dispatched.setdefault(group.label, Counter())
            counts[phase] += operators.count
        else:
            yield
        sums[group.label] = sums.get(group.label, 0.0) + now(self.device) - started


class _Operators(TorchDispatchMode):
    """Counts the operators that reach a device; on a GPU each is about one launch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.count += 1
        return func(*args, **(kwargs or {}))


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
    asked = options.methods.split(",")
    methods = [registry.method(n) for n in asked if n in registry.METHODS or n != "awq-article"]
    left_out = sorted(set(asked) - {method.name for method in methods})
    scheme = QuantScheme.parse(options.scheme)
    rates = {
        "float32": matmul_rate(device),
        str(dtype).removeprefix("torch."): matmul_rate(device, dtype=dtype),
    }
    started = now(device)
    model = random_llama(options.shape, options.blocks, options.seqlen, device=device, dtype=dtype)
    built_s = now(device) - started
    generator = torch.Generator().manual_seed(0)
    shape = (options.samples, options.seqlen)
    tokens = torch.randint(model.config.vocab_size, shape, generator=generator)
    started = now(device)
    structure = discover(model)
    discover_s = now(device) - started
    structure.check_scheme(scheme)
    count = model.num_parameters()
    say.say(
        f"  {options.shape}: {count / 1e9:.2f} B parameters in {len(structure.blocks)} blocks, "
        f"{tokens.numel():,} calibration tokens; a product runs at "
        + ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates.items())
    )
    counts = {
        "calibrate": _calibration_operations(structure, tokens),
        **{method.name: _operations(structure, method, scheme) for method in methods},
    }
    forward = counts["calibrate"]["forward"]
    other = sum(sum(one.values()) for one in counts.values()) - forward
    least = other / rates["float32"] + forward / rates[str(dtype).removeprefix("torch.")]
    say.say(f"  arithmetic alone takes {quantities.duration(least)}; expect once or twice that")

    with tempfile.TemporaryDirectory() as folder:
        on_disk = _too_large(structure, device)
        store = StatsStore(Path(folder) if on_disk else None)
        calibration = _calibrate(model, structure, tokens, store, options, say, device)
        snapshot = Snapshot(structure)
        runs = {}
        for method in methods:
            runs[method.name] = _quantize(structure, method, scheme, store, say, device)
            snapshot.restore()
        counted = {}
        for method in methods if operators else ():
            counted[method.name] = _count_operators(structure, method, scheme, store)
            snapshot.restore()
    return {
        "device": device.type,
        "shape": options.shape,
        "blocks": len(structure.blocks),
        "parameters": count,
        "dtype": str(dtype).removeprefix("torch."),
        "scheme": scheme.name,
        "samples": options.samples,
        "seqlen": options.seqlen,
        "matmul_per_s": rates,
        "build_s": built_s,
        "discover_s": discover_s,
        "statistics_bytes": stats_bytes(structure, on_disk=on_disk),
        "statistics_on_disk": on_disk,
        "operations": counts,
        "calibration": calibration,
        "methods": runs,
        "operators": counted,
        "left_out": left_out,
    }


def _too_large(structure: Structure, device: torch.device) -> bool:
    """Whether a GPU's memory should not be asked to hold all statistics."""
    if device.type != "cuda":
        return False
    free = torch.cuda.mem_get_info(device)[0]
    return stats_bytes(structure, on_disk=False) > _STATS_SHARE * free


def _progress(say: Reporter, label: str, total: int) -> Callable[[int], None]:
    """Says after every block how far it is and what is left."""
    started = time.perf_counter()

    def done(index: int) -> None:
        passed = time.perf_counter() - started
        left = passed / (index + 1) * (total - index - 1)
        say.say(f"  {label:<10} block {index + 1:>2} of {total}  {passed:7.1f} s, {left:7.1f} left")

    return done


def _calibrate(
    model: PreTrainedModel,
    structure: Structure,
    tokens: Tensor,
    store: StatsStore,
    options: argparse.Namespace,
    say: Reporter,
    device: torch.device,
) -> dict[str, Any]:
    """The shared pass; what of it is statistics is seen by running the first block without."""
    batch_size = max(1, options.batch_tokens // options.seqlen)
    walk = BlockWalk(model, structure, tokens, batch_size=batch_size)
    walk.observe(0, advance=False)
    started = now(device)
    walk.observe(0, advance=False)
    observed = now(device)
    walk.advance(0)
    forward = now(device) - observed
    del walk
    memory.reset_peak()
    started, measured = now(device), observed - started
    calibrate(
        model,
        structure,
        tokens,
        store,
        batch_size=batch_size,
        done=_progress(say, "calibrate", len(structure.blocks)),
    )
    return {
        "seconds": now(device) - started,
        "first_block": {"observe_s": measured, "forward_s": forward},
        "peak_bytes": memory.peak_bytes(),
    }


def _quantize(
    structure: Structure,
    method: Method,
    scheme: QuantScheme,
    store: StatsStore,
    say: Reporter,
    device: torch.device,
) -> dict[str, Any]:
    watched = Watched(method, device)
    memory.reset_peak()
    started = now(device)
    report = quantize_model(
        structure,
        watched,
        scheme,
        stats=store if method.calibration == "shared" else None,
        done=_progress(say, method.name, len(structure.blocks)),
    )
    seconds = now(device) - started
    losses = list(report.relative_losses.values())
    return {
        "label": registry.METHODS[method.name].label,
        "seconds": seconds,
        "fold_s": report.fold_s,
        "round_s": report.round_s,
        "besides_s": seconds - report.fold_s - report.round_s,
        "fold_by_group_s": watched.fold_s,
        "round_by_group_s": watched.round_s,
        "mean_relative_loss": sum(losses) / len(losses) if losses else None,
        "notices": report.notices,
        "peak_bytes": memory.peak_bytes(),
    }


def _count_operators(
    structure: Structure, method: Method, scheme: QuantScheme, store: StatsStore
) -> dict[str, Any]:
    """Operators that one block takes, by group and phase; on a GPU the kernels launched too."""
    first = Structure(blocks=structure.blocks[:1], exempt=(), notices=())
    device = next(first.blocks[0].module.parameters()).device
    watched = Watched(method, device, counting=True)
    quantize_model(first, watched, scheme, stats=store)
    widths = {group.label: group.in_features for group in first.blocks[0].groups}
    groups = {
        label: {
            "fold": counts["fold"],
            "round": counts["round"],
            "columns": widths[label],
            "round_per_column": counts["round"] / widths[label],
        }
        for label, counts in watched.dispatched.items()
    }
    if device.type != "cuda":
        return {"groups": groups, "launches": None}
    # The weights are rounded by now, which changes no launch.
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        quantize_model(first, method, scheme, stats=store)
        torch.cuda.synchronize(device)
    launches = sum(e.count for e in profiler.key_averages() if "LaunchKernel" in e.key)
    return {"groups": groups, "launches": launches}


def _rows(block: Block, group: LinearGroup) -> int:
    """Output channels of all linears of a group."""
    return sum(len(block.weight(name)) for name in group.linears)


def _calibration_operations(structure: Structure, tokens: Tensor) -> dict[str, float]:
    """Of the blocks' linears and attention, and of the Gram matrices."""
    samples, seqlen = tokens.shape
    forward = gram = 0.0
    for block in structure.blocks:
        for group in block.groups:
            forward += 2 * tokens.numel() * _rows(block, group) * group.in_features
            gram += symmetric_flop(tokens.numel(), group.in_features)
        forward += 4 * samples * seqlen**2 * block.groups[0].in_features
    return {"forward": forward, "statistics": gram}


def _operations(structure: Structure, method: Method, scheme: QuantScheme) -> dict[str, float]:
    """Of one method: matrix products (and factorizations) only."""
    sums = {"fold": 0.0, "round": 0.0, "besides": 0.0}
    for block in structure.blocks:
        for group in block.groups:
            rows = {name: len(block.weight(name)) for name in group.linears}
            fold, rounding = method.work(group, rows, scheme)
            sums["fold"] += fold.product_flop
            sums["round"] += rounding.product_flop
            if method.calibration != "none":
                sums["besides"] += loss_work(group, rows).product_flop
    return sums


def table(document: dict[str, Any]) -> str:
    """Phases against their bounds, then linears."""
    rates = document["matmul_per_s"]
    slow, fast = rates["float32"], rates[document["dtype"]]
    counts, calibration = document["operations"], document["calibration"]

    def phase(label: str, seconds: float, operations: float, rate: float) -> list[str]:
        bound = f"{operations / rate:,.1f}" if operations else ""
        reached = f"{operations / seconds / 1e9:,.0f}" if operations and seconds else ""
        return [label, f"{seconds:,.1f}", bound, reached, ""]

    def peak(entry: dict[str, Any]) -> str:
        place = "gpu" if document["device"] == "cuda" else "host"
        return mib(entry["peak_bytes"][place])

    first = calibration["first_block"]
    share = first["forward_s"] / max(first["observe_s"], first["forward_s"])
    forward_s = calibration["seconds"] * share
    rows = [
        ["**calibrate**, once", f"{calibration['seconds']:,.1f}", "", "", peak(calibration)],
        phase("blocks forward", forward_s, counts["calibrate"]["forward"], fast),
        phase(
            "statistics",
            calibration["seconds"] - forward_s,
            counts["calibrate"]["statistics"],
            slow,
        ),
    ]
    for name, run in document["methods"].items():
        whole = f"{run['seconds']:,.1f}"
        if counts[name]["besides"]:  # it used the statistics
            whole += f" ({run['seconds'] + calibration['seconds']:,.1f} with calibration)"
        rows.append([f"**{run['label']}**", whole, "", "", peak(run)])
        for part in ("fold", "round", "besides"):
            label = "install, losses for the record" if part == "besides" else part
            rows.append(phase(label, run[f"{part}_s"], counts[name][part], slow))
    labels = list(next(iter(document["methods"].values()))["round_by_group_s"])
    by_group = [
        [f"{run['label']}, {part}", *(f"{run[f'{part}_by_group_s'][one]:,.2f}" for one in labels)]
        for run in document["methods"].values()
        for part in ("fold", "round")
    ]
    text = (
        f"**A random Llama of {document['parameters'] / 1e9:.2f} B parameters "
        f"({document['shape']}, {document['blocks']} blocks) in {document['dtype']}, "
        f"{of_scheme(document['scheme'])}, {document['samples']} x "
        f"{document['seqlen']} calibration tokens**\n\n"
        + markdown(["phase", "seconds", "bound, s", "GFLOP/s", "peak memory"], rows)
        + "\nSeconds by the linears that share an input:\n\n"
        + markdown(["", *labels], by_group)
    )
    if document["operators"]:
        labels_of = {name: run["label"] for name, run in document["methods"].items()}
        counted = [
            [
                labels_of[name],
                label,
                *(f"{one[key]:,}" for key in ("fold", "round", "columns")),
                f"{one['round_per_column']:.2f}",
            ]
            for name, entry in document["operators"].items()
            for label, one in entry["groups"].items()
        ]
        text += "\nOperators dispatched for one block (on a GPU each is a launch or a few):\n\n"
        header = ["", "linears", "fold", "round", "columns", "round, per column"]
        text += markdown(header, counted)
        launches = [
            f"{labels_of[name]} {entry['launches']:,}"
            for name, entry in document["operators"].items()
            if entry["launches"] is not None
        ]
        if launches:
            text += f"\nKernels launched for one block: {', '.join(launches)}.\n"
    return (
        text
        + f"\nBound: operations at the measured rate of a product, {slow / 1e9:,.0f} GFLOP/s in "
        f"float32, {fast / 1e9:,.0f} in {document['dtype']}. Building the model took "
        f"{document['build_s']:.1f} s, reading its structure {document['discover_s']:.1f} s; "
        f"statistics take {mib(document['statistics_bytes'])}"
        + (" on disk. " if document["statistics_on_disk"] else ". ")
        + machine(document)
    )
