"""Another instruction set adds the same numbers in another order, and so changes outcomes a little.

All that was measured lies within these figures; docs/gate.md has what was measured.
"""

from bench.stats.tolerance import Arithmetic

_SINGLE = {
    "perplexity": Arithmetic(shift=5e-6, deviation=5e-6),
    "divergence": Arithmetic(shift=1e-5, deviation=5e-6),
    "items": Arithmetic(deviation=0.003),
}
ARITHMETIC = {
    "float64": _SINGLE,  # logits are scored in float32
    "float32": _SINGLE,
    "float16": {
        "perplexity": Arithmetic(shift=1e-4, deviation=1e-3),
        "divergence": Arithmetic(shift=1e-4, deviation=5e-4),
        "items": Arithmetic(deviation=0.05),
    },
    "bfloat16": {
        "perplexity": Arithmetic(shift=3e-4, deviation=1e-2),
        "divergence": Arithmetic(shift=1e-4, deviation=4e-3),
        "items": Arithmetic(deviation=0.1),
    },
}
"""It holds, by dtype, what another instruction set changes: nats of a window, or outcomes of an
item."""
