"""A quantized folder declares itself, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path

from bench.gate.manifest import declared_in, is_quantized


def test_what_a_folder_of_another_program_declares(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    found = declared_in(tmp_path)
    assert (found["method"], found["scheme"]) == ("awq", {"bits": 4, "group_size": 128})
    assert "hidden_size 64" in found["source"]
    assert is_quantized(str(tmp_path))
