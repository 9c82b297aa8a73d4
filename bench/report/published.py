"""Perplexities that others published are printed beside ours where the model is the same.

There are two kinds, never mixed: `PAPER` is a reference, measured and published by AWQ's authors.
`ARTICLE` are claims of the article that this project starts from; they disagree with the paper, by
-0.16 to +1.76 where both have a figure, and are printed as claims.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.records.protocols import WindowsProtocol
from bench.records.record import Record
from suites.texts import WIKITEXT2_TEST_SHA256

PROTOCOL = "wikitext2_ppl_2048"
"""WikiText-2 raw test split, whole, windows of 2048 tokens: the protocol of both sources."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model is a published base model, known by what cannot be mistaken."""

    names: tuple[str, ...]
    """The last part of its hub names, in lower case and without ``-hf``."""
    parameters: int
    """Exact count. It does not tell LLaMA-7B from Llama-2-7B: their shapes are the same."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source is where figures come from."""

    label: str
    """What is printed before the figure."""
    about: str
    """For the note under the table."""
    rows: dict[str, tuple[str, ...]]
    """The methods of ours, by name, that each row of the source speaks of."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published perplexity is one figure of one source."""

    source: Source
    model: str
    """Key of `MODELS`."""
    scheme: str | None
    """None: the unquantized model."""
    row: str
    """The method as the source calls it; ``FP16`` for the unquantized model."""
    perplexity: float


MODELS = {
    "Llama-2-7B": Model(names=("llama-2-7b",), parameters=6_738_415_616),
    "Llama-2-13B": Model(names=("llama-2-13b",), parameters=13_015_864_320),
    "Llama-2-70B": Model(names=("llama-2-70b",), parameters=68_976_648_192),
    "LLaMA-7B": Model(names=("llama-7b", "llama-1-7b"), parameters=6_738_415_616),
    "LLaMA-13B": Model(names=("llama-13b", "llama-1-13b"), parameters=13_015_864_320),
    "LLaMA-30B": Model(names=("llama-30b", "llama-1-30b"), parameters=32_528_943_616),
    "LLaMA-65B": Model(names=("llama-65b", "llama-1-65b"), parameters=65_285_660_672),
}

PAPER = Source(
    label="paper",
    about="AWQ's paper, arXiv 2306.00978, table 4 (float16; its GPTQ is GPTQ's own code, "
    "with GPTQ-R beside ours that take the most active columns first; its AWQ clips, so it stands "
    "beside AWQ + clip)",
    rows={
        "RTN": ("rtn",),
        "GPTQ": ("gptq-off",),
        "GPTQ-R": ("gptq", "gptq+seq", "gptq-actorder"),
        "AWQ": ("awq+clip",),
    },
)
ARTICLE = Source(
    label="article claims",
    about='the article "AWQ Deep Dive" (fridayswithfaraday.com/posts/'
    "quantization-masterclass-activation-aware-awq-detail); claims, not a reference: they "
    "disagree with the paper",
    rows={
        "RTN": ("rtn",),
        "GPTQ": ("gptq",),
        "AWQ": ("awq", "awq-article"),
        "AWQ + clip": ("awq+clip",),
    },
)

_PAPER_MODELS = tuple(MODELS)
_PAPER_TABLE = {
    (None, "FP16"): (5.47, 4.88, 3.32, 5.68, 5.09, 4.10, 3.53),
    ("int4-g128", "RTN"): (5.73, 4.98, 3.46, 5.96, 5.25, 4.23, 3.67),
    ("int4-g128", "GPTQ"): (5.69, 4.98, 3.42, 6.22, 5.23, 4.24, 3.66),
    ("int4-g128", "GPTQ-R"): (5.63, 4.99, 3.43, 5.83, 5.20, 4.22, 3.66),
    ("int4-g128", "AWQ"): (5.60, 4.97, 3.41, 5.78, 5.19, 4.21, 3.62),
    ("int3-g128", "RTN"): (6.66, 5.52, 3.98, 7.01, 5.88, 4.88, 4.24),
    ("int3-g128", "GPTQ"): (6.43, 5.48, 3.88, 8.81, 5.66, 4.88, 4.17),
    ("int3-g128", "GPTQ-R"): (6.42, 5.41, 3.86, 6.53, 5.64, 4.74, 4.21),
    ("int3-g128", "AWQ"): (6.24, 5.32, 3.74, 6.35, 5.52, 4.61, 3.95),
}
_ARTICLE_SCHEMES = ("int4-g128", "int4-g32", "int3-g128")
_ARTICLE_TABLE = {
    "RTN": (5.68, 5.54, 8.42),
    "GPTQ": (5.53, 5.49, 6.98),
    "AWQ": (5.51, 5.48, 6.72),
    "AWQ + clip": (5.49, 5.47, 6.58),
}

FIGURES: tuple[Published, ...] = (
    *(
        Published(source=PAPER, model=model, scheme=scheme, row=row, perplexity=value)
        for (scheme, row), values in _PAPER_TABLE.items()
        for model, value in zip(_PAPER_MODELS, values, strict=True)
    ),
    Published(source=ARTICLE, model="Llama-2-7B", scheme=None, row="FP16", perplexity=5.47),
    *(
        Published(source=ARTICLE, model="Llama-2-7B", scheme=scheme, row=row, perplexity=value)
        for row, values in _ARTICLE_TABLE.items()
        for scheme, value in zip(_ARTICLE_SCHEMES, values, strict=True)
    ),
)


def model_of(name: str, parameters: int) -> str | None:
    """Return the key in `MODELS` of a model, or None.

    Name and size must both fit: ``meta-llama/Llama-2-7b-hf`` and a local folder of that name do,
    ``Llama-2-7b-chat-hf`` or a quantized copy do not.

    Args:
        name: hub name or folder.
        parameters: exact count.
    """
    last = name.rstrip("/").rsplit("/", 1)[-1].lower().removesuffix("-hf")
    for key, model in MODELS.items():
        if last in model.names and parameters == model.parameters:
            return key
    return None


def beside(record: Record) -> tuple[Published, ...]:
    """Return the published figures of a record's cell, at most one of each source, paper first.

    There are none unless the model is the published one, the metric is `PROTOCOL` on the protocol's
    own text, whole, and nothing was excluded from quantization.
    """
    cell = record.cell
    metric = record.perplexity
    suite = cell.suites["perplexity"]
    assert isinstance(suite, WindowsProtocol)
    if (
        metric is None
        or metric.windows != metric.of_windows
        or suite.metric != PROTOCOL
        or suite.text_sha256 != WIKITEXT2_TEST_SHA256
        or cell.exclude
    ):
        return ()
    model = model_of(record.model_name, record.parameters)
    return tuple(
        figure
        for figure in FIGURES
        if figure.model == model
        and figure.scheme == cell.scheme
        and (
            cell.method is None
            if figure.scheme is None
            else cell.method in figure.source.rows[figure.row]
        )
    )


def lines(figures: tuple[Published, ...]) -> tuple[str, ...]:
    """Write ``paper 5.60`` and ``article claims 5.49``, a line each: 80 columns have no more."""
    return tuple(f"{figure.source.label} {figure.perplexity:.2f}" for figure in figures)


def note(figures: tuple[Published, ...]) -> str:
    """Say what the figures are, for under the table."""
    labels = {figure.source.label for figure in figures}
    sources = [source for source in (PAPER, ARTICLE) if source.label in labels]
    told = [f"{source.label}: {source.about}" for source in sources]
    return f"Published for this model: {'. '.join(told)}."
