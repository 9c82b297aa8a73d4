"""The folder of a comparison: which cells it holds, which are done, whose it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.progress import Reporter
from bench.records import Cell, Record, read_record, write_json
from quantcore.errors import InputError

if TYPE_CHECKING:
    from bench.request import Request

_MANIFEST = "comparison.json"
_PLACES = ("data_dir", "tasks_data")  # where copies lie on this machine decides no outcome


class OtherComparison(InputError):
    """The folder holds a comparison that is not this one."""


class RunFolder:
    """Whole records only; the manifest says which comparison they belong to."""

    def __init__(self, path: Path, manifest: dict[str, Any], done: set[str]) -> None:
        """Use `RunFolder.open`."""
        self.path = path
        self.done = done
        self.resumed = bool(done)
        self._manifest = manifest

    @classmethod
    def open(
        cls, path: Path, cells: Sequence[Cell], request: Request, *, search: bool, say: Reporter
    ) -> RunFolder:
        """Begin a comparison, or go on with one that was interrupted.

        Args:
            path: the folder; made if it is not there.
            cells: all cells of the comparison; their ids are its key.
            request: what was asked for, for the manifest.
            search: look beside ``path`` for an unfinished folder with the same key first.
            say: told of folders there that are passed over.

        Raises:
            OtherComparison: the folder holds another one.
            InputError: it holds other things, or cannot be written.
        """
        key = hashlib.sha256("".join(cell.id for cell in cells).encode()).hexdigest()[:16]
        if search:
            for other in sorted(path.parent.glob(f"*/{_MANIFEST}"), reverse=True):
                try:
                    manifest = _read_manifest(other)
                except InputError as error:
                    say.warn(f"passed over: {error}")
                    continue
                if manifest.get("key") == key and not manifest.get("finished"):
                    path = other.parent
                    break
        manifest_path = path / _MANIFEST
        if manifest_path.is_file():
            found = _read_manifest(manifest_path)
            if found.get("key") != key:
                raise OtherComparison(
                    f"{path} holds another comparison ({_differences(found, request)}); name "
                    "another --out"
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is no comparison; name another --out")
        done: set[str] = set()
        for cell in cells:
            file = path / cell.file_name
            if file.is_file():
                record = read_record(file)
                if record.cell.id == cell.id and record.status == "done":
                    done.add(cell.id)
        manifest = {
            "key": key,
            "finished": False,
            "request": _declared(request),
            "cells": {cell.file_name: cell.id for cell in cells},
        }
        try:
            write_json(manifest_path, manifest)
        except OSError as error:
            raise InputError(f"--out {path} cannot be written ({error}); name another") from error
        return cls(path, manifest, done)

    def keep(self, record: Record) -> None:
        """Write one record."""
        record.write(self.path)

    def finish(self) -> None:
        """Mark the comparison as finished: it is not picked up again by itself."""
        self._manifest["finished"] = True
        write_json(self.path / _MANIFEST, self._manifest)


def _declared(request: Request) -> dict[str, Any]:
    """What was asked for, as JSON holds it; where texts lie on this machine is left out."""
    values = {name: value for name, value in asdict(request).items() if name not in _PLACES}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _differences(manifest: dict[str, Any], request: Request) -> str:
    """What a comparison in a folder asked for otherwise."""
    there, here = manifest.get("request"), _declared(request)
    there = there if isinstance(there, dict) else {}
    found = [f"{k} {there.get(k)!r}, now {here[k]!r}" for k in here if there.get(k) != here[k]]
    return "; ".join(found) or "the same request, but other weights, text or program version"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); remove its folder or name another"
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is damaged (not an object); remove its folder or name another")
    return document
