"""The suites of one comparison are made ready to run on one model after the other."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.suites.suite import Suite
from bench.comparison.suites.tasks import TasksSuite
from bench.comparison.suites.throughput import ThroughputSuite
from bench.comparison.suites.windows import WindowsSuite
from quantcore.checkpoint import LoadedModel
from suites.texts import Text

_KINDS: tuple[type[Suite], ...] = (WindowsSuite, ThroughputSuite, TasksSuite)
"""They are measured in this order."""


def build_suites(request: Request, loaded: LoadedModel, say: Reporter) -> list[Suite]:
    """Load and cut everything that is asked for.

    Raises:
        InputError: a text, task or data set that cannot be had.
    """
    return [suite for kind in _KINDS for suite in kind.build(request, loaded, say)]


def text_of(suites: Sequence[Suite]) -> Text | None:
    """Give the text that is evaluated; None: no suite reads one."""
    return next((suite.text for suite in suites if suite.text is not None), None)
