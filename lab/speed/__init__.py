"""Measure what quantizing costs in seconds and memory: ``python -m lab.speed WHAT``.

Every benchmark is one module here with ``add_options``, ``measure`` (what it saw, as JSON holds
it), ``table`` (Markdown, a pure function of that) and, where a picture says more, ``draw``.
"""
