"""What is measured. Knows models and texts, and no quantizer."""

SUITES = {
    "perplexity": "perplexity of a text in windows, the protocol of GPTQ and AWQ",
}
"""Suites that can be asked for, each with a line."""
