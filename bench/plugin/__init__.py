"""``pytest --benchmark``."""
