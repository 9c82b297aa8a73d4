"""Measure, and write JSON, table and chart: ``python -m lab.speed WHAT [--out DIR]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BENCHMARKS = {
    "reference": "AWQ and GPTQ on the shipped model, beside their peers",
    "search": "the scale search through H against running the linear again, and how it grows",
    "evaluation": "perplexity against the bare forward passes; a vocabulary of 150,000",
    "tasks": "task requests in batches, beside one by one and Transformers in rows of 32",
    "comparison": "what a comparison of 12 cells spends besides its cells",
    "large": "a random Llama of about 1 B parameters by every method, phase by phase",
    "gpu": "Llama-2-7B shapes with random weights on a CUDA GPU, phase by phase",
    "decode": "decoding of a random Llama of 1 B parameters in INT4, beside the unquantized one",
    "kernels": "INT4 linears on a CPU against the vendor's product, by number of tokens",
    "kernels_gpu": "the same on a CUDA GPU, beside PyTorch's INT4 kernel and GemLite",
}
SCHEMA_VERSION = 1
BAD_INPUT = 2
BUSY = 0.5
"""Above this load average figures are not to be trusted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print("usage: python -m lab.speed WHAT [--out DIR] [...]\n")
        print("".join(f"  {name:<12}{about}\n" for name, about in BENCHMARKS.items()), end="")
        return 0 if given else BAD_INPUT
    from bench.report import escape
    from quantcore.errors import InputError

    try:
        run(given[0], given[1:])
    except SystemExit as stop:  # argparse has printed help (0) or what is wrong (2)
        return int(stop.code or 0)
    except InputError as error:
        print(escape.line(f"error: {error}"), file=sys.stderr)
        return BAD_INPUT
    return 0


def run(what: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, or only write table and chart anew from the JSON that is there.

    Raises:
        InputError: an unknown benchmark, or anything that the benchmark refuses.
    """
    from bench.records.document import write_json
    from quantcore.errors import InputError, nearest

    if what not in BENCHMARKS:
        raise InputError(f"unknown benchmark {what!r}; {nearest(what, BENCHMARKS)}")
    module = importlib.import_module(f"lab.speed.{what}")
    options = _parsed(what, module, arguments)
    path = options.out / f"{what}.json"
    if options.redraw:
        document = _read(path)
    else:
        with _made(options.out):
            document = _measured(what, module, options, _command(what, arguments))
        write_json(path, document)
    table = module.table(document)
    path.with_suffix(".md").write_text(table, "utf-8")
    print(table)
    if hasattr(module, "draw"):
        module.draw(document, options.out)
    return document


def _parsed(what: str, module: Any, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of one benchmark."""
    parser = argparse.ArgumentParser(
        prog=f"python -m lab.speed {what}", description=BENCHMARKS[what], allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="folder")
    parser.add_argument("--redraw", action="store_true", help="table and chart from the JSON only")
    module.add_options(parser)
    return parser.parse_args(arguments)


def _measured(what: str, module: Any, options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Run one benchmark; return what it saw, and on what machine."""
    import transformers
    from rich.console import Console

    from bench.comparison.progress import Reporter
    from bench.records import environment
    from suites import memory

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    load = os.getloadavg()[0]
    reporter = Reporter(Console(stderr=True))
    if load > BUSY:
        reporter.warn(
            f"the machine is busy (load {load:.1f}): threads that wait for each other "
            "measure nothing; use an idle one for figures that count"
        )
    memory.reset_peak()
    started = time.perf_counter()
    result = module.measure(options, reporter)
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": what,
        "command": command,
        "took_s": time.perf_counter() - started,
        "load_before": load,
        "peak_bytes": memory.peak_bytes(),
        "environment": environment.describe().document(),
        **result,
    }


def _command(what: str, arguments: Sequence[str]) -> str:
    """Return the command line, with folders of this machine replaced by a word."""
    shown = ["DIR" if os.path.isabs(word) else word for word in arguments]
    return shlex.join(["python", "-m", "lab.speed", what, *shown])


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder first, and take it away again if what happens inside fails."""
    from quantcore.errors import InputError

    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {folder} cannot be made ({error.strerror}); name another"
        ) from error
    try:
        yield
    except BaseException:
        for parent in new:
            with suppress(OSError):
                parent.rmdir()
        raise


def _read(path: Path) -> dict[str, Any]:
    from quantcore.errors import InputError

    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); measure first") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION or document.get("benchmark") != path.stem:
        raise InputError(f"{path} is not this program's {path.stem} benchmark; measure anew")
    return dict(document)


if __name__ == "__main__":
    raise SystemExit(main())
