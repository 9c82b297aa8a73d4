from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison import calibrator, compare, set_up
from bench.comparison.compare import Outcome
from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from bench.comparison.run_folder import OtherComparison
from bench.gate.key import declared_of
from bench.records.record import read_record
from bench.registry import METHODS
from bench.report import draw, perplexity
from quantcore import exclusion, grid
from quantcore.errors import InputError
from quantcore.quantize import quantize_model
from tests.bench.made import but

METRIC = "evaluation_ppl_32"


def arguments(request: Request, out: Path, *more: str) -> list[str]:
    """The command line that asks for the same."""
    return [
        "compare", request.model, "--methods", ",".join(request.methods),
        "--schemes", ",".join(request.schemes), "--calibration", str(request.calibration.name),
        "--calibration-samples", "8", "--calibration-seqlen", "32", "--seqlen", "32",
        "--text", str(request.text.name), "--out", str(out), *more,
    ]  # fmt: skip


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("records/*")}


def test_a_comparison_end_to_end(
    request_for: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(arguments(request_for, out)) == exit_codes.DONE
    printed = capsys.readouterr()
    assert "AWQ + clip" in printed.out
    assert "INT3-g64" in printed.out
    assert "time         about" in printed.err
    written = {path.name for path in out.iterdir()}
    assert written == {
        "records", "comparison.json", "report.md", "table.md", "table.csv", "table.json",
        "perplexity_int4-g32.png", "perplexity_int4-g32.svg",
    }  # fmt: skip
    table = pd.read_csv(out / "table.csv")
    assert len(table) == 11
    assert set(table["status"]) == {"done"}
    assert table["perplexity"].between(1, 1e6).all()
    assert json.loads((out / "table.json").read_text("utf-8"))[3]["method"] == "gptq+seq"
    for path in out.glob("records/*.json"):
        record = read_record(path)
        assert len(record.metrics[METRIC].window_nll) == record.cell.suites["perplexity"].windows
        if record.cell.method:
            expected = {"rtn": 0, "gptq+seq": 1}.get(record.cell.method, 1)
            assert record.quantization.calibration_passes == expected
            assert len(record.quantization.relative_losses) == 14
            assert record.quantization.exempt == ["model.embed_tokens.weight", "lm_head.weight"]


def test_the_order_of_cells_does_not_matter(
    request_for: Request, compared: Outcome, tmp_path: Path
) -> None:
    """Every cell starts from the original weights: alone, or after ten others."""
    alone = compare.compare(
        request_for.but(methods=("awq",), schemes=("int3-g64",)), out=tmp_path / "alone"
    )
    (expected,) = [
        r for r in compared.records if r.cell.method == "awq" and r.cell.scheme == "int3-g64"
    ]
    assert alone.records[-1].metrics[METRIC].window_nll == expected.metrics[METRIC].window_nll
    assert alone.records[-1].cell.id == expected.cell.id


def test_batches_do_not_change_the_result(request_for: Request, tmp_path: Path) -> None:
    values = []
    for batch in (1, 4):
        request = request_for.but(methods=("rtn",), batch_size=batch)
        outcome = compare.compare(request, out=tmp_path / str(batch))
        values.append([r.metrics[METRIC].value for r in outcome.records])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_an_interrupted_comparison_goes_on(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    done = []

    def interrupt(*args: object, **kwargs: object) -> object:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return quantize_model(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrator, "quantize_model", interrupt)
    assert cli.main(arguments(request_for, out)) == exit_codes.INTERRUPTED
    kept = files(out)
    assert len(kept) == 4
    monkeypatch.setattr(calibrator, "quantize_model", quantize_model)
    assert cli.main(arguments(request_for, out)) == exit_codes.DONE
    after = files(out)
    assert len(after) == 11
    assert {name: after[name] for name in kept} == kept


def test_an_interrupted_default_folder_is_found_again(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt(*args: object, **kwargs: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrator, "quantize_model", interrupt)
    command = arguments(request_for.but(methods=("rtn",)), tmp_path)
    command = command[: command.index("--out")]
    assert cli.main(command) == exit_codes.INTERRUPTED
    monkeypatch.setattr(calibrator, "quantize_model", quantize_model)
    assert cli.main(command) == exit_codes.DONE
    assert len(list((tmp_path / "awq-bench-runs").iterdir())) == 1
    time.sleep(1.1)  # folders are named by the second
    assert cli.main(command) == exit_codes.DONE  # a finished one is left alone
    assert len(list((tmp_path / "awq-bench-runs").iterdir())) == 2


def test_a_killed_comparison_leaves_whole_records_only(
    request_for: Request, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bench", *arguments(request_for, out)]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("records/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = list(out.glob("records/*.json"))
    assert 2 <= len(kept) < 11
    for path in kept:
        assert read_record(path).status == "done"
    assert cli.main(arguments(request_for, out)) == exit_codes.DONE
    assert len(files(out)) == 11


def test_a_failed_cell_costs_no_other(
    request_for: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **kwargs: object) -> object:
        if args[1].name == "gptq":  # type: ignore[attr-defined]
            raise ArithmeticError("planted failure")
        return quantize_model(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrator, "quantize_model", fail)
    out = tmp_path / "run"
    assert cli.main(arguments(request_for, out)) == exit_codes.CELL_FAILED
    printed = capsys.readouterr().out
    assert "failed" in printed
    assert "planted failure" in printed
    assert "AWQ + clip" in printed
    table = pd.read_csv(out / "table.csv")
    assert list(table[table["status"] == "failed"]["method"]) == ["gptq", "gptq"]
    # The cause removed, the same command measures what failed and nothing else.
    monkeypatch.setattr(calibrator, "quantize_model", quantize_model)
    before = files(out)
    assert cli.main(arguments(request_for, out)) == exit_codes.DONE
    changed = {name for name, stamp in files(out).items() if before.get(name) != stamp}
    assert changed == {"records/gptq_int4-g32.json", "records/gptq_int3-g64.json"}


def test_a_failure_halfway_leaves_the_model_as_it_was(
    request_for: Request, compared: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = compared.records[-1]

    def fail_late(*args: object, **kwargs: object) -> object:
        report = quantize_model(*args, **kwargs)  # type: ignore[arg-type]
        if args[1].name == "gptq":  # type: ignore[attr-defined]
            raise ArithmeticError("after every block was changed")
        return report

    monkeypatch.setattr(calibrator, "quantize_model", fail_late)
    last = compare.compare(request_for, out=tmp_path / "failing").records[-1]
    assert last.metrics == expected.metrics


def test_our_own_mistakes_are_not_bad_input(
    request_for: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*args: object, **kwargs: object) -> object:
        raise RuntimeError("planted")

    monkeypatch.setattr(set_up, "discover", broken)
    assert cli.main(arguments(request_for, tmp_path / "run")) == exit_codes.INTERNAL_ERROR
    assert "planted" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["rtn", "awq+clip", "gptq+seq"])
def test_a_saved_model_is_exactly_the_one_compared(
    method: str, request_for: Request, tmp_path: Path
) -> None:
    compared = compare.compare(
        request_for.but(methods=(method,), schemes=("int4-g32",)), out=tmp_path / "run"
    ).records[1]
    quantize(request_for, method=method, scheme="int4-g32", out=tmp_path / "saved")
    evaluated = compare.compare(
        request_for.but(model=str(tmp_path / "saved"), methods=(), schemes=()),
        out=tmp_path / "evaluated",
    ).records[0]
    assert evaluated.metrics[METRIC].window_nll == compared.metrics[METRIC].window_nll
    manifest = json.loads((tmp_path / "saved" / "awq_bench.json").read_text("utf-8"))
    assert manifest["method"] == method
    assert manifest["scheme"] == "int4-g32"


def test_config_file(request_for: Request, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f'model = "{request_for.model}"\nmethods = ["rtn"]\nschemes = "int4-g32,int8-g32"\n'
        f'text = "{request_for.text.name}"\nseqlen = 16\nout = "{tmp_path / "run"}"\n',
        "utf-8",
    )
    command = ["compare", "--config", str(tmp_path / "c.toml"), "--schemes", "int4-g32"]
    assert cli.main(command) == exit_codes.DONE
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert list(table["metric"].unique()) == ["evaluation_ppl_16"]
    assert list(table["scheme"].dropna()) == ["int4-g32"]  # the command line wins


def test_a_model_of_unknown_structure_can_still_be_evaluated(
    request_for: Request, tmp_path: Path
) -> None:
    import transformers as hf

    folder = tmp_path / "gemma"
    config = hf.GemmaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=500, max_position_embeddings=128,
    )  # fmt: skip
    hf.GemmaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((Path(request_for.model) / name).read_bytes())
    command = ["evaluate", str(folder), "--text", str(request_for.text.name), "--seqlen", "32"]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == exit_codes.DONE
    command = arguments(request_for.but(model=str(folder)), tmp_path / "other")
    assert cli.main(command) == exit_codes.BAD_INPUT


def test_patterns_of_linears_are_of_a_cell_with_the_rule_by_which_they_match(
    request_for: Request, tmp_path: Path
) -> None:
    request = request_for.but(methods=("rtn",), schemes=("int4-g32",), exclude=("up_proj",))
    base, quantized = compare.compare(request, out=tmp_path / "run").records
    assert (base.cell.exclude_version, quantized.cell.exclude_version) == (None, exclusion.VERSION)
    schema = json.loads(
        (resources.files("bench.records") / "record.schema.json").read_text("utf-8")
    )
    record = tmp_path / "run" / quantized.cell.file_name
    jsonschema.validate(json.loads(record.read_text("utf-8")), schema)
    # A record of the rule before, by which a pattern was any piece of a name, is another cell's.
    before = but(quantized.cell, exclude_version=None)
    assert "exclude_version" not in before.document()
    assert before.id != quantized.cell.id
    assert declared_of(before) != declared_of(quantized.cell)


def test_a_symmetric_schemes_cell_has_the_rule_of_its_grids(
    request_for: Request, tmp_path: Path
) -> None:
    request = request_for.but(methods=("rtn",), schemes=("int4-g32", "int4-g32-sym"))
    base, plain, symmetric = (cell.cell for cell in compare.compare(request, out=tmp_path).records)
    assert (base.grid_version, plain.grid_version) == (None, None)
    assert symmetric.grid_version == grid.SYMMETRIC_VERSION
    # A record of the grids before is another cell's, and no gate takes it for this one's.
    before = but(symmetric, grid_version=None)
    assert "grid_version" not in before.document()
    assert before.id != symmetric.id
    assert declared_of(before) != declared_of(symmetric)


def test_the_same_weights_with_another_configuration_are_another_comparison(
    request_for: Request, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(request_for.model, tmp_path / "model"))
    request = request_for.but(model=str(model), methods=(), schemes=())
    before = compare.compare(request, out=tmp_path / "run").records[0]
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}), "utf-8")
    with pytest.raises(OtherComparison):
        compare.compare(request, out=tmp_path / "run")
    after = compare.compare(request, out=tmp_path / "other").records[0]
    assert after.cell.model == before.cell.model
    assert after.metrics != before.metrics


