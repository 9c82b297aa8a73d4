"""Published perplexities stand beside our rows where, and only where, the model is the same."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from rich.console import Console

from bench import registry
from bench.records.record import Record
from bench.report import perplexity, published
from bench.report.grid import markdown, rich_table
from suites.texts import WIKITEXT2_TEST_SHA256
from tests.bench import made

LLAMA_2_7B = "meta-llama/Llama-2-7b-hf"
SIZE = 6_738_415_616


def record(
    method: str | None,
    scheme: str | None,
    value: float,
    *,
    model_name: str = LLAMA_2_7B,
    parameters: int = SIZE,
    metric: str = published.PROTOCOL,
    text_sha256: str = WIKITEXT2_TEST_SHA256,
    of_windows: int = 4,
    exclude: tuple[str, ...] = (),
) -> Record:
    """A made-up measurement of four windows."""
    nll = (torch.tensor(value).log() + torch.tensor([-0.1, 0.1, 0.02, -0.02])).tolist()
    return made.record(
        made.cell(
            method,
            scheme,
            exclude=exclude,
            suites={"perplexity": made.windows(metric=metric, text_sha256=text_sha256)},
            dtype="float16",
            device="cuda",
        ),
        {metric: made.perplexity(nll, of_windows=of_windows)},
        model_name=model_name,
        parameters=parameters,
        stored_bytes=10**9,
    )


def figures(one: Record) -> dict[str, float]:
    return {f.source.label: f.perplexity for f in published.beside(one)}


@pytest.mark.parametrize(
    ("method", "scheme", "paper", "article"),
    [
        (None, None, 5.47, 5.47),
        ("rtn", "int4-g128", 5.73, 5.68),
        ("gptq-off", "int4-g128", 5.69, None),
        ("gptq", "int4-g128", 5.63, 5.53),
        ("gptq+seq", "int3-g128", 6.42, None),
        ("awq", "int4-g128", None, 5.51),
        ("awq-article", "int4-g32", None, 5.48),
        ("awq+clip", "int4-g128", 5.60, 5.49),
        ("awq+clip", "int3-g128", 6.24, 6.58),
        ("awq+clip", "int4-g128-sym", None, None),
        ("gptq-actorder", "int4-g128", 5.63, None),
        ("gptq-group", "int4-g128", None, None),
    ],
)
def test_each_method_of_llama_2_7b(
    method: str | None, scheme: str | None, paper: float | None, article: float | None
) -> None:
    expected = {"paper": paper, "article claims": article}
    assert figures(record(method, scheme, 5.6)) == {k: v for k, v in expected.items() if v}


@pytest.mark.parametrize(
    ("name", "fp16"),
    [
        ("meta-llama/Llama-2-7b-hf", 5.47),
        ("NousResearch/Llama-2-7b", 5.47),
        ("models/llama-2-7B-hf/", 5.47),
        ("huggyllama/llama-7b", 5.68),
        ("decapoda-research/llama-7b-hf", 5.68),
        ("meta-llama/Llama-2-7b-chat-hf", None),
        ("meta-llama/Llama-2-13b-hf", None),  # with the parameters of a 7B: no
        ("Llama-2-7b-hf (AWQ INT4-g128, dequantized)", None),
        ("somebody/my-llama-2-7b", None),
        ("llama-7b-finetuned", None),
        ("reference", None),
    ],
)
def test_the_name_tells_models_of_one_size_apart(name: str, fp16: float | None) -> None:
    assert figures(record(None, None, 5.5, model_name=name)).get("paper") == fp16


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": SIZE + 1},
        {"metric": "wikitext2_ppl_4096"},
        {"metric": "wikitext2_ppl_2048@64"},
        {"of_windows": 166},
        {"text_sha256": "2" * 64},
        {"exclude": ("*.down_proj",)},
    ],
    ids=str,
)
def test_another_protocol_has_no_published_figure(change: dict[str, Any]) -> None:
    assert figures(record("rtn", "int4-g128", 5.7, **change)) == {}


def test_names_in_the_tables_exist() -> None:
    for source in (published.PAPER, published.ARTICLE):
        for methods in source.rows.values():
            assert set(methods) <= set(registry.METHODS)
    paper = [f for f in published.FIGURES if f.source is published.PAPER]
    article = [f for f in published.FIGURES if f.source is published.ARTICLE]
    assert (len(paper), len(article)) == (7 * 9, 13)
    assert {f.model for f in published.FIGURES} == set(published.MODELS)
    for figure in published.FIGURES:
        assert figure.row == "FP16" or figure.row in figure.source.rows


def test_the_article_disagrees_with_the_paper_as_said() -> None:
    """Row by row; the paper's AWQ is the article's AWQ + clip."""

    def rows(source: published.Source) -> dict[tuple[str | None, str], float]:
        return {
            (f.scheme, f.row): f.perplexity
            for f in published.FIGURES
            if f.source is source and f.model == "Llama-2-7B"
        }

    paper, article = rows(published.PAPER), rows(published.ARTICLE)
    same = {"FP16": "FP16", "RTN": "RTN", "GPTQ": "GPTQ", "AWQ + clip": "AWQ"}
    gaps = [
        value - paper[scheme, same[row]]
        for (scheme, row), value in article.items()
        if row in same and (scheme, same[row]) in paper
    ]
    assert len(gaps) == 7
    assert (round(min(gaps), 2), round(max(gaps), 2)) == (-0.16, 1.76)


def parameters_of_llama(
    layers: int, hidden: int, inner: int, *, heads: int, key_value_heads: int
) -> int:
    """Counted by the class itself, without memory for the weights."""
    import transformers as hf

    config = hf.LlamaConfig(
        vocab_size=32000, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_value_heads,
    )  # fmt: skip
    with torch.device("meta"):
        count: int = hf.LlamaForCausalLM(config).num_parameters()
    return count


@pytest.mark.parametrize(
    ("name", "shape", "heads", "key_value_heads"),
    [
        ("Llama-2-7B", (32, 4096, 11008), 32, 32),
        ("Llama-2-13B", (40, 5120, 13824), 40, 40),
        ("Llama-2-70B", (80, 8192, 28672), 64, 8),
        ("LLaMA-30B", (60, 6656, 17920), 52, 52),
        ("LLaMA-65B", (80, 8192, 22016), 64, 64),
    ],
)
def test_sizes_are_those_of_the_architectures(
    name: str, shape: tuple[int, int, int], heads: int, key_value_heads: int
) -> None:
    found = parameters_of_llama(*shape, heads=heads, key_value_heads=key_value_heads)
    assert found == published.MODELS[name].parameters


def of_one_model(**changes: Any) -> Sequence[Record]:
    return [
        record(None, None, 5.472, **changes),
        record("rtn", "int4-g128", 5.731, **changes),
        record("awq", "int4-g128", 5.612, **changes),
        record("awq+clip", "int4-g128", 5.604, **changes),
    ]


def test_a_table_of_llama_2_7b() -> None:
    layout = perplexity.grid(perplexity.rows(of_one_model()))
    body = {label: entries[0].lines for label, entries in layout.body}
    assert body["FP16"][:3] == ("5.472", "paper 5.47", "article claims 5.47")
    assert body["RTN"][:3] == ("5.731", "paper 5.73", "article claims 5.68")
    assert body["AWQ"][:2] == ("5.612", "article claims 5.51")
    assert body["AWQ + clip"][:3] == ("5.604", "paper 5.60", "article claims 5.49")
    (note,) = [note for note in layout.notes if note.startswith("Published")]
    assert "arXiv 2306.00978" in note
    assert "claims, not a reference" in note
    assert "paper 5.60<br>article claims 5.49" in markdown(layout)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(layout))
    assert "article claims 5.49" in console.export_text()
    long = perplexity.long_table(perplexity.rows(of_one_model()))
    assert long["published_by_paper"].tolist()[1::2] == [5.73, 5.60]
    assert long["claimed_by_article"].tolist() == [5.47, 5.68, 5.51, 5.49]


def test_other_models_have_no_such_columns() -> None:
    layout = perplexity.grid(perplexity.rows(of_one_model(model_name="mine")))
    assert not any("paper" in line for _, e in layout.body for line in e[0].lines)
    assert not any(note.startswith("Published") for note in layout.notes)
    long = perplexity.long_table(perplexity.rows(of_one_model(model_name="mine")))
    assert "published_by_paper" not in long.columns


def test_a_failed_cell_has_no_published_line() -> None:
    records = of_one_model()
    broken = made.but(records[1], status="failed", metrics={}, error="planted")
    layout = perplexity.grid(perplexity.rows([records[0], broken, *records[2:]]))
    assert dict(layout.body)["RTN"][0].lines == ("failed",)
