"""Here are the errors that are the user's to mend; everything else is ours.

A message names the setting that it is about, and whoever takes the request says what settings are
called (`settings_called`): ``exclude`` from Python, ``--exclude`` on the command line. The names
are put in where a message is made, so warnings and records that quote it read alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_setting_name: ContextVar[Callable[[str], str]] = ContextVar("setting_name", default=str)


class InputError(ValueError):
    """Usage or input is bad: the message names the value found, the rule, and the fix.

    Attributes:
        setting: the field of a request that was refused; None where it was not a setting.
        found: the value that was refused.
        allowed: what would do, where that can be listed.
    """

    def __init__(
        self,
        message: str,
        *,
        setting: str | None = None,
        found: object = None,
        allowed: Sequence[object] = (),
    ) -> None:
        super().__init__(message)
        self.setting, self.found, self.allowed = setting, found, allowed


class Unwritable(InputError):
    """The place that results go to takes no more, so whatever is under way cannot be kept."""


def refused(
    setting: str, found: object, rule: str, *, allowed: Sequence[object] = ()
) -> InputError:
    """Make the error that a setting's value breaks ``rule``, which says the fix too."""
    message = f"{setting_name(setting)} {found}: {rule}"
    return InputError(message, setting=setting, found=found, allowed=allowed)


def setting_name(setting: str) -> str:
    """Give the name that the field ``setting`` of a request has where the request was made."""
    return _setting_name.get()(setting)


@contextmanager
def settings_called(names: Callable[[str], str]) -> Iterator[None]:
    """Have messages made meanwhile call settings by ``names`` of their fields."""
    token = _setting_name.set(names)
    try:
        yield
    finally:
        _setting_name.reset(token)


@contextmanager
def writing(place: object, fix: str) -> Iterator[None]:
    """Have the user told of what the system refuses meanwhile: no room, no rights, no folder.

    A file that is not there is no such thing: what is written into was made before.

    Args:
        place: where to, for the message.
        fix: what to do about it.

    Raises:
        Unwritable: for any other OSError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:  # of a full disk it names no file
        raise Unwritable(f"{place} cannot be written ({error.strerror or error}); {fix}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Write ``did you mean 'x'?`` for a message if a known name is close, and the known names."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}"
