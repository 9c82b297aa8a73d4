"""What `compare` refuses: names, schemes, numbers, a disk without room."""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from bench.cli.main import main
from tests.bench.cli.conftest import CONTEXT, SEQLEN, Refused


def test_good_input_is_accepted(
    model: Path, text: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[object] = ["compare", model, "--methods", "rtn,awq", "--schemes", "int4-g32"]
    arguments += ["--text", text, "--seqlen", SEQLEN, "--device", "cpu"]
    arguments += ["--calibration", calibration, "--calibration-samples", 4]
    arguments += ["--calibration-seqlen", SEQLEN, "--out", "out"]
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    assert sorted(path.name for path in Path("out/records").iterdir()) == [
        "awq_int4-g32.json",
        "rtn_int4-g32.json",
        "unquantized.json",
    ]


@pytest.mark.parametrize(
    ("option", "name", "value", "rule", "fix"),
    [
        ("--methods", "rtn,awk", "unknown method 'awk'", "rtn, gptq", "did you mean 'awq'"),
        (
            "--suites",
            "perplexty",
            "unknown suite 'perplexty'",
            "Known: perplexity",
            "did you mean 'perplexity'",
        ),
        (
            "--text",
            "wikitext",
            "--text 'wikitext'",
            "neither a file nor a known text",
            r"did you mean 'wikitext2'.*embedded.*or a \.txt or \.jsonl file",
        ),
        (
            "--calibration",
            "pilevall",
            "--calibration 'pilevall'",
            "neither a file nor a known name",
            r"did you mean 'pileval'.*c4.*self.*or a \.txt or \.jsonl file",
        ),
        (
            "--dtype",
            "float61",
            "unknown --dtype 'float61'",
            "float32, float16, bfloat16",
            "did you mean '.?float16'",
        ),
        ("--dtype", "aut", "unknown --dtype 'aut'", "auto", "did you mean 'auto'"),
        ("--device", "cdua", "unknown --device 'cdua'", "auto, cpu, cuda", "did you mean 'cuda'"),
    ],
    ids=["method", "suite", "text", "calibration", "dtype", "dtype-auto", "device"],
)
def test_unknown_name(
    compare: Refused, option: str, name: str, value: str, rule: str, fix: str
) -> None:
    compare(option, name, value=value, rule=rule, fix=fix)


@pytest.mark.parametrize(
    ("option", "names", "value"),
    [
        ("--methods", "rtn,awq,rtn", "method rtn"),
        ("--schemes", "int4-g32,int4-g32", "scheme int4-g32"),
        ("--schemes", "int4-g32,int04-g32", "int4-g32"),
        ("--suites", "perplexity,perplexity", "suite perplexity"),
    ],
    ids=["method", "scheme", "scheme-written-otherwise", "suite"],
)
def test_duplicate(compare: Refused, option: str, names: str, value: str) -> None:
    compare(option, names, value=value, rule="twice", fix=r"once|remove|drop|leave")


@pytest.mark.parametrize(
    ("kind", "fix"),
    [("method", "rtn, gptq"), ("scheme", "int4-g128"), ("suite", "perplexity")],
    ids=["methods", "schemes", "suites"],
)
def test_empty_list(compare: Refused, kind: str, fix: str) -> None:
    compare(f"--{kind}s", ",", value=kind, rule=f"no {kind}", fix=fix)


@pytest.mark.parametrize("scheme", ["int4-g128", "int4-g48", "int3-g96-sym"])
def test_group_size_that_does_not_divide(compare: Refused, scheme: str) -> None:
    size = re.findall(r"\d+", scheme)[1]
    printed = compare(
        *("--schemes", f"int4-g32,{scheme}"),
        value=f"{scheme}: groups of {size} do not divide inputs of 64",
        rule="group sizes that fit",
        fix="16, 32, 64, any other divisor of 64, or 'channel'",
    )
    assert len(printed.splitlines()) == 1  # before any work


@pytest.mark.parametrize(
    "scheme", ["int4", "4-g128", "int4-128", "int4-g", "int4-g32-asym", "int-g32", "int4-g32 sym"]
)
def test_scheme_grammar(compare: Refused, scheme: str) -> None:
    compare(
        *("--schemes", scheme),
        value=f"unknown scheme {scheme!r}",
        rule="int<bits>-(g<size>|channel)[-sym]",
        fix="for example int4-g128",
    )


@pytest.mark.parametrize("bits", [0, 1, 9, 16])
def test_bits_outside_the_range(compare: Refused, bits: int) -> None:
    compare(
        *("--schemes", f"int{bits}-g32"),
        value=f"{bits} bits",
        rule="2 to 8 bits",
        fix="for example int4-g128",
    )


def test_group_size_0(compare: Refused) -> None:
    compare("--schemes", "int4-g0", value="group size 0", rule="at least 1", fix="example int4-g1")


SPEED = ("--suites", "throughput")
BACKENDS = {
    "unknown": (["--backend", "cud"], "--backend cud", "unknown", "did you mean 'cpu'"),
    "bits": (
        ["--backend", "cpu", "--schemes", "int3-g32"],
        *("--backend cpu", "takes 4 bits, not 3", "--backend dequant works"),
    ),
    "unknown-to-time": (
        ["--throughput-backends", "cpu,fast", *SPEED],
        *("--throughput-backends fast", "unknown", "Known: auto, triton, cpu"),
    ),
    "twice": (["--throughput-backends", "cpu,cpu", *SPEED], "cpu,cpu", "each once", "name each"),
    "not-timed": (
        ["--throughput-backends", "cpu"],
        *("--throughput-backends cpu", "not measured", "add throughput to --suites"),
    ),
    "price": (["--price-per-hour", "2"], "--price-per-hour 2", "not measured", "add throughput"),
    "negative-price": (["--price-per-hour", "-1", *SPEED], "-1", "must be", "more than 0"),
    "batch": (["--batch-sizes", "4,0", *SPEED], "--batch-sizes 4,0", "must be", "at least 1"),
    "tokens": (["--new-tokens", "1", *SPEED], "--new-tokens 1", "must be", "at least 2"),
    "rounds": (["--rounds", "1", *SPEED], "--rounds 1", "must be", "at least 2"),
    "prompt": (
        ["--prompt-lengths", "60", "--new-tokens", "8", *SPEED],
        *("--prompt-lengths 60", "takes 64 tokens", "give shorter prompts"),
    ),
}


@pytest.mark.parametrize(("arguments", "value", "rule", "fix"), BACKENDS.values(), ids=BACKENDS)
def test_backends_and_speed(
    compare: Refused, arguments: list[str], value: str, rule: str, fix: str
) -> None:
    compare(*arguments, value=value, rule=rule, fix=fix)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("option", ["--backend", "--throughput-backends"])
def test_triton_without_a_gpu(compare: Refused, option: str) -> None:
    compare(
        *(option, "triton", *SPEED),
        value=f"{option} triton",
        rule="runs on CUDA GPUs, and this is cpu",
        fix=f"{option} cpu or dequant works",
    )


TOO_LONG = "longer than the model's context"
NUMBERS = [
    ("--seqlen", CONTEXT + 1, "--seqlen 65", TOO_LONG, "of 64"),
    ("--seqlen", 1, "--seqlen 1:", "a window needs", "at least 2"),
    ("--seqlen", 0, "--seqlen 0:", "a window needs", "at least 2"),
    ("--seqlen", -4, "--seqlen -4:", "a window needs", "at least 2"),
    ("--windows", 0, "--windows 0:", "of 16 tokens", r"1 to \d+|at least 1|1 and \d+"),
    ("--windows", -1, "--windows -1:", "of 16 tokens", r"1 to \d+|at least 1|1 and \d+"),
    ("--windows", 999, "--windows 999:", "of 16 tokens", r"'short' has \d+ windows"),
    ("--batch-size", 0, "--batch-size 0:", "must be", "at least 1"),
    ("--batch-size", -1, "--batch-size -1:", "must be", "at least 1"),
    ("--calibration-seqlen", CONTEXT + 1, "--calibration-seqlen 65", TOO_LONG, "of 64"),
    ("--calibration-seqlen", 1, "--calibration-seqlen 1:", "at least", "sequence of 2 tokens"),
    ("--calibration-samples", 0, "--calibration-samples 0,", "at least", "1 sequence of"),
    ("--seed", 10**20, f"--seed {10**20}", "must be", r"2\*\*6|\d{19}|less|below|smaller|digits"),
]


@pytest.mark.parametrize(
    ("option", "number", "value", "rule", "fix"),
    NUMBERS,
    ids=[f"{option}={number}" for option, number, *_ in NUMBERS],
)
def test_number(
    compare: Refused, option: str, number: int, value: str, rule: str, fix: str
) -> None:
    compare(f"{option}={number}", value=value, rule=rule, fix=fix)


@pytest.mark.parametrize(
    ("pattern", "value", "rule", "fix"),
    [
        ("*.donw_proj", "*.donw_proj", "matches no linear", r"model\.layers\.\*\.mlp\.down_proj"),
        ("model.layers.7.*", "model.layers.7.*", "matches no linear", r"this model has \S"),
        ("up_pro", "--exclude up_pro", "whole parts of a name", r"'\*up_pro\*' would match \d"),
        ("*", "--exclude *", "no linear to quantize", "fewer|narrower|less|remove|leave"),
    ],
    ids=["nothing", "no-such-layer", "piece", "everything"],
)
def test_exclude(compare: Refused, pattern: str, value: str, rule: str, fix: str) -> None:
    compare("--exclude", pattern, value=value, rule=rule, fix=fix)


def test_out_on_a_full_disk(compare: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr("bench.records.environment.total_memory_bytes", lambda: 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2, 1, 1))
    compare(value="0.0 MiB are free", rule="on disk", fix="choose an --out with more room")
