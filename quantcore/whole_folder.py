"""A folder is there whole or not at all, under the name that a user asked for."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from quantcore import files
from quantcore.errors import InputError, Unwritable, setting_name, writing


class WholeFolder:
    """``with WholeFolder(out) as tmp`` gives a folder that becomes ``out`` if all goes well.

    ``tmp`` lies beside ``out`` and is locked: no other process writes the same ``out`` meanwhile,
    and what one leaves that is killed goes with the next.
    """

    def __init__(self, out: Path) -> None:
        """Check that ``out`` is free; nothing is made yet.

        Raises:
            InputError: it exists and is not an empty folder, or none that can be replaced.
        """
        if out.is_symlink() and not out.exists():
            raise _refused(out, "is a link that leads nowhere; name another, or mend it")
        if out.exists() and not out.is_dir():
            raise _refused(out, "exists and is a file; name a folder")
        if out.is_dir() and any(out.iterdir()):
            rule = f"exists and is not empty; {_another()}, or remove it"
            raise InputError(f"{out} {rule}", setting="out", found=out)
        self._asked, self._out = out, out.resolve()
        if self._out == Path.cwd():
            raise _refused(out, f"is the folder that you are in; {_another()}")
        if os.path.ismount(self._out):
            rule = "is a mount point, which no finished folder can replace; name a folder in it"
            raise _refused(out, rule)
        self._made: list[Path] = []

    def __enter__(self) -> Path:
        """Make a folder beside ``out``, on the same file system.

        Raises:
            InputError: it cannot be made, or another process writes ``out``.
        """
        place, begin = self._out.parent, f".{self._out.name[:100]}."
        self._made = [above for above in (place, *place.parents) if not above.exists()]
        try:
            place.mkdir(parents=True, exist_ok=True)
            held = files.sweep(place.glob(f".*{files.UNFINISHED}"))
            if any(other.name.startswith(begin) for other in held):
                rule = "is being written by another process; wait until it ends, or name another"
                raise _refused(self._asked, rule)
            self._temporary, self._held = files.begun(
                lambda: Path(tempfile.mkdtemp(prefix=begin, suffix=files.UNFINISHED, dir=place))
            )
            self._temporary.chmod(0o755)
        except OSError as error:
            self._remove_made()
            rule = f"cannot be written below {place} ({error.strerror}); {_another()}"
            raise _refused(self._asked, rule) from error
        return self._temporary

    def need(self, count: int) -> None:
        """Refuse a disk that has not room for so many bytes."""
        free = shutil.disk_usage(self._temporary).free
        if count > free:
            sizes = f"{count / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free"
            rule = f"takes about {sizes}; make room there, or {_another()}"
            raise _refused(self._asked, rule)

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        """Rename into place, or remove what was begun.

        Raises:
            Unwritable: the system refuses, or refused what raised within.
        """
        asked = f"{setting_name('out')} {self._asked}"
        fix = f"make room and give rights there, or {_another()}"
        try:
            if kind is not None:
                by_system = isinstance(value, OSError | SafetensorError)
                by_system |= type(value) is Exception and "(os error " in str(value)  # tokenizers'
                if by_system and not isinstance(value, FileNotFoundError):  # see `writing`
                    raise Unwritable(f"{asked} cannot be written ({value}); {fix}")
                return
            with writing(asked, fix):
                for path in self._temporary.rglob("*"):
                    files.sync(path)
                try:
                    if self._out.is_dir():
                        self._out.rmdir()
                    os.replace(self._temporary, self._out)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    # Both began before either could see the other.
                    rule = "is not empty any more: another process wrote it meanwhile"
                    raise _refused(self._asked, f"{rule}; {_another()}") from error
                files.sync(self._out.parent)
        finally:
            if self._temporary.exists():  # it did not become `out`
                shutil.rmtree(self._temporary, ignore_errors=True)
                self._remove_made()
            os.close(self._held)

    def _remove_made(self) -> None:
        """Remove folders above ``out`` that were not there before, unless they are in use."""
        with suppress(OSError):
            for place in self._made:
                place.rmdir()


def _refused(out: Path, rule: str) -> InputError:
    return InputError(f"{setting_name('out')} {out} {rule}", setting="out", found=out)


def _another() -> str:
    return f"name another {setting_name('out')}"
