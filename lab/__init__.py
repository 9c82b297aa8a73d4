"""This package makes the project's own evidence, and is not installed."""
