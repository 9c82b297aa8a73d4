"""A linear's weight stays in 4 bits, on the backend that runs it; docs/kernels.md tells how.

This folder has the name of a Hugging Face package that transformers probes for, so it stays light
and carries a version: transformers asks the distribution that provides ``kernels`` for one.
"""

__version__ = "0.1.0"
