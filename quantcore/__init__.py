"""The ground floor: scheme, grid, model structure, calibration, the block walk, checkpoints."""
