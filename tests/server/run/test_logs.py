"""One JSON object per line, with run, round and node on each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from fedstill.server.display.progress import make_progress
from fedstill.server.run.events import (
    Event,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunStarted,
    UploadRefused,
)
from fedstill.server.run.logs import LOG_FILE, MAX_TEXT, JsonLog, open_log


def lines(*events: Event) -> list[dict[str, Any]]:
    stream = io.StringIO()
    log = JsonLog(stream, clock=lambda: 0.0)
    for event in events:
        log(event)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


STARTED = RunStarted("digits-1", "teacher", "digits", 4, 3, "runs/digits-1")


def test_every_line_has_time_level_run_round_and_node() -> None:
    found = lines(
        STARTED,
        PhaseStarted("round", 4, 2),
        UploadRefused("node-0001", "non_finite", "NaN"),
        ReplyDropped(2, "node-0003", "late", "its round was closed"),
        RoundClosed(2, 0.9, 4, 3, 1, 1.5, None),
        PhaseStarted("closing", 4),
    )

    assert [(line["event"], line["level"], line["run"], line["round"], line["node"]) for line in found] == [
        ("run_started", "info", "digits-1", None, None),
        ("phase_started", "info", "digits-1", 2, None),
        ("upload_refused", "warning", "digits-1", 2, "node-0001"),
        ("reply_dropped", "warning", "digits-1", 2, "node-0003"),
        ("round_closed", "info", "digits-1", 2, None),
        ("phase_started", "info", "digits-1", None, None),
    ]
    assert {line["time"] for line in found} == {"1970-01-01T00:00:00.000+00:00"}


def test_steps_within_a_phase_are_no_lines() -> None:
    assert [line["event"] for line in lines(PhaseAdvanced("teacher", 3), PhaseEnded("teacher", 1.0))] == [
        "phase_ended"
    ]


def test_text_of_nodes_can_neither_break_a_line_nor_fill_the_disk() -> None:
    [line] = lines(ReplyDropped(1, "node-0001", "error", "\x1b[2J\nfake line" + "x" * 10_000))

    assert len(line["detail"]) == MAX_TEXT + 1


def test_figures_that_are_no_numbers_are_null() -> None:
    [line] = lines(STARTED)

    assert line["temperature"] is None


def test_a_resumed_run_goes_on_in_its_log(tmp_path: Path) -> None:
    for _ in range(2):
        log = open_log(tmp_path)
        log(STARTED)
        log.close()
        log(STARTED)  # closed: nobody hears it, and nothing fails

    assert len((tmp_path / LOG_FILE).read_text().splitlines()) == 2


def test_json_takes_the_place_of_the_plain_lines() -> None:
    stream = io.StringIO()
    display = make_progress(json_mode=False, stream=stream, log="json")
    display(STARTED)
    display.close()

    assert json.loads(stream.getvalue())["event"] == "run_started"
