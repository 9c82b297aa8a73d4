"""The plugin adds ``pytest --benchmark``."""
