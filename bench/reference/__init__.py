"""The embedded reference model: a small real Llama, its recipe, and its calibration sequences."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
"""An ordinary Transformers folder, with its model card."""
TOKENIZER_FILE = MODEL_FOLDER / "tokenizer.json"
CALIBRATION_FILE = Path(__file__).parent / "calibration.safetensors"
"""``input_ids`` int32 [128, 512], sampled from the model."""
