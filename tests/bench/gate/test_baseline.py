"""Baselines are made with what varies by itself, changed with a look first, shown as tables."""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets.config
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from scipy import stats

from bench.cli import exit_codes
from bench.cli import main as cli
from bench.comparison import workbench as cell
from bench.comparison.compare import Comparison, Entry
from bench.comparison.progress import quiet
from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from bench.comparison.workbench import Workbench
from bench.gate import baseline as baselines
from bench.gate import gate
from bench.gate.gate import Baseline, Change, Rerun, Tolerance, detectable_of, noise_of, own_changes
from bench.gate.null_runs import null_runs
from bench.records import environment
from bench.records.record import Record
from bench.stats import tolerance
from quantcore import hub
from quantcore.checkpoint import sha256_of, weight_files
from quantcore.errors import InputError
from tests.bench.conftest import another_process

COMMAND = [
    "--method",
    "awq",
    "--scheme",
    "int4-g32",
    "--suites",
    "perplexity,divergence",
    "--seqlen",
    "32",
    "--calibration-samples",
    "8",
    "--calibration-seqlen",
    "32",
]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and versions that are nobody's working copy."""
    monkeypatch.chdir(tmp_path)
    here = {**environment.describe(), "dirty": False}
    monkeypatch.setattr(environment, "describe", lambda: here)


@pytest.fixture(scope="module")
def measured(asked: Request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Baseline, Path]:
    """A baseline, and the folder of what was measured on the way."""
    parts = tmp_path_factory.mktemp("baseline") / "parts"
    return baselines.make(asked, {}, parts=parts), parts


@pytest.fixture
def made(measured: tuple[Baseline, Path]) -> Baseline:
    return measured[0]


@pytest.fixture
def parts(measured: tuple[Baseline, Path], asked: Request) -> Path:
    """As if the command had been interrupted at the end: it goes on, and measures nothing."""
    folder = baselines.parts_folder(asked, None)
    assert folder is not None
    shutil.copytree(measured[1], folder)
    return folder


def command(asked: Request, *more: object) -> list[str]:
    usual = [*COMMAND, "--text", asked.text, "--calibration", asked.calibration, *more]
    return ["baseline", asked.model, *map(str, usual)]


def test_it_holds_reruns_of_everything_that_may_vary(made: Baseline) -> None:
    names = [one.what for one in made.reruns]
    assert names[:5] == [f"calibration seed {n}" for n in range(1, 6)]
    assert names[5] == "batches of 1"
    assert names[6] in ("1 thread", "2 threads")
    assert names[7:] == ["backend auto"]
    assert [one.drawn for one in made.reruns] == [True] * 5 + [False] * 3
    windows = made.quantized.cell.suites["perplexity"]["windows"]
    for one in made.reruns:
        assert set(one.samples) == {"perplexity", "divergence"}
        assert {len(samples) for samples in one.samples.values()} == {windows}
    # Another calibration gives another model; another batch gives the same to rounding.
    assert all(np.any(one.samples["divergence"]) for one in made.reruns[:5])
    for one in made.reruns[5:]:
        assert np.abs(one.samples["perplexity"]).max() < 1e-4


def test_its_tolerances_come_from_the_reruns(made: Baseline) -> None:
    own = own_changes(made)
    for name in ("perplexity", "divergence"):
        noise = noise_of(name, own[name], made.reruns)
        assert noise is not None
        means = [np.mean(one.samples[name]) for one in made.reruns[:5]]
        assert noise.means == pytest.approx(means)
        assert noise.floor == pytest.approx(tolerance.floor(means))
        errors = [np.std(one.samples[name], ddof=1) for one in made.reruns]
        windows = len(made.reruns[0].samples[name])
        assert noise.spread.error == pytest.approx(max(errors) / math.sqrt(windows))
        reach = stats.t.isf(0.05 / 2, windows - 1) * noise.spread.error
        assert made.tolerances[name].value == pytest.approx(2 * noise.floor + reach)
        size = detectable_of(made, name, own[name], noise)
        assert size is not None
        assert size > made.tolerances[name].value
    assert made.tolerances["size"].value == 0.0


