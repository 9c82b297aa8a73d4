"""The lab makes the project's own evidence, and is not installed."""
