"""Statistics are pure functions of arrays."""
