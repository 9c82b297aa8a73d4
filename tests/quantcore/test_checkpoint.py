"""Model folders: what was loaded is what was hashed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quantcore import checkpoint
from quantcore.errors import InputError
from tests.conftest import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    tiny_model("llama").save_pretrained(place)
    return place


def test_weights_that_are_replaced_while_they_are_loaded_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the hash of one model would stand under the figures of another."""
    load = AutoModelForCausalLM.from_pretrained

    def replaced(*arguments: Any, **options: Any) -> Any:
        weights = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "new", metadata={"format": "pt"})
        os.replace(folder / "new", folder / "model.safetensors")
        return load(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", replaced)
    with pytest.raises(InputError, match="was changed while it was loaded; run again"):
        checkpoint.load("m", folder=folder, dtype=None, device=torch.device("cpu"))


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / name
    document = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    change(document)
    path.write_text(json.dumps(document, indent=7), "utf-8")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", lambda config: config.update(rms_norm_eps=1e-3)),
        ("config.json", lambda config: config.update(rope_parameters={"rope_theta": 5.0})),
        ("tokenizer_config.json", lambda config: config.update(add_bos_token=True)),
        ("chat_template.json", lambda config: config.update(chat_template="{{ messages }}")),
    ],
)
def test_what_decides_the_outputs_beside_the_weights_is_another_configuration(
    folder: Path, name: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    before = checkpoint.configuration_of(folder)
    edited(folder, "config.json", lambda config: config.update(transformers_version="9"))
    edited(folder, "config.json", lambda config: config.update(_name_or_path="elsewhere"))
    assert checkpoint.configuration_of(folder) == before
    edited(folder, name, change)
    assert checkpoint.configuration_of(folder) != before
