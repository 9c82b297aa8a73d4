"""What ships: the wheel, the README's numbers, the hub code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest

from bench.comparison import compare
from bench.comparison.request import Request
from bench.records.record import read_record
from bench.report import labels, perplexity
from bench.report.grid import markdown
from bench.report.pair import open_cell, pair
from quantcore import hub

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def python(*arguments: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, text=True, capture_output=True
    )


@pytest.mark.slow
def test_the_wheel_compares_from_any_folder(tmp_path: Path) -> None:
    """Built from a copy of the tree, so that nothing of the checkout can leak in."""
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    # Without --wheel the wheel is built from the source distribution, so that lacks nothing either.
    built = python("-m", "build", "--no-isolation", "--outdir", "..", ".", cwd=source)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("awq_bench-*.whl")
    (sdist,) = tmp_path.glob("awq_bench-*.tar.gz")
    in_wheel = {
        re.sub(r"^awq_bench-[^/]*/", "", name) for name in zipfile.ZipFile(wheel).namelist()
    }
    assert {"licenses/LICENSE", "licenses/NOTICE", "bench/records/record.schema.json"} <= in_wheel
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "tests/conftest.py", "tox.ini"} <= in_sdist
    target = tmp_path / "installed"
    done = python(
        "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = python(
        "-c", "import bench, transformers; print(bench.__file__)", cwd=elsewhere, path=str(target)
    )
    assert where.stdout.startswith(str(target)), where.stderr
    run = python(
        "-m", "bench", "compare", "--text", "embedded", "--windows", "4", "--seqlen", "64",
        "--methods", "rtn", "--schemes", "int4-g128", cwd=elsewhere, path=str(target),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "embedded_ppl_64@4" in run.stdout
    assert len(list(elsewhere.glob("awq-bench-runs/*/records/*.json"))) == 2


def test_transformers_imports_beside_our_kernels_folder() -> None:
    """Our folder has the name of a package that transformers looks for when it is imported."""
    code = (
        "import transformers, kernels; from transformers import LlamaForCausalLM; "
        "print(kernels.__version__)"
    )
    done = python("-c", code, cwd=ROOT)
    assert done.stdout.strip() == "0.1.0", done.stderr


def test_importing_has_no_side_effects() -> None:
    """Heavy libraries are imported where they are used."""
    code = (
        "import sys, bench.cli.main, bench.comparison.compare, suites.texts, awq_impl.method\n"
        "import baselines.gptq\n"
        "print([m for m in ('matplotlib', 'datasets', 'triton', 'lm_eval') if m in sys.modules])"
    )
    done = python("-c", code, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_readme_shows_the_committed_table() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    start, end = "<!-- results/reference/wikitext2/table.md -->\n", "<!-- end -->"
    shown = readme[readme.index(start) + len(start) : readme.index(end)]
    assert shown == (RESULTS / "reference" / "wikitext2" / "table.md").read_text("utf-8")


def test_the_readme_shows_what_pair_prints() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    command, shown = re.findall(r"<!-- awq-bench pair (.*?) -->\n```\n(.*?)```", readme, re.DOTALL)[
        0
    ]
    folder, *names = command.split()
    layout = pair(*(open_cell(name, ROOT / folder) for name in names))
    printed = {
        label: " ".join(field.lines[0] for field in fields[:-1]).split()
        for label, fields in layout.body
    }
    head, *lines = shown.splitlines()
    assert head.split() == " ".join(field.lines[0] for field in layout.header[:-1]).split()
    assert len(lines) > 3
    for line in lines:
        label, *words = line.split()
        assert words == printed[label]


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert sum(len(line.split()) for line in lines) <= 900
    assert any("tox run" in line for line in lines[:10])


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("reference/*")), ids=lambda f: f.name)
def test_committed_tables_are_drawn_from_committed_records(folder: Path) -> None:
    records = [read_record(path) for path in folder.glob("records/*.json")]
    order = [
        line.split(",")[1:3] for line in (folder / "table.csv").read_text("utf-8").splitlines()[1:]
    ]
    found = {(r.cell.method or "unquantized", r.cell.scheme or ""): r for r in records}
    ordered = [found[method, scheme] for method, scheme in order]
    assert len(ordered) == len(records)
    assert markdown(perplexity.grid(perplexity.rows(ordered))) == (folder / "table.md").read_text(
        "utf-8"
    )


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("reference/*")), ids=lambda f: f.name)
def test_no_committed_cell_beats_the_unquantized_model(folder: Path) -> None:
    records = [read_record(path) for path in folder.glob("records/*.json")]
    for row in perplexity.rows(records):
        if row.ratio is not None:
            assert row.ratio.high > 1, labels.of_row(row.record)


def test_a_hub_name_is_found_in_the_hubs_cache(
    tiny_folder: Path, request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that asks the hub, over a local folder in the layout of its cache."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(tiny_folder, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision, "utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    try:
        request = request_for.but(model="somebody/tiny", methods=("rtn",), schemes=("int4-g32",))
        records = compare.compare(request, out=tmp_path / "run").records
    finally:
        hub.unreachable.cache_clear()
    local = compare.compare(
        request_for.but(methods=("rtn",), schemes=("int4-g32",)), out=tmp_path / "local"
    ).records
    assert records[1].metrics == local[1].metrics
    assert records[1].model_name == "somebody/tiny"


WITHOUT_EXTRAS = """
import sys
from importlib import metadata

hidden = {"lm-eval": "lm_eval", "datasets": "datasets", "matplotlib": "matplotlib"}
sys.modules |= dict.fromkeys(hidden.values())  # to import one is an ImportError
version = metadata.version

def installed(name):
    if name in hidden:
        raise metadata.PackageNotFoundError(name)
    return version(name)

metadata.version = installed
from bench.cli.main import main

sys.exit(main(sys.argv[1:]))
"""


def test_without_extras_perplexity_and_divergence_are_compared(
    tiny_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    """What `pip install awq-bench` alone gives; the rest is named with its extra."""
    text = ["--text", str(text_folder / "evaluation.txt"), "--seqlen", "32"]
    command = ["-c", WITHOUT_EXTRAS, "compare", str(tiny_folder), "--methods", "rtn", *text]
    command += ["--schemes", "int4-g32", "--out", "run", "--suites"]
    done = python(*command, "perplexity,divergence", cwd=tmp_path, path=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "No charts: they need matplotlib" in done.stdout
    assert "pip install 'awq-bench[charts]'" in (tmp_path / "run" / "report.md").read_text("utf-8")
    assert not list((tmp_path / "run").glob("*.png"))
    done = python(*command, "perplexity,json", cwd=tmp_path, path=str(ROOT))
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "json, as every task, needs lm-eval, which is not installed" in said
    assert "pip install 'awq-bench[tasks]'" in said
