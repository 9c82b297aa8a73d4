"""What docs/architecture.md says is so: every name in it exists, and no folder is left out."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FLOORS = PROJECT["tool"]["importlinter"]["root_packages"]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE)
NAMES = sorted({name for name in re.findall(r"`([^`\n]+)`", PROSE) if re.search(r"\w[./]", name)})


def exists(name: str) -> bool:
    """A path from the root, or a module followed by attributes."""
    if "/" in name:
        return (ROOT / name).exists()
    words = name.split(".")
    for count in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            # A field of a dataclass without a default is an annotation only.
            if not hasattr(found, word) and word not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, word, None)
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_exists(name: str) -> None:
    assert exists(name), f"docs/architecture.md names {name}, which is not there; mend the one"


@pytest.mark.parametrize(
    "name",
    [
        "bench/compere.py",
        "bench.comparison.compare.compere",
        "bench.records.cell.Cell.ids",
        "bunch.cell",
    ],
)
def test_what_is_not_there_is_seen(name: str) -> None:
    assert not exists(name)


def test_there_is_much_to_check() -> None:
    assert len(NAMES) > 60


@pytest.mark.parametrize("floor", FLOORS)
def test_no_folder_is_left_out(floor: str) -> None:
    for folder in {path.parent for path in (ROOT / floor).rglob("*.py")}:
        name = f"{folder.relative_to(ROOT)}/"
        assert f"`{name}`" in TEXT, f"docs/architecture.md has no line on {name}; add one"


def test_the_diagram_draws_imports_down_only() -> None:
    """Every arrow leads to a lower floor of pyproject.toml's contract, and no floor is missing."""
    contract, *_ = PROJECT["tool"]["importlinter"]["contracts"]
    level = {
        name: number
        for number, layer in enumerate(contract["layers"])
        for name in layer.split(" | ")
    }
    arrows = [
        (start, end)
        for start, ends in re.findall(r"^    (\w+) --> (.*)$", TEXT, re.MULTILINE)
        for end in ends.split(" & ")
    ]
    assert all(level[start] < level[end] for start, end in arrows)
    assert {name for arrow in arrows for name in arrow} == set(level) == set(FLOORS)
