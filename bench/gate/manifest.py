"""A quantized folder says itself what it is: in the manifest of ``quantize``, or as others do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.gate.key import without_draw
from bench.records.cell import CalibrationSet
from quantcore import files
from quantcore.checkpoint import MANIFEST, resolve
from quantcore.errors import InputError


def is_quantized(model: str) -> bool:
    """Tell whether a folder or hub name says of itself that it is quantized."""
    if model == "reference":
        return False
    folder = resolve(model)
    return bool(_manifest(folder) or _configuration(folder).get("quantization_config"))


def declared_in(folder: Path) -> dict[str, Any]:
    """Say what a quantized folder was declared to be; see `bench.gate.key.declared_of`.

    Of another program's folder the configuration tells; as it names no source, the architecture
    stands for it.

    Raises:
        InputError: the manifest or the configuration is damaged.
    """
    manifest, configuration = _manifest(folder), _configuration(folder)
    if not manifest:
        return _of_another_program(configuration)
    try:
        drawn = manifest["calibration"]
        calibration = None if drawn is None else CalibrationSet.model_validate(drawn)
        return {
            "source": manifest["source"]["weights_sha256"],
            "configuration": manifest["source"].get("configuration_sha256"),
            "method": manifest["method"],
            "scheme": manifest["scheme"],
            "calibration": without_draw(calibration),
            "exclude": list(manifest.get("exclude", [])),  # not there before version 0.2
            "exclude_version": manifest.get("exclude_version"),
            "grid_version": manifest.get("grid_version"),
        }
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise InputError(
            f"{folder / MANIFEST} is damaged ({error!r}); write the folder anew"
        ) from error


def packed_bytes(folder: Path) -> int | None:
    """Say what the weights take as their scheme packs them; None where no manifest tells."""
    stored: int | None = _manifest(folder).get("stored_bytes")
    return stored


def _of_another_program(configuration: dict[str, Any]) -> dict[str, Any]:
    sizes = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    architecture = ", ".join(f"{name} {configuration.get(name)}" for name in sizes)
    own = configuration.get("quantization_config")
    own = own if isinstance(own, dict) else {}
    scheme = {k: own[k] for k in ("bits", "w_bit", "group_size", "q_group_size") if k in own}
    return {
        "source": f"not named; {architecture}",
        "configuration": None,
        "method": own.get("quant_method"),
        "scheme": scheme or None,
        "calibration": None,
        "exclude": [],
        "exclude_version": None,
        "grid_version": None,
    }


def _manifest(folder: Path) -> dict[str, Any]:
    return _json(folder / MANIFEST)


def _configuration(folder: Path) -> dict[str, Any]:
    return _json(folder / "config.json")


def _json(path: Path) -> dict[str, Any]:
    """Read an object; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(files.read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); write the folder anew") from error
    return dict(document) if isinstance(document, dict) else {}
