"""What a user asks for, and the model, text and calibration that it stands for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.comparison import calibration as calibrations
from bench.comparison.progress import Reporter
from bench.reference import MODEL_FOLDER
from bench.report import labels
from quantcore import files
from quantcore.checkpoint import MANIFEST, LoadedModel, load, resolve
from quantcore.errors import InputError, nearest
from suites import perplexity, texts

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; the defaults are the command line's."""

    model: str = "reference"
    methods: tuple[str, ...] = ("rtn", "gptq", "awq", "awq+clip")
    schemes: tuple[str, ...] = ("int4-g128", "int4-g32", "int3-g128")
    suites: tuple[str, ...] = ("perplexity",)
    tasks: tuple[str, ...] = ()
    """lm-eval tasks by name, beside the suites."""
    tasks_source: str = "embedded"
    tasks_schemes: tuple[str, ...] = ()
    """Schemes whose cells run tasks, which take long; empty: all."""
    tasks_data: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    lengths: tuple[int, ...] = ()
    allow_code_execution: bool = False
    calibration: str | None = None
    calibration_samples: int = 128
    calibration_seed: int | None = None
    """Where its sequences start; None: `seed`."""
    calibration_seqlen: int | None = None
    """None: 512, or the model's context if that is less."""
    text: str | None = None
    seqlen: int | None = None
    windows: int | None = None
    batch_size: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    backend: str | None = None
    """What runs quantized linears (`kernels.backends.NAMES`); None: the dequantized weights."""
    throughput_backends: tuple[str, ...] = ()
    """What runs them when speed is measured, each in turn; none: `backend`, or ``auto``."""
    batch_sizes: tuple[int, ...] = (1, 4)
    """Of throughput, as are the next four."""
    prompt_lengths: tuple[int, ...] = (128, 512)
    new_tokens: int = 32
    rounds: int = 5
    price_per_hour: float | None = None
    exclude: tuple[str, ...] = ()
    revision: str | None = None
    seed: int = 0
    data_dir: Path | None = None


def open_model(request: Request) -> LoadedModel:
    """Find, check and load the model.

    Raises:
        InputError: see `quantcore.checkpoint.load`; also an unknown dtype or an absent device.
    """
    if request.dtype not in ("auto", *DTYPES):
        known = ["auto", *DTYPES]
        raise InputError(f"unknown --dtype {request.dtype!r}; {nearest(request.dtype, known)}")
    if not 0 <= request.seed < 2**63:
        raise InputError(f"--seed {request.seed}: must be a whole number from 0 to 2^63 - 1")
    device = request.device
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown --device {device!r}; {nearest(device, ['auto', 'cpu', 'cuda'])}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA GPU here; use --device cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES.get(request.dtype)
    if request.dtype == "auto" and device == "cpu":
        dtype = torch.float32
    if request.batch_size is not None and request.batch_size < 1:
        raise InputError(f"--batch-size {request.batch_size}: must be at least 1")
    folder = MODEL_FOLDER
    if request.model != "reference":
        folder = resolve(request.model, revision=request.revision)
    if request.revision is not None and (
        request.model == "reference" or Path(request.model).exists()
    ):
        raise InputError(
            f"--revision {request.revision}: {request.model} is local and has no revisions; "
            "leave it out"
        )
    name = request.model + _quantized_by_us(folder, request.backend)
    return load(name, folder=folder, dtype=dtype, device=torch.device(device))


def _quantized_by_us(folder: Path, backend: str | None) -> str:
    """`` (AWQ INT4-g128, dequantized)`` for a folder that ``quantize`` wrote, else nothing."""
    try:
        manifest = json.loads(files.read_text(folder / MANIFEST))
        method = labels.of_method(manifest["method"])
        scheme = labels.of_scheme(str(manifest["scheme"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    how = "dequantized" if backend is None else "from its codes"
    return f" ({method} {scheme}, {how})"


def choose_text(request: Request, say: Reporter) -> texts.Text:
    """The evaluation text asked for; with none named, WikiText-2 if it can be had, else embedded.

    Raises:
        InputError: the text that was named cannot be had.
    """
    if request.text is not None:
        return texts.evaluation_text(request.text, data_dir=request.data_dir)
    try:
        text = texts.evaluation_text("wikitext2", data_dir=request.data_dir)
    except InputError as error:
        say.warn(f"evaluating on the embedded text, because {error}")
        return texts.embedded()
    say.say(f"Evaluating on WikiText-2, as no --text was named: {text.source}")
    return text


def evaluation_windows(
    request: Request, loaded: LoadedModel, text: texts.Text
) -> perplexity.Windows:
    """The evaluation windows: min(2048, context) tokens unless asked otherwise.

    Raises:
        InputError: a window longer than the context, or too little text.
    """
    seqlen = request.seqlen
    if seqlen is None:
        seqlen = min(2048, loaded.context or 2048)
        if text.name == "embedded":
            seqlen = min(seqlen, 256)  # a short text: many short windows say more than few long
    if loaded.context is not None and seqlen > loaded.context:
        raise InputError(
            f"--seqlen {seqlen} is longer than the model's context of {loaded.context}; "
            "give a shorter window"
        )
    windows = perplexity.cut_windows(
        text.name, text.content, loaded.tokenizer, seqlen=seqlen, count=request.windows
    )
    calibrations.check_vocabulary(windows.tokens, loaded)
    return windows


def build_calibration(
    request: Request, loaded: LoadedModel, text: texts.Text | None, say: Reporter
) -> calibrations.Calibration:
    """The calibration sequences asked for.

    With none named: ``embedded`` for the reference model, else WikiText-2's training split if it
    can be had, else ``self``.

    Raises:
        InputError: see `bench.comparison.calibration.build`; also a text that overlaps the
            evaluation's.
    """
    seqlen = request.calibration_seqlen
    if seqlen is None:
        seqlen = min(512, loaded.context or 512)

    def build(name: str) -> calibrations.Calibration:
        total = request.calibration_samples * (seqlen - 1)
        if name != "self":
            return _build(name, lambda count: None)
        with say.stage("sample calibration text", total) as done:
            return _build(name, done)

    def _build(name: str, done: Callable[[int], None]) -> calibrations.Calibration:
        return calibrations.build(
            name,
            loaded,
            samples=request.calibration_samples,
            seqlen=seqlen,
            seed=request.seed if request.calibration_seed is None else request.calibration_seed,
            data_dir=request.data_dir,
            done=done,
        )

    if request.calibration is not None:
        calibration = build(request.calibration)
    elif request.model == "reference":
        calibration = build("embedded")
    else:
        try:
            calibration = build("wikitext2")
        except InputError as error:
            say.warn(f"calibrating on text sampled from the model itself, because {error}")
            calibration = build("self")
    given = len(calibration.tokens)
    if given < request.calibration_samples:
        say.warn(
            f"{calibration.source}: {given} calibration sequences, not the "
            f"{request.calibration_samples} that --calibration-samples asks for"
        )
    if text is not None:
        calibrations.refuse_overlap(calibration, text)
    return calibration
