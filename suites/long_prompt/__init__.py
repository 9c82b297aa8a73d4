"""Facts are found, collected or followed in a long text, at lengths in the model's own tokens."""
