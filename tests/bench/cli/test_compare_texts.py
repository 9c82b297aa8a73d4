"""What `compare` refuses: texts to evaluate and to calibrate on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.cli.conftest import CONTEXT, SEQLEN, VOCABULARY, Refused, prose, write

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] != 'user' %}"
    "{{ raise_exception('no role ' + m['role']) }}{% endif %}{{ m['content'] }}{% endfor %}"
)


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
