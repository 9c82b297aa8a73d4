"""Model folders are found, checked before they are trusted, loaded, and saved."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from quantcore import files
from quantcore.errors import InputError, setting_name
from quantcore.formats.folder import Packed, numbers_in, packed_in
from quantcore.grid import QuantizedWeight
from quantcore.hub import use_cache_if_unreachable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
MANIFEST = "awq_bench.json"
"""What `save` leaves in a folder: method, scheme, source."""
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST = {"num_hidden_layers": 2_000, "num_labels": 100_000}
"""What no language model has more of; a configuration builds as many before weights are read."""
_TOO_LARGE = 2.0  # times the weights that a folder holds: no tied or converted ones explain more
_OTHERWISE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
"""Of a configuration, what decides no output, or is part of a cell by itself."""
_TOKENIZER_SETTINGS = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A loaded model is ready to be measured, and carries what identifies it."""

    name: str
    """What the user asked for."""
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights_sha256: str
    """Over the safetensors files that were loaded, in the order of their names."""
    tokenizer_sha256: str
    """Over the tokenizer's files."""
    configuration_sha256: str
    """Over what else decides its outputs: see `configuration_of`."""
    stored_dtype: torch.dtype
    """What the checkpoint stores numbers in, whatever it runs in."""
    codes: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    """Of a packed folder, its linears' codes: the model computes with what they mean."""
    format: str | None = None
    """What a packed folder is packed as: a name of `quantcore.formats.folder.FORMATS`."""

    @property
    def item_bytes(self) -> int:
        """Count the bytes of a number as the checkpoint stores it, whatever it runs in."""
        return self.stored_dtype.itemsize

    @property
    def device(self) -> torch.device:
        """Give the device where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Give the dtype that the model runs in."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @property
    def context(self) -> int | None:
        """Give the most tokens that the model takes, if its configuration says."""
        return getattr(self.model.config, "max_position_embeddings", None)


def resolve(name: str, *, revision: str | None = None) -> Path:
    """Find the local folder of a model: a folder as it is, a hub name after download.

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
            or truncated.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise InputError(
            f"{folder} has no config.json, so it is no Transformers model folder; give the folder "
            "that has it"
        )
    config = _read_json(config_path)
    _check_sizes(config, config_path)
    if config.get("auto_map"):
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if str(config.get("model_type")) not in CONFIG_MAPPING:
            wanted = config["auto_map"]
            named = ", ".join(sorted(wanted)) if isinstance(wanted, dict) else str(wanted)[:60]
            raise InputError(
                f"{folder} asks for remote code ({named}), "
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
    """Read a JSON object.

    Raises:
        InputError: the file holds anything else.
    """
    try:
        document = json.loads(files.read_text(path))
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, absurd numbers or nesting
        raise InputError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{path} is a {type(document).__name__}, not a JSON object; download it again"
        )
    return document


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files that hold the weights.

    Raises:
        InputError: there are none, or some are missing.
    """
    index, single = folder / _INDEX, folder / _SINGLE
    if index.is_file() and single.is_file():
        raise InputError(
            f"{folder} has both {_SINGLE} and {_INDEX}, which may be two models: only the first "
            "would be loaded; remove the one that is not meant"
        )
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"{index} is no weight index: its weight_map must name a file for every weight, "
                f"and is {str(weight_map)[:60]}; download it again"
            )
        strange = sorted({n for n in names if Path(n).name != n or not n.endswith(".safetensors")})
        if strange:
            raise InputError(
                f"{index} names {strange[0]!r}: weights are .safetensors files in the folder "
                "itself, and nothing else is loaded; convert them, or download it again"
            )
        missing = sorted({name for name in names if not (folder / name).is_file()})
        if missing:
            raise InputError(
                f"{folder} lacks {', '.join(missing)}, named in {_INDEX}; download it again"
            )
        return [folder / name for name in sorted(set(names))]
    if single.is_file():
        return [single]
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder} has only pickled weights ({', '.join(pickles[:3])}), which can run "
            "code when loaded and are refused; convert them to safetensors "
            "(`save_pretrained` of a current Transformers writes it)"
        )
    raise InputError(f"{folder} has no weights: expected {_SINGLE} or {_INDEX}; download it again")


def load(
    name: str,
    *,
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    packed: bool = False,
) -> LoadedModel:
    """Load a checked folder, and check what came out of it.

    Args:
        name: how to call it.
        folder: see `resolve`.
        dtype: what to run in; None: the checkpoint's own.
        device: where to.
        packed: whether a folder that is quantized will do; it is decoded.

    Raises:
        InputError: see `check_folder`; also weights that are missing, misshapen or not finite, an
            unknown architecture, no usable tokenizer.
    """
    config = check_folder(folder)
    paths = weight_files(folder)
    if (quantization := config.get("quantization_config")) and not packed:
        named = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise InputError(f"{folder} is already quantized ({named}); give the unquantized model")
    how = packed_in(folder, config, paths)
    before = _states(paths)
    weights = sha256_of(paths)
    _check_described_size(config, paths, folder, how)
    model, told = _read_model(folder, dtype)
    codes = {} if how is None else how.decode_into(model, folder)
    _refuse_other_weights(told, folder, decoded={f"{name}.weight" for name in codes})
    if _states(paths) != before:
        raise InputError(
            f"{folder} was changed while it was loaded; run again when nobody writes it"
        )
    _refuse_unused_blocks(told["unexpected_keys"], model, folder)
    _check_finite(model, folder)
    tokenizer = _read_tokenizer(folder)
    model.to(device).eval().requires_grad_(False)
    return LoadedModel(
        name=name,
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        weights_sha256=weights,
        tokenizer_sha256=sha256_of(tokenizer_files(folder)),
        configuration_sha256=configuration_of(folder),
        stored_dtype=_stored_dtype(paths),
        codes=codes,
        format=None if how is None else how.name,
    )


def _read_model(folder: Path, dtype: torch.dtype | None) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Read the model to the CPU, with what Transformers tells of weights that did not fit."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # decoded by us, into ordinary linears
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
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
    return model, told


def _refuse_other_weights(told: dict[str, Any], folder: Path, *, decoded: set[str]) -> None:
    """Refuse weights of another shape than config.json's, or none: Transformers made them up."""
    if told["mismatched_keys"]:
        key, shape, expected = sorted(told["mismatched_keys"])[0]
        raise InputError(
            f"{folder}: {key} has shape {list(shape)}, config.json asks for {list(expected)}; "
            "download it again, or mend config.json"
        )
    missing = sorted(set(told["missing_keys"]) - decoded)
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} weights are missing, first {missing[0]}; download it again"
        )


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise InputError(
            f"{folder} has no tokenizer that loads ({_first_line(error)}); it needs tokenizer.json "
            "beside the weights"
        ) from error


