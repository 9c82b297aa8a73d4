"""Cells and what they measured are written and read here."""
