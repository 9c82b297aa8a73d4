"""Runners are handed to other Pythons; nothing here imports this project."""
