"""The suites say what is measured; they know models and texts, and no quantizer."""

SUITES = {
    "perplexity": "perplexity of a text in windows, the protocol of GPTQ and AWQ",
    "divergence": "KL divergence to the unquantized model and top-1 agreement, on the same windows",
    "json": "records in prose to be given as JSON under a schema: parses, valid, every value right",
    "tool_calls": "one call, a choice, parallel calls, none: matched by syntax tree",
    "multilingual": "the same questions in nine languages, each one's loss against English's",
    "code": "small functions, run against tests in a sandbox",
    "long_prompt": "a needle, several needles, a value to track, up to the model's context",
    "throughput": "prefill and decoding speed, latency and memory on an INT4 backend, beside FP",
}
"""Suites that can be asked for, each with a line."""

TASK_SUITES = ("json", "tool_calls", "multilingual", "code", "long_prompt")
"""Those that are lm-eval task groups: ``awqbench_<suite>`` with the items that ship with the
package, ``awqbench_<suite>_standard`` with the field's own sets."""
