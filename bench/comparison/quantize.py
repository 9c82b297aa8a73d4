"""One model is quantized and written as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import registry
from bench.comparison.calibration import build_calibration
from bench.comparison.calibrator import calibration_batch, quantize_with_progress
from bench.comparison.progress import Reporter, quiet
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from bench.records import environment
from quantcore import exclusion
from quantcore.calibration import BlockWalk
from quantcore.checkpoint import MANIFEST, LoadedModel, save_hf
from quantcore.codes import Keeper
from quantcore.discovery import discover
from quantcore.errors import InputError, nearest, setting_name
from quantcore.method import Method
from quantcore.quantize import bits_per_weight, stored_bytes
from quantcore.scheme import QuantScheme
from quantcore.whole_folder import WholeFolder

FORMATS = {"hf": "an ordinary Transformers folder with the dequantized weights"}


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
            f"unknown {setting_name('checkpoint_format')} {checkpoint_format!r}; "
            f"{nearest(checkpoint_format, FORMATS)}",
            setting="checkpoint_format",
            found=checkpoint_format,
            allowed=tuple(FORMATS),
        )
    chosen, parsed = registry.method(method), QuantScheme.parse(scheme)
    whole = WholeFolder(out)
    with whole as folder:  # from here on: two of the same would both do the work
        loaded = open_model(request)
        whole.need(sum(p.numel() * p.element_size() for p in loaded.model.parameters()))
        manifest, keeper = _quantized(request, loaded, chosen, parsed, say)
        manifest["format"] = {"name": checkpoint_format, "weights": "dequantized"}
        save_hf(loaded, folder, manifest, also=keeper.save)
    return out


def _quantized(
    request: Request, loaded: LoadedModel, chosen: Method, parsed: QuantScheme, say: Reporter
) -> tuple[dict[str, Any], Keeper]:
    """Quantize a model in place; give what to say of it, and its codes."""
    if (loaded.folder / MANIFEST).is_file():
        say.warn(f"{loaded.name} is quantized already: this adds a second loss to its first")
    structure = discover(loaded.model, exclude=request.exclude)
    structure.check_scheme(parsed)
    for notice in structure.notices:
        say.warn(notice)
    label = f"{parsed.name} {chosen.name}"
    keeper = Keeper()
    calibration = None
    if chosen.calibration == "none":
        report = quantize_with_progress(say, label, structure, chosen, parsed, keep=keeper.keep)
    else:
        calibration = build_calibration(request, loaded, None, say)
        # One cell needs no statistics kept: each block is quantized as soon as it is calibrated.
        batch_size = calibration_batch(loaded, calibration)
        walk = BlockWalk(loaded.model, structure, calibration.tokens, batch_size=batch_size)
        report = quantize_with_progress(
            say, label, structure, chosen, parsed, walk=walk, keep=keeper.keep
        )
    manifest = {
        "source": {
            "weights_sha256": loaded.weights_sha256,
            "configuration_sha256": loaded.configuration_sha256,
            "name": loaded.folder.name,
        },
        "method": chosen.name,
        "method_settings": chosen.settings(),
        "scheme": parsed.name,
        "exclude": list(request.exclude),
        **({"exclude_version": exclusion.VERSION} if request.exclude else {}),
        "bits_per_weight": bits_per_weight(structure, parsed, input_bits=report.input_bits),
        "stored_bytes": stored_bytes(
            loaded.model,
            structure,
            parsed,
            item_bytes=loaded.item_bytes,
            input_bits=report.input_bits,
        ),
        "calibration": None if calibration is None else calibration.describe().document(),
        "exempt": list(structure.exempt),
        "notices": [*structure.notices, *report.notices],
        "relative_losses": report.relative_losses,
        "quantize_s": report.quantize_s,
        "environment": environment.describe().document(),
        "seed": request.seed,
    }
    return manifest, keeper
