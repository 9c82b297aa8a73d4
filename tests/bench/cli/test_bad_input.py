"""Bad input: exit code 2, a message with the value, the rule and the fix, and nothing written."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import datasets.config
import huggingface_hub.constants
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.cli.main import main
from bench.gate import gate
from quantcore import files, hub
from quantcore.errors import InputError
from tests.bench.conftest import another_process

CONTEXT = 64
VOCABULARY = 512
SEQLEN = 16
WEIGHT = "model.layers.1.mlp.down_proj.weight"  # [64, 128]
FETCH_AGAIN = r"\bagain\b|complete|another|from the hub|`save_pretrained`"
TOKENIZER = r"tokenizer\.json|\bagain\b"
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] != 'user' %}"
    "{{ raise_exception('no role ' + m['role']) }}{% endif %}{{ m['content'] }}{% endfor %}"
)


class Refused(Protocol):
    """Runs the command line on bad input, checks how it is refused, returns the message."""

    def __call__(self, *arguments: object, value: str, rule: str, fix: str) -> str:
        """``value`` and ``rule`` are in the message as they are, ``fix`` matches as a pattern."""


def prose(words: int, seed: int) -> str:
    """Words in random order: two seeds have no run of 13 words in common."""
    draw = random.Random(seed)
    lexicon = ["".join(draw.choices("abcdefghijklmnop", k=n % 5 + 2)) for n in range(400)]
    return " ".join(draw.choices(lexicon, k=words)) + ".\n"


def write(path: Path, *lines: object) -> Path:
    """A file of lines; what is no string is written as JSON."""
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text), "utf-8")
    return path


def listing(*folders: Path) -> dict[Path, tuple[int, int] | None]:
    """Everything in some folders, with size and time of the files."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and a byte-level tokenizer of its own."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([prose(2000, seed=0)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>").save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=False,
            )
        )
    llama.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("calibration") / "mine.txt", prose(300, seed=2))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("text") / "short.txt", prose(60, seed=1))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, no hub, no data."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWQ_BENCH_DATA", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    cache = tmp_path.parent / f"{tmp_path.name}-hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    hub.unreachable.cache_clear()
    yield
    hub.unreachable.cache_clear()


@pytest.fixture
def refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: object, value: str, rule: str, fix: str) -> str:
        before = listing(tmp_path, model)
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert code == 2, printed.err
        assert "Traceback" not in printed.err
        assert printed.out == ""
        assert listing(tmp_path, model) == before
        found = re.search(r"^(?:awq-bench[\w ]*: )?error: (.*)", printed.err, re.M | re.S)
        assert found, printed.err
        message = found[1].replace(str(tmp_path), "TMP")  # its name is the test's
        assert value in message
        assert rule in message
        assert re.search(fix, message), f"no fix ({fix}) in: {message}"
        return printed.err

    return run


@pytest.fixture
def compare(refused: Refused, model: Path, text: Path, calibration: Path) -> Refused:
    """A comparison that would work, but for what is added to it."""

    def run(*arguments: object, **message: str) -> str:
        return refused(
            *("compare", model, "--methods", "rtn,awq", "--schemes", "int4-g32", "--text", text),
            *("--seqlen", SEQLEN, "--device", "cpu", "--calibration", calibration),
            *("--calibration-samples", 4, "--calibration-seqlen", SEQLEN, "--out", "out"),
            *arguments,
            **message,
        )

    return run


@pytest.fixture
def evaluate(refused: Refused, text: Path) -> Refused:
    """As `compare`, but a MODEL comes first."""

    def run(folder: object, *arguments: object, **message: str) -> str:
        usual = ("--text", text, "--seqlen", SEQLEN, "--device", "cpu", "--out", "out")
        return refused("evaluate", folder, *usual, *arguments, **message)

    return run


@pytest.fixture
def quantize(refused: Refused, model: Path) -> Refused:
    def run(*arguments: object, **message: str) -> str:
        usual = ("--method", "rtn", "--scheme", "int4-g32", "--device", "cpu", "--out", "out")
        return refused("quantize", model, *usual, *arguments, **message)

    return run


