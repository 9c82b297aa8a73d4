"""The command line: ``awq-bench compare | quantize | evaluate | list | doctor``."""

from __future__ import annotations

import argparse
import os
import tomllib
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from bench.progress import Reporter
from quantcore.errors import InputError, nearest

if TYPE_CHECKING:
    from bench.request import Request

DONE, BAD_INPUT, CELL_FAILED, INTERNAL_ERROR, INTERRUPTED = 0, 2, 4, 70, 130

_EPILOG = """\
exit codes: 0 done; 2 bad usage or input; 4 a cell failed (the others are kept);
70 internal error; 130 interrupted (the same command goes on where it stopped)
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="awq-bench",
        description="Which 4-bit quantization, at what loss? AWQ, GPTQ and RTN on your model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    compare = _command(
        commands,
        "compare",
        "every method x scheme on one model: the table, the chart, a record of each cell",
        "example: awq-bench compare Qwen/Qwen3-0.6B --schemes int4-g128,int3-g128 --text wikitext2",
    )
    _model(compare, default="reference")
    compare.add_argument(
        "--methods", type=_names, metavar="M,M", help="default rtn,gptq,awq,awq+clip"
    )
    compare.add_argument(
        "--schemes",
        type=_names,
        metavar="S,S",
        help="int<bits>-(g<size>|channel)[-sym]; default int4-g128,int4-g32,int3-g128",
    )
    _calibration(compare)
    _evaluation(compare)
    _machine(compare)
    compare.add_argument("--out", type=Path, help="default: a new folder under awq-bench-runs/")

    quantize = _command(
        commands,
        "quantize",
        "write one quantized model as a folder that other tools load",
        "example: awq-bench quantize ./model --method awq+clip --scheme int4-g128 --out ./int4",
    )
    _model(quantize)
    quantize.add_argument("--method", required=True, help="see `awq-bench list`")
    quantize.add_argument("--scheme", required=True, help="int<bits>-(g<size>|channel)[-sym]")
    _calibration(quantize)
    _machine(quantize)
    quantize.add_argument(
        "--checkpoint-format",
        default="hf",
        metavar="hf",
        help="hf: an ordinary Transformers folder with the dequantized weights (default)",
    )
    quantize.add_argument("--out", type=Path, required=True, help="folder to write; must be free")

    evaluate = _command(
        commands,
        "evaluate",
        "measure one model as it is",
        "example: awq-bench evaluate ./my-int4 --text my-traffic.txt --seqlen 1024",
    )
    _model(evaluate)
    _evaluation(evaluate)
    _machine(evaluate)
    evaluate.add_argument("--out", type=Path, help="default: a new folder under awq-bench-runs/")

    commands.add_parser("list", help="methods, schemes, suites, texts, model families")
    doctor = commands.add_parser(
        "doctor", help="what this machine has, and what is missing for what"
    )
    _data_dir(doctor)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    about: str,
    epilog: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"{epilog}\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="options as TOML (key = option without dashes, e.g. calibration-samples = 64); "
        "options given here win",
    )
    return command


def _model(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a hub name, a local folder, or 'reference'"
        + (f" (default {default})" if default else ""),
    )
    parser.add_argument("--revision", help="of a hub model: branch, tag or commit")


def _calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calibration",
        metavar="NAME|FILE",
        help="wikitext2, c4, pileval, self, embedded, or a .txt or .jsonl file (lines with text, "
        "messages or input_ids); default: embedded for 'reference', else wikitext2 or self",
    )
    group.add_argument(
        "--calibration-samples", type=int, metavar="N", help="sequences; default 128"
    )
    group.add_argument(
        "--calibration-seqlen", type=int, metavar="N", help="tokens in each; default 512"
    )
    group.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="leave linears unquantized whose name matches, e.g. '*.down_proj'; may be repeated",
    )


def _evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument("--suites", type=_names, metavar="S,S", help="default perplexity")
    group.add_argument(
        "--text",
        metavar="NAME|FILE",
        help="wikitext2, embedded, or a .txt or .jsonl file; default wikitext2, else embedded",
    )
    group.add_argument(
        "--seqlen",
        type=int,
        metavar="N",
        help="tokens of a window; default the smaller of 2048 and the model's context "
        "(256 for the embedded text)",
    )
    group.add_argument(
        "--windows", type=int, metavar="N", help="only N windows, evenly spaced; default all"
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="windows per forward pass")


def _machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--dtype",
        metavar="D",
        help="auto, float32, float16 or bfloat16; auto: float32 on a CPU, the model's own on a GPU",
    )
    group.add_argument("--device", metavar="D", help="auto, cpu or cuda")
    group.add_argument("--seed", type=int, metavar="N", help="default 0")
    _data_dir(group)


def _data_dir(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder with local copies of texts, such as wikitext-2-raw-v1/test.jsonl; "
        "default the variable AWQ_BENCH_DATA",
    )


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    try:
        parsed = vars(_parser().parse_args(arguments))
    except SystemExit as stop:  # argparse has printed help (0) or what is wrong (2)
        return int(stop.code or 0)
    _quiet_libraries()
    output = Console()
    reporter = Reporter(Console(stderr=True))
    try:
        return _COMMANDS[parsed.pop("command")](parsed, output, reporter)
    except InputError as error:
        reporter.console.print(
            f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        reporter.say("interrupted; what is finished is kept, the same command goes on from there")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            # A name too long, no rights, a full disk: the place is the user's to change.
            where = f"{error.filename}: {error.strerror}"
            reporter.say(f"error: {where}; check the path, its rights and the free space")
            return BAD_INPUT
        traceback.print_exc()
        reporter.say("internal error: this is ours to mend; please report it", style="bold red")
        return INTERNAL_ERROR


def _quiet_libraries() -> None:
    """Our own bars and errors say what matters; those of the libraries talk over them."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _request(parsed: dict[str, Any], *, command: str) -> Request:
    """Options over the config file over the defaults.

    Raises:
        InputError: an unreadable config, an unknown key or a value of the wrong type.
    """
    from bench.request import Request

    kinds = {f.name: str(f.type) for f in fields(Request)}
    values: dict[str, Any] = {}
    config = parsed.pop("config", None)
    if config is not None:
        for key, value in _read_toml(config).items():
            name = key.replace("-", "_")
            if name == "out":
                parsed.setdefault("out", _from_toml(config, key, value, "Path"))
                continue
            if name not in kinds:
                known = [k.replace("_", "-") for k in kinds]
                raise InputError(f"{config}: unknown key {key!r}; {nearest(key, [*known, 'out'])}")
            values[name] = _from_toml(config, key, value, kinds[name])
    for name, value in parsed.items():
        if name in kinds and value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    if "model" not in values and command != "compare":
        raise InputError(f"{command} needs a MODEL: a hub name, a local folder, or 'reference'")
    if "data_dir" not in values and os.environ.get("AWQ_BENCH_DATA"):
        values["data_dir"] = Path(os.environ["AWQ_BENCH_DATA"])
    folder = values.get("data_dir")
    if folder is not None and not folder.is_dir():
        raise InputError(f"data folder {folder} (--data-dir or AWQ_BENCH_DATA) is not there")
    return Request(**values)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not TOML: {error}") from error


