"""The ground floor has scheme, grid, model structure, calibration, the block walk, checkpoints."""
