"""Texts are known by name: where each comes from, and how its rows become one string."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from quantcore import files
from quantcore.errors import InputError, nearest, setting_name
from quantcore.hub import use_cache_if_unreachable
from quantcore.versions import need

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WIKITEXT2_TEST_SHA256 = "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83"
"""Of the joined test rows, 1,294,336 characters: the text behind every published number."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A `Text` is a text and where it was found."""

    name: str
    content: str
    source: str
    """For people: a local file, a hub data set with its split, or the package."""

    @property
    def sha256(self) -> str:
        """Give the sha256 of the content in UTF-8."""
        return hashlib.sha256(self.content.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A `Corpus` is a data set on the hub, and the file that holds a copy in a data folder."""

    about: str
    repository: str
    config: str | None
    split: str
    local: str
    """Path under the data folder, JSON lines with the rows' ``text``."""
    data_files: str | None = None
    rows: int | None = None
    """How many rows are read; None: all."""
    sha256: str | None = None
    """Of the joined rows, where the protocol fixes them."""


EVALUATION = {
    "wikitext2": Corpus(
        about="WikiText-2, raw test split (CC BY-SA): the protocol of GPTQ, AWQ and AutoAWQ",
        repository="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        split="test",
        local="wikitext-2-raw-v1/test.jsonl",
        sha256=WIKITEXT2_TEST_SHA256,
    ),
}
"""Texts that perplexity is measured on, besides ``embedded`` and files."""

CALIBRATION = {
    "wikitext2": Corpus(
        about="WikiText-2, raw training split (CC BY-SA)",
        repository="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        split="train",
        local="wikitext-2-raw-v1/train.jsonl",
    ),
    "c4": Corpus(
        about="C4, first 4,096 documents of the first English training shard (ODC-BY)",
        repository="allenai/c4",
        config=None,
        split="train",
        data_files="en/c4-train.00000-of-01024.json.gz",
        local="c4/train.jsonl",
        rows=4096,
    ),
    "pileval": Corpus(
        about="the Pile's validation split, first 4,096 documents, as the reference AWQ uses it",
        repository="mit-han-lab/pile-val-backup",
        config=None,
        split="validation",
        local="pileval/validation.jsonl",
        rows=4096,
    ),
}
"""Texts to calibrate on, besides ``self``, ``embedded`` and files."""

EMBEDDED = "original encyclopedic prose, shipped with the package"


def load_corpus(name: str, corpus: Corpus, *, data_dir: Path | None) -> Text:
    """Join the rows of a corpus, from the data folder if it has them, else from the hub.

    Raises:
        InputError: neither has it, or the text is not the one that the protocol fixes.
    """
    local = None if data_dir is None else data_dir / corpus.local
    if local is not None and local.is_file():
        rows: Iterable[str] = (line["text"] for line in _json_lines(local, "text"))
        source = f"{corpus.local} in the data folder"
    else:
        rows = hub_rows(corpus)
        source = f"{corpus.repository} ({corpus.split}) on the data hub"
    content = "\n\n".join(islice(rows, corpus.rows))
    text = Text(name=name, content=content, source=source)
    if corpus.sha256 is not None and text.sha256 != corpus.sha256:
        raise InputError(
            f"{name}: {source} holds {len(content):,} characters with sha256 {text.sha256[:12]}, "
            f"but the protocol's text has {corpus.sha256[:12]}; give it as a FILE instead"
        )
    return text


def hub_rows(corpus: Corpus) -> Iterable[str]:
    """Load the rows of a corpus from the data hub, or from its local cache.

    Raises:
        InputError: the hub cannot be reached, or does not have it.
    """
    need("datasets", extra="tasks", what=f"{corpus.repository}, from the data hub,")
    # Imported here: it takes seconds, and a local copy needs none of it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    offline = use_cache_if_unreachable()
    try:
        rows = load_dataset(
            corpus.repository,
            corpus.config,
            split=corpus.split,
            data_files=None if corpus.data_files is None else {corpus.split: corpus.data_files},
            streaming=corpus.rows is not None,
        )
        return [row["text"] for row in islice(rows, corpus.rows)]
    except (OSError, ValueError, DatasetsError, RuntimeError) as error:
        reason = offline or (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{corpus.repository} cannot be had from the data hub ({reason}); put a copy at "
            f"{corpus.local} under {setting_name('data_dir')}, as JSON lines with a 'text' each",
            found=corpus.repository,
        ) from error


def embedded() -> Text:
    """Read the evaluation text that ships with the package."""
    file = resources.files("suites") / "data" / "embedded.txt"
    return Text(name="embedded", content=file.read_text("utf-8"), source=EMBEDDED)


def evaluation_text(name: str, *, data_dir: Path | None) -> Text:
    """Find an evaluation text by name or file.

    Raises:
        InputError: unknown, unreadable, or empty.
    """
    if name == "embedded":
        return embedded()
    if name in EVALUATION:
        return load_corpus(name, EVALUATION[name], data_dir=data_dir)
    path = Path(os.path.expanduser(name))  # that of an unknown user stays as it is
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(
            f"{setting_name('text')} {name!r} is a pipe or a device; name a file",
            setting="text",
            found=name,
        )
    if path.suffix in (".txt", ".jsonl") and not path.is_file():
        raise InputError(
            f"{setting_name('text')} {name!r}: there is no such file; check the path",
            setting="text",
            found=name,
        )
    if not path.is_file():
        known = ["embedded", *EVALUATION]
        raise InputError(
            f"{setting_name('text')} {name!r} is neither a file nor a known text; "
            f"{nearest(name, known)}, or a .txt or .jsonl file",
            setting="text",
            found=name,
            allowed=known,
        )
    return read_file(path)


_BYTES_A_LETTER = 72
"""What a tokenizer takes for a letter of a text that it gets whole, at most."""


def tokenize(tokenizer: PreTrainedTokenizerBase, content: str, name: str) -> list[int]:
    """Make token ids of a text in one call: cut into pieces it could come out otherwise.

    Raises:
        InputError: it takes more memory than there is.
    """
    need, free = _BYTES_A_LETTER * len(content), psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"text {name!r} of {len(content) / 1e6:,.0f} million letters takes about "
            f"{need / 2**30:,.1f} GiB to tokenize, and {free / 2**30:,.1f} GiB are free; give a "
            "part of it"
        )
    return list(tokenizer(content, verbose=False).input_ids)