def test_tables_are_functions_of_records(compared: Outcome, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        records = [
            read_record(path)
            for path in map(Path, (compared.folder / r.cell.file_name for r in compared.records))
        ]
        draw.write(records, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_the_best_of_each_column_is_marked(request_for: Request, compared: Outcome) -> None:
    records = compared.records
    layout = perplexity.grid(perplexity.rows(records))
    for column, scheme in enumerate(request_for.schemes):
        values = {
            r.cell.method: r.metrics[METRIC].value for r in records if r.cell.scheme == scheme
        }
        marked = [label for label, entries in layout.body if entries[column].best]
        assert marked == [METHODS[str(min(values, key=values.__getitem__))].label]


@pytest.mark.parametrize(
    "damage", ["", "{", '{"schema_version": 1}', "[]", '{"schema_version": 0}']
)
def test_damaged_records_are_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(damage, "utf-8")
    with pytest.raises(InputError, match=r"r\.json"):
        read_record(path)


def test_an_edited_record_is_refused(request_for: Request, tmp_path: Path) -> None:
    outcome = compare.compare(request_for.but(methods=("rtn",)), out=tmp_path / "run")
    path = outcome.folder / outcome.records[1].cell.file_name
    path.write_text(path.read_text("utf-8").replace('"seed": 0', '"seed": 1'), "utf-8")
    with pytest.raises(InputError, match="it was edited"):
        read_record(path)


@pytest.mark.parametrize("command", [["list"], ["doctor"], ["--help"], ["compare", "--help"]])
def test_commands_that_only_tell(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command) == exit_codes.DONE
    assert len(capsys.readouterr().out) > 300


@pytest.mark.parametrize(
    "command", [[], ["compair"], ["compare", "--seqlen", "many"], ["quantize", "x"]]
)
def test_bad_usage(command: list[str]) -> None:
    assert cli.main(command) == exit_codes.BAD_INPUT


def test_the_articles_awq_comes_when_asked_for(
    request_for: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = request_for.but(methods=("rtn", "awq-article"))
    assert cli.main(arguments(asked, tmp_path / "run")) == exit_codes.DONE
    assert "AWQ (article)" in capsys.readouterr().out
    records = [read_record(p) for p in (tmp_path / "run").glob("records/awq-article*.json")]
    assert len(records) == 2
    for record in records:
        assert record.cell.method_settings == {"steps": 20}
        assert record.quantization.calibration_passes == 1
    assert "awq-article" not in Request().methods
