"""Follows files that grow: only what is new is read, and only whole lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class LineTail:
    """Follows a file of one JSON object per line, which may be appended to or replaced by a longer one.

    Args:
        path: The file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._num_restarts = 0

    @property
    def num_restarts(self) -> int:
        """How often the file turned out shorter than what was read: all begins anew then."""
        return self._num_restarts

    def read(
        self, *, containing: Sequence[str] = (), without: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Reads the lines that came since the last call.

        Args:
            containing: Event names; other lines are passed over before they are parsed. Empty takes all.
            without: Event names whose lines are passed over.

        Yields:
            The objects; what is no JSON object is left out.
        """
        marks, others = _write_marks(containing), _write_marks(without)
        for line in self._read_lines():
            if marks and not any(mark in line for mark in marks):
                continue
            if any(mark in line for mark in others):
                continue
            try:
                document = json.loads(line, parse_constant=_no_number)
            except ValueError:
                continue
            if isinstance(document, dict):
                yield document

    def _read_lines(self) -> list[bytes]:
        try:
            size = self._path.stat().st_size
            if size < self._offset:
                self._offset, self._num_restarts = 0, self._num_restarts + 1
            if size == self._offset:
                return []
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()


def _write_marks(events: Sequence[str]) -> list[bytes]:
    return [f'"event": "{name}"'.encode() for name in events]


def _no_number(_: str) -> None:
    """Reads NaN and infinities, which no browser parses, as null."""
