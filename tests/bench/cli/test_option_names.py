"""Errors call settings by the options of the command line, whoever raises them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.cli.main import option_of
from bench.gate import report
from bench.gate.baseline import write as write_baseline
from bench.gate.run import gate
from quantcore.errors import InputError, settings_called
from tests.bench.cli.conftest import SEQLEN, Refused, write
from tests.bench.cli.test_options import COMMANDS

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "results/baselines/reference-awq+clip-int4-g128.json"

USUAL = ["compare", "MODEL", "--methods", "rtn", "--schemes", "int4-g32", "--text", "TEXT"]
COMPARE = [*USUAL, "--seqlen", f"{SEQLEN}", "--device", "cpu"]
QUANTIZE = ["quantize", "MODEL", "--method", "rtn", "--scheme", "int4-g32", "--out", "model"]
FOLDER = ["baseline", "MODEL", "--text", "TEXT", "--seqlen", f"{SEQLEN}", "--out", "b.json"]
BASELINE = [*FOLDER, "--method", "awq", "--scheme", "int4-g32", "--calibration", "six.jsonl"]
SIX = ["--calibration-samples", "6", "--calibration-seqlen", f"{SEQLEN}"]
GATE = ["gate", "--baseline", f"{SHIPPED}"]

MESSAGES = {
    "config": (
        ["compare", "--config", "none.toml"],
        "--config none.toml cannot be read: No such file or directory",
    ),
    "config-folder": (
        ["compare", "--config", "empty"],
        "--config empty is no file; name one that holds TOML",
    ),
    "config-text": (["compare", "--config", "file"], "--config file is not TOML: ..."),
    "out-link": (
        [*COMPARE, "--out", "link"],
        "--out link is a link that leads nowhere; name another, or mend it",
    ),
    "out-file": (
        [*COMPARE, "--out", "file"],
        "file exists and is no comparison; name another --out",
    ),
    "out-below-a-file": (
        [*COMPARE, "--out", "file/out"],
        "--out file/out cannot be written (Not a directory); mend that, or name another --out",
    ),
    "out-another": (
        [*COMPARE, "--out", "another"],
        "another holds another comparison (...); name another --out",
    ),
    "out-record": (
        ["pair", "another", "unquantized", "rtn@int4-g32"],
        "another/records/unquantized.json is not a record of this program (...); remove it, and "
        "run its comparison again",
    ),
    "format": (
        [*QUANTIZE, "--checkpoint-format", "hff"],
        "unknown --checkpoint-format 'hff'; did you mean 'hf'? Known: awq, gptq, "
        "compressed-tensors, hf",
    ),
    "seeds": (
        [*BASELINE, "--seeds", "4"],
        "--seeds 4: at least 5; fewer say nothing of their spread",
    ),
    "tolerance": (
        [*BASELINE, "--tolerance", "perplexity=much:why"],
        "--tolerance perplexity=much:why: expected GATE=VALUE:REASON with a value of 0 or more in "
        "%, such as 'perplexity=0.5%:what users accept'",
    ),
    "tolerance-reason": (
        [*BASELINE, "--tolerance", "size=1%"],
        "--tolerance size=1%: a tolerance has a reason; add it after a colon",
    ),
    "tolerance-twice": (
        [*BASELINE, "--tolerance", "size=1%:a", "--tolerance", "size=2%:b"],
        "--tolerance size is given twice; name each gate once",
    ),
    "tolerance-gate": (
        [*BASELINE, "--tolerance", "perplexty=1%:why"],
        "--tolerance perplexty: no such gate here; did you mean 'perplexity'? Known: perplexity, "
        "size",
    ),
    "source": (
        [*BASELINE, "--source", "./source"],
        "--source ./source: MODEL is the source already where --method says how to quantize it; "
        "leave one of them out",
    ),
    "divergence": (
        [*FOLDER, "--suites", "perplexity,divergence"],
        "suite divergence compares with the unquantized model: give it with --source, or leave "
        "divergence out of --suites",
    ),
    "throughput": (
        [*FOLDER, "--suites", "throughput"],
        "suite throughput times a model beside its unquantized form, from codes; gate a folder on "
        "other suites, and speed with --method and --scheme",
    ),
    "quantizing": (
        [*FOLDER, "--calibration", "self"],
        "--calibration self: MODEL is taken as quantized already; leave it out, or give --method "
        "and --scheme to quantize here",
    ),
    "calibration": (
        [*BASELINE, *SIX],
        "--calibration six gives the same 6 sequences by every seed, so that reruns would not tell "
        "how much calibration varies; ask for fewer with --calibration-samples 3, or give more",
    ),
    "suites": (
        [*FOLDER, "--windows", "1"],
        "perplexity cannot be gated: 1 window or item says nothing of how much it varies; measure "
        "more, or leave it out of --suites",
    ),
    "baseline-model": (
        ["gate", "--baseline", "MODEL"],
        "--baseline MODEL is a model's folder; give it as MODEL, and what `awq-bench baseline` "
        "wrote with --baseline",
    ),
    "baseline-empty": (
        ["gate", "--baseline", "empty"],
        "--baseline empty holds no .json file; name a baseline, or a folder",
    ),
    "run-none": (
        [*GATE, "--run", "none"],
        "--run none: no such folder; name one that `awq-bench compare` wrote",
    ),
    "run-source": (
        [*GATE, "--run", "empty", "--source", "./source"],
        "--run empty is measured already; leave MODEL and --source out",
    ),
}
"""Commands and their whole messages; what stands for ``...`` is not ours, or long."""


@pytest.mark.parametrize(("arguments", "message"), MESSAGES.values(), ids=MESSAGES)
def test_the_command_line_names_its_options(
    refused: Refused, model: Path, text: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("gone")
    write(tmp_path / "file", "= mine")
    (tmp_path / "another" / "records").mkdir(parents=True)
    write(tmp_path / "another" / "comparison.json", {"key": "of another"})
    write(tmp_path / "another" / "records" / "unquantized.json", "{")
    lines = [{"input_ids": list(range(n, n + SEQLEN))} for n in range(6)]
    write(tmp_path / "six.jsonl", *lines)
    places = {"MODEL": str(model), "TEXT": str(text)}
    said = re.sub(r"(baseline|self:) MODEL", rf"\1 {model}", message)
    refused(
        *(places.get(argument, argument) for argument in arguments),
        value="",
        rule="",
        fix=rf"\A{re.escape(said).replace(re.escape('...'), '.*')}\n\Z",
    )


def test_a_folder_that_nobody_named_is_asked_for(
    refused: Refused, model: Path, text: Path, tmp_path: Path
) -> None:
    write(tmp_path / "awq-bench-runs", "mine")
    arguments = [{"MODEL": model, "TEXT": text}.get(argument, argument) for argument in COMPARE]
    fix = r"awq-bench-runs cannot be written \(.*\); name a folder with --out\n\Z"
    refused(*arguments, value="", rule="", fix=fix)


def test_what_only_a_race_or_a_full_disk_shows_names_options_too(
    full: Callable[[str], None], tmp_path: Path
) -> None:
    full("gate.md")
    rule = r"^--report report cannot be written \(No space left .*\); make room"
    with settings_called(partial(option_of, "gate")), pytest.raises(InputError, match=rule):
        report.write([], Path("report"))
    made = SimpleNamespace()  # nothing of it is looked at
    path = write(tmp_path / "b.json", "mine")
    rule = "written over only with --force, or by `awq-bench rebaseline`"
    with settings_called(partial(option_of, "baseline")), pytest.raises(InputError, match=rule):
        write_baseline(made, path, force=False)  # type: ignore[arg-type]


def test_from_python_arguments_are_named(model: Path) -> None:
    with pytest.raises(
        InputError, match=r"^run r is measured already; leave model and source out$"
    ):
        gate([SHIPPED], model="m", run=Path("r"))
    with pytest.raises(InputError, match=r"^baselines .* give it as model, .* with baselines$"):
        gate([model])


def test_every_setting_that_a_message_names_is_an_option() -> None:
    """Of some command at least, as that command gives it."""
    rooms = ("bench", "suites", "kernels", "baselines", "awq_impl", "quantcore")
    sources = [path.read_text("utf-8") for room in rooms for path in (ROOT / room).rglob("*.py")]
    named = re.compile(r"""\b(?:setting_name|refused)\(\s*["'](\w+)["']""")
    settings = {setting for source in sources for setting in named.findall(source)}
    assert {"out", "tolerances", "calibration_samples"} <= settings
    for setting in settings - {"model"}:
        assert any(
            option_of(name, setting) in parser._option_string_actions
            for name, parser in COMMANDS.items()
        ), setting
