"""A comparison goes from what is asked for to records of every cell."""
