"""This package knows which releases of others it was tried with, and which are installed."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

DISTRIBUTION = "awq-bench"

_OUTSIDE = 3
"""Exit code where some release is: of no crash, so that `.ci/run` cannot mistake one for it."""


def installed(package: str) -> str | None:
    """The version of a distribution that is installed; None if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _declared() -> list[Requirement]:
    """What this package requires, extras left out; nothing where it is not installed itself."""
    try:
        found = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    except metadata.PackageNotFoundError:
        return []
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def tried(package: str) -> SpecifierSet:
    """The releases of a distribution that this package declares: those that it was run with.

    Empty where nothing is declared of it, or this package itself is not installed.
    """
    return next((one.specifier for one in _declared() if one.name == package), SpecifierSet())


def untried() -> dict[str, str]:
    """Name installed packages outside of what was tried, each with a sentence that says so."""
    found = {}
    for one in _declared():
        version = installed(one.name)
        if version is not None and not one.specifier.contains(version, prereleases=True):
            found[one.name] = (
                f"{one.name} {version} is outside of what this program was run with "
                f"({one.specifier}); pip install '{one.name}{one.specifier}'"
            )
    return found


if __name__ == "__main__":
    sentences = untried().values()
    print("\n".join(sentences) or "every release is one that this program was run with")
    raise SystemExit(_OUTSIDE if sentences else 0)