def test_a_tolerance_below_the_floor_is_refused_with_the_figure(
    asked: Request, made: Baseline, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = noise_of("perplexity", own_changes(made)["perplexity"], made.reruns)
    assert noise is not None
    monkeypatch.setattr(Workbench, "measure", never)
    low = {"perplexity": Tolerance(value=noise.floor * 0.9, reason="too strict")}
    said = rf"below the noise floor of \+{100 * math.expm1(noise.floor):.2f} %"
    with pytest.raises(InputError, match=said):
        baselines.make(asked, low, parts=parts)
    enough = {"perplexity": Tolerance(value=noise.floor * 1.1, reason="strict")}
    again = baselines.make(asked, enough, parts=parts)
    assert again.tolerances["perplexity"] == enough["perplexity"]


def test_a_tolerance_below_what_arithmetic_gives_is_refused(made: Baseline) -> None:
    """Reruns of a folder may not differ at all, on this machine."""
    own = own_changes(made)["perplexity"]
    same = [Rerun(what="again", drawn=False, samples={"perplexity": list(own.values)})] * 2
    noise = noise_of("perplexity", own, same)
    assert noise is not None
    assert noise.floor == own.arithmetic.spread(tolerance.spread(own.values, None)).mean > 0
    none = Tolerance(value=0.0, reason="nothing may change")
    said = r"\+0\.00 % is below the noise floor of \+0\.000\d\d %.* give (.*) or more"
    with pytest.raises(InputError, match=said) as refused:
        baselines._tolerance("perplexity", none, same, own, gates=1)
    named = re.search(said, str(refused.value))
    assert named is not None
    value = gate.parsed_tolerance("perplexity", named[1])
    assert noise.floor < value < 1.2 * noise.floor
    enough = Tolerance(value=value, reason="hardly anything may change")
    assert baselines._tolerance("perplexity", enough, same, own, gates=1) == enough


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 4}, "at least 5"),
        ({"tolerances": {"perplexty": Tolerance(value=1.0, reason="r")}}, "did you mean"),
        ({"tolerances": {"json": Tolerance(value=1.0, reason="r")}}, "no such gate here"),
        ({"methods": ("rtn", "awq")}, "one method and one scheme"),
        ({"source": "elsewhere"}, "MODEL is the source already"),
        ({"methods": (), "schemes": ()}, "give it with --source"),
        (
            {"methods": (), "schemes": (), "suites": ("perplexity",)},
            "--calibration .*is taken as quantized already",
        ),
        ({"calibration_samples": 6}, "gives the same 6 sequences by every seed.*samples 3"),
    ],
)
def test_what_cannot_be_a_baseline_is_refused_before_anything_is_measured(
    asked: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    said: str,
) -> None:
    rest = {name: options.pop(name) for name in ("seeds", "source") if name in options}
    tolerances = options.pop("tolerances", {})
    if "calibration_samples" in options:  # exactly the lines that there are
        lines = "".join(f'{{"input_ids": {list(range(n, n + 32))}}}\n' for n in range(6))
        (tmp_path / "six.jsonl").write_text(lines, "utf-8")
        options["calibration"] = str(tmp_path / "six.jsonl")
    monkeypatch.setattr(Workbench, "measure", never)
    with pytest.raises(InputError, match=said):
        baselines.make(replace(asked, **options), tolerances, **rest)  # type: ignore[arg-type]


def test_one_window_is_no_baseline(asked: Request) -> None:
    with pytest.raises(InputError, match=r"perplexity cannot be gated: 1 window .* measure more"):
        baselines.make(replace(asked, windows=1), {})


def test_items_of_which_none_is_right_are_no_baseline() -> None:
    right = Change(values=[0.0] * 10, flips=True, most=0.1)
    baselines._refuse_idle("json", right)
    with pytest.raises(InputError, match=r"json cannot be gated: .*nothing right"):
        baselines._refuse_idle("json", replace(right, most=0.0))


