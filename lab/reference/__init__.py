"""The reference model was made with this package."""
