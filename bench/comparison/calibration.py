"""Calibration sequences come from a text, a file, or the model itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.records.cell import CalibrationSet
from bench.reference import CALIBRATION_FILE, TOKENIZER_FILE
from quantcore.checkpoint import LoadedModel, sha256_of
from quantcore.errors import InputError, nearest, setting_name
from suites import texts
from suites.kv_cache import Forward

NAMES = {
    **{name: corpus.about for name, corpus in texts.CALIBRATION.items()},
    "self": "sequences sampled from the unquantized model itself at temperature 1; needs no data",
    "embedded": "128 x 512 tokens sampled once from the reference model; for that model only",
}

_RUN = 40  # letters and digits in a row; spaces and punctuation do not count
_OVERLAP = 0.005
"""Two texts overlap with more runs in common than this share. WikiText-2's training and test splits
have 0.0009 of the latter in common, the stock phrases of tables and weather reports."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A calibration has the token sequences that a model is calibrated on."""

    name: str
    tokens: Tensor
    """They are int64 [samples, seqlen]."""
    source: str
    """It tells people where they are from."""
    text: str
    """The sequences were drawn from all of this text."""

    def describe(self) -> CalibrationSet:
        """Give what identifies it, for a cell."""
        samples, seqlen = self.tokens.shape
        digest = hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest()
        return CalibrationSet(name=self.name, samples=samples, seqlen=seqlen, sha256=digest)


def build_calibration(
    request: Request, loaded: LoadedModel, text: texts.Text | None, say: Reporter
) -> Calibration:
    """Draw the calibration sequences that are asked for.

    With none named: ``embedded`` for the reference model, else WikiText-2's training split if it
    can be had, else ``self``.

    Raises:
        InputError: see `build`; also a text that overlaps the
            evaluation's.
    """
    calibration = _named_calibration(request, loaded, say)
    given = len(calibration.tokens)
    if given < request.calibration.samples:
        say.warn(
            f"{calibration.source}: {given} calibration sequences, not the "
            f"{request.calibration.samples} that {setting_name('calibration_samples')} asks for"
        )
    if text is not None:
        refuse_overlap(calibration, text)
    return calibration


def _named_calibration(request: Request, loaded: LoadedModel, say: Reporter) -> Calibration:
    if request.calibration.name is not None:
        return _calibration(request.calibration.name, request, loaded, say)
    if request.model == "reference":
        return _calibration("embedded", request, loaded, say)
    try:
        return _calibration("wikitext2", request, loaded, say)
    except InputError as error:
        say.warn(f"calibrating on text sampled from the model itself, because {error}")
        return _calibration("self", request, loaded, say)


def _calibration(name: str, request: Request, loaded: LoadedModel, say: Reporter) -> Calibration:
    seqlen = request.calibration.seqlen
    if seqlen is None:
        seqlen = min(512, loaded.context or 512)
    samples = request.calibration.samples
    total = samples * (seqlen - 1)
    sampled = name == "self"  # the others are there at once
    with say.stage("sample calibration text", total) if sampled else nullcontext(_ignore) as done:
        return build(
            name,
            loaded,
            samples=samples,
            seqlen=seqlen,
            seed=request.seed if request.calibration.seed is None else request.calibration.seed,
            data_dir=request.data_dir,
            done=done,
        )


def _ignore(count: int) -> None:
    """Ignore progress: nobody watches."""


