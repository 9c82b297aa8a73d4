from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from quantcore.errors import InputError
from suites import texts
from suites.texts import Corpus, hub_rows, load_corpus

ROWS = ["", " = A heading = \n", " Some text . \n", "ünïcode\n"]


def write_rows(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": row}) for row in ROWS]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def corpus(repository: str, *, rows: int | None = None) -> Corpus:
    return Corpus(
        about="a test", repository=repository, config=None, split="train", local="c/train.jsonl",
        rows=rows,
    )  # fmt: skip


def test_a_local_copy_is_joined_by_two_newlines(tmp_path: Path) -> None:
    write_rows(tmp_path / "c" / "train.jsonl")
    text = load_corpus("c", corpus("nobody/nothing"), data_dir=tmp_path)
    assert text.content == "\n\n".join(ROWS)
    assert text.source == "c/train.jsonl in the data folder"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("rows", [None, 3])
def test_the_hub_code_reads_a_data_set_folder_alike(tmp_path: Path, rows: int | None) -> None:
    """The code that reads the hub, pointed at a folder in a data set's layout."""
    write_rows(tmp_path / "set" / "train.jsonl")
    read = list(hub_rows(corpus(str(tmp_path / "set"), rows=rows)))
    assert read == ROWS[: rows or 4]


@pytest.mark.filterwarnings("default")
def test_an_absent_data_set_says_where_a_copy_would_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "use_cache_if_unreachable", lambda: "no hub in this test")
    with pytest.raises(InputError, match=r"no hub in this test.*c/train.jsonl under data_dir"):
        hub_rows(corpus("/no/such/folder"))


def test_embedded_prose_is_there() -> None:
    text = texts.embedded()
    assert len(text.content.split()) > 15_000
    paragraphs = [p for p in text.content.split("\n\n") if len(p) > 200]
    assert len(paragraphs) == len(set(paragraphs))


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    for name, content in (("a.txt", "text"), ("a.jsonl", '{"text": "text"}\n')):
        (tmp_path / name).write_text(content, "utf-8-sig")
        assert texts.read_file(tmp_path / name).content == "text"


def test_a_text_that_does_not_fit_in_memory_is_refused_before_it_is_tokenized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> object:
        raise AssertionError("it was tokenized")

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    with pytest.raises(InputError, match=r"'big' of 1 million letters .* 0\.1 GiB .*give a part"):
        texts.tokenize(never, "x" * 1_000_000, "big")  # type: ignore[arg-type]


def test_a_pipe_is_no_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"text '.*a\.txt' is a pipe or a device; name a file"):
        texts.evaluation_text(str(tmp_path / "a.txt"), data_dir=None)
