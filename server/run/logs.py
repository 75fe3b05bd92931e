"""A run's structured log: one JSON object per line for each event that matters.

Every line has `time` (UTC), `level`, `event`, `run`, and `round` and `node`, null where the
event is of none; the rest are the event's own figures. `RUN/log.jsonl` is always written;
`monitoring.log = "json"` puts the same lines on standard error instead of the plain ones.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from fedstill.server.run.events import (
    Event,
    NodeBudgeted,
    PhaseAdvanced,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunStarted,
    UploadRefused,
    Warned,
)

LOGGER = logging.getLogger("fedstill")
LOG_FILE = "log.jsonl"
# Nodes write part of some texts.
MAX_TEXT = 500
_SILENT = (PhaseAdvanced, NodeBudgeted)
_WARNINGS = (ReplyDropped, UploadRefused, Warned)


class JsonLog:
    """An observer that writes JSON lines; safe among threads, and never the end of a run.

    Args:
        stream: Where to write; it is closed by `close` if `owns_stream`.
        owns_stream: Whether the stream is this log's alone.
        clock: Gives the time as seconds since 1970.
    """

    def __init__(
        self, stream: TextIO, *, owns_stream: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._stream = stream
        self._owns_stream = owns_stream
        self._clock = clock
        self._lock = threading.Lock()
        self._run_id = ""
        self._round: int | None = None

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, _SILENT):
            return
        with self._lock, suppress(OSError, ValueError):  # a full disk or a reader that went away
            self._stream.write(json.dumps(self._describe(event), ensure_ascii=True) + "\n")
            self._stream.flush()

    def _describe(self, event: Event) -> dict[str, Any]:
        fields = {name: _plain(value) for name, value in dataclasses.asdict(event).items()}
        if isinstance(event, RunStarted):
            self._run_id = event.run_id
        round_number = fields.pop("round", 0) or None
        if isinstance(event, PhaseStarted) and round_number:
            self._round = round_number
        fields.pop("run_id", None)
        line = {
            "time": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds"),
            "level": "warning" if isinstance(event, _WARNINGS) else "info",
            "event": _snake_case(type(event).__name__),
            "run": self._run_id,
            "round": round_number or self._round,
            "node": fields.pop("node_id", "") or None,
        } | fields
        if isinstance(event, RoundClosed):
            self._round = None
        return line

    def close(self) -> None:
        """Closes what it owns; may be called twice."""
        if self._owns_stream:
            with self._lock, suppress(OSError):
                self._stream.close()


def open_log(run_dir: Path) -> JsonLog:
    """Opens the log of a run folder, at its end where the run is resumed; close it afterwards."""
    return JsonLog((run_dir / LOG_FILE).open("a", encoding="utf-8"), owns_stream=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def log_event(event: Event) -> None:
    """Hands an event to Python's logging: what is wrong as warnings, the rest for debugging."""
    level = logging.WARNING if isinstance(event, ReplyDropped | Warned) else logging.DEBUG
    LOGGER.log(level, "%s", event)
