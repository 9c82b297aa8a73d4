"""The embedded reference model: a small real Llama, its recipe, and its calibration sequences."""
