"""How the reference model was made."""
