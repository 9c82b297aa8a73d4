"""Names and texts from outside are shown by every output, and obeyed by none."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console

from bench.cli import doctor, exit_codes, machine, show
from bench.cli import main as cli
from bench.comparison.compare import compare
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.gate import null_runs
from bench.gate import report as gate_report
from bench.gate.baseline import Baseline, Tolerance, write
from bench.gate.judge import judge
from bench.gate.key import declared_of
from bench.plugin import hooks, session
from bench.plugin.fixture import AwqBench
from bench.records.record import Record, read_record
from bench.report import draw, escape
from bench.report.grid import Field, Grid, markdown, print_table
from tests.bench.made import but, edited

NAME = "=1+1|a<script>alert(1)<!--\n# x$y_`z`$ [bold]*b* :boom: [c](d) \x1b[31m\u202e&lt;\\"
SHOWN = NAME.replace("\n", " ").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
SUITE = "=1|`$s$`<b>"
RECORDS = Path(__file__).parents[3] / "results/reference/tasks/records"
PIECES = [
    *"\\`*_{}[]<>()#+-.!|~$&=@:;'\"^ aB1é中",
    *("\n", "\r", "\t", "\x00", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\udcff", "\ufffe"),
    *("  ", "<b", "<!--", "</p>", "&lt;", "&#35;", "](", "]: ", "![", "http://a.b", "1. ", "- "),
    *("[ ] ", "```", "---", "***", "=1", "#", "word", "__", ":boom:", "[red]", "\\x1b", "'"),
]
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def texts() -> list[str]:
    """Texts of everything that some output reads as its own."""
    chooser = random.Random(0)
    return [NAME, *("".join(chooser.choices(PIECES, k=chooser.randint(1, 9))) for _ in range(1500))]


def parsed(markdown: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)


def inline(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield from token.children or []


def plain(token: Token) -> str:
    """What a reader sees of a cell, a heading or a paragraph."""
    children = token.children or []
    return "".join("\n" if one.type == "html_inline" else one.content for one in children)


def kinds(tokens: Sequence[Token]) -> list[str]:
    return [one.type for one in tokens if one.nesting >= 0 and one.type != "inline"]


def assert_inert(markdown: str, *, headings: Sequence[str] = ()) -> None:
    """Nothing of Markdown but what a report writes itself."""
    tokens = parsed(markdown)
    assert [t.content for t in tokens if t.type == "html_block"] == []
    assert {t.content for t in inline(tokens) if t.type == "html_inline"} <= {"<br>"}
    assert {t.type for t in inline(tokens)} <= {
        *("text", "html_inline", "strong_open", "strong_close", "code_inline", "image"),
    }
    found = [plain(tokens[i + 1]) for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert found == list(headings)
    assert not set(kinds(tokens)) & {"blockquote_open", "ordered_list_open", "fence", "code_block"}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", markdown)


def table_of(markdown: str) -> list[list[str]]:
    """The cells of the only table."""
    tokens = parsed(markdown)
    assert kinds(tokens).count("table_open") == 1
    rows: list[list[str]] = []
    for index, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(plain(tokens[index + 1]))
    return rows


def test_markdown_shows_any_text_as_it_is() -> None:
    for text in texts():
        escaped, seen = escape.markdown(text), escape.line(text).strip()
        item = parsed(f"- {escaped}\n")
        if seen in ("", "-"):  # as a cell a dash says that there is nothing
            continue
        blocks = ["bullet_list_open", "list_item_open", "paragraph_open"]
        assert kinds(item) == blocks, (text, escaped)
        assert plain(item[3]) == seen, (text, escaped)
        heading = parsed(f"# {escaped}\n")
        assert kinds(heading) == ["heading_open"], (text, escaped)
        assert plain(heading[1]) == seen, (text, escaped)
        cells = table_of(f"| {escaped} | b |\n|---|---|\n| {escaped}<br>c | **{escaped} d** |\n")
        assert cells == [[seen, "b"], [f"{seen}\nc", f"{seen} d"]], (text, escaped)


def test_inline_code_shows_any_text_as_it_is() -> None:
    for text in texts():
        seen = escape.line(text)
        if not seen.strip() or seen != seen.strip():
            continue  # CommonMark strips a space on both sides
        (token,) = inline(parsed(f"{escape.markdown_code(text)}\n"))
        assert (token.type, token.content) == ("code_inline", seen)


@pytest.mark.parametrize(
    "text",
    [
        "reference: wikitext2_ppl_1024, lower is better",
        "+2.71% [2.40, 3.02]",
        "-3.3 *",
        "95 % interval; *: more than chance (sign-flip test), * where it is",
        "-",
        "Qwen/Qwen3-0.6B",
        "batch < 8, tool_calls & json, x1.31 [1.20, 1.42] of 7",
        "1.00 bits",
        "C# (a) 'b' \"c\" {d}",
    ],
)
def test_what_is_ordinary_stays_as_it_is(text: str) -> None:
    assert escape.markdown(text) == text
    assert escape.line(text) == escape.xml(text) == escape.chart(text) == text
    assert escape.terminal(text).plain == text
    assert escape.markdown_code(text) == f"`{text}`"


def test_a_terminal_gets_one_line_without_controls_markup_or_emoji() -> None:
    for text in texts():
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, color_system=None, width=10_000)
        console.print(escape.terminal(text), soft_wrap=True)
        assert file.getvalue() == escape.line(text) + "\n"
        assert not re.search(
            r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
            escape.line(text),
        )


def test_xml_of_any_text_can_be_read() -> None:
    for text in texts():
        element = ElementTree.Element("a", name=escape.xml(text))
        read = ElementTree.fromstring(ElementTree.tostring(element, encoding="unicode"))
        assert read.get("name") == escape.xml(text)


def test_cells_of_csv_are_no_formulas_and_numbers_stay() -> None:
    for text in texts():
        cell = escape.csv(text)
        assert isinstance(cell, str)
        assert not cell.lstrip().startswith(FORMULA)
        cell.encode()
    for value in (-1, -0.5, None, True, float("-inf")):
        assert escape.csv(value) is value
    assert escape.csv("awq+clip") == "awq+clip"


def of_tasks() -> list[Record]:
    """Two cells of the reference model under other names: model, suite, parts, machine, errors."""
    found = []
    for name in ("unquantized", "awq+clip_int3-g128"):
        one = read_record(RECORDS / f"{name}.json")
        found.append(edited(one, rename))
    return found


def rename(document: dict[str, Any]) -> None:
    suites = document["cell"]["suites"]
    suite = suites["multilingual"]
    suite["tasks"] = {NAME: {"version": NAME, "items": 1, "num_fewshot": 0}}
    document["cell"]["suites"] = {"perplexity": suites["perplexity"], SUITE: suite}
    answers = document["metrics"][suite["metric"]]
    columns = answers["columns"]
    columns["language"] = [f"{part}{NAME}" for part in columns["language"]]
    columns["outcome"] = [f"{NAME}{what}" for what in columns["outcome"]]
    document |= {
        "status": "partial",
        "failures": {"perplexity": NAME},
        "notices": [NAME],
        "model_name": NAME,
        "metrics": {suite["metric"]: answers},
    }
    if document["quantization"]:
        document["quantization"] |= {"exempt": [f"{NAME}`"], "notices": [NAME]}
    document["environment"] |= {"cpu": NAME, "platform": NAME, "packages": {NAME: NAME}}


def test_everything_that_is_drawn_of_records(tmp_path: Path) -> None:
    records = of_tasks()
    draw.write(records, tmp_path)
    for name in ("table.md", "tasks.md"):
        assert_inert((tmp_path / name).read_text("utf-8"))
    assert_inert(
        (tmp_path / "report.md").read_text("utf-8"),
        headings=[
            f"Quantization of {SHOWN}",
            *("Failed", "Protocol", "Provenance", "Tasks in parts", "Not quantized", "Notices"),
        ],
    )
    table = parsed((tmp_path / "tasks.md").read_text("utf-8"))
    assert kinds(table).count("table_open") == 2
    labels = {plain(t) for t in table if t.type == "inline"}
    assert {SUITE, f"language hi{SHOWN}", f"outcome {SHOWN}right"} <= labels
    cells = pd.read_csv(tmp_path / "tasks.csv")
    assert set(cells["model"]) == {f"'{SHOWN}"}
    held = [cell for cell in cells.to_numpy().ravel() if isinstance(cell, str)]
    assert not [cell for cell in held if cell.startswith(FORMULA)]
    assert cells["difference"].dropna().lt(0).all()
    svg = (tmp_path / "tasks_int3-g128.svg").read_text("utf-8")
    ElementTree.fromstring(svg)
    assert (tmp_path / "tasks_int3-g128.png").is_file()
    assert "x$y_`z`$ [bold]" in svg  # the comment beside a text that was drawn as it is


def test_a_table_of_any_names() -> None:
    field = Field(lines=(NAME, NAME), best=True)
    layout = Grid(
        title=NAME,
        header=[Field(lines=("",)), Field(lines=(NAME,))],
        body=[(NAME, [field]), (NAME, [Field(lines=("1.0",))])],
        notes=[NAME, f"  # {NAME}", f"1. {NAME}", "---"],
    )
    text = markdown(layout)
    assert_inert(text)
    assert table_of(text) == [["", SHOWN], [SHOWN, f"{SHOWN}\n{SHOWN}"], [SHOWN, "1.0"]]
    assert kinds(parsed(text)).count("list_item_open") == 4
    file = io.StringIO()
    print_table(Console(file=file, width=1000), layout)
    assert "\x1b" not in file.getvalue()
    assert f"* {SHOWN}" in file.getvalue()
    assert len(file.getvalue().splitlines()) == 14


def test_a_comparison_of_a_model_of_any_name(
    tiny_folder: Path,
    text_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, NAME)
    shutil.copy(text_folder / "evaluation.txt", f"{SUITE}.txt")
    command = ["compare", NAME, "--methods", "rtn", "--schemes", "int4-g32", "--seqlen", "32"]
    command += ["--text", f"{SUITE}.txt", "--suites", "perplexity,divergence"]
    assert cli.main([*command, "--out", "run"]) == exit_codes.DONE
    printed = capsys.readouterr()
    for said in (printed.out, printed.err):
        assert SHOWN in said
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said)
    run = Path("run")
    title = f"{SHOWN}: {SUITE}_ppl_32, lower is better"
    assert_inert((run / "table.md").read_text("utf-8"))
    rows = table_of((run / "table.md").read_text("utf-8"))
    assert [(len(row), row[0]) for row in rows] == [(2, ""), (2, "FP32"), (2, "RTN")]
    assert title in [plain(t) for t in parsed((run / "table.md").read_text("utf-8")) if t.children]
    headings = [f"Quantization of {SHOWN}", "Protocol", "Provenance", "Not quantized"]
    assert_inert((run / "report.md").read_text("utf-8"), headings=headings)
    for name in ("table.csv", "tasks.csv"):
        cells = pd.read_csv(run / name)
        assert set(cells["model"]) == {f"'{SHOWN}"}
        held = [cell for cell in cells.to_numpy().ravel() if isinstance(cell, str)]
        assert not [cell for cell in held if cell.startswith(FORMULA)]
    svg = (run / "perplexity_int4-g32.svg").read_text("utf-8")
    ElementTree.fromstring(svg)
    assert (run / "perplexity_int4-g32.png").is_file()


def test_a_gate_of_any_names(
    asked: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    request = asked.but(methods=("rtn",), calibration=None, suites=("perplexity",))
    outcome = compare(request, out=tmp_path / "run")
    unquantized, quantized = (but(one, model_name=NAME) for one in outcome.records)
    declared = declared_of(quantized.cell)
    made = Baseline(
        unquantized=unquantized,
        quantized=quantized,
        declared={**declared, "scheme": f"int4-g32{NAME}"},
        request={},
        tolerances={"perplexity": Tolerance(value=0.01, reason=NAME)},
        made=NAME,
    )
    path = tmp_path / f"{NAME}\udcff.json"
    result = judge(made, path, (unquantized, quantized), declared)
    assert list(result.differing) == ["scheme"]
    results = [replace(result, warnings=(NAME,))]
    gate_report.write(results, tmp_path / "report")
    root = ElementTree.fromstring((tmp_path / "report" / "gate.xml").read_text("utf-8"))
    (suite,) = root
    assert "\\x1b[31m" in str(suite.get("name"))
    text = summary.read_text("utf-8")
    assert text == (tmp_path / "report" / "gate.md").read_text("utf-8")
    assert_inert(text)
    assert [(len(row), row[0]) for row in table_of(text)] == [(6, "gate"), (6, "perplexity")]
    show.gates(Console(), results)
    assert "\x1b" not in capsys.readouterr().out


def test_the_table_of_null_runs(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked.but(methods=("rtn",), calibration=None, suites=("perplexity",))
    unquantized, quantized = compare(request, out=tmp_path / "run").records
    made = Baseline(
        unquantized=unquantized,
        quantized=quantized,
        declared=declared_of(quantized.cell),
        request={},
        tolerances={"perplexity": Tolerance(value=0.01, reason="a test's")},
        made="2026-01-01T00:00:00+00:00",
    )
    write(made, tmp_path / f"{NAME}.json", force=False)
    text = null_runs.table([tmp_path / f"{NAME}.json"])
    assert_inert(text)
    assert [row[0] for row in table_of(text)] == ["baseline", SHOWN]


def test_what_is_said_meanwhile() -> None:
    file = io.StringIO()
    reporter = Reporter(Console(file=file, force_terminal=True, color_system=None, width=1000))
    reporter.say(NAME)
    reporter.warn(NAME)
    reporter.fail(NAME)
    with reporter.stage(NAME, 1) as done:
        done(1)
    printed = file.getvalue()
    assert "\x1b[31m" not in printed
    assert printed.startswith(f"{SHOWN}\nnote: {SHOWN}\nerror: {SHOWN}\n")
    assert printed.count(SHOWN) >= 5  # the bar and the line after it too


def test_what_pytest_prints(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fixture = AwqBench(request.config, tmp_path)
    with pytest.raises(pytest.fail.Exception, match=re.escape(SHOWN)) as failed:
        fixture.gate(f"{NAME}.json")
    assert "\x1b" not in str(failed.value)
    layout = Grid(title=NAME, header=[Field(lines=("",))], body=[(NAME, [])], notes=[])
    stash = pytest.Stash()
    stash[session.TABLES] = [(Path(NAME), [layout])]
    printed: list[str] = []
    terminal = SimpleNamespace(section=printed.append, write=printed.append)
    hooks.pytest_terminal_summary(terminal, config=SimpleNamespace(stash=stash))  # type: ignore[arg-type]
    assert printed[0] == f"awq-bench: {SHOWN}"
    assert SHOWN in printed[1]
    assert "\x1b" not in "".join(printed)


def raising(*_: Any) -> int:
    raise ArithmeticError(NAME)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list", NAME], exit_codes.BAD_INPUT),
        (["compare", f"./{NAME}"], exit_codes.BAD_INPUT),
        (["doctor"], exit_codes.INTERNAL_ERROR),
    ],
)
def test_errors(
    arguments: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "run", raising)
    assert cli.main(arguments) == code
    printed = capsys.readouterr().err
    assert SHOWN[-40:] in printed
    assert "\x1b" not in printed


def test_the_doctor_reads_names_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [machine.Finding(name="processor", there=True, detail="[bold]a[/bold] \x1b[31m")]
    monkeypatch.setattr(machine, "findings", lambda *, data_dir: found)
    monkeypatch.setitem(os.environ, "AWQ_BENCH_DATA", "[x]\x1b[31m")
    machine.print_findings(Console(width=200), data_dir=None)
    printed = capsys.readouterr().out
    assert "[bold]a[/bold] \\x1b[31m" in printed
    assert "AWQ_BENCH_DATA is [x]\\x1b[31m" in printed