def _from_toml(path: Path, key: str, value: Any, kind: str) -> Any:
    """A TOML value as a field of `Request` of type ``kind`` holds it."""
    if kind.startswith("tuple"):
        if isinstance(value, str):
            return _names(value)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise InputError(f"{path}: {key} must be a list of names, not {value!r}")
    if kind.startswith("int"):
        if type(value) is not int:
            raise InputError(f"{path}: {key} must be a whole number, not {value!r}")
        return value
    if not isinstance(value, str):
        raise InputError(f"{path}: {key} must be a string, not {value!r}")
    return Path(value) if kind.startswith("Path") else value


def _compare(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    return _run(parsed, output, reporter, command="compare")


def _evaluate(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    none: dict[str, Any] = {"methods": (), "schemes": ()}
    return _run({**parsed, **none}, output, reporter, command="evaluate")


def _run(parsed: dict[str, Any], output: Console, reporter: Reporter, *, command: str) -> int:
    from bench import report, tables
    from bench.compare import compare

    request = _request(parsed, command=command)
    outcome = compare(request, out=parsed.get("out"), reporter=reporter)
    layout = report.write(outcome.records, outcome.folder)
    output.print()
    if not output.is_terminal:
        output.width = 120  # a file or a pipe has no edge to fold lines at
    output.print(Text(layout.title, style="italic"))
    output.print(tables.rich_table(layout))
    for note in layout.notes:
        output.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))
    output.print(
        f"\nWritten to {escape(str(outcome.folder))}: "
        f"{', '.join(sorted(path.name for path in outcome.folder.iterdir()))}",
        highlight=False,
        soft_wrap=True,
    )
    return CELL_FAILED if outcome.failed else DONE


def _quantize(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.quantize import quantize

    method, scheme, out = parsed.pop("method"), parsed.pop("scheme"), parsed.pop("out")
    checkpoint_format = parsed.pop("checkpoint_format", "hf")
    folder = quantize(
        _request(parsed, command="quantize"),
        method=method,
        scheme=scheme,
        checkpoint_format=checkpoint_format,
        out=out,
        reporter=reporter,
    )
    output.print(f"Written to {escape(str(folder))}", highlight=False, soft_wrap=True)
    return DONE


def _list(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.listing import print_list

    print_list(output)
    return DONE


def _doctor(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.doctor import print_report

    folder = parsed.get("data_dir") or os.environ.get("AWQ_BENCH_DATA")
    print_report(output, data_dir=None if folder is None else Path(folder))
    return DONE


_COMMANDS = {
    "compare": _compare,
    "quantize": _quantize,
    "evaluate": _evaluate,
    "list": _list,
    "doctor": _doctor,
}
