"""The errors that are the user's to mend; everything else is ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad usage or input. The message names the value found, the rule, and the fix."""


class Unwritable(InputError):
    """The place that results go to takes no more; whatever is under way cannot be kept."""


@contextmanager
def writing(place: object, fix: str) -> Iterator[None]:
    """What the system refuses meanwhile is the user's to mend: no room, no rights, no folder.

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
    """``"; did you mean 'x'?"`` if a known name is close, with the known names, for a message."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}"
