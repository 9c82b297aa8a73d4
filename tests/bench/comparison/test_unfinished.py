"""What was measured of an unfinished cell is kept, and taken up only if it is whole."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.comparison import unfinished
from bench.comparison.compare import Outcome, begin, compare
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.records.document import sealed
from quantcore.errors import Unwritable


@pytest.fixture
def request_(request_for: Request) -> Request:
    return request_for.but(methods=("rtn",), schemes=("int4-g32",))


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_kept_meanwhile_ends_the_run(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "write_json", full)
    with pytest.raises(Unwritable, match=r"unfinished cannot be written \(No space left"):
        compare(request_, out=tmp_path / "run")
    assert not list((tmp_path / "run").glob("records/*"))


FORGED = {"value": 1.0, "windows": 1, "of_windows": 1, "text_tokens": 32, "window_nll": [0.0]}


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "{}", '{"metrics": 1, "seconds": 2}', '{"metrics": {"a": NaN}}'),
        json.dumps(sealed({"metrics": 1, "seconds": 2})),
        json.dumps(sealed({"metrics": {"evaluation_ppl_32": FORGED}, "seconds": 2.0})),
    ],
)
def test_what_was_kept_and_no_suite_found_is_measured_again(
    request_: Request, compared: Outcome, tmp_path: Path, content: str
) -> None:
    request = request_.but(suites=("perplexity",))
    said = io.StringIO()
    say = Reporter(Console(file=said, width=200))
    with begin(request, out=tmp_path / "run", reporter=say) as comparison:
        planned = comparison.plan[0].cell
        kept = tmp_path / "run" / "unfinished" / f"{planned.id}.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(content, "utf-8")
        record = comparison.measure(comparison.plan[0])
    name = planned.suites["perplexity"].metric
    assert record.metrics[name] == compared.records[0].metrics[name]
    assert f"{kept.name} is damaged" in said.getvalue().replace("\n", "")