def configuration_of(folder: Path) -> str:
    """Hash config.json and the tokenizer's settings: a sha256.

    The same weights with another rotary base, another template or another token in front are
    another model. What programs write of themselves does not count, nor the order of keys.

    Raises:
        InputError: config.json cannot be read.
    """
    config = {k: v for k, v in _read_json(folder / "config.json").items() if k not in _OTHERWISE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in _TOKENIZER_SETTINGS:
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()


def _states(paths: list[Path]) -> list[tuple[int, int, int]]:
    """Give of each file what changes when it is written or replaced."""
    stats = [path.stat() for path in paths]
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


def _check_sizes(config: dict[str, Any], path: Path) -> None:
    """Refuse what would take minutes or gigabytes before anything is compared with the weights."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name, most in _MOST.items():
            value = part.get(name)
            if isinstance(value, int) and value > most:
                raise InputError(
                    f"{path}: {name} is {value}, and no language model has more than {most}; "
                    "mend it, or download it again"
                )
        for name in ("dtype", "torch_dtype"):
            value = part.get(name)
            known = isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)
            if value not in (None, "auto") and not known:
                raise InputError(
                    f"{path}: {name} is {str(value)[:60]!r}, which is no dtype of PyTorch, such as "
                    "float32 or bfloat16; mend it, or download it again"
                )


def _check_described_size(
    config: dict[str, Any], paths: list[Path], folder: Path, packed: Packed | None
) -> None:
    """Refuse a configuration of a far larger model than the weights are, before it is built.

    What is missing from a folder would be made up, and only then found to be missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    held = sum(numbers_in(path, packed) for path in paths)
    try:
        described = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(described, trust_remote_code=False)
    except Exception:  # `load` meets it again, and says it
        return
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _TOO_LARGE * held:
        raise InputError(
            f"{folder}: config.json describes a {config.get('model_type')} of {count:,} "
            f"parameters, and the weights hold {held:,}; download it again, or mend config.json"
        )


def _stored_dtype(paths: list[Path]) -> torch.dtype:
    """Find what the first floating-point tensor is stored in, scales of packed weights aside."""
    kinds = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
    }
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                kind = file.get_slice(key).get_dtype()
                if kind in kinds and not key.endswith((".scales", ".weight_scale")):
                    return kinds[kind]
    return torch.float32


def _refuse_unused_blocks(unexpected: set[str], model: nn.Module, folder: Path) -> None:
    """Refuse weights of blocks that config.json does not count: they would silently be left out."""
    count = getattr(model.config, "num_hidden_layers", None)
    extra = sorted(k for k in unexpected if (m := _BLOCK.search(k)) and int(m[1]) >= (count or 0))
    if extra:
        raise InputError(
            f"{folder} holds {extra[0]}, but config.json counts only {count} blocks; mend "
            "num_hidden_layers, or download it again"
        )


def _first_line(error: Exception) -> str:
    """Say what an error says, without the pages that some libraries add."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return (text[:300] + "..." if len(text) > 300 else text) or type(error).__name__


def _check_finite(model: nn.Module, folder: Path) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            count = int((~torch.isfinite(parameter)).sum())
            raise InputError(
                f"{folder}: {name} holds {count} NaN or infinite values of {parameter.numel()}; "
                "the checkpoint is damaged (or its dtype overflowed: try "
                f"{setting_name('dtype')} bfloat16)"
            )


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files that decide how text becomes tokens."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
    return [folder / name for name in names if (folder / name).is_file()]


def sha256_of(paths: list[Path]) -> str:
    """Make one digest over the contents of several files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


class Weights(Protocol):
    """Quantized weights are kept to be written."""

    def save(self, model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
        """Write weights and configuration into a folder.

        Args:
            model: as it was quantized.
            folder: is there and empty.
            dtype: what the checkpoint stored numbers in that the model came from.
        """


def save(loaded: LoadedModel, folder: Path, manifest: Mapping[str, Any], weights: Weights) -> None:
    """Write a model's folder: weights, configuration, tokenizer and manifest.

    Args:
        loaded: the model.
        folder: is there and empty; see `quantcore.whole_folder.WholeFolder`.
        manifest: what `MANIFEST` is to hold.
        weights: write themselves, packed or not.
    """
    weights.save(loaded.model, folder, loaded.stored_dtype)
    loaded.tokenizer.save_pretrained(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    # Tensors come as files that their owner alone may read, and a server is another user.
    mode = (folder / MANIFEST).stat().st_mode
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)
