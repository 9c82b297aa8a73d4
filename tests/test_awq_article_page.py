"""The page about the article: every example runs, every name and figure on it exists."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

from bench.report import published
from lab import article_figures

PAGE = Path(__file__).parents[1] / "docs" / "awq-article.md"
TEXT = PAGE.read_text("utf-8")


def examples() -> str:
    """The page's code without its fences, line for line where it was."""
    code, inside = [], False
    for line in TEXT.splitlines():
        if line.startswith("```"):
            inside = not inside
            line = ""
        code.append(line if inside else "")
    return "\n".join(code) + "\n"


def test_every_example_gives_what_the_page_shows() -> None:
    test = doctest.DocTestParser().get_doctest(examples(), {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 100
    shown: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=shown.append)
    assert result.failed == 0, "".join(shown)


def test_every_module_and_function_named_exists() -> None:
    names = set(re.findall(r"`((?:awq_impl|bench|lab|quantcore|suites)\.[\w.]+)`", TEXT))
    assert len(names) > 15
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    anchors |= set(re.findall(r'<a name="(\w+)">', TEXT))
    for target in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert target in anchors, target
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / path).is_file(), path


def test_the_claims_shown_are_the_claims_held() -> None:
    """The page's table against `bench.report.published`."""
    held = {(f.source.label, f.scheme, f.row): f.perplexity for f in published.FIGURES
            if f.model == "Llama-2-7B"}  # fmt: skip
    in_paper = {"AWQ + clip": "AWQ", "AWQ": ""}
    lines = re.findall(r"^\| (RTN|GPTQ|AWQ)(, no clipping| \+ clip)? \|(.*)\|$", TEXT, re.MULTILINE)
    assert len(lines) == 4
    for name, suffix, cells in lines:
        row = "AWQ + clip" if suffix == " + clip" else name
        expected: list[float | None] = []
        for scheme in ("int4-g128", "int3-g128"):
            expected.append(held["article claims", scheme, row])
            expected.append(held.get(("paper", scheme, in_paper.get(row, row))))
        shown = [None if c.strip() == "-" else float(c) for c in cells.split("|")]
        assert shown == expected, row


def test_the_figures_can_be_drawn_again(tmp_path: Path) -> None:
    for path in article_figures.draw(tmp_path, sequences=2):
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert (PAGE.parent / "figures" / path.name).is_file()
