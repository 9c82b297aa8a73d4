"""What a cell is and what it measured, written and read."""