@pytest.fixture
def broken(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be broken."""
    return Path(shutil.copytree(model, tmp_path / "broken"))


@pytest.fixture(scope="session")
def evaluated(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished evaluation."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    options = ["--text", str(text), "--seqlen", "16", "--device", "cpu", "--out", str(out)]
    assert main(["evaluate", str(model), *options]) == 0
    return out


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


# Names


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
    ("option", "name", "value", "fix"),
    [
        ("--method", "awq+clp", "unknown method 'awq+clp'", r"did you mean 'awq\+clip'"),
        ("--checkpoint-format", "hff", "unknown --checkpoint-format 'hff'", "did you mean 'hf'"),
    ],
    ids=["method", "checkpoint-format"],
)
def test_unknown_name_to_quantize(
    quantize: Refused, option: str, name: str, value: str, fix: str
) -> None:
    quantize(option, name, value=value, rule="Known: ", fix=fix)


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


# Schemes


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


def test_group_size_that_does_not_divide_to_quantize(quantize: Refused) -> None:
    quantize(
        "--scheme", "int4-g128", value="groups of 128", rule="fit", fix="any other divisor of 64"
    )


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


# Numbers and the machine


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu(evaluate: Refused, model: Path) -> None:
    evaluate(
        *(model, "--device", "cuda"),
        value="--device cuda",
        rule="sees no CUDA GPU",
        fix="use --device cpu",
    )


# Backends and throughput

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


def test_a_backend_for_a_folder_without_codes(evaluate: Refused, model: Path) -> None:
    evaluate(
        *(model, "--backend", "cpu"),
        value="awq_bench/codes.safetensors",
        rule="the codes that an INT4 backend runs",
        fix="write the folder with `awq-bench quantize`",
    )


def test_damaged_codes(evaluate: Refused, broken: Path) -> None:
    (broken / "awq_bench").mkdir()
    (broken / "awq_bench" / "codes.safetensors").write_bytes(b"no such thing")
    evaluate(
        *(broken, "--backend", "cpu"),
        value="awq_bench/codes.safetensors",
        rule="is damaged",
        fix="write the folder anew",
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
    ("arguments", "value", "rule", "fix"),
    [
        ([], "COMMAND", "required", "COMMAND"),
        (["comper"], "'comper'", "invalid choice", "compare"),
        (["compare", "--sceme", "int4-g32"], "--sceme", "unrecognized", "--sceme"),
        (["compare", "--seqlen", "many"], "'many'", "invalid int value", "--seqlen"),
        (["evaluate"], "MODEL", "needs", "a hub name, a local folder, or 'reference'"),
        (["quantize", "--method", "rtn"], "--scheme", "required", "--out"),
        (
            ["quantize", "--method", "rtn", "--scheme", "int4-g32", "--out", "out"],
            *("MODEL", "needs", "a hub name, a local folder, or 'reference'"),
        ),
    ],
    ids=[
        *("no-command", "command", "option", "no-number", "evaluate-nothing"),
        *("no-scheme-no-out", "quantize-nothing"),
    ],
)
def test_usage(refused: Refused, arguments: list[str], value: str, rule: str, fix: str) -> None:
    refused(*arguments, value=value, rule=rule, fix=fix)


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


@pytest.mark.parametrize("name", ["a[bold]b", "a[/]b", "a[/bold]b"])
def test_names_that_look_like_markup_are_names(
    model: Path, text: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(model, tmp_path / name)
    options = ["--text", str(text), "--device", "cpu", "--out", f"{name}-out"]
    assert main(["evaluate", str(folder), *options]) == 0
    assert f"{name}-out" in capsys.readouterr().err


# Texts


def test_empty_text(compare: Refused, tmp_path: Path) -> None:
    compare(
        *("--text", write(tmp_path / "e.txt", "", " ")),
        value="e.txt",
        rule="is empty",
        fix="at least|give|another",
    )


def test_text_shorter_than_a_window(compare: Refused, tmp_path: Path) -> None:
    compare(
        *("--text", write(tmp_path / "brief.txt", "a b")),
        value="'brief' has ",
        rule="less than one window of 16",
        fix=r"give at least 16 \(about 64 characters\) or a smaller --seqlen",
    )


def test_too_little_calibration_text(compare: Refused, calibration: Path) -> None:
    printed = compare(
        *("--calibration-samples", 999),
        value="calibration text 'mine' has ",
        rule="999 sequences of 16 need 15,984",
        fix=r"Give more text, or fewer --calibration-samples \(up to \d+\)",
    )
    fitting = printed.partition("up to ")[2].partition(")")[0]
    compare(
        *("--calibration-samples", int(fitting) + 1), value="'mine'", rule="need", fix=rf"{fitting}"
    )


def test_calibration_text_shorter_than_a_sequence(compare: Refused, tmp_path: Path) -> None:
    printed = compare(
        *("--calibration", write(tmp_path / "brief.txt", "a b")),
        value="'brief' has ",
        rule="4 sequences of 16 need 64",
        fix="--calibration-seqlen",
    )
    assert "up to 0" not in printed  # no fix: 0 samples are refused


@pytest.mark.parametrize("option", ["--text", "--calibration"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_text_that_is_not_utf8(compare: Refused, tmp_path: Path, option: str, suffix: str) -> None:
    path = tmp_path / f"latin{suffix}"
    path.write_bytes(b'{"text": "caf\xe9"}\n')
    compare(
        *(option, path),
        value=f"latin{suffix} is not UTF-8",
        rule="position 13",
        fix="save|convert|encode it|iconv|re-encode",
    )


@pytest.mark.parametrize("option", ["--text", "--calibration"])
@pytest.mark.parametrize("name", ["notes.md", "rows.json", "plain"])
def test_text_with_another_suffix(compare: Refused, tmp_path: Path, option: str, name: str) -> None:
    path = write(tmp_path / name, prose(200, seed=3))
    compare(option, path, value=name, rule="a text file ends in", fix=r"\.txt or \.jsonl")


@pytest.mark.parametrize("option", ["--text", "--calibration"])
def test_text_that_is_a_folder(compare: Refused, tmp_path: Path, option: str) -> None:
    (tmp_path / "corpus").mkdir()
    compare(option, "corpus", value="'corpus'", rule="neither a file", fix=r"\.txt or \.jsonl file")


@pytest.mark.parametrize("option", ["--text", "--calibration"])
def test_text_in_the_home_of_nobody(compare: Refused, option: str) -> None:
    path = "~nobody-here/text.txt"
    compare(option, path, value=path, rule="there is no such file", fix="check the path")


@pytest.mark.parametrize("option", ["--text", "--calibration"])
@pytest.mark.parametrize(
    ("lines", "value", "rule", "fix"),
    [
        ([{"text": "a"}, '{"text": "b'], ":2 ", "is not JSON", r"[Uu]nterminated|delimiter"),
        ([{"text": "a"}, "[1]"], ":2 is a list", "not a JSON object", "object"),
        ([{"text": "a"}, "3"], ":2 is a int", "not a JSON object", "object"),
        ([{"text": "a"}, {"txt": "b"}], ":2", "no ", "'text'"),
        ([{"txt": "a"}], ":1", "['txt']", "text"),
        ([{"text": 3}], ":1", "string", "'text'"),
        ([{"text": None}], ":1", "string", "'text'"),
        (['{"text": "a\\ud800"}'], ":1", "surrogate", "UTF-8|Unicode|text"),
        ([""], "rows.jsonl", "is empty", "at least|give|another|line"),
        ([{"text": ""}], "rows.jsonl", "is empty", "at least|give|another|line"),
    ],
    ids=[
        *("broken", "list", "number", "second-without-text", "without-text", "text-a-number"),
        *("text-null", "surrogate", "empty-file", "empty-text"),
    ],
)
def test_lines(
    compare: Refused,
    tmp_path: Path,
    option: str,
    lines: Sequence[object],
    value: str,
    rule: str,
    fix: str,
) -> None:
    path = write(tmp_path / "rows.jsonl", *lines)
    printed = compare(option, path, value=value, rule=rule, fix=fix)
    assert "rows.jsonl" in printed


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        ("--text", [{"text": "a"}, "", {"txt": "b"}]),
        ("--calibration", [{"text": "a"}, "", {"txt": "b"}]),
        ("--calibration", [{"input_ids": [1, 2]}, "", {"input_ids": [1, -2]}]),
    ],
    ids=["text", "calibration", "ids"],
)
def test_line_numbers_count_blank_lines(
    compare: Refused, tmp_path: Path, option: str, lines: list[object]
) -> None:
    path = write(tmp_path / "rows.jsonl", *lines)
    compare(option, path, value="rows.jsonl:3", rule="rows.jsonl:3", fix="text|vocabulary")


@pytest.mark.parametrize(
    ("lines", "value", "rule", "fix"),
    [
        (
            [{"text": "a", "input_ids": [1, 2]}],
            *(":1 has ['input_ids', 'text']", "a line holds one of", "text, messages, input_ids"),
        ),
        (
            [{"text": "a"}, {"messages": []}],
            *(":2 has no 'text'", "which the first line has", "'text'"),
        ),
        (
            [{"input_ids": [1, 2]}, {"text": "a"}],
            *(":2 has no 'input_ids'", "which the first line has", "'input_ids'"),
        ),
        (
            [{"messages": [{"role": "user", "content": "a"}]}],
            *("holds 'messages'", "no chat template", "give lines with 'text'"),
        ),
        (
            [{"input_ids": [1, 2, 3]}, {"input_ids": [1, 2]}],
            *(":2 has 2 ids, the first line 3", "never padded", "all must be equally long"),
        ),
        (
            [{"input_ids": [1, 2]}, {"input_ids": [1, -7]}],
            *(":2: token id -7", "outside the vocabulary", "0 to 511"),
        ),
        (
            [{"input_ids": [1, VOCABULARY]}],
            *(":1: token id 512", "outside the vocabulary", "0 to 511"),
        ),
        ([{"input_ids": [1, 2.5]}], "2.5", "input_ids must be", "write token ids"),
        ([{"input_ids": [1, True]}], "true", "input_ids must be", "write token ids"),
        ([{"input_ids": [1, "x"]}], '"x"', "input_ids must be", "write token ids"),
        ([{"input_ids": [[1, 2]]}], "[1, 2]", "input_ids must be", "write token ids"),
        ([{"input_ids": "1 2"}], '"1 2"', "input_ids must be", "write token ids"),
        ([{"input_ids": []}], "[]", "input_ids must be", "write token ids"),
        ([{"input_ids": [1]}], "[1]", "at least 2", "write token ids"),
        (
            [{"input_ids": [1] * (CONTEXT + 1)}],
            *("65 ids a line", "the model's context is", "64"),
        ),
    ],
    ids=[
        *("two-kinds", "mixed", "mixed-ids", "no-chat-template", "unequal", "negative"),
        *("outside-the-vocabulary", "float", "bool", "string", "nested", "no-list", "no-ids"),
        *("one-id", "longer-than-the-context"),
    ],
)
def test_calibration_lines(
    compare: Refused, tmp_path: Path, lines: list[object], value: str, rule: str, fix: str
) -> None:
    path = write(tmp_path / "rows.jsonl", *lines)
    printed = compare("--calibration", path, value=value, rule=rule, fix=fix)
    assert "rows.jsonl" in printed


@pytest.mark.parametrize(
    "messages",
    [[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "hello", [{}], 3],
    ids=["refused-role", "string", "no-role", "number"],
)
def test_messages_that_the_chat_template_refuses(
    refused: Refused, broken: Path, text: Path, tmp_path: Path, messages: object
) -> None:
    (broken / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
    good = {"messages": [{"role": "user", "content": prose(50, seed=4)}]}
    path = write(tmp_path / "chats.jsonl", good, {"messages": messages})
    refused(
        *("compare", broken, "--methods", "awq", "--schemes", "int4-g32", "--text", text),
        *("--seqlen", SEQLEN, "--calibration", path, "--calibration-samples", 1),
        *("--calibration-seqlen", SEQLEN, "--device", "cpu"),
        value="chats.jsonl:2",
        rule="the chat template refuses it",
        fix="refuses it: .",
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "seqlen"),
    [
        ([5], [5], CONTEXT),
        ([5, 6], [5], CONTEXT),
        ([5], [5, 6, 7, 8], CONTEXT),
        ([5], [5], SEQLEN),
    ],
    ids=["same", "holds-it", "part-of-it", "same-in-sequences-of-few-words"],
)
def test_calibration_that_overlaps_the_evaluation(
    compare: Refused, tmp_path: Path, ours: list[int], theirs: list[int], seqlen: int
) -> None:
    compare(
        *("--calibration", write(tmp_path / "ours.txt", *[prose(300, seed) for seed in ours])),
        *("--text", write(tmp_path / "theirs.txt", *[prose(300, seed) for seed in theirs])),
        *("--calibration-samples", 12, "--calibration-seqlen", seqlen),
        value="calibration 'ours' overlaps the evaluation text 'theirs'",
        rule="at most 0.5%",
        fix="calibrate on another text",
    )


def test_overlap_of_a_text_without_spaces(compare: Refused, tmp_path: Path) -> None:
    draw = random.Random(9)
    lines = ["".join(chr(draw.randrange(0x4E00, 0x4F00)) for _ in range(30)) for _ in range(40)]
    compare(
        *("--calibration", write(tmp_path / "ours.txt", *lines)),
        *("--text", write(tmp_path / "theirs.txt", *lines), "--calibration-seqlen", CONTEXT),
        value="calibration 'ours' overlaps the evaluation text 'theirs'",
        rule="may be",
        fix="calibrate on another text",
    )


def test_embedded_calibration_for_another_tokenizer(compare: Refused) -> None:
    compare(
        *("--calibration", "embedded"),
        value="--calibration embedded",
        rule="reference model's tokenizer",
        fix="use 'self'",
    )


@pytest.mark.parametrize(
    ("option", "name", "copy"),
    [
        ("--text", "wikitext2", "wikitext-2-raw-v1/test.jsonl"),
        ("--calibration", "c4", "c4/train.jsonl"),
    ],
)
def test_text_that_cannot_be_had(compare: Refused, option: str, name: str, copy: str) -> None:
    compare(
        *(option, name),
        value="cannot be had from the data hub",
        rule="OFFLINE",
        fix=f"put a copy at {copy} under --data-dir",
    )


def test_text_that_is_not_the_protocols(compare: Refused, tmp_path: Path) -> None:
    (tmp_path / "wikitext-2-raw-v1").mkdir()
    write(tmp_path / "wikitext-2-raw-v1" / "test.jsonl", {"text": "another"})
    compare(
        *("--data-dir", tmp_path, "--text", "wikitext2"),
        value="7 characters",
        rule="the protocol's text has 696cca6b65a1",
        fix="give it as a FILE",
    )


def test_data_dir_that_is_not_there(compare: Refused) -> None:
    compare("--data-dir", "nowhere", value="nowhere", rule="is not there", fix="--data-dir")


def test_data_variable_that_is_not_there(compare: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWQ_BENCH_DATA", "nowhere")
    compare(value="nowhere", rule="is not there", fix="AWQ_BENCH_DATA")


# Models


class Case(NamedTuple):
    breaks: Callable[[Path], None]
    value: str
    rule: str
    fix: str


def edit_config(**changes: object) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        write(folder / "config.json", {**config, **changes})

    return breaks


def edit_weight(change: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        changed = change(weights.pop(WEIGHT).clone())
        if changed is not None:
            weights[WEIGHT] = changed
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return breaks


def put(name: str, *lines: object) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        write(folder / name, *lines)

    return breaks


def remove(*names: str) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return breaks


def index(document: object) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        shutil.move(folder / "model.safetensors", folder / "model-1-of-2.safetensors")
        write(folder / "model.safetensors.index.json", document)

    return breaks


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def not_utf8(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model_type": "\xe9"}')


def other_tokens(folder: Path) -> None:
    """A tokenizer with tokens that the model has no row for: 600 and more."""
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    ids = document["model"]["vocab"]
    document["model"]["vocab"] = {t: i if i < 300 else i + 300 for t, i in ids.items()}
    write(folder / "tokenizer.json", document)


def index_not_utf8(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(b'{"weight_map": "\xe9"}')


REMOTE = {"AutoModelForCausalLM": "modeling_mine.Mine"}
SHARDS = {
    WEIGHT: "model-2-of-2.safetensors",
    "lm_head.weight": "model-1-of-2.safetensors",
}
MODELS = {
    "no-config": Case(
        remove("config.json"), "broken has no", "config.json", "folder (that|with)|give|check"
    ),
    "config-not-json": Case(
        put("config.json", '{"model_type":'), "config.json", "not valid JSON", FETCH_AGAIN
    ),
    "config-not-utf8": Case(not_utf8, "config.json", "not valid JSON", FETCH_AGAIN),
    "config-a-list": Case(put("config.json", [1]), "config.json", "object", "object"),
    "config-wrong-type": Case(
        edit_config(hidden_size="wide"), "hidden_size", "does not load", "int"
    ),
    "config-heads-do-not-divide": Case(
        edit_config(num_attention_heads=7), "(7)", "does not load", "not a multiple"
    ),
    "unknown-architecture": Case(
        edit_config(model_type="mine", architectures=["Mine"]),
        *("`mine`", "does not load as a causal language model", "Transformers"),
    ),
    "not-a-language-model": Case(
        edit_config(model_type="vit", architectures=["ViTModel"]),
        *("ViTConfig", "does not load as a causal language model", "check config.json"),
    ),
    "remote-code": Case(
        edit_config(model_type="mine", auto_map=REMOTE),
        "remote code (AutoModelForCausalLM)",
        "never run",
        "model type 'mine' must be one that Transformers itself knows",
    ),
    "remote-code-oddly": Case(
        edit_config(model_type="mine", auto_map=5),
        *("remote code (5)", "never run", "model type 'mine' must be one"),
    ),
    "blocks-without-end": Case(
        edit_config(num_hidden_layers=10**6),
        *("num_hidden_layers is 1000000", "no language model has more than", "mend it"),
    ),
    "labels-without-end": Case(
        edit_config(num_labels=10**9), "num_labels is 1000000000", "no language model", "mend it"
    ),
    "wider-than-the-weights": Case(
        edit_config(intermediate_size=10**7),
        *("describes a llama of", "parameters, and the weights hold", "mend config.json"),
    ),
    "no-dtype": Case(
        edit_config(dtype="float7"), "dtype is 'float7'", "no dtype of PyTorch", "bfloat16"
    ),
    "quantized": Case(
        edit_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        *("already quantized (gptq)", "already quantized", "give the unquantized model"),
    ),
    "quantized-oddly": Case(
        edit_config(quantization_config="gptq"),
        *("gptq", "already quantized", "give the unquantized model"),
    ),
    "no-weights": Case(
        remove("model.safetensors"),
        *("has no weights", "expected", "model.safetensors or model.safetensors.index.json"),
    ),
    "missing-shard": Case(
        index({"metadata": {}, "weight_map": SHARDS}),
        *("model-2-of-2.safetensors", "named in model.safetensors.index.json", FETCH_AGAIN),
    ),
    "index-and-single-file": Case(
        put("model.safetensors.index.json", {"metadata": {}, "weight_map": SHARDS}),
        *("both model.safetensors and", "may be two models", "remove the one"),
    ),
    **{
        f"index-names-{kind}": Case(
            index({"metadata": {}, "weight_map": {WEIGHT: name}}),
            *(f"names '{name}'", "files in the folder itself", "convert|download"),
        )
        for kind, name in (
            ("above", "../model.safetensors"),
            ("absolute", "/etc/model.safetensors"),
            ("pickle", "pytorch_model.bin"),
        )
    },
    "index-without-map": Case(index({"metadata": {}}), "index.json", "is ", FETCH_AGAIN),
    "index-a-list": Case(index([1]), "index.json", "is ", FETCH_AGAIN),
    "index-map-a-list": Case(index({"weight_map": [1]}), "index.json", "is ", FETCH_AGAIN),
    "index-names-no-strings": Case(
        index({"weight_map": {WEIGHT: 3}}), "index.json", "is ", FETCH_AGAIN
    ),
    "index-not-utf8": Case(index_not_utf8, "index.json", "is ", FETCH_AGAIN),
    "index-without-metadata": Case(
        index({"weight_map": {WEIGHT: "model-1-of-2.safetensors"}}),
        *("metadata", "index.json", FETCH_AGAIN),
    ),
    "index-empty": Case(
        index({"metadata": {}, "weight_map": {}}), "index.json", "weight", FETCH_AGAIN
    ),
    "truncated": Case(
        truncate, "model.safetensors", "truncated or not a safetensors", "download it again"
    ),
    "no-safetensors": Case(
        put("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        *("model.safetensors", "truncated or not a safetensors", "download it again"),
    ),
    "misshapen": Case(
        edit_weight(lambda w: w[:, :-1].clone()),
        f"{WEIGHT} has shape [64, 127]",
        "config.json asks for [64, 128]",
        FETCH_AGAIN,
    ),
    "missing-weight": Case(
        edit_weight(lambda w: None), f"first {WEIGHT}", "1 weights are missing", FETCH_AGAIN
    ),
    "nan": Case(
        edit_weight(lambda w: w.index_fill(0, torch.tensor(3), torch.nan)),
        f"{WEIGHT} holds 128 NaN or infinite values of 8192",
        "NaN or infinite",
        "the checkpoint is damaged",
    ),
    "infinite": Case(
        edit_weight(lambda w: w.index_fill(1, torch.tensor(3), -torch.inf)),
        f"{WEIGHT} holds 64 NaN or infinite values of 8192",
        "NaN or infinite",
        "the checkpoint is damaged",
    ),
    "pickled": Case(
        pickle,
        "pytorch_model.bin",
        "can run code when loaded and are refused",
        "convert them to safetensors",
    ),
    "no-tokenizer": Case(
        remove("tokenizer.json", "tokenizer_config.json"), "broken", "no tokenizer", TOKENIZER
    ),
    "broken-tokenizer": Case(
        put("tokenizer.json", '{"version":'), "broken", "no tokenizer", TOKENIZER
    ),
    "another-tokenizer": Case(
        other_tokens, "763", "vocabulary", "511|tokenizer.*(match|belong|another)"
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_folder(evaluate: Refused, broken: Path, name: str) -> None:
    case = MODELS[name]
    case.breaks(broken)
    printed = evaluate(broken, value=case.value, rule=case.rule, fix=case.fix)
    assert "broken" in printed


def test_weights_beyond_float16(evaluate: Refused, broken: Path) -> None:
    edit_weight(lambda w: w.index_fill(0, torch.tensor(3), 1e6))(broken)
    evaluate(
        *(broken, "--dtype", "float16"),
        value=f"{WEIGHT} holds 128",
        rule="NaN or infinite",
        fix="try --dtype bfloat16",
    )


@pytest.mark.parametrize("command", ["compare", "quantize"])
def test_model_folder_to_other_commands(refused: Refused, broken: Path, command: str) -> None:
    pickle(broken)
    more = [] if command == "compare" else ["--method", "rtn", "--scheme", "int4-g32"]
    refused(
        *(command, broken, *more, "--device", "cpu", "--out", "out"),
        value="pytorch_model.bin",
        rule="refused",
        fix="convert them to safetensors",
    )


def test_model_is_a_file(evaluate: Refused, broken: Path) -> None:
    evaluate(
        broken / "model.safetensors",
        value="model.safetensors is a file",
        rule="MODEL is a folder (with config.json)",
        fix="or a hub name",
    )


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "models/of/mine", "~/no-such", "~nobody-here/mine"]
)
def test_model_that_is_not_there(evaluate: Refused, name: str) -> None:
    evaluate(name, value=name, rule="no such model folder", fix="check|give|hub name|spelling")


def test_model_that_is_no_name(evaluate: Refused) -> None:
    evaluate("my model", value="'my model'", rule="neither a folder nor a hub name", fix="alphanum")


@pytest.mark.parametrize("name", ["referense", "someone/nothing"])
def test_model_that_cannot_be_looked_up(evaluate: Refused, name: str) -> None:
    evaluate(name, value=repr(name), rule="is no local folder", fix="check the spelling")


# Output folders


def test_out_holds_another_comparison(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    evaluate(
        *(model, "--seqlen", SEQLEN + 1),
        value="out holds another comparison",
        rule=f"seqlen {SEQLEN}, now {SEQLEN + 1}",
        fix="name another --out",
    )


def test_out_holds_other_things(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "thesis.tex", "four years of work")
    evaluate(model, value="out exists", rule="is no comparison", fix="name another --out")


def test_out_is_a_file(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "out", "mine")
    evaluate(model, value="out exists", rule="is no comparison", fix="name another --out")


def test_out_below_a_file(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine", "mine")
    evaluate(
        model, "--out", "mine/out", value="--out mine/out", rule="cannot be written", fix="another"
    )


def test_out_that_another_process_writes(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    with another_process(tmp_path / "out"):
        evaluate(
            model,
            value="--out out",
            rule="is being written by another process",
            fix="wait until it ends, or name another --out",
        )


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on the disk is full for files of this name: as it is, the error names none."""
    real = files.write_text

    def fill(name: str) -> None:
        def write_text(path: Path, text: str) -> None:
            if path.name != name:
                return real(path, text)
            with files.whole(path) as temporary:
                temporary.write_text(text[: len(text) // 2], "utf-8")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "write_text", write_text)

    return fill


@pytest.mark.parametrize(
    "name",
    ["comparison.json", "unquantized.json", "table.md"],
    ids=["manifest", "record", "table"],
)
def test_a_disk_that_becomes_full(
    full: Callable[[str], None],
    model: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    command = ["evaluate", str(model), "--text", str(text), "--seqlen", "16", "--device", "cpu"]
    full(name)
    assert main([*command, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert f"error: out cannot be written (No space left on device: {name}" in said
    assert "make room" in said
    assert main([*command, "--out", "out"]) == 2  # it was no other comparison's
    assert "No space left on device" in capsys.readouterr().err
    full("")
    assert main([*command, "--out", "out"]) == 0
    assert not list(Path("out").rglob(".*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=["file", "weights"],
)
def test_a_disk_that_becomes_full_to_quantize(
    quantize: Refused, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def save_pretrained(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_pretrained)
    quantize(value="--out out", rule="No space left on device", fix="make room.*another --out")


def test_a_disk_that_becomes_full_for_a_baseline(
    full: Callable[[str], None], tmp_path: Path
) -> None:
    made = SimpleNamespace(
        made="", declared={}, request={}, tolerances={}, reruns=(), unquantized=None, quantized=None
    )
    full("b.json")
    with pytest.raises(InputError, match=r"b\.json cannot be written \(No space left"):
        gate.write(made, tmp_path / "b.json", force=False)  # type: ignore[arg-type]
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("content", ['{"key": ', "[]"], ids=["cut-off", "list"])
def test_out_with_a_damaged_manifest(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path, content: str
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    write(tmp_path / "out" / "comparison.json", content)
    evaluate(
        model,
        value="comparison.json is damaged",
        rule="damaged (",
        fix="remove its folder or name another",
    )


@pytest.mark.parametrize(
    ("changes", "value", "rule", "fix"),
    [
        ({"seed": 1}, "unquantized.json", "it was edited", "remove|another --out"),
        ({"colour": 1}, "unquantized.json", "not a record", "remove|another --out"),
    ],
    ids=["edited", "unknown-field"],
)
def test_out_with_a_damaged_record(
    evaluate: Refused,
    model: Path,
    evaluated: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    value: str,
    rule: str,
    fix: str,
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    path = tmp_path / "out" / "records" / "unquantized.json"
    record = json.loads(path.read_text("utf-8"))
    write(path, {**record, "cell": {**record["cell"], **changes}})
    evaluate(model, value=value, rule=rule, fix=fix)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ('"status": "done"', '"status": "dunno"', "dunno"),
        ('"value": ', '"value": NaN, "was": ', "NaN"),
    ],
)
def test_out_with_a_record_that_lies(
    evaluate: Refused, model: Path, evaluated: Path, tmp_path: Path, old: str, new: str, value: str
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    path = tmp_path / "out" / "records" / "unquantized.json"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    evaluate(model, value=value, rule="not a record", fix="remove|another --out")


def test_out_on_a_full_disk(compare: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr("bench.records.environment.total_memory_bytes", lambda: 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2, 1, 1))
    compare(value="0.0 MiB are free", rule="on disk", fix="choose an --out with more room")


def test_quantize_into_the_folder_that_one_is_in(
    quantize: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    printed = quantize("--out", ".", value="--out .", rule="that you are in", fix="another --out")
    assert len(printed.splitlines()) == 1  # before any work


def test_quantize_onto_a_mount_point(quantize: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of a container: the finished folder could not take its place."""
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    printed = quantize(value="--out out", rule="is a mount point", fix="name a folder in it")
    assert len(printed.splitlines()) == 1


def test_quantize_leaves_no_folder_that_it_made(quantize: Refused, tmp_path: Path) -> None:
    quantize("--out", "deep/er/out", "--exclude", "*", value="*", rule="no linear", fix="fewer")
    assert not (tmp_path / "deep").exists()


def test_a_baseline_forced_over_another_file(baseline: Refused, tmp_path: Path) -> None:
    write(tmp_path / "report.md", "mine")
    baseline(
        "--out", "report.md", "--force", value="report.md", rule="was not written by", fix="another"
    )
    assert (tmp_path / "report.md").read_text("utf-8") == "mine\n"


def test_a_config_that_is_a_pipe(evaluate: Refused, model: Path, tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    evaluate(model, "--config", "pipe", value="--config pipe", rule="is no file", fix="holds TOML")


def test_empty_names(refused: Refused, model: Path) -> None:
    """Of a shell's variable that is not set."""
    refused("evaluate", model, "--out", "", value="--out", rule="it is empty", fix="name a place")
    refused("evaluate", "", value="MODEL", rule="needs a MODEL", fix="a local folder")


def test_quantize_onto_a_link_that_leads_nowhere(quantize: Refused, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    printed = quantize("--out", "link", value="link", rule="leads nowhere", fix="another|mend")
    assert len(printed.splitlines()) == 1


def test_quantize_without_room(quantize: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**20, 2**20 - 1, 1))
    printed = quantize(value="0 MiB are free", rule="--out out takes about", fix="make room")
    assert "quantize " not in printed  # before any work


@pytest.mark.parametrize("occupant", ["folder", "file"])
def test_quantize_into_an_occupied_folder(quantize: Refused, tmp_path: Path, occupant: str) -> None:
    if occupant == "folder":
        (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "config.json" if occupant == "folder" else tmp_path / "out", "{}")
    rule = "is not empty" if occupant == "folder" else "is a file"
    printed = quantize(value="out exists", rule=rule, fix="name another --out, or remove|a folder")
    assert len(printed.splitlines()) == 1  # before any work


def test_quantize_below_a_file(quantize: Refused, tmp_path: Path) -> None:
    write(tmp_path / "mine", "mine")
    printed = quantize("--out", "mine/out", value="mine/out", rule="cannot be written", fix="--out")
    assert "quantize " not in printed  # before any work


# Config files


@pytest.mark.parametrize(
    ("lines", "value", "rule", "fix"),
    [
        (
            ["calibration-sample = 4"],
            *("unknown key 'calibration-sample'", "Known: ", "did you mean 'calibration-samples'"),
        ),
        (["[compare]", "seqlen = 4"], "unknown key 'compare'", "Known: model, methods", "seqlen"),
        (["seqlen = "], "mine.toml is not TOML", "line 1", "column"),
        (["seqlen = 4", "seqlen = 5"], "mine.toml is not TOML", "line 2", "column"),
        (["seqlen = '16'"], "'16'", "seqlen must be", "a whole number"),
        (["seqlen = 16.0"], "16.0", "seqlen must be", "a whole number"),
        (["batch-size = true"], "True", "batch-size must be", "a whole number"),
        (["methods = 3"], "3", "methods must be", "a list of names"),
        (["schemes = [4, 3]"], "[4, 3]", "schemes must be", "a list of names"),
        (["model = 3"], "3", "model must be", "a string"),
        (["text = ['a.txt']"], "['a.txt']", "text must be", "a string"),
        (["data-dir = 3"], "3", "data-dir must be", "a string"),
        (["out = 3"], "3", "out must be", "a string"),
        (['out = "a\\u0000b"'], "a\\x00b", "out must be", "a string without NUL"),
        (["seed = " + "9" * 5000], "mine.toml is not TOML", "limit", "digits"),
        (["a = " + "[" * 20_000], "mine.toml is not TOML", "recursion", "recursion"),
        (["data-dir = 'nowhere'"], "nowhere", "is not there", "--data-dir"),
    ],
    ids=[
        *("key", "table", "no-value", "key-twice", "int-as-string", "int-as-float", "int-as-bool"),
        *("list-as-int", "list-of-int", "string-as-int", "string-as-list", "path-as-int"),
        *("out-as-int", "out-with-nul", "number-too-long", "nested-too-deep", "no-data"),
    ],
)
def test_config(
    refused: Refused,
    model: Path,
    tmp_path: Path,
    lines: list[str],
    value: str,
    rule: str,
    fix: str,
) -> None:
    config = write(tmp_path / "mine.toml", *lines)
    refused("compare", model, "--config", config, value=value, rule=rule, fix=fix)


def test_config_that_is_not_there(refused: Refused) -> None:
    refused(
        *("compare", "--config", "nowhere.toml"),
        value="--config nowhere.toml",
        rule="cannot be read",
        fix="No such file",
    )


def test_config_that_is_not_utf8(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"text = 'caf\xe9.txt'\n")
    refused(
        *("compare", "--config", "mine.toml"),
        value="mine.toml is not TOML",
        rule="position 11",
        fix="utf-8",
    )


@pytest.mark.parametrize(
    ("lines", "value", "rule"),
    [
        (["methods = ['awk']"], "unknown method 'awk'", "Known: "),
        (["seqlen = 65"], "--seqlen 65", "context of 64"),
    ],
    ids=["method", "seqlen"],
)
def test_values_from_a_config_are_checked_like_options(
    refused: Refused,
    model: Path,
    text: Path,
    tmp_path: Path,
    lines: list[str],
    value: str,
    rule: str,
) -> None:
    config = write(tmp_path / "mine.toml", *lines, "schemes = ['int4-g32']")
    refused(
        *("compare", model, "--config", config, "--text", text, "--device", "cpu"),
        value=value,
        rule=rule,
        fix="did you mean 'awq'|of 64",
    )


@pytest.mark.parametrize("command", ["evaluate", "quantize"])
def test_config_without_a_model(refused: Refused, tmp_path: Path, command: str) -> None:
    # Should it ever load the reference model, it is not to run it: neither number fits.
    config = write(tmp_path / "mine.toml", "seqlen = 1", "text = 'embedded'")
    more = ["--method", "rtn", "--scheme", "int4-g7"] if command == "quantize" else []
    refused(
        *(command, "--config", config, "--out", "out", *more),
        value=f"{command} needs a MODEL",
        rule="needs a MODEL",
        fix="a hub name, a local folder, or 'reference'",
    )


# Baselines and gates


@pytest.fixture
def baseline(refused: Refused, model: Path, text: Path, calibration: Path) -> Refused:
    """A baseline that would work, but for what is added to it."""

    def run(*arguments: object, **message: str) -> str:
        return refused(
            *("baseline", model, "--method", "awq", "--scheme", "int4-g32", "--text", text),
            *("--seqlen", SEQLEN, "--device", "cpu", "--calibration", calibration),
            *("--calibration-samples", 4, "--calibration-seqlen", SEQLEN, "--out", "b.json"),
            *arguments,
            **message,
        )

    return run


BASELINE = {
    "seeds": (["--seeds", "4"], "--seeds 4", "at least 5", "at least 5"),
    "no-value": (
        ["--tolerance", "perplexity=much:why"],
        *("perplexity=much:why", "GATE=VALUE:REASON", "such as 'perplexity=0.5%:"),
    ),
    "negative": (
        ["--tolerance", "perplexity=-1%:why"],
        *("perplexity=-1%:why", "a value of 0 or more", "such as 'perplexity=0.5%:"),
    ),
    "nan": (
        ["--tolerance", "perplexity=nan:why"],
        *("perplexity=nan:why", "a value of 0 or more", "such as 'perplexity=0.5%:"),
    ),
    "speed": (
        ["--tolerance", "throughput=100%:why"],
        *("throughput=100%:why", "a value of 0 or more and below 100 in %", "such as"),
    ),
    "no-reason": (
        ["--tolerance", "perplexity=1%"],
        *("perplexity=1%", "a tolerance has a reason", "add it after a colon"),
    ),
    "twice": (
        ["--tolerance", "size=1%:a", "--tolerance", "size=2%:b"],
        *("--tolerance size", "is given twice", "name each gate once"),
    ),
    "no-gate": (
        ["--tolerance", "perplexty=1%:why"],
        *("--tolerance perplexty", "no such gate", "did you mean 'perplexity'"),
    ),
    "not-measured": (
        ["--tolerance", "json=1:why"],
        *("--tolerance json", "no such gate", "Known: perplexity, size"),
    ),
    "scheme-alone": (["--method", "", "--scheme", "int4-g32"], "''", "unknown method", "Known"),
    "source": (
        ["--source", "./source"],
        *("--source ./source", "MODEL is the source already", "leave one of them out"),
    ),
    "suite": (["--suites", "perplexty"], "'perplexty'", "unknown suite", "did you mean"),
}


@pytest.mark.parametrize(("arguments", "value", "rule", "fix"), BASELINE.values(), ids=BASELINE)
def test_baselines(
    baseline: Refused, arguments: list[str], value: str, rule: str, fix: str
) -> None:
    baseline(*arguments, value=value, rule=rule, fix=fix)


def test_a_method_without_a_scheme(refused: Refused, model: Path) -> None:
    refused(
        *("baseline", model, "--method", "rtn", "--out", "b.json"),
        value="--method",
        rule="go together",
        fix="give both, or neither",
    )


def test_a_baseline_that_is_there(baseline: Refused, tmp_path: Path) -> None:
    write(tmp_path / "b.json", "mine")
    baseline(value="b.json", rule="is there already", fix="give --force")


def test_a_baseline_below_a_file(baseline: Refused, tmp_path: Path) -> None:
    write(tmp_path / "file", "mine")
    baseline("--out", "file/b.json", value="file/b.json", rule="is a file", fix="name another")


def test_a_model_in_the_place_of_a_baseline(refused: Refused, model: Path) -> None:
    refused(
        *("gate", "--baseline", model),
        value=str(model),
        rule="is a model's folder",
        fix="give it as MODEL",
    )


@pytest.mark.parametrize(
    ("arguments", "value", "rule"),
    [
        (["--baseline", "a.json", "b.json"], "MODEL b.json", "a folder with config.json"),
        (["--baseline", "a.json", "folder"], "MODEL folder", "a folder with config.json"),
        (["--baseline", "a.json", "b.json", "c.json"], "c.json", "unrecognized arguments"),
        (["./model", "--baseline", "a.json", "b.json"], "b.json", "unrecognized arguments"),
    ],
    ids=["two", "folder", "three", "model"],
)
def test_several_baselines_after_one_option(
    refused: Refused, tmp_path: Path, arguments: list[str], value: str, rule: str
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.json", "b.json", "folder/c.json"):
        write(tmp_path / name, "{}")
    refused("gate", *arguments, value=value, rule=rule, fix="--baseline A --baseline B")


def test_a_baseline_in_the_place_of_a_folder(baseline: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    baseline("--out", "folder", "--force", value="folder", rule="is a folder", fix="name a file")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place that not even root can write")
@pytest.mark.parametrize("command", ["baseline", "gate", "quantize"])
def test_a_place_that_cannot_be_written(refused: Refused, model: Path, command: str) -> None:
    """Known before anything is measured, though the rights would allow it."""
    arguments = {
        "baseline": (model, "--out", "/proc/b.json"),
        "gate": ("--baseline", "b.json", "--report", "/proc/report"),
        "quantize": (model, "--method", "rtn", "--scheme", "int4-g32", "--out", "/proc/out"),
    }[command]
    printed = refused(
        *(command, *arguments),
        value=f"{arguments[-1]}",
        rule="cannot be written",
        fix="name another",
    )
    assert len(printed.splitlines()) == 1  # before any work


@pytest.mark.parametrize(
    ("arguments", "value", "rule", "fix"),
    [
        (["--baseline", "none.json"], "none.json", "cannot be read", "name a file that"),
        (["--baseline", "empty"], "empty", "holds no .json file", "name a baseline"),
        (
            ["--baseline", "b.json", "--report", "file"],
            *("--report file", "is a file", "name a folder"),
        ),
        (
            ["--baseline", "b.json", "--report", "file/report"],
            *("--report file/report", "is a file, not a folder", "name another place"),
        ),
        (
            ["--baseline", "b.json", "--data-dir", "nowhere"],
            *("nowhere", "is not there", "--data-dir or AWQ_BENCH_DATA"),
        ),
    ],
    ids=["none", "folder", "report", "below-a-file", "data"],
)
def test_gates(
    refused: Refused, tmp_path: Path, arguments: list[str], value: str, rule: str, fix: str
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file", "mine")
    refused("gate", *arguments, value=value, rule=rule, fix=fix)


def test_nothing_to_make_anew(refused: Refused) -> None:
    refused("rebaseline", "none.json", value="none.json", rule="cannot be read", fix="name a file")
