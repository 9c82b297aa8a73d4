"""The embedded reference model is a small real Llama with its recipe and calibration sequences."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
"""An ordinary Transformers folder, with its model card."""
TOKENIZER_FILE = MODEL_FOLDER / "tokenizer.json"
CALIBRATION_FILE = Path(__file__).parent / "calibration.safetensors"
"""``input_ids`` int32 [128, 512], sampled from the model."""
