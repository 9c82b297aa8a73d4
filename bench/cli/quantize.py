"""``awq-bench quantize`` writes one quantized model as a folder."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import asked, exit_codes, options, show
from bench.cli.exit_codes import BAD_INPUT, DONE, INTERNAL_ERROR, INTERRUPTED
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter

_EXAMPLES = """\
examples:
  # AWQ with clipping, calibrated on your prompts
  awq-bench quantize ./my-model --method awq+clip --scheme int4-g128 \\
      --calibration prompts.jsonl --out ./my-model-int4

  # GPTQ with a scale per output channel; down_proj stays as it is
  awq-bench quantize ./my-model --method gptq --scheme int8-channel-sym \\
      --calibration self --exclude '*.down_proj' --out ./my-model-int8

  # its perplexity, on the text of your choice
  awq-bench evaluate ./my-model-int4 --text traffic.txt

what comes out, in the folder of --out:
  packed weights (safetensors of 5 GB at most), config.json, tokenizer: what
  vLLM, Transformers and this program load. awq_bench.json says how they were
  made. With --checkpoint-format hf the weights are those that the codes mean,
  in float32 to the last bit.

The folder is written whole or not at all: interrupted (exit code 130), the
command leaves nothing.
"""


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "quantize",
        usage="awq-bench quantize MODEL --method M --scheme S --out DIR [options]",
        about="write one quantized model as a folder that engines serve",
        description="Quantize MODEL with one method and scheme, and write it as a folder "
        "that vLLM serves. It is the model that `awq-bench compare` measures under the same "
        "options.",
        epilog=_EXAMPLES + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR, INTERRUPTED),
    )
    options.model(parser)
    group = parser.add_argument_group("how to quantize")
    group.add_argument(
        "--method",
        required=True,
        metavar="M",
        help="for example awq+clip; `awq-bench list` names them all (required)",
    )
    group.add_argument(
        "--scheme",
        required=True,
        metavar="S",
        help="how weights are stored: int<bits>-g<weights per scale>, or int<bits>-channel; with "
        "-sym: no zero points (required)",
    )
    options.exclude(group)
    options.calibration(parser)
    options.running(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--checkpoint-format",
        metavar="F",
        help="awq, gptq or compressed-tensors: packed, for vLLM and others to serve; hf: an "
        "ordinary Transformers folder with the dequantized weights (default: the packed one by "
        "which vLLM serves the scheme, or hf where none holds the model)",
    )
    output.add_argument(
        "--out",
        type=options.path,
        required=True,
        metavar="DIR",
        help="folder to write; it must not exist, or be empty (required)",
    )


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Quantize the model and write its folder; returns the exit code."""
    from bench.comparison.quantize import quantize

    folder = quantize(
        asked.request(given, command="quantize"),
        method=given.method,
        scheme=given.scheme,
        checkpoint_format=given.checkpoint_format,
        out=given.out,
        reporter=reporter,
    )
    show.written(output, folder)
    return DONE
