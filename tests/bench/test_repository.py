"""What people expect of a repository: it is there, and it agrees with the code."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""Of the text at https://www.apache.org/licenses/LICENSE-2.0.txt, its appendix included."""


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_the_licence_is_the_whole_apache_licence() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_SHA256
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]


def test_the_weights_licence_is_the_same_wherever_it_is_stated() -> None:
    assert "license: cc-by-sa-3.0" in read("bench/reference/model/README.md")
    for name in ("README.md", "NOTICE", "bench/reference/model/README.md"):
        assert "CC BY-SA 3.0" in read(name), name
    for line in read("NOTICE").splitlines():
        if line.startswith("    bench/"):
            assert (ROOT / line.strip()).exists(), line
