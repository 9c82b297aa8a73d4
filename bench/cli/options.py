"""Options that several commands have are declared once, in groups.

None stands for what was not given, a flag too, so that a configuration file may give it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

Group: TypeAlias = "argparse._ActionsContainer"
"""Options are added to it: a group of a parser, or a parser."""


def model(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add MODEL and --revision; ``default`` is what the help says of a MODEL that is not given."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a local Transformers folder, a name on the hub, or 'reference', the 6.8 M-parameter "
        f"model that ships with the package ({f'default: {default}' if default else 'required'})",
    )
    group.add_argument(
        "--revision",
        metavar="REV",
        help="branch, tag or commit of a hub model (default: the hub's own, main)",
    )


def exclude(group: Group) -> None:
    """Add --exclude."""
    group.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="leave linears unquantized: whole parts of a name, such as up_proj or layers.1, or "
        "with wildcards the full name, such as '*.down_proj' or 'model.layers.0.*'; may be "
        "repeated (default: none)",
    )


def source(group: Group) -> None:
    """Add --source."""
    group.add_argument(
        "--source",
        metavar="MODEL",
        help="the unquantized model that a quantized folder was made of (default: none, the "
        "folder's own outcomes are gated)",
    )


def compared(parser: argparse.ArgumentParser) -> Group:
    """Add DIR, the folder of a comparison; returns its group."""
    group = parser.add_argument_group("cells")
    group.add_argument(
        "folder", metavar="DIR", type=path, help="a folder that `compare` wrote (required)"
    )
    return group


def evaluation(parser: argparse.ArgumentParser) -> None:
    """Add suites and the text, and how it is cut into windows."""
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--suites",
        type=names,
        metavar="S,S",
        help="what is measured, separated by commas: perplexity, divergence, json, tool_calls, "
        "multilingual, code, long_prompt, throughput (default: perplexity)",
    )
    group.add_argument(
        "--text",
        metavar="NAME|FILE",
        help="wikitext2, embedded (ships with the package), or a .txt file, or a .jsonl file with "
        "a 'text' in each line (default: wikitext2 if it can be had, else embedded)",
    )
    group.add_argument(
        "--seqlen",
        type=int,
        metavar="TOKENS",
        help="length of a window (default: 2048, or the model's context if that is less; 256 on "
        "the embedded text)",
    )
    group.add_argument(
        "--windows",
        type=int,
        metavar="N",
        help="only so many windows, spread evenly over the text (default: all)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="windows in a forward pass (default: as many as make 2048 tokens on a CPU, 16384 on "
        "a GPU)",
    )


def tasks(parser: argparse.ArgumentParser) -> None:
    """Add what task suites take."""
    group = parser.add_argument_group("tasks")
    group.add_argument(
        "--tasks",
        type=names,
        metavar="T,T",
        help="any tasks of lm-eval by name, beside the suites, such as hellaswag (default: none)",
    )
    group.add_argument(
        "--tasks-source",
        metavar="SOURCE",
        help="embedded: the items that ship with the package; standard: JSONSchemaBench, BFCL, "
        "Belebele, MGSM, Global-MMLU, HumanEval, MBPP, RULER (default: embedded)",
    )
    tasks_data(group)
    group.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="at most N items of every lm-eval task, drawn by --seed; translations stay together "
        "(default: all)",
    )
    group.add_argument(
        "--num-fewshot",
        type=int,
        metavar="N",
        help="worked examples in every prompt (default: as each task says, 0 to 2)",
    )
    group.add_argument(
        "--chat-template",
        action="store_true",
        default=None,
        help="put prompts into the tokenizer's chat template (default: False, plain prompts)",
    )
    group.add_argument(
        "--lengths",
        type=numbers,
        metavar="N,N",
        help="tokens of long_prompt's prompts (default: powers of two from 256 to the context, at "
        "most 4096)",
    )
    group.add_argument(
        "--allow-code-execution",
        action="store_true",
        default=None,
        help="run the programs that the model writes for suite code, in a sandbox (default: "
        "False, such suites are refused)",
    )


def tasks_data(group: Group) -> None:
    """Add --tasks-data."""
    group.add_argument(
        "--tasks-data",
        type=path,
        metavar="DIR",
        help="folder with local copies of data sets, each under its name on the hub, such as "
        "DIR/openai/openai_humaneval; BFCL's data files in DIR/bfcl (default: none)",
    )


def throughput(parser: argparse.ArgumentParser) -> None:
    """Add what suite throughput takes."""
    group = parser.add_argument_group("throughput")
    group.add_argument(
        "--throughput-backends",
        type=names,
        metavar="B,B",
        help="backends whose speed is measured, in turn with the unquantized model's "
        "(default: that of --backend, or auto)",
    )
    group.add_argument(
        "--batch-sizes", type=numbers, metavar="N,N", help="sequences at once (default: 1,4)"
    )
    group.add_argument(
        "--prompt-lengths",
        type=numbers,
        metavar="N,N",
        help="tokens of a prompt (default: 128,512)",
    )
    group.add_argument(
        "--new-tokens",
        type=int,
        metavar="N",
        help="tokens written after it, 2 or more (default: 32)",
    )
    group.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="runs of each kind, in turn with the unquantized model; 2 or more, and 5 for "
        "intervals (default: 5)",
    )
    price_per_hour(group)


def price_per_hour(group: Group) -> None:
    """Add --price-per-hour."""
    group.add_argument(
        "--price-per-hour",
        type=float,
        metavar="X",
        help="what the machine costs; adds the modelled cost of a million tokens (default: none)",
    )


def calibration(parser: argparse.ArgumentParser) -> None:
    """Add what is calibrated on."""
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calibration",
        metavar="NAME|FILE",
        help="wikitext2, c4, pileval; self: the model writes it, no data needed; or a .txt file, "
        "or a .jsonl file with 'text', 'messages' or 'input_ids' in each line (default: embedded "
        "for 'reference', else wikitext2 if it can be had, else self)",
    )
    group.add_argument(
        "--calibration-samples", type=int, metavar="N", help="how many sequences (default: 128)"
    )
    group.add_argument(
        "--calibration-seed",
        type=int,
        metavar="N",
        help="where its sequences start (default: that of --seed)",
    )
    group.add_argument(
        "--calibration-seqlen",
        type=int,
        metavar="TOKENS",
        help="length of a sequence (default: 512, or the model's context if that is less)",
    )


def tolerances(group: Group) -> None:
    """Add --tolerance."""
    group.add_argument(
        "--tolerance",
        action="append",
        metavar="GATE=V:WHY",
        help="largest change that passes and its reason, such as 'perplexity=0.5%%:what users "
        "accept'; %% for perplexity, size and throughput, nats for divergence, points of accuracy "
        "for tasks; may be repeated (default: twice what reruns show)",
    )


def running(parser: argparse.ArgumentParser, *, backend: bool = False) -> None:
    """Add how a model runs, the data folder and --config; ``backend``: --backend too."""
    group = parser.add_argument_group("running")
    if backend:
        group.add_argument(
            "--backend",
            metavar="B",
            help="run quantized linears from their codes: auto, triton (a GPU), cpu, or dequant "
            "(default: none, exactly the dequantized weights; the record says which)",
        )
    group.add_argument(
        "--device", metavar="D", help="auto, cpu or cuda (default: auto, the GPU if there is one)"
    )
    group.add_argument(
        "--dtype",
        metavar="D",
        help="what the model runs in: auto, float32, float16 or bfloat16 (default: auto, which is "
        "float32 on a CPU and the model's own on a GPU)",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of everything random: where calibration sequences start, what `self` writes, "
        "resamples of intervals (default: 0)",
    )
    data_dir(group)
    group.add_argument(
        "--config",
        type=path,
        metavar="FILE.toml",
        help="options from a TOML file, without the dashes in front, such as "
        "calibration-samples = 64; options given here win (default: none)",
    )


def data_dir(group: Group) -> None:
    """Add --data-dir."""
    group.add_argument(
        "--data-dir",
        type=path,
        metavar="DIR",
        help="folder with local copies of the texts, such as wikitext-2-raw-v1/test.jsonl "
        "(default: $AWQ_BENCH_DATA, else none)",
    )


def run_output(parser: argparse.ArgumentParser) -> None:
    """Add --out for the folder of a comparison."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        help="folder for what comes out; one that holds the same comparison is gone on with "
        "(default: awq-bench-runs/MODEL-TIME, new)",
    )


def path(value: str) -> Path:
    """Read a place.

    Raises:
        ArgumentTypeError: it is empty.
    """
    if not value:  # of a variable of the shell that is not set; "" would be the folder one is in
        raise argparse.ArgumentTypeError("it is empty; name a place")
    return Path(value)


def names(value: str) -> tuple[str, ...]:
    """Read names that commas separate."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


def numbers(value: str) -> tuple[int, ...]:
    """Read whole numbers that commas separate.

    Raises:
        ArgumentTypeError: one of them is no whole number.
    """
    try:
        return tuple(int(name) for name in names(value))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{value!r}: give whole numbers, separated by commas"
        ) from None
