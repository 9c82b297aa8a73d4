"""Facts to find, collect or follow in a long text, at lengths in the model's own tokens."""
