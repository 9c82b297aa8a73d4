"""Quantize the shipped model as we do and as the peers do: same tokens, same scheme, in turn.

Every run is a fresh process with its threads pinned. The clock runs from the loaded model to all
weights quantized, calibration included; imports and loading are left out for all alike, rounded
weights are not packed where the peer lets us choose. The first round's models are evaluated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.comparison.calibration import build_calibration
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from bench.comparison.suites.windows import evaluation_windows
from bench.reference import MODEL_FOLDER
from lab.speed.options import add_calibration, add_windows
from lab.speed.timing import interleave, machine, markdown, mib, paired_ratio, spread, summary
from quantcore.errors import InputError
from suites import texts
from suites.perplexity import window_nll

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A contestant is one quantizer in one setting."""

    label: str
    file: Path
    variant: str
    environment: str | None = None
    """The peer's environment below ``--peers``; None: this one."""
    beside: str | None = None
    """Which of ours does the same work; ratios are against that."""
    once: bool = False
    """For the record only: one run."""
    target_s: float | None = None


def _ours(label: str, variant: str, target_s: float | None = None) -> Contestant:
    return Contestant(label=label, file=_HERE / "ours.py", variant=variant, target_s=target_s)


def _peer(name: str, variant: str, label: str, beside: str, *, once: bool = False) -> Contestant:
    file = _HERE / "peers" / f"{name}.py"
    return Contestant(
        label=label, file=file, variant=variant, environment=name, beside=beside, once=once
    )


CONTESTANTS = {
    "rtn": _ours("ours, RTN", "rtn"),
    "awq": _ours("ours, AWQ", "awq"),
    "awq+clip": _ours("ours, AWQ + clip", "awq+clip", 5.0),
    "gptq": _ours("ours, GPTQ", "gptq", 3.0),
    "autoawq": _peer("autoawq", "repaired", "AutoAWQ, repaired", "awq+clip"),
    "autoawq-as-shipped": _peer(
        "autoawq", "as-shipped", "AutoAWQ, as shipped", "awq+clip", once=True
    ),
    "llmcompressor-awq": _peer("llmcompressor", "awq", "llm-compressor AWQ", "awq"),
    "llmcompressor-gptq": _peer("llmcompressor", "gptq", "llm-compressor GPTQ", "gptq"),
    "gptqmodel": _peer("gptqmodel", "gptq", "GPTQModel GPTQ, symmetric", "gptq"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add sizes, rounds, and where the peers' environments are."""
    parser.add_argument("--rounds", type=int, default=5)
    add_calibration(parser, samples=32)
    add_windows(parser)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="DIR/<peer>/bin/python, see peers/README.md"
    )
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(CONTESTANTS)}")


def chosen(only: str | None, peers: Path | None) -> dict[str, Contestant]:
    """Return who takes part.

    Raises:
        InputError: an unknown name, a peer without ``--peers``, an environment that is not there.
    """
    if only is not None:
        unknown = [name for name in only.split(",") if name not in CONTESTANTS]
        if unknown:
            raise InputError(f"--only {unknown[0]!r} is unknown; known: {', '.join(CONTESTANTS)}")
        taking_part = {name: CONTESTANTS[name] for name in CONTESTANTS if name in only.split(",")}
    else:
        taking_part = {
            name: contestant
            for name, contestant in CONTESTANTS.items()
            if contestant.environment is None or peers is not None
        }
    for name, contestant in taking_part.items():
        if contestant.environment is None:
            continue
        if peers is None:
            raise InputError(f"--only {name} is a peer; say with --peers DIR where it is installed")
        python = interpreter(contestant, peers)
        if not python.is_file():
            raise InputError(
                f"{name}: there is no interpreter {python}; install the peer there as "
                "lab/speed/peers/README.md says, or leave it out with --only"
            )
    return taking_part


def interpreter(contestant: Contestant, peers: Path | None) -> Path:
    """Return the Python that runs it."""
    if contestant.environment is None or peers is None:
        return Path(sys.executable)
    return peers.absolute() / contestant.environment / "bin" / "python"


