"""Packed checkpoints are written and read here: the formats that serving engines load."""