def build(
    name: str,
    loaded: LoadedModel,
    *,
    samples: int,
    seqlen: int,
    seed: int,
    data_dir: Path | None,
    done: Callable[[int], None] = lambda count: None,
) -> Calibration:
    """Make the calibration sequences that a name or a file stands for.

    Args:
        name: one of `NAMES`, or a ``.txt`` or ``.jsonl`` file.
        loaded: whose tokenizer (or, for ``self``, whose voice) is used.
        samples: how many sequences.
        seqlen: tokens in each.
        seed: draws offsets, or samples tokens.
        data_dir: folder with local copies of texts.
        done: told how many tokens were sampled, for ``self``.

    Raises:
        InputError: unknown name, unreadable file, too little text, ids outside the vocabulary.
    """
    _check_sizes(samples, seqlen)
    if loaded.context is not None and seqlen > loaded.context:
        raise InputError(
            f"{setting_name('calibration_seqlen')} {seqlen} is longer than the model's context of "
            f"{loaded.context}; give shorter sequences"
        )
    if name == "self":
        tokens = sample_from(loaded, samples=samples, seqlen=seqlen, seed=seed, done=done)
        return Calibration(
            name=name,
            tokens=tokens,
            source="sampled from the model, temperature 1",
            text=_decode(loaded, tokens),
        )
    if name == "embedded":
        return _embedded(loaded, samples=samples, seqlen=seqlen, seed=seed)
    if name in texts.CALIBRATION:
        text = texts.load_corpus(name, texts.CALIBRATION[name], data_dir=data_dir)
        return _pack_text(text, loaded, samples=samples, seqlen=seqlen, seed=seed)
    path = Path(os.path.expanduser(name))  # that of an unknown user stays as it is
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(
            f"{setting_name('calibration')} {name!r} is a pipe or a device; name a file"
        )
    if path.suffix in (".txt", ".jsonl") and not path.is_file():
        raise InputError(
            f"{setting_name('calibration')} {name!r}: there is no such file; check the path"
        )
    if not path.is_file():
        raise InputError(
            f"{setting_name('calibration')} {name!r} is neither a file nor a known name; "
            f"{nearest(name, NAMES)}, or a .txt or .jsonl file"
        )
    if path.suffix != ".jsonl":
        return _pack_text(texts.read_file(path), loaded, samples=samples, seqlen=seqlen, seed=seed)
    return _from_lines(path, loaded, samples=samples, seqlen=seqlen, seed=seed)


def _check_sizes(samples: int, seqlen: int) -> None:
    if samples < 1 or seqlen < 2:
        how_many, how_long = map(setting_name, ("calibration_samples", "calibration_seqlen"))
        raise InputError(
            f"{how_many} {samples}, {how_long} {seqlen}: at least 1 sequence of 2 tokens"
        )


def _embedded(loaded: LoadedModel, *, samples: int, seqlen: int, seed: int) -> Calibration:
    """Take the first sequences that ship; by another seed than 0, others of them."""
    if loaded.tokenizer_sha256 != sha256_of([TOKENIZER_FILE]):
        raise InputError(
            f"{setting_name('calibration')} embedded is token ids of the reference model's "
            "tokenizer, and this model has another; use 'self', which needs no data either"
        )
    tokens = load_file(CALIBRATION_FILE)["input_ids"].to(torch.int64)
    if samples > tokens.shape[0] or seqlen > tokens.shape[1]:
        raise InputError(
            f"{setting_name('calibration')} embedded has {tokens.shape[0]} sequences of "
            f"{tokens.shape[1]} tokens; asked for {samples} of {seqlen}"
        )
    tokens = _drawn(tokens, samples, seed)[:, :seqlen].contiguous()
    return Calibration(
        name="embedded",
        tokens=tokens,
        text=_decode(loaded, tokens),
        source="sampled from the reference model, shipped with the package",
    )