def test_what_a_default_chose_is_asked_for_by_name(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    request = replace(asked, text=None, calibration=None, windows=4, calibration_samples=2)
    with baselines.opened(request) as model:
        found = model.measure("awq", "int4-g32").request
    hub.unreachable.cache_clear()
    assert (found.text, found.calibration) == ("embedded", "self")
    kept = baselines._kept(found, None)
    assert (kept["text"], kept["calibration"]) == ("embedded", "self")


def test_methods_without_calibration_and_folders_have_baselines_too(
    asked: Request, tmp_path: Path
) -> None:
    rtn = replace(asked, methods=("rtn",), calibration=None)
    made = baselines.make(rtn, {})
    assert [one.drawn for one in made.reruns] == [False] * 3
    path = tmp_path / "rtn.json"
    gate.write(made, path, force=False)
    (result,) = baselines.gate([path])
    assert result.outcome == "pass"
    assert null_runs(made) is None
    folder = tmp_path / "folder"
    quantize = ["quantize", asked.model, "--method", "rtn", "--scheme", "int4-g32"]
    assert cli.main([*quantize, "--out", str(folder)]) == exit_codes.DONE
    request = Request(model=str(folder), methods=(), schemes=(), text=asked.text, seqlen=32)
    request = replace(request, suites=asked.suites)
    of_folder = baselines.make(request, {}, source=asked.model)
    beside = tmp_path / "folder.json"
    gate.write(of_folder, beside, force=False)
    (result,) = baselines.gate([beside])
    assert result.outcome == "pass"
    assert of_folder.declared["scheme"] == "int4-g32"
    # The folder and what is quantized on the spot are one declaration.
    (result,) = baselines.gate([path], model=str(folder), source=asked.model)
    assert result.outcome == "pass"


@pytest.mark.parametrize("beside", [True, False])
def test_what_a_folder_declares_is_the_same_once_it_is_measured(
    asked: Request, tmp_path: Path, beside: bool
) -> None:
    folder = quantize(asked, method="rtn", scheme="int4-g32", out=tmp_path / "folder")
    request = Request(
        model=str(folder), methods=(), schemes=(), text=asked.text, seqlen=32, windows=2
    )
    source = asked.model if beside else None
    with baselines.opened(request, source=source) as model:
        before = copy.deepcopy(model.declared(None, None))
        assert model.measure(None, None).declared == before
        assert model.declared(None, None) == before
    # The folder's manifest names the model that it was made of.
    assert before["source"] == sha256_of(weight_files(Path(asked.model)))


@pytest.mark.slow
def test_speed_is_timed_again(asked: Request, tmp_path: Path) -> None:
    request = replace(
        asked,
        methods=("rtn",),
        calibration=None,
        suites=("throughput",),
        prompt_lengths=(16,),
        new_tokens=4,
        rounds=3,
        text=None,
        seqlen=None,
    )
    made = baselines.make(request, {})
    assert [one.what for one in made.reruns] == [f"timed again, {n}" for n in range(1, 6)]
    assert set(made.tolerances) == {"throughput", "size"}
    path = tmp_path / "b.json"
    gate.write(made, path, force=False)
    assert gate.read(path).reruns == made.reruns
    (result,) = baselines.gate([path])
    assert {v.name for v in result.verdicts} == {"throughput", "size"}
    assert result.verdicts[0].decision is not None


@pytest.mark.usefixtures("parts")
def test_the_command_shows_and_never_writes_over(
    asked: Request, made: Baseline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "b.json"
    assert cli.main(command(asked, "--out", path)) == exit_codes.DONE
    said = capsys.readouterr()
    assert "detected from" in said.out
    assert "1,000 null runs" in said.out
    assert "Rerun 8 of 8" in said.err
    assert "left" in said.err
    assert gate.read(path).declared == made.declared
    before = path.read_bytes()
    assert cli.main(command(asked, "--out", path)) == exit_codes.BAD_INPUT
    assert "give --force" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert not list(tmp_path.glob("awq-bench-runs/*"))


def test_an_interrupted_one_goes_on(
    asked: Request,
    made: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Comparison.measure
    new = []

    def measure(self: Comparison, entry: Entry) -> Record:
        if entry[0].id not in self.run.done:
            new.append(entry)
            if len(new) == 5:
                raise KeyboardInterrupt
        return real(self, entry)

    monkeypatch.setattr(Comparison, "measure", measure)
    path = tmp_path / "b.json"
    assert cli.main(command(asked, "--out", path)) == exit_codes.INTERRUPTED
    assert "goes on from there" in capsys.readouterr().err
    assert not path.exists()
    # The first takes two cells, calibration seeds one each, batches and threads two, backends one.
    assert cli.main(command(asked, "--out", path)) == exit_codes.DONE
    assert len(new) == 5 + (2 + 5 + 2 + 2 + 1) - 4
    assert gate.read(path).reruns == made.reruns
    assert not list(tmp_path.glob("awq-bench-runs/*"))


def test_the_same_baseline_is_not_made_twice_at_a_time(
    asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = baselines.parts_folder(asked, None)
    assert parts is not None
    path = tmp_path / "b.json"
    with another_process(parts):
        assert cli.main(command(asked, "--out", path)) == exit_codes.BAD_INPUT
        assert f"{parts} is being written by another process" in capsys.readouterr().err
        baselines.discard(parts, quiet())
        assert parts.is_dir(), "the other process is writing it"
    assert not path.exists()


def test_statistics_on_disk_go_with_the_rerun_that_made_them(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a 7 B model take 11 GB; what is interrupted leaves none either."""
    monkeypatch.setattr(cell, "_STATS_SHARE", 0.0)
    real = Comparison.measure
    together = []

    def measure(self: Comparison, entry: Entry) -> Record:
        record = real(self, entry)
        if entry[0].method is not None:
            together.append(len(list(tmp_path.rglob("calibration-cache"))))
        if len(together) == 3:
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(Comparison, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        baselines.make(asked, {}, parts=tmp_path / "parts")
    assert together == [1, 1, 1]
    assert not list(tmp_path.rglob("calibration-cache"))
    assert list((tmp_path / "parts").rglob("records/*.json"))


def test_what_was_kept_of_other_texts_is_measured_anew(
    asked: Request,
    measured: tuple[Baseline, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = Path(shutil.copy(str(asked.text), tmp_path))
    request = replace(asked, text=str(text))
    kept = baselines.parts_folder(request, None)
    assert kept is not None
    shutil.copytree(measured[1], kept)
    low = ["--tolerance", "perplexity=0.0001%:too strict"]
    words = [str(text) if word == asked.text else word for word in command(asked, *low)]
    assert cli.main([*words, "--out", "b.json"]) == exit_codes.BAD_INPUT
    assert "below the noise floor" in capsys.readouterr().err
    assert not Path("b.json").exists()
    assert list(tmp_path.glob("awq-bench-runs/*/00/records/*.json"))
    text.write_text(text.read_text("utf-8")[:-200], "utf-8")
    assert cli.main([*words[:-2], "--out", "b.json"]) == exit_codes.DONE
    assert gate.read(Path("b.json")).quantized.cell.suites["perplexity"]["windows"] < 36


def never(*_: object) -> None:
    raise AssertionError("measured again")


@pytest.mark.usefixtures("parts")
def test_changing_a_baseline_shows_the_difference_first(
    made: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {"perplexity": Tolerance(value=0.9, reason="nobody minds")}
    path = tmp_path / "b.json"
    gate.write(replace(made, tolerances={**made.tolerances, **named}), path, force=False)
    before = path.read_bytes()
    assert cli.main(["rebaseline", str(path)]) == exit_codes.DONE
    assert "Nothing was written" in capsys.readouterr().out
    assert path.read_bytes() == before
    # What was shown is what is written: nothing is measured twice.
    capsys.readouterr()
    monkeypatch.setattr(Workbench, "measure", never)
    wide = ["--tolerance", "divergence=0.5:nobody looks"]
    assert cli.main(["rebaseline", str(path), *wide]) == exit_codes.DONE
    said = " ".join(capsys.readouterr().out.split())
    assert "+0.5000 nats: nobody looks" in said
    assert "1,000 null runs" in said
    assert cli.main(["rebaseline", str(path), "--accept"]) == exit_codes.DONE
    assert "nobody minds" in " ".join(capsys.readouterr().out.split())
    again = gate.read(path)
    assert again.made > made.made
    assert again.tolerances["perplexity"] == named["perplexity"]
    assert again.tolerances["divergence"] == made.tolerances["divergence"]


def test_null_runs_see_a_gate_that_cries_wolf_and_one_that_sleeps(made: Baseline) -> None:
    honest = null_runs(made)
    assert honest is not None
    assert honest.outcomes["fail"] <= 0.05 * honest.runs
    worse = [
        replace(one, samples={"divergence": [v + 1.0 for v in one.samples["divergence"]]})
        for one in made.reruns
    ]
    low = {"divergence": Tolerance(value=0.1, reason="a test's")}
    wolf = replace(made, tolerances=low, reruns=tuple(worse))
    found = null_runs(wolf, runs=50)
    assert found is not None
    assert found.outcomes["fail"] == 50
    # A rerun far worse than the others is one that their tolerance does not cover.
    far = [
        replace(
            one, samples={name: [v + 5.0 for v in values] for name, values in one.samples.items()}
        )
        if one.what == "calibration seed 3"
        else one
        for one in made.reruns
    ]
    found = null_runs(replace(made, reruns=tuple(far)), runs=50)
    assert found is not None
    assert found.outcomes["fail"] == 10


def test_a_rerun_that_fails_is_no_baseline(
    asked: Request, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(parts / "07")  # the one with other threads; those before it are read
    real = Workbench.measure

    def measure(self: Workbench, *arguments: Any) -> Record:
        record = real(self, *arguments)
        if torch.get_num_threads() == other:
            return replace(record, status="failed", error="out of memory", metrics={})
        return record

    other = 1 if torch.get_num_threads() > 1 else 2
    monkeypatch.setattr(Workbench, "measure", measure)
    with pytest.raises(InputError, match=r"rerun '. threads?'\): out of memory"):
        baselines.make(asked, {}, parts=parts)


def test_a_suite_that_cannot_be_gated_is_no_part_of_a_baseline(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = baselines.changes

    def changes(*pairs: Any) -> dict[str, Any]:
        return {**real(*pairs), "divergence": "no prompt of divergence fits the context"}

    monkeypatch.setattr(baselines, "changes", changes)
    with pytest.raises(InputError, match=r"divergence cannot be gated.*leave it out of --suites"):
        baselines.make(asked, {})


def test_a_rerun_that_says_nothing_of_a_gate_is_left_out(made: Baseline) -> None:
    own = own_changes(made)["perplexity"]
    timed = Rerun(what="timed again, 1", drawn=True, samples={"throughput": [9.0]})
    with_it = noise_of("perplexity", own, [*made.reruns, timed])
    assert with_it == noise_of("perplexity", own, made.reruns)
    assert noise_of("perplexity", own, [timed]) is None


def test_a_pipe_is_no_baseline(tmp_path: Path) -> None:
    """Reading one would wait for ever, in the folder that CI names too."""
    os.mkfifo(tmp_path / "pipe.json")
    for place in (tmp_path / "pipe.json", tmp_path):
        with pytest.raises(InputError, match=r"baseline .*pipe\.json cannot be read \(it is a fo"):
            baselines.gate([place])
    with pytest.raises(InputError, match=r"baseline .*pipe\.json cannot be read"):
        baselines.remake(tmp_path / "pipe.json", {})
