"""Quantize by AutoAWQ's AWQ with clipping, asymmetric, in float32: ``as-shipped`` or ``repaired``.

On a CPU its scale search backs weights up with ``Tensor.cpu()``, which copies nothing there, and
then scales them in place, so the model comes out damaged. ``repaired`` clones the backups and
changes nothing else. Codes are not packed in either: weights are rounded and stay where they are,
which leaves out work that the others do not do either.
"""

from __future__ import annotations

from typing import Any

PACKAGES = ("autoawq", "torch", "transformers")


def load(folder: str, variant: str) -> Any:
    """Load the model inside AutoAWQ's wrapper."""
    import torch
    from awq import AutoAWQForCausalLM
    from awq.quantize import quantizer

    def round_in_place(self: Any, module: Any, named_linears: dict[str, Any]) -> None:
        for linear in named_linears.values():
            linear.weight.data = self.pseudo_quantize_tensor(linear.weight.data)[0]

    def with_cloned_backups(self: Any, x: Any, w: Any, m: Any, inspected: Any, *rest: Any) -> Any:
        original = inspected.state_dict
        inspected.state_dict = lambda: {name: v.clone() for name, v in original().items()}
        try:
            return search(self, x, w, m, inspected, *rest)
        finally:
            del inspected.state_dict

    quantizer.AwqQuantizer._apply_quant = round_in_place
    search = quantizer.AwqQuantizer._compute_best_scale
    if variant == "repaired":
        # Its arguments: x, w_mean, x_mean, module2inspect, then the rest.
        quantizer.AwqQuantizer._compute_best_scale = with_cloned_backups
    return AutoAWQForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, device_map="cpu")


def quantize(model: Any, tokens: Any, variant: str) -> Any:
    """Quantize to INT4 in groups of 128, asymmetric, with scales and clipping."""
    model.quantize(
        None,
        quant_config={"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"},
        calib_data=tokens.tolist(),
        max_calib_samples=tokens.shape[0],
        max_calib_seq_len=tokens.shape[1],
    )
    return model.model