def _from_lines(
    path: Path, loaded: LoadedModel, *, samples: int, seqlen: int, seed: int
) -> Calibration:
    """Read a ``.jsonl`` file: all lines hold ``text``, all ``messages``, or all ``input_ids``."""
    lines = texts.read_lines(path)
    if not lines:
        raise InputError(f"{path} is empty; give lines that hold text, messages or input_ids")
    first_number, first = lines[0]
    kinds = [kind for kind in ("text", "messages", "input_ids") if kind in first]
    if len(kinds) != 1:
        raise InputError(
            f"{path}:{first_number} has {sorted(first)}; a line holds one of text, messages, "
            "input_ids"
        )
    kind = kinds[0]
    for number, line in lines:
        if kind not in line:
            raise InputError(f"{path}:{number} has no {kind!r}, which the first line has")
    if kind == "text":
        return _pack_text(texts.read_file(path), loaded, samples=samples, seqlen=seqlen, seed=seed)
    if kind == "input_ids":
        tokens = _drawn(_given_ids(path, lines, loaded), samples, seed)
        return Calibration(
            name=path.stem,
            tokens=tokens,
            source=f"ids of {path.name}, as given",
            text=_decode(loaded, tokens),
        )
    if loaded.tokenizer.chat_template is None:
        raise InputError(
            f"{path} holds 'messages', but the model's tokenizer has no chat template; give lines "
            "with 'text' instead"
        )
    stream: list[int] = []
    for number, line in lines:
        try:
            rendered = loaded.tokenizer.apply_chat_template(line["messages"], tokenize=False)
        except Exception as error:  # templates are programs, and raise what they like
            raise InputError(f"{path}:{number}: the chat template refuses it: {error}") from error
        stream += loaded.tokenizer(rendered, add_special_tokens=False, verbose=False).input_ids
    tokens = pack(stream, path.name, samples=samples, seqlen=seqlen, seed=seed)
    check_vocabulary(tokens, loaded)
    return Calibration(
        name=path.stem,
        tokens=tokens,
        source=f"conversations of {path.name}",
        text=loaded.tokenizer.decode(stream, skip_special_tokens=True),
    )


def _decode(loaded: LoadedModel, tokens: Tensor) -> str:
    return " ".join(loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True))


def _drawn(tokens: Tensor, samples: int, seed: int) -> Tensor:
    """Take the first sequences, as they are; by another seed than 0 others of them."""
    if seed and samples < len(tokens):
        generator = torch.Generator().manual_seed(seed)
        tokens = tokens[torch.randperm(len(tokens), generator=generator)]
    return tokens[:samples]


def _given_ids(path: Path, lines: list[tuple[int, dict[str, Any]]], loaded: LoadedModel) -> Tensor:
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    first = lines[0][1]["input_ids"]
    length = len(first) if isinstance(first, list) else 0
    for number, line in lines:
        ids = line["input_ids"]
        if not isinstance(ids, list) or len(ids) < 2 or not all(type(i) is int for i in ids):
            raise InputError(
                f"{path}:{number}: input_ids must be a list of at least 2 whole numbers, not "
                f"{json.dumps(ids)[:80]}; write token ids as the model's tokenizer gives them"
            )
        wrong = [i for i in ids if not 0 <= i < vocabulary]
        if wrong:
            raise InputError(
                f"{path}:{number}: token id {wrong[0]} is outside the vocabulary "
                f"(0 to {vocabulary - 1}); tokenize with the model's own tokenizer"
            )
        if len(ids) != length:
            raise InputError(
                f"{path}:{number} has {len(ids)} ids, the first line {length}; sequences are used "
                "as they are and never padded, so all must be equally long"
            )
    if loaded.context is not None and length > loaded.context:
        raise InputError(
            f"{path}: {length} ids a line, but the model's context is {loaded.context}; "
            "cut the lines"
        )
    return torch.tensor([line["input_ids"] for _, line in lines], dtype=torch.int64)


def _pack_text(
    text: texts.Text, loaded: LoadedModel, *, samples: int, seqlen: int, seed: int
) -> Calibration:
    ids = texts.tokenize(loaded.tokenizer, text.content, text.name)
    tokens = pack(ids, text.name, samples=samples, seqlen=seqlen, seed=seed)
    check_vocabulary(tokens, loaded)
    return Calibration(name=text.name, tokens=tokens, source=text.source, text=text.content)


