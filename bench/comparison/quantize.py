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
from bench.report import labels
from quantcore import exclusion, grid
from quantcore.calibration import BlockWalk
from quantcore.checkpoint import MANIFEST, LoadedModel, save
from quantcore.codes import Keeper
from quantcore.discovery import discover
from quantcore.errors import InputError, setting_name
from quantcore.formats.folder import Packer, check_packable, layout_of, served_format
from quantcore.method import Method
from quantcore.quantize import bits_per_weight, stored_bytes
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure
from quantcore.whole_folder import WholeFolder

HF = "hf"
"""An ordinary Transformers folder with the dequantized weights is called so; others are packed."""


def quantize(
    request: Request,
    *,
    method: str,
    scheme: str,
    out: Path,
    checkpoint_format: str | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Quantize ``request.model`` and write it to ``out``, whole or not at all.

    Args:
        request: the model, and what it is calibrated on.
        method: by its name.
        scheme: by its name.
        out: the folder.
        checkpoint_format: `HF`, or a name of `quantcore.formats.folder.FORMATS`; None: the format
            by which vLLM serves the scheme, or `HF` where no packed format holds the model.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    say = reporter or quiet()
    if checkpoint_format not in (None, HF):
        layout_of(checkpoint_format)
    chosen, parsed = registry.method(method), QuantScheme.parse(scheme)
    whole = WholeFolder(out := Path(out))  # a string is a path, too
    with whole as folder:  # from here on: two of the same would both do the work
        loaded = open_model(request)
        structure = _structure(request, loaded, parsed, say)
        keeper = _keeper(checkpoint_format, loaded, structure, chosen, parsed, say)
        whole.need(_bytes(loaded, structure, parsed, keeper))
        manifest = _quantized(request, loaded, structure, chosen, parsed, keeper, say)
        manifest["format"] = {"name": keeper.name, "weights": keeper.weights}
        save(loaded, folder, manifest, keeper)
    return out


def _structure(
    request: Request, loaded: LoadedModel, parsed: QuantScheme, say: Reporter
) -> Structure:
    """Find what is quantized, and refuse widths that groups do not divide."""
    if (loaded.folder / MANIFEST).is_file():
        say.warn(f"{loaded.name} is quantized already: this adds a second loss to its first")
    structure = discover(loaded.model, exclude=request.exclude)
    structure.check_scheme(parsed)
    for notice in structure.notices:
        say.warn(notice)
    return structure


def _keeper(
    asked: str | None,
    loaded: LoadedModel,
    structure: Structure,
    chosen: Method,
    parsed: QuantScheme,
    say: Reporter,
) -> Keeper | Packer:
    """Choose who keeps the codes: in the format that was asked for, or in the one that serves."""
    name = asked
    if name is None:
        shapes = {(weight.shape[0], weight.shape[1]) for _, weight in structure.quantized()}
        name = served_format(parsed, shapes)
    if name == HF:
        return Keeper()
    if asked is None and "group_index" in chosen.extras:
        say.warn(
            f"written as {HF}, dequantized: {chosen.name} has a group for every input, which vLLM "
            f"0.33 refuses; {setting_name('checkpoint_format')} gptq writes it all the same"
        )
        return Keeper()
    try:
        left_out = check_packable(name, loaded.model, structure, parsed, chosen.extras)
    except InputError as error:
        if asked is not None:
            raise
        say.warn(f"written as {HF}, dequantized: {error}")
        return Keeper()
    if "group_index" in chosen.extras:
        say.warn(
            f"vLLM 0.33 refuses {name} with a group for every input, which {chosen.name} makes"
        )
    return Packer(name=name, scheme=parsed, left_out=left_out, extras=chosen.extras)


def _bytes(
    loaded: LoadedModel, structure: Structure, parsed: QuantScheme, keeper: Keeper | Packer
) -> int:
    """Count what the weights will take, so that a disk without room is refused before the work."""
    if isinstance(keeper, Keeper):
        return sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    return stored_bytes(loaded.model, structure, parsed, item_bytes=loaded.item_bytes)


def _quantized(
    request: Request,
    loaded: LoadedModel,
    structure: Structure,
    chosen: Method,
    parsed: QuantScheme,
    keeper: Keeper | Packer,
    say: Reporter,
) -> dict[str, Any]:
    """Quantize a model in place, and give what to say of it; the keeper takes its codes."""
    label = labels.of_quantizing(chosen.name, parsed.name)
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
    return {
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
        "grid_version": grid.version_of(parsed),
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
