"""What `rebaseline` refuses."""

from __future__ import annotations

from tests.bench.cli.conftest import Refused


def test_nothing_to_make_anew(refused: Refused) -> None:
    refused("rebaseline", "none.json", value="none.json", rule="cannot be read", fix="name a file")
