"""What is used of lm-eval and tqdm beyond their public interfaces is here, and nowhere else.

It was tried with lm-eval 0.4.12 and 0.4.13, and tqdm 4.66 to 4.70. lm-eval finds a task's data set
in its configuration alone, and tells nobody before it loads it; bars of tqdm within other packages
have no switch but their constructor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import TYPE_CHECKING, Any

from quantcore.errors import InputError
from quantcore.versions import installed, tried

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


def rewrite_configurations(
    manager: TaskManager,
    rewrite: Callable[[dict[str, Any]], dict[str, Any]],
    metadata: dict[str, Any],
) -> None:
    """Have a task manager pass every configuration that it loads through a function.

    Args:
        manager: of lm-eval; changed.
        rewrite: gets a configuration and returns what is used in its place.
        metadata: as the manager was given it.

    Raises:
        InputError: this release of lm-eval builds tasks in another way.
    """
    try:
        from lm_eval.tasks._factory import TaskFactory

        _ = TaskFactory._load_full_config, manager._factory
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"lm-eval {installed('lm-eval')} loads tasks in another way than the releases that "
            f"this program works with ({error}); pip install 'lm-eval{tried('lm-eval')}'"
        ) from error

    class Rewriting(TaskFactory):  # type: ignore[misc]
        def _load_full_config(self, entry: Any, overrides: Any = None) -> dict[str, Any]:
            return rewrite(super()._load_full_config(entry, overrides))

    manager._factory = Rewriting(meta=metadata)


@contextmanager
def no_bars() -> Iterator[None]:
    """Silence new bars of tqdm within a with block, whoever makes them.

    Raises:
        InputError: this release of tqdm cannot be told so.
    """
    from tqdm import tqdm

    initialize = tqdm.__init__
    tqdm.__init__ = partialmethod(initialize, disable=True)
    try:
        if not tqdm(()).disable:
            raise InputError(
                f"tqdm {installed('tqdm')} cannot be silenced as the releases that this program "
                "works with; pip install 'tqdm<=4.70'"
            )
        yield
    finally:
        tqdm.__init__ = initialize
