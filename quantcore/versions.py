"""Versions say which releases of other packages were tried, and which are installed."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from quantcore.errors import InputError

DISTRIBUTION = "awq-bench"

_OUTSIDE = 3
"""Exit code where some release is: of no crash, so that `.ci/run` cannot mistake one for it."""


def installed(package: str) -> str | None:
    """Give the version of a distribution that is installed; None if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _declared() -> list[Requirement]:
    """List what this package requires, extras too; nothing where it is not installed itself."""
    try:
        return [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return []


def need(package: str, *, extra: str, what: str) -> None:
    """Refuse to go on without a package that an extra brings.

    Args:
        package: a distribution.
        extra: the extra of this package that requires it.
        what: takes it, as the beginning of the message.

    Raises:
        InputError: it is not installed.
    """
    if installed(package) is None:
        raise InputError(
            f"{what} needs {package}, which is not installed; pip install '{DISTRIBUTION}[{extra}]'"
        )


def tried(package: str) -> SpecifierSet:
    """Give the releases of a distribution that this package declares: those that it was run with.

    They are empty where nothing is declared of it, or this package itself is not installed.
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
