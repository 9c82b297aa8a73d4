"""Model folders: found, checked before they are trusted, loaded, and written whole or not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from quantcore.errors import InputError, writing
from quantcore.hub import use_cache_if_unreachable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
MANIFEST = "awq_bench.json"
"""What `save_hf` leaves in a folder: method, scheme, source."""
_FIX = "make room and give rights there, or name another --out"
_INDEX = "model.safetensors.index.json"
_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to be measured, and what identifies it."""

    name: str
    """What the user asked for."""
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights_sha256: str
    """Over the safetensors files, in the order of their names."""
    tokenizer_sha256: str
    """Over the tokenizer's files."""
    item_bytes: int
    """Bytes of a number as the checkpoint stores it, whatever it runs in."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the model runs in."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @property
    def context(self) -> int | None:
        """The most tokens the model takes, if its configuration says."""
        return getattr(self.model.config, "max_position_embeddings", None)


def resolve(name: str, *, revision: str | None = None) -> Path:
    """The local folder of a model: a folder as it is, a hub name after download.

    Raises:
        InputError: neither a folder nor a model that the hub gives.
    """
    path = Path(os.path.expanduser(name))  # that of an unknown user stays as it is
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{name} is a file; MODEL is a folder (with config.json) or a hub name")
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise InputError(f"no such model folder: {name}; check the path, or give a hub name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    offline = use_cache_if_unreachable()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        raise InputError(f"{name!r} is neither a folder nor a hub name: {error}") from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name!r} is no local folder, nor in the hub's cache, and the hub cannot be asked "
            f"({offline or error}); check the spelling ('reference' is the shipped model), or "
            "download the model and give its folder"
        ) from error
    except OSError as error:  # not found, gated, revision unknown, disk full
        raise InputError(f"{name!r} cannot be had from the model hub: {error}") from error


def check_folder(folder: Path) -> dict[str, Any]:
    """Refuse a folder that cannot be loaded safely and whole, before anything is loaded.

    Returns:
        the configuration.

    Raises:
        InputError: no or broken config.json, remote code, weights that are missing, pickled,
            truncated or quantized already.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise InputError(
            f"{folder} has no config.json, so it is no Transformers model folder; give the folder "
            "that has it"
        )
    config = _read_json(config_path)
    quantization = config.get("quantization_config")
    if quantization:
        named = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise InputError(f"{folder} is already quantized ({named}); give the unquantized model")
    if config.get("auto_map"):
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if str(config.get("model_type")) not in CONFIG_MAPPING:
            raise InputError(
                f"{folder} asks for remote code ({', '.join(sorted(config['auto_map']))}), "
                f"which is never run here; model type {config.get('model_type')!r} must be one "
                "that Transformers itself knows: convert the model to such a class"
            )
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is truncated or not a safetensors file ({error}); download it again"
            ) from error
    return config


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: the file holds anything else.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, absurd numbers or nesting
        raise InputError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{path} is a {type(document).__name__}, not a JSON object; download it again"
        )
    return document


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights.

    Raises:
        InputError: there are none, or some are missing.
    """
    index = folder / _INDEX
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"{index} is no weight index: its weight_map must name a file for every weight, "
                f"and is {str(weight_map)[:60]}; download it again"
            )
        missing = sorted({name for name in names if not (folder / name).is_file()})
        if missing:
            raise InputError(
                f"{folder} lacks {', '.join(missing)}, named in {_INDEX}; download it again"
            )
        return [folder / name for name in sorted(set(names))]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder} has only pickled weights ({', '.join(pickles[:3])}), which can run "
            "code when loaded and are refused; convert them to safetensors "
            "(`save_pretrained` of a current Transformers writes it)"
        )
    raise InputError(
        f"{folder} has no weights: expected model.safetensors or {_INDEX}; download it again"
    )


def load(
    name: str, *, folder: Path, dtype: torch.dtype | None, device: torch.device
) -> LoadedModel:
    """Load a checked folder, and check what came out of it.

    Args:
        name: how to call it.
        folder: see `resolve`.
        dtype: what to run in; None: the checkpoint's own.
        device: where to.

    Raises:
        InputError: see `check_folder`; also weights that are missing, misshapen or not finite, an
            unknown architecture, no usable tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_folder(folder)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by us, with names and shapes
            local_files_only=True,
        )
    except Exception as error:  # its many kinds are all about what the folder holds
        missing_index = str(error) == "'metadata'"
        reason = f"{_INDEX} has no 'metadata'" if missing_index else _first_line(error)
        raise InputError(
            f"{folder} does not load as a causal language model ({reason}); check config.json "
            "against the weights, or download it again"
        ) from error
    if info["mismatched_keys"]:
        key, found, expected = sorted(info["mismatched_keys"])[0]
        raise InputError(
            f"{folder}: {key} has shape {list(found)}, config.json asks for {list(expected)}; "
            "download it again, or mend config.json"
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"{folder}: {len(missing)} weights are missing, first {missing[0]}; download it again"
        )
    _refuse_unused_blocks(info["unexpected_keys"], model, folder)
    _check_finite(model, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise InputError(
            f"{folder} has no tokenizer that loads ({_first_line(error)}); it needs tokenizer.json "
            "beside the weights"
        ) from error
    model.to(device).eval().requires_grad_(False)
    return LoadedModel(
        name=name,
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        weights_sha256=sha256_of(weight_files(folder)),
        tokenizer_sha256=sha256_of(tokenizer_files(folder)),
        item_bytes=_item_bytes(weight_files(folder)[0]),
    )


def _item_bytes(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(
            file.get_slice(next(iter(file.keys()))).get_dtype(), 4
        )


def _refuse_unused_blocks(unexpected: set[str], model: nn.Module, folder: Path) -> None:
    """Weights of blocks that config.json does not count would silently be left out."""
    count = getattr(model.config, "num_hidden_layers", None)
    extra = sorted(k for k in unexpected if (m := _BLOCK.search(k)) and int(m[1]) >= (count or 0))
    if extra:
        raise InputError(
            f"{folder} holds {extra[0]}, but config.json counts only {count} blocks; mend "
            "num_hidden_layers, or download it again"
        )


def _first_line(error: Exception) -> str:
    """What an error says, without the pages that some libraries add."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return (text[:300] + "..." if len(text) > 300 else text) or type(error).__name__


def _check_finite(model: nn.Module, folder: Path) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            count = int((~torch.isfinite(parameter)).sum())
            raise InputError(
                f"{folder}: {name} holds {count} NaN or infinite values of {parameter.numel()}; "
                "the checkpoint is damaged (or its dtype overflowed: try --dtype bfloat16)"
            )


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide how text becomes tokens."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
    return [folder / name for name in names if (folder / name).is_file()]


def sha256_of(paths: list[Path]) -> str:
    """One digest over the contents of several files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


class WholeFolder:
    """``with WholeFolder(out) as tmp``: write into ``tmp``; it becomes ``out`` if all went well.

    Raises:
        InputError: ``out`` exists and is not an empty folder; or it cannot be written.
    """

    def __init__(self, out: Path) -> None:
        """Check that ``out`` is free."""
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is not empty; name another --out, or remove it")
        place = next((p for p in out.absolute().parents if p.exists()), Path("/"))
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise InputError(f"--out {out} cannot be written below {place}; name another --out")
        self._out = out

    def __enter__(self) -> Path:
        """A folder beside ``out``, on the same file system."""
        place = self._out.parent
        with writing(f"--out {self._out}", _FIX):
            place.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{self._out.name}.", dir=place))
        self._temporary.chmod(0o755)
        return self._temporary

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        """Rename into place, or remove what was begun."""
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            refused = isinstance(value, OSError | SafetensorError)
            if refused and not isinstance(value, FileNotFoundError):  # see `writing`
                raise InputError(f"--out {self._out} cannot be written ({value}); {_FIX}")
            return
        if self._out.is_dir():
            self._out.rmdir()
        os.replace(self._temporary, self._out)


def save_hf(
    loaded: LoadedModel,
    out: Path,
    manifest: dict[str, Any],
    *,
    also: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write an ordinary Transformers folder of the model as it now is, with its manifest.

    Weights are stored in the dtype that the model ran in: in float32 they equal what a 4-bit
    checkpoint decodes to exactly.

    Args:
        loaded: the model.
        out: the folder, whole or not at all.
        manifest: what `MANIFEST` is to hold.
        also: writes further files into the folder.
    """
    with WholeFolder(out) as folder:
        loaded.model.save_pretrained(folder, safe_serialization=True)
        loaded.tokenizer.save_pretrained(folder)
        also(folder)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        # Tensors come as files that their owner alone may read, and a server is another user.
        mode = (folder / MANIFEST).stat().st_mode
        for path in folder.rglob("*.safetensors"):
            path.chmod(mode)
