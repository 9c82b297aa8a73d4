"""A comparison: from what is asked for to records of every cell."""
