"""Calibration of every kind: texts, conversations, token ids, and what a model writes itself."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bench.comparison.calibration import build_calibration, sample_from
from bench.comparison.compare import compare
from bench.comparison.progress import Reporter, quiet
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from suites.kv_cache import Forward


def test_sampling_from_a_model_without_a_cache_reads_what_it_wrote(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = open_model(request_for)
    told: list[int] = []
    cached = sample_from(loaded, samples=3, seqlen=12, seed=0, done=told.append)
    assert sum(told) == 3 * 11
    forward = Forward.__call__

    def without(self: Forward, read: torch.Tensor, **options: Any) -> tuple[torch.Tensor, None]:
        return forward(self, read, **options)[0], None

    monkeypatch.setattr(Forward, "__call__", without)
    assert torch.equal(sample_from(loaded, samples=3, seqlen=12, seed=0), cached)


@pytest.mark.parametrize("name", ["text", "messages", "input_ids", "self"])
def test_every_kind_of_calibration(name: str, request_for: Request, tmp_path: Path) -> None:
    file = tmp_path / "calibration.jsonl"
    content = Path(str(request_for.calibration.name)).read_text("utf-8")
    if name == "text":
        rows: Sequence[object] = [{"text": content[:4000]}, {"text": content[4000:]}]
    elif name == "messages":
        rows = [
            {"messages": [{"role": "user", "content": content[i : i + 500]}]}
            for i in range(0, 9000, 500)
        ]
    else:
        rows = [{"input_ids": [(i * 31 + j * 7) % 300 for j in range(20)]} for i in range(12)]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    request = request_for.but(
        calibration="self" if name == "self" else str(file),
        methods=("awq",),
        schemes=("int4-g32",),
    )
    if name == "messages":
        model = tmp_path / "chat"
        model.mkdir()
        for path in Path(request.model).iterdir():
            (model / path.name).write_bytes(path.read_bytes())
        template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        (model / "chat_template.jinja").write_text(template, "utf-8")
        request = request.but(model=str(model))
    described = compare(request, out=tmp_path / "run").records[1].cell.calibration
    assert described is not None
    expected = (8, 20) if name == "input_ids" else (8, 32)
    assert (described.samples, described.seqlen) == expected


def test_fewer_sequences_than_asked_for_are_said(request_for: Request, tmp_path: Path) -> None:
    file = tmp_path / "ids.jsonl"
    file.write_text("".join(f'{{"input_ids": [{n}, 2, 3, 4]}}\n' for n in range(3)), "utf-8")
    said = io.StringIO()
    say = Reporter(Console(file=said, width=200))
    request = request_for.but(calibration=str(file))
    assert len(build_calibration(request, open_model(request), None, say).tokens) == 3
    assert "3 calibration sequences, not the 8 that calibration_samples asks" in said.getvalue()


def test_sampling_from_the_model_is_seeded(request_for: Request) -> None:
    loaded = open_model(request_for)
    request = request_for.but(calibration="self")
    say = quiet()
    first = build_calibration(request, loaded, None, say).tokens
    again = build_calibration(request, loaded, None, say).tokens
    other = build_calibration(request.but(seed=1), loaded, None, say).tokens
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool((first[:, 0] == loaded.tokenizer.bos_token_id).all())