def pack(ids: list[int], name: str, *, samples: int, seqlen: int, seed: int) -> Tensor:
    """Cut ``samples`` stretches of ``seqlen`` tokens at drawn offsets, none overlapping another.

    Raises:
        InputError: the text has fewer tokens than ``samples * seqlen``.
    """
    need = samples * seqlen
    if len(ids) < seqlen:
        raise InputError(
            f"calibration text {name!r} has {len(ids):,} tokens, less than one sequence of "
            f"{seqlen}; {samples} sequences of {seqlen} need {need:,}. Give more text, or a "
            f"smaller {setting_name('calibration_seqlen')}"
        )
    if len(ids) < need:
        raise InputError(
            f"calibration text {name!r} has {len(ids):,} tokens; {samples} sequences of {seqlen} "
            f"need {need:,}. Give more text, or fewer {setting_name('calibration_samples')} "
            f"(up to {len(ids) // seqlen})"
        )
    generator = torch.Generator().manual_seed(seed)
    slots = len(ids) // seqlen
    chosen = torch.randperm(slots, generator=generator)[:samples].sort().values
    phase = int(torch.randint(len(ids) - slots * seqlen + 1, (), generator=generator))
    stream = torch.tensor(ids, dtype=torch.int64)[phase : phase + slots * seqlen]
    return stream.view(slots, seqlen)[chosen].contiguous()


@torch.no_grad()
def sample_from(
    loaded: LoadedModel,
    *,
    samples: int,
    seqlen: int,
    seed: int,
    batch_size: int = 32,
    done: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Let the model write sequences: ancestral sampling, temperature 1, nothing cut off.

    Each begins with the tokenizer's first special token, or with a random token where it has none.
    """
    device, forward = loaded.device, Forward.of(loaded.model)
    generator = torch.Generator(device=device).manual_seed(seed)
    begin = loaded.tokenizer.bos_token_id
    begin = loaded.tokenizer.eos_token_id if begin is None else begin
    vocabulary = len(loaded.tokenizer)
    written = []
    for start in range(0, samples, batch_size):
        count = min(batch_size, samples - start)
        if begin is None:
            token = torch.randint(vocabulary, (count, 1), generator=generator, device=device)
        else:
            token = torch.full((count, 1), begin, device=device)
        sequence, cache = [token], None
        for _ in range(seqlen - 1):
            # What keeps no cache reads all of the row again for every token.
            read = torch.cat(sequence, dim=1) if cache is None else token
            logits, cache = forward(read, cache=cache, keep=1)
            # Heads may be padded beyond the vocabulary; those rows were never trained.
            probabilities = logits[:, -1, :vocabulary].float().softmax(-1)
            token = torch.multinomial(probabilities, 1, generator=generator)
            sequence.append(token)
            done(count)
        written.append(torch.cat(sequence, dim=1).cpu())
    return torch.cat(written)


def refuse_overlap(calibration: Calibration, evaluation: texts.Text) -> None:
    """Refuse a calibration text that shares passages with the evaluation's.

    Raises:
        InputError: more than 0.5 % of either text's runs of 40 letters are in the other.
    """
    share, covered = overlap(calibration.text, evaluation.content)
    if max(share, covered) > _OVERLAP:
        raise InputError(
            f"calibration {calibration.name!r} overlaps the evaluation text {evaluation.name!r}: "
            f"{share:.1%} of its runs of {_RUN} letters are in it, and cover {covered:.1%} of it "
            f"(at most {_OVERLAP:.1%} may be); calibrate on another text"
        )


def overlap(text: str, other: str) -> tuple[float, float]:
    """Give the shares of the runs of 40 letters of either text that are in the other."""
    ours, theirs = _runs(text), _runs(other)
    own = set(ours)
    in_both = [run for run in theirs if run in own]
    common = set(in_both)
    share = sum(run in common for run in ours) / max(1, len(ours))
    return share, len(in_both) / max(1, len(theirs))


def _runs(text: str) -> list[int]:
    letters = re.sub(r"[\W_]+", "", text.lower())
    return [hash(letters[i : i + _RUN]) for i in range(len(letters) - _RUN + 1)]


def check_vocabulary(tokens: Tensor, loaded: LoadedModel) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        InputError: names the id; the tokenizer then belongs to another model.
    """
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    top = int(tokens.max())
    if top >= rows:
        raise InputError(
            f"{loaded.folder}: the tokenizer gives token id {top}, but the model's vocabulary "
            f"ends at {rows - 1}; the folder's tokenizer.json belongs to another model"
        )
