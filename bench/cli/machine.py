"""A report says what this machine has, and what it lacks for what: see `bench.cli.doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import kernels
from bench.records import environment
from bench.reference import CALIBRATION_FILE, MODEL_FOLDER
from bench.report import escape, quantities
from kernels import native, triton_w4a16
from kernels.place import Place
from quantcore import hub, versions
from quantcore.scheme import QuantScheme
from suites import texts
from suites.code import sandbox


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding is one line of the report."""

    name: str
    there: bool
    detail: str
    """What was found, or what it would enable."""


def findings(*, data_dir: Path | None) -> list[Finding]:
    """Look at everything."""
    gpu = torch.cuda.is_available()
    reference = (MODEL_FOLDER / "model.safetensors").is_file() and CALIBRATION_FILE.is_file()
    return [
        Finding(name="python", there=True, detail=platform.python_version()),
        *(
            Finding(
                name=name,
                there=versions.installed(name) is not None,
                detail=versions.installed(name) or _WITHOUT.get(name, ""),
            )
            for name in (
                "torch",
                "transformers",
                "lm-eval",
                "datasets",
                "matplotlib",
                "bfcl-eval",
                "triton",
            )
        ),
        *_untried(),
        Finding(
            name="processor",
            there=True,
            detail=f"{environment.cpu_name()}, {torch.get_num_threads()} threads, "
            f"{quantities.size(environment.total_memory_bytes())} memory",
        ),
        Finding(
            name="GPU",
            there=gpu,
            detail=torch.cuda.get_device_name()
            if gpu
            else "none; with one, models run in their own dtype and comparisons take minutes",
        ),
        _native(),
        _triton(),
        Finding(
            name="reference model",
            there=reference,
            detail="shipped with the package" if reference else "missing: reinstall the package",
        ),
        _sandbox(),
        _hub(),
        _data(data_dir),
        *_clashes(),
    ]


_WITHOUT = {
    "lm-eval": "the task suites: pip install 'awq-bench[tasks]'",
    "bfcl-eval": "tool_calls from BFCL: pip install --no-deps bfcl-eval (only its data is read)",
    "matplotlib": "charts: pip install 'awq-bench[charts]'",
    "datasets": "texts and sets from the data hub: pip install 'awq-bench[tasks]'",
    "triton": "INT4 on a GPU (it comes with torch for CUDA)",
}


def _untried() -> list[Finding]:
    """Say which releases are installed that nobody ran this one with."""
    if versions.installed(versions.DISTRIBUTION) is None:
        detail = "unknown: awq-bench runs from its source here; pip install . declares them"
        return [Finding(name="releases tried", there=False, detail=detail)]
    sentences = versions.untried().values()
    lines = [Finding(name="releases tried", there=False, detail=text) for text in sentences]
    whole = Finding(name="releases tried", there=True, detail="all packages are among them")
    return lines or [whole]


def _native() -> Finding:
    kernel = native.load()
    if isinstance(kernel, native.Native):
        detail = f"our native kernel, built for {native.LEVELS[kernel.level]}"
    else:
        detail = f"{kernel.reason}; INT4 runs on PyTorch's own product and dequantization"
    there = isinstance(kernel, native.Native) or hasattr(
        torch.ops.aten, "_weight_int4pack_mm_for_cpu"
    )
    return Finding(name="INT4 on the CPU", there=there, detail=detail)


def _triton() -> Finding:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = Place(
        device=device,
        dtype=torch.float16,
        scheme=QuantScheme(bits=4, group_size=128),
        out_features=128,
        in_features=128,
    )
    reason = triton_w4a16.reason_against(place)
    return Finding(
        name="INT4 on a GPU",
        there=reason is None,
        detail="our Triton kernel" if reason is None else f"backend triton: {reason}",
    )


def _sandbox() -> Finding:
    lacking = sandbox.not_held()
    return Finding(
        name="code sandbox",
        there=not lacking,
        detail="; ".join(lacking)
        or "files, network, memory, processes, time: all held off what a model writes",
    )


def _hub() -> Finding:
    reason = hub.unreachable()
    return Finding(
        name="model and data hub",
        there=reason is None,
        detail="reachable"
        if reason is None
        else f"{reason}; it gives models and texts by name. Local folders and --data-dir work "
        "without it",
    )


def _data(data_dir: Path | None) -> Finding:
    if data_dir is None:
        return Finding(
            name="data folder",
            there=False,
            detail="none; --data-dir or AWQ_BENCH_DATA names one that holds "
            + ", ".join(corpus.local for corpus in texts.EVALUATION.values()),
        )
    known = [*texts.EVALUATION.values(), *texts.CALIBRATION.values()]
    held = [corpus.local for corpus in known if (data_dir / corpus.local).is_file()]
    lacking = [corpus.local for corpus in known if corpus.local not in held]
    return Finding(
        name="data folder",
        there=bool(held),
        detail=f"has {', '.join(held) or 'none of the known texts'}; lacks {', '.join(lacking)}",
    )


def _clashes() -> list[Finding]:
    """Say whether another distribution owns one of our packages, whose names are plain."""
    ours = Path(__file__).resolve().parents[2]
    clashes = []
    for name in ("bench", "suites", "kernels", "quantcore", "baselines", "awq_impl"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or ours not in Path(spec.origin).resolve().parents:
            clashes.append(
                Finding(
                    name=f"package {name}",
                    there=False,
                    detail=f"is shadowed by {spec.origin if spec else 'nothing'}; use a clean one",
                )
            )
    owners = metadata.packages_distributions().get("kernels", [])
    others = [owner for owner in owners if owner != "awq-bench"]
    if others:
        clashes.append(
            Finding(
                name="package kernels",
                there=False,
                detail=f"is also installed by {', '.join(others)} (ours is {kernels.__version__}); "
                "the one installed last wins: use a clean environment",
            )
        )
    return clashes or [Finding(name="name clashes", there=True, detail="none")]


def print_findings(output: Console, *, data_dir: Path | None) -> None:
    """Print what was found, a line each."""
    table = Table(title="awq-bench doctor", title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for finding in findings(data_dir=data_dir):
        mark = "[green]yes[/green]" if finding.there else "[yellow]no[/yellow]"
        table.add_row(mark, escape.terminal(finding.name), escape.terminal(finding.detail))
    output.print(table)
    variable = os.environ.get("AWQ_BENCH_DATA")
    if variable and not Path(variable).is_dir():
        said = f"AWQ_BENCH_DATA is {variable}, which is not a folder"
        output.print(escape.terminal(said, style="yellow"))
