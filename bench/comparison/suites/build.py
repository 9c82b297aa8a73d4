"""The suites of one comparison are checked, and made ready to run on one model after the other."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison.backends import check_backends
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.suites.suite import Suite
from bench.comparison.suites.tasks import TasksSuite
from bench.comparison.suites.throughput import ThroughputSuite
from bench.comparison.suites.windows import WindowsSuite
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError, nearest
from suites import SUITES
from suites.texts import Text

_KINDS: tuple[type[Suite], ...] = (WindowsSuite, ThroughputSuite, TasksSuite)
"""They are measured in this order."""


def check_request(request: Request, *, paired: bool | None = None) -> None:
    """Refuse what cannot be measured before anything is loaded.

    Args:
        request: what to measure.
        paired: whether an unquantized model is measured beside another; None: if there are methods.

    Raises:
        InputError: an unknown suite, scheme or source, or options that do not go together.
    """
    _check_suites(request)
    check_backends(request)
    for kind in _KINDS:
        kind.check(request, paired=bool(request.methods) if paired is None else paired)


def _check_suites(request: Request) -> None:
    for suite in request.suites:
        if suite not in SUITES:
            raise InputError(f"unknown suite {suite!r}; {nearest(suite, SUITES)}")
    if not request.suites and not request.tasks:
        raise InputError(f"no suite given; known: {', '.join(SUITES)}")


def build_suites(request: Request, loaded: LoadedModel, say: Reporter) -> list[Suite]:
    """Load and cut everything that is asked for.

    Raises:
        InputError: a text, task or data set that cannot be had.
    """
    return [suite for kind in _KINDS for suite in kind.build(request, loaded, say)]


def text_of(suites: Sequence[Suite]) -> Text | None:
    """Give the text that is evaluated; None: no suite reads one."""
    return next((suite.text for suite in suites if suite.text is not None), None)
