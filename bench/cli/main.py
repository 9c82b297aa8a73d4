"""The command line is ``awq-bench COMMAND``."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from rich.console import Console

from bench.cli import (
    asked,
    baseline,
    compare,
    doctor,
    evaluate,
    exit_codes,
    gate,
    list_names,
    pair,
    places,
    quantize,
    rebaseline,
    signals,
    tables,
)
from bench.cli.exit_codes import BAD_INPUT, INTERNAL_ERROR, INTERRUPTED
from bench.cli.parser import Commands, Help, Parser, filled
from bench.comparison.progress import Reporter
from bench.records import processors
from quantcore.errors import InputError, settings_called
from quantcore.versions import untried


class Command(Protocol):
    """A command is a module that adds a parser of its own and runs what was asked."""

    def add(self, commands: Commands, /) -> None:
        """Add the command's parser: its options, its examples and its exit codes."""

    def run(self, given: argparse.Namespace, output: Console, reporter: Reporter, /) -> int:
        """Do what the command is for.

        Args:
            given: the options; None for what was not given.
            output: where tables go, standard output.
            reporter: who shows progress, on standard error.

        Returns:
            The exit code.

        Raises:
            InputError: anything about the options or inputs that cannot work.
        """


_COMMANDS: dict[str, Command] = {
    "compare": compare,
    "quantize": quantize,
    "evaluate": evaluate,
    "pair": pair,
    "tables": tables,
    "baseline": baseline,
    "gate": gate,
    "rebaseline": rebaseline,
    "list": list_names,
    "doctor": doctor,
}
"""The help lists them in this order."""

_COMPUTING = ("compare", "quantize", "evaluate", "baseline", "gate", "rebaseline")
"""These run models."""

_RESUMED = ("compare", "evaluate", "baseline", "rebaseline")
"""These go on from what is finished when they are run again."""

_ONE_BY_ONE = ("methods", "schemes", "baselines", "tolerances")
"""An option takes one of these, such as ``--method``; only those of `compare` take lists."""

_START = """\
start here:
  # what this machine has, and what it lacks
  awq-bench doctor

  # the shipped model on the shipped text: about 3 minutes on two cores
  awq-bench compare --text embedded

  # your own model: a local folder, or a name on the hub
  awq-bench compare ./my-model --text traffic.txt

environment:
  AWQ_BENCH_DATA    default of --data-dir
  AWQ_BENCH_CACHE   where the native kernel and its timings are kept
  AWQ_BENCH_NATIVE=0  do without the native kernel
  HF_HUB_OFFLINE=1  ask no hub: only local folders and what its cache holds
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    try:
        name, given = _parsed(arguments)
    except SystemExit as stop:  # argparse has printed help (0) or what is wrong (2)
        return int(stop.code or 0)
    output = Console()
    reporter = Reporter(Console(stderr=True))
    try:
        signals.end_as_interrupted()
        if name in _COMPUTING:
            processors.share(reporter.say)
        _quiet_libraries()
        with settings_called(partial(option_of, name)):
            given = asked.with_config(given)
            return _COMMANDS[name].run(given, output, reporter)
    except InputError as error:
        reporter.fail(str(error))
        return BAD_INPUT
    except KeyboardInterrupt as stop:
        kept = "nothing was written; run the same command again"
        if name in _RESUMED:
            kept = "what is finished is kept, the same command goes on from there"
        reporter.say(f"interrupted; {kept}")
        return stop.code if isinstance(stop, signals.Ended) else INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and places.is_the_users(error, places.named(given)):
            where = f"{error.filename or 'a file'}: {error.strerror}"
            reporter.say(f"error: {where}; check the path, its rights and the free space")
            return BAD_INPUT
        _report_defect(reporter)
        return INTERNAL_ERROR


def _parsed(arguments: Sequence[str] | None) -> tuple[str, argparse.Namespace]:
    """Read the command's name and its options."""
    parser = _parser()
    given, beyond = parser.parse_known_args(arguments)
    name = given.command
    del given.command  # it is no option, and names no place
    if beyond:
        files = name == "gate" and not any(word.startswith("-") for word in beyond)
        fix = gate.EACH_ITS_OWN if files else f"see awq-bench {name} --help"
        parser.error(f"unrecognized arguments: {' '.join(beyond)}; {fix}")
    return name, given


def option_of(command: str, setting: str) -> str:
    """Name the option that gives a setting to a command; MODEL has its place, and no option."""
    if setting == "model":
        return "MODEL"
    if setting in _ONE_BY_ONE and command != "compare":
        setting = setting.removesuffix("s")
    return f"--{setting.replace('_', '-')}"


def _parser() -> Parser:
    parser = Parser(
        prog="awq-bench",
        usage="awq-bench COMMAND [options]",
        description=filled(
            "Which 4-bit quantization, at what loss? awq-bench quantizes a language model with "
            "AWQ, GPTQ and RTN, measures what each loses against the unquantized model on the "
            "same text, and keeps a record behind every number."
        ),
        epilog=_START + exit_codes.listed(),
        formatter_class=Help,
    )
    commands = parser.add_subparsers(
        title="commands (each has --help)",
        prog="awq-bench",
        dest="command",
        metavar="COMMAND",
        required=True,
    )
    for command in _COMMANDS.values():
        command.add(commands)
    return parser


def _quiet_libraries() -> None:
    """Quiet the libraries' bars and errors: they talk over our own, which say what matters."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _report_defect(reporter: Reporter) -> None:
    """Show the error that is being handled, and what it may come of."""
    for line in traceback.format_exc().splitlines():  # the error's text may hold anything
        reporter.say(line)
    reporter.say("internal error: this is ours to mend; please report it", style="bold red")
    for sentence in untried().values():
        reporter.say(f"it may come of this: {sentence}")
