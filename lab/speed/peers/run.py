"""Time one quantizer in the Python that has it; prints one line of JSON.

This file runs under a foreign Python and imports nothing of this project. What a quantizer is, it
reads from the file it is given, which has

- ``PACKAGES``: whose versions are recorded,
- ``load(folder, variant)``: the model in float32, with all imports done, not timed,
- ``quantize(model, tokens, variant)``: int64 [samples, seqlen] -> the quantized model, timed,
- ``evaluable(model, folder)``, if what came out cannot be run as it is: not timed.

Usage::

    python -P run.py FILE VARIANT --model FOLDER --tokens FILE --threads N [--evaluate]

``FILE`` of tokens is safetensors with ``calibration`` and ``evaluation``, both [sequences, tokens].
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """Return the peak resident memory of this process since it was last cleared."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def window_nll(model: Any, windows: Any) -> list[float]:
    """Return every window's mean negative log-likelihood per scored token, in nats."""
    import torch

    results: list[float] = []
    with torch.no_grad():
        for batch in windows.split(8):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
            )
            results += losses.view(len(batch), -1).double().mean(1).tolist()
    return results


def main() -> None:
    """Load, quantize against the clock, evaluate if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("variant")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--evaluate", action="store_true")
    options = parser.parse_args()

    # Libraries print to standard output; the one line there is ours.
    with redirect_stdout(open(os.devnull, "w")):
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        tokens = {name: ids.long() for name, ids in load_file(options.tokens).items()}
        specification = importlib.util.spec_from_file_location("runner", options.file)
        if specification is None or specification.loader is None:
            raise SystemExit(f"{options.file} is no Python file")
        runner = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(runner)
        started = time.perf_counter()
        model = runner.load(options.model, options.variant)
        load_s = time.perf_counter() - started
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
        loaded_bytes = peak_bytes()
        started = time.perf_counter()
        model = runner.quantize(model, tokens["calibration"], options.variant)
        seconds = time.perf_counter() - started
        result = {
            "seconds": seconds,
            "load_s": load_s,
            "loaded_bytes": loaded_bytes,
            "peak_bytes": peak_bytes(),
            "threads": torch.get_num_threads(),
            "packages": {name: metadata.version(name) for name in runner.PACKAGES},
        }
        if options.evaluate:
            if hasattr(runner, "evaluable"):
                model = runner.evaluable(model, options.model)
            result["window_nll"] = window_nll(model.eval(), tokens["evaluation"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