def run_once(
    contestant: Contestant, tokens: Path, *, peers: Path | None, threads: int, evaluate: bool
) -> dict[str, Any]:
    """Run a contestant in a fresh process, and return what it measured.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    ours = contestant.environment is None
    command = [
        str(interpreter(contestant, peers)),
        "-P",  # without it the peers' files would hide the packages of the same name
        str(_HERE / "peers" / "run.py"),
        str(contestant.file),
        contestant.variant,
        f"--model={MODEL_FOLDER}",
        f"--tokens={tokens}",
        f"--threads={threads}",
        *(["--evaluate"] if evaluate else []),
    ]
    pinned = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {
        **os.environ,
        **pinned,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(_ROOT) if ours else "",
    }
    # Peers leave logs and caches where they are run.
    done = subprocess.run(
        command, env=environment, cwd=tokens.parent, capture_output=True, text=True
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"{contestant.label} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Run all contestants in turn, ``--rounds`` times."""
    if options.rounds < 1 or options.threads < 1:
        raise InputError("--rounds and --threads must be at least 1")
    contestants = chosen(options.only, options.peers)
    torch.set_num_threads(options.threads)
    request = Request.of(
        text="embedded",
        calibration="embedded",
        calibration_samples=options.samples,
        calibration_seqlen=options.seqlen,
        windows=options.windows,
        device="cpu",
    )
    loaded = open_model(request)
    text = texts.embedded()
    windows = evaluation_windows(request, loaded, text)
    calibration = build_calibration(request, loaded, text, say)
    unquantized = window_nll(loaded.model, windows.tokens, batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.safetensors"
        save_file(
            {
                "calibration": calibration.tokens.int().contiguous(),
                "evaluation": windows.tokens.int().contiguous(),
            },
            tokens,
        )
        runs = _run_in_turn(contestants, tokens, options, say)
    return {
        "scheme": "int4-g128",
        "calibration": calibration.describe().document(),
        "metric": windows.metric,
        "unquantized": {"perplexity": _perplexity(unquantized), "window_nll": unquantized},
        "threads": options.threads,
        "rounds": options.rounds,
        "contestants": _entries(contestants, runs),
    }


def _run_in_turn(
    contestants: Mapping[str, Contestant], tokens: Path, options: argparse.Namespace, say: Reporter
) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of every contestant; the first of each is evaluated."""

    def run(contestant: Contestant, number: int) -> dict[str, Any] | None:
        if number > 0 and contestant.once:
            return None
        result = run_once(
            contestant,
            tokens,
            peers=options.peers,
            threads=options.threads,
            evaluate=number == 0,
        )
        say.say(f"  round {number + 1}: {contestant.label:<28} {result['seconds']:8.2f} s")
        return result

    results = interleave(
        {name: partial(run, contestant) for name, contestant in contestants.items()},
        options.rounds,
    )
    return {
        name: [result for result in rounds if result is not None]
        for name, rounds in results.items()
    }


def _entries(
    contestants: Mapping[str, Contestant], runs: Mapping[str, list[dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Sum the runs of every contestant up, and pair those of peers with ours."""
    entries: dict[str, dict[str, Any]] = {}
    for name, contestant in contestants.items():
        nll = runs[name][0].pop("window_nll")
        entries[name] = {
            "label": contestant.label,
            "target_s": contestant.target_s,
            "seconds": summary([run["seconds"] for run in runs[name]]),
            "peak_bytes": summary([run["peak_bytes"] for run in runs[name]]),
            "packages": runs[name][0]["packages"],
            "perplexity": _perplexity(nll),
            "window_nll": nll,
            "runs": runs[name],
        }
    for name, contestant in contestants.items():
        if contestant.beside in entries:
            entries[name]["beside"] = contestant.beside
            entries[name]["ratio"] = paired_ratio(
                entries[name]["seconds"]["samples"],
                entries[contestant.beside]["seconds"]["samples"],
            )
    return entries


def _perplexity(nll: Sequence[float]) -> float:
    return math.exp(statistics.fmean(nll))


def table(document: dict[str, Any]) -> str:
    """Show seconds, memory and perplexity of every contestant."""
    entries = document["contestants"]
    rows = []
    for entry in entries.values():
        beside = (
            entries[entry["beside"]]["label"].removeprefix("ours, ") if "ratio" in entry else ""
        )
        rows.append(
            [
                entry["label"],
                spread(entry["seconds"]),
                f"{spread(entry['ratio'], digits=1)} x {beside}" if "ratio" in entry else "",
                "" if entry["target_s"] is None else f"under {entry['target_s']:g} s",
                mib(entry["peak_bytes"]["median"]),
                f"{entry['perplexity']:.3f}",
            ]
        )
    calibration = document["calibration"]
    header = ["", "seconds", "ratio to ours", "target", "peak", document["metric"]]
    packages: dict[str, str] = {}
    for entry in entries.values():
        packages |= entry["packages"]
    versions = ", ".join(
        f"{name} {version}"
        for name, version in packages.items()
        if name not in ("torch", "transformers")
    )
    return (
        "**INT4-g128 on the reference model, "
        f"{calibration['samples']} x {calibration['seqlen']} tokens, "
        f"{document['threads']} threads**\n\n"
        + markdown(header, rows)
        + f"\nUnquantized: {document['unquantized']['perplexity']:.3f}. "
        "Median [range] of rounds in turn, a fresh process each; from the loaded model to all "
        "weights quantized, calibration included. Ratios are paired by round. "
        + (f"Peers: {versions}. " if versions else "")
        + machine(document)
    )
