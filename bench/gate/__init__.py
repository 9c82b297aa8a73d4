"""The regression gate holds a quantized model to a committed baseline.

Imports go down: `report`, `null_runs`; `make`, `run`; `reruns`, `parts`, `measure`; `judge`,
`noise`, `units`, `changes`; `baseline`, `key`. Start at `changes` for what is gated, and at `run`
for what the command does.
"""
