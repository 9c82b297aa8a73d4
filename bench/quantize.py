"""Quantize one model and write it as a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bench import environment, registry
from bench.compare import Request, build_calibration, open_model
from bench.progress import Reporter, quiet
from quantcore.calibration import BlockWalk, StatsStore, calibrate
from quantcore.checkpoint import WholeFolder, save_hf
from quantcore.errors import InputError, nearest
from quantcore.quantize import bits_per_weight, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import discover

FORMATS = {"hf": "an ordinary Transformers folder with the dequantized weights"}
_BATCH_TOKENS = 4096


def quantize(
    request: Request,
    *,
    method: str,
    scheme: str,
    out: Path,
    checkpoint_format: str = "hf",
    reporter: Reporter | None = None,
) -> Path:
    """Quantize ``request.model`` and write it to ``out``, whole or not at all.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    say = reporter or quiet()
    if checkpoint_format not in FORMATS:
        raise InputError(
            f"unknown --checkpoint-format {checkpoint_format!r}; "
            f"{nearest(checkpoint_format, FORMATS)}"
        )
    chosen, parsed = registry.method(method), QuantScheme.parse(scheme)
    WholeFolder(out)  # refuses an occupied folder before any work
    loaded = open_model(request)
    structure = discover(loaded.model, exclude=request.exclude)
    structure.check_scheme(parsed)
    for notice in structure.notices:
        say.warn(notice)
    blocks = len(structure.blocks)
    calibration, stats, walk = None, None, None
    if chosen.calibration != "none":
        calibration = build_calibration(request, loaded, None, say)
        batch = max(1, _BATCH_TOKENS // calibration.tokens.shape[1])
        if chosen.calibration == "sequential":
            walk = BlockWalk(loaded.model, structure, calibration.tokens, batch_size=batch)
        else:
            stats = StatsStore()
            with say.stage("calibrate", blocks) as done:
                calibrate(
                    loaded.model,
                    structure,
                    calibration.tokens,
                    stats,
                    batch_size=batch,
                    done=lambda index: done(1),
                )
    with say.stage(f"{parsed.name} {chosen.name}: quantize", blocks) as done:
        report = quantize_model(
            structure, chosen, parsed, stats=stats, walk=walk, done=lambda index: done(1)
        )
    for notice in report.notices:
        say.warn(notice)
    manifest = {
        "source": {"weights_sha256": loaded.weights_sha256, "name": loaded.folder.name},
        "method": chosen.name,
        "method_settings": chosen.settings(),
        "scheme": parsed.name,
        "bits_per_weight": bits_per_weight(structure, parsed),
        "calibration": None if calibration is None else calibration.describe(),
        "exempt": list(structure.exempt),
        "relative_losses": report.relative_losses,
        "quantize_s": report.quantize_s,
        "environment": environment.describe(),
        "format": {"name": checkpoint_format, "weights": "dequantized"},
        "seed": asdict(request)["seed"],
    }
    save_hf(loaded, out, manifest)
    return out