def read_file(path: Path) -> Text:
    """Read a ``.txt`` file as it is, or a ``.jsonl`` file's ``text`` lines, two newlines between.

    Raises:
        InputError: another kind of file, not UTF-8, or a line without ``text``.
    """
    if path.suffix == ".txt":
        content = _read_utf8(path)
    elif path.suffix == ".jsonl":
        content = "\n\n".join(line["text"] for line in _json_lines(path, "text"))
    else:
        raise InputError(f"{path}: a text file ends in .txt or .jsonl; rename or convert it")
    if not content.strip():
        raise InputError(f"{path} is empty; give at least one window of text")
    return Text(name=path.stem, content=content, source=path.name)


def _json_lines(path: Path, key: str) -> Iterable[dict[str, Any]]:
    for number, line in read_lines(path):
        value = line.get(key)
        if not isinstance(value, str):
            raise InputError(
                f"{path}:{number} has {sorted(line)}, and no string {key!r}, which every line needs"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{path}:{number}: {key!r} holds half a surrogate pair, which is no Unicode text "
                f"({error}); write the file again"
            ) from error
        yield line


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read the objects of a JSON-lines file, each with its line's number, and skip empty lines.

    Raises:
        InputError: a line that is not a JSON object, or a file that is not UTF-8.
    """
    objects = []
    for number, line in enumerate(_read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}:{number} is not JSON ({error}); a .jsonl file holds one object a line"
            ) from error
        if not isinstance(value, dict):
            raise InputError(
                f"{path}:{number} is a {type(value).__name__}, not a JSON object; a .jsonl file "
                "holds one object a line"
            )
        objects.append((number, value))
    return objects


def _read_utf8(path: Path) -> str:
    try:
        return files.read_text(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
