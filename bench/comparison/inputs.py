"""The model, text and calibration that a request stands for are found, checked and loaded here."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import torch

from bench.comparison import calibration as calibrations
from bench.comparison.calibration import Calibration
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.reference import MODEL_FOLDER
from bench.report import labels
from quantcore import files
from quantcore.checkpoint import MANIFEST, LoadedModel, load, resolve
from quantcore.errors import InputError, setting_name
from suites import perplexity, texts
from suites.texts import Text

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def open_model(request: Request) -> LoadedModel:
    """Find, check and load the model.

    Raises:
        InputError: see `quantcore.checkpoint.load`; also an absent device.
    """
    device = request.load.device
    if device == "cuda" and not torch.cuda.is_available():
        called = setting_name("device")
        raise InputError(f"{called} cuda: PyTorch sees no CUDA GPU here; use {called} cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES.get(request.load.dtype)
    if request.load.dtype == "auto" and device == "cpu":
        dtype = torch.float32
    folder = MODEL_FOLDER
    if request.model != "reference":
        folder = resolve(request.model, revision=request.load.revision)
    name = request.model + _quantized_by_us(folder, request.backend)
    return load(name, folder=folder, dtype=dtype, device=torch.device(device))


def _quantized_by_us(folder: Path, backend: str | None) -> str:
    """Say `` (AWQ INT4-g128, dequantized)`` of a folder that ``quantize`` wrote, else nothing."""
    try:
        manifest = json.loads(files.read_text(folder / MANIFEST))
        method = labels.of_method(manifest["method"])
        scheme = labels.of_scheme(str(manifest["scheme"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    how = "dequantized" if backend is None else "from its codes"
    return f" ({method} {scheme}, {how})"


def choose_text(request: Request, say: Reporter) -> Text:
    """Load the evaluation text: with none named WikiText-2 if it can be had, else the embedded.

    Raises:
        InputError: the text that was named cannot be had.
    """
    if request.text.name is not None:
        return texts.evaluation_text(request.text.name, data_dir=request.data_dir)
    try:
        text = texts.evaluation_text("wikitext2", data_dir=request.data_dir)
    except InputError as error:
        say.warn(f"evaluating on the embedded text, because {error}")
        return texts.embedded()
    say.say(f"Evaluating on WikiText-2, as no {setting_name('text')} was named: {text.source}")
    return text


def evaluation_windows(request: Request, loaded: LoadedModel, text: Text) -> perplexity.Windows:
    """Cut the evaluation windows: min(2048, context) tokens unless asked otherwise.

    Raises:
        InputError: a window longer than the context, or too little text.
    """
    seqlen = request.text.seqlen
    if seqlen is None:
        seqlen = min(2048, loaded.context or 2048)
        if text.name == "embedded":
            seqlen = min(seqlen, 256)  # a short text: many short windows say more than few long
    if loaded.context is not None and seqlen > loaded.context:
        raise InputError(
            f"{setting_name('seqlen')} {seqlen} is longer than the model's context of "
            f"{loaded.context}; give a shorter window"
        )
    windows = perplexity.cut_windows(
        text.name, text.content, loaded.tokenizer, seqlen=seqlen, count=request.text.windows
    )
    calibrations.check_vocabulary(windows.tokens, loaded)
    return windows


def build_calibration(
    request: Request, loaded: LoadedModel, text: Text | None, say: Reporter
) -> Calibration:
    """Draw the calibration sequences that are asked for.

    With none named: ``embedded`` for the reference model, else WikiText-2's training split if it
    can be had, else ``self``.

    Raises:
        InputError: see `bench.comparison.calibration.build`; also a text that overlaps the
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
        calibrations.refuse_overlap(calibration, text)
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
        return calibrations.build(
            name,
            loaded,
            samples=samples,
            seqlen=seqlen,
            seed=request.seed if request.calibration.seed is None else request.calibration.seed,
            data_dir=request.data_dir,
            done=done,
        )


def _ignore(count: int) -> None:
    """Nobody watches."""
