"""What a person reads while a run lives and when it is over."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from fedstill.server.display.progress import Display, make_progress, print_summary
from fedstill.server.run.events import (
    Event,
    NodeReported,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunFinished,
    RunStarted,
    TeacherReady,
    Warned,
)
from fedstill.server.run.summary import FleetSummary, NodeSummary, RoundSummary, Summary, TeacherSummary


def node_reported(node_id: str, accuracy: float) -> NodeReported:
    return NodeReported(
        round=1,
        node_id=node_id,
        family="mlp",
        accuracy=accuracy,
        fp32_accuracy=accuracy,
        private_accuracy=None,
        agreement_ratio=None,
        num_parameters=2182,
        fp32_bytes=9200,
        artefact_bytes=9314,
        bytes_down=1000,
        bytes_up=200,
        public_sample_bytes=5000,
        wire_bytes=700,
        phase_seconds={},
    )


def run_events(num_nodes: int) -> list[Event]:
    return [
        RunStarted("digits-1", "teacher", "digits", num_nodes, 3, "runs/digits-1"),
        PhaseStarted("teacher", 40),
        *(PhaseAdvanced("teacher", done, f"loss {1 / done:.3f}") for done in range(1, 41)),
        PhaseEnded("teacher", 3.25),
        TeacherReady(0.976, 0.98, 1_200_000, 4_800_000),
        PhaseStarted("round", num_nodes, 1),
        *(node_reported(f"node-{index:04d}", 0.9 + index / 1000) for index in range(num_nodes)),
        PhaseAdvanced("round", num_nodes),
        ReplyDropped(1, "node-0077", "unanswered", "silent for 60 s"),
        Warned("a node went silent"),
        PhaseEnded("round", 4.2, 1),
        RoundClosed(1, 0.951, num_nodes + 1, num_nodes, 1, 4.2, 0.025),
        PhaseStarted("round", None, 2),
        RunFinished("runs/digits-1", "runs/digits-1/report.html"),
    ]


def play(display: Display, num_nodes: int) -> None:
    for event in run_events(num_nodes):
        display(event)
    display.close()


class Terminal:
    """A pseudo-terminal whose screen output is collected."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        self.stream: TextIO = open(slave, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:
                return
            self._chunks.append(chunk)

    def hang_up(self) -> str:
        if not self.stream.closed:
            self.stream.close()
            self._reader.join(timeout=10)
            os.close(self._master)
        return b"".join(self._chunks).decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "50")
    made = Terminal()
    yield made
    made.hang_up()


def test_without_a_terminal_every_line_is_news() -> None:
    stream = io.StringIO()

    play(make_progress(json_mode=False, stream=stream), num_nodes=2)

    assert stream.getvalue().splitlines() == [
        "run digits-1: scheme teacher on digits, 2 nodes, 3 rounds at most, in runs/digits-1",
        "teacher: started",
        "teacher: done in 3.25 s",
        "teacher: accuracy 0.976, 1,200,000 parameters, 4.80 MB",
        "round 1: node-0077 dropped (unanswered): silent for 60 s",
        "warning: a node went silent",
        "round 1: accuracy 0.951, gap 0.025, 2 of 3 replied, 1 dropped, 4.20 s",
        "report: runs/digits-1/report.html",
    ]


def test_for_a_machine_standard_output_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    play(make_progress(json_mode=True, stream=sys.stdout), num_nodes=2)

    assert tuple(capsys.readouterr()) == ("", "warning: a node went silent\n")


def test_what_a_node_wrote_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()

    make_progress(json_mode=False, stream=stream)(ReplyDropped(1, "node-0001", "error", "\x1b[2Jgone\nfake"))

    assert stream.getvalue() == "round 1: node-0001 dropped (error):  [2Jgone fake\n"


def test_a_reader_that_went_away_does_not_end_the_run() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = open(write_end, "w", buffering=1)  # noqa: SIM115, PTH123
    display = make_progress(json_mode=False, stream=stream)

    display(Warned("nobody reads this"))

    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_terminal_shows_bars_and_nodes(terminal: Terminal) -> None:
    play(make_progress(json_mode=False, stream=terminal.stream), num_nodes=3)

    screen = terminal.hang_up()
    for text in (
        "teacher",
        "40/40",
        "round 1",
        "node-0002",
        "0.902",
        "9.31 kB",
        "warning: a node went silent",
    ):
        assert text in screen


def test_a_large_fleet_shows_its_worst_nodes_and_how_many_more(terminal: Terminal) -> None:
    play(make_progress(json_mode=False, stream=terminal.stream), num_nodes=100)

    last = terminal.hang_up().rsplit("accuracy", 1)[1]
    shown = [line.split()[0] for line in last.splitlines() if line.lstrip().startswith("node-")]
    assert shown == [f"node-{index:04d}" for index in range(20)]
    assert "and 80 more nodes, none less accurate" in last


def test_an_interrupted_display_gives_the_cursor_back(terminal: Terminal) -> None:
    display = make_progress(json_mode=False, stream=terminal.stream)
    num_threads = threading.active_count()
    try:
        display(PhaseStarted("teacher", 40))
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        display.close()
        display.close()

    screen = terminal.hang_up()
    assert screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l") >= 0
    assert threading.active_count() < num_threads


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    play(make_progress(json_mode=False, stream=terminal.stream), num_nodes=1)

    assert "\x1b" not in terminal.hang_up()


def make_summary(*, teacher: bool = True) -> Summary:
    node = NodeSummary(
        node_id="node-0000",
        family="mlp",
        num_train_samples=50,
        num_private_test=14,
        accuracy=0.941,
        fp32_accuracy=0.944,
        private_accuracy=0.929,
        local_accuracy=0.51,
        local_private_accuracy=0.95,
        agreement_ratio=0.96,
        ece=0.02,
        num_parameters=2182,
        fp32_bytes=9200,
        artefact_bytes=9300,
        artefact_path="nodes/node-0000/artefact",
        artefact_digest="a" * 64,
        student_digest="b" * 64,
        latency_seconds_batch1=1.2e-5,
        teacher_latency_seconds_batch1=4e-4 if teacher else None,
        bytes_down=15_000,
        bytes_up=0,
        public_sample_bytes=46_000,
        evaluation_bytes=23_000,
        artefact_upload_bytes=18_000,
        num_rounds=3,
        num_state_resets=0,
    )
    better = node.model_copy(update={"node_id": "node-0001", "accuracy": 0.961})
    fleet = FleetSummary(
        accuracy_mean=0.951,
        accuracy_p5=0.942,
        accuracy_min=0.941,
        private_accuracy_mean=0.929,
        local_accuracy_mean=0.51,
        local_private_accuracy_mean=0.95,
        bytes_down=30_000,
        bytes_up=0,
        public_sample_bytes=92_000,
        wire_bytes_actual=61_000,
        fedavg_bytes=110_400,
        artefact_bytes_mean=9300,
    )
    rounds = [
        RoundSummary(
            round=index,
            accuracy_mean=0.951,
            num_sampled=2,
            num_replied=2,
            num_dropped=0,
            num_late=0,
            gap=0.02,
            seconds=4.2,
        )
        for index in (1, 2, 3)
    ]
    return Summary(
        schema_version=1,
        run_id="digits-1",
        scheme="teacher" if teacher else "local",
        dataset="digits",
        seed=0,
        version="0.1.0",
        wall_seconds=34.2,
        num_resumes=0,
        stopped_because="all rounds done",
        eval_set={"digest": "c" * 64, "num_samples": 360},
        teacher=TeacherSummary(
            model="cnn",
            accuracy=0.976,
            initial_accuracy=0.98,
            validation_accuracy=0.98,
            num_parameters=127_000,
            size_bytes=512_000,
            digest="d" * 64,
            num_server_samples=431,
            num_epochs=22,
        )
        if teacher
        else None,
        nodes=[node, better],
        fleet=fleet,
        rounds=rounds,
    )


def printed(summary: Summary) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_summary(summary, Path("runs/digits-1"), Path("runs/digits-1/report.html"), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "teacher accuracy    0.976",
        "student accuracy    0.951  mean of 2 artefacts, p5 0.942, worst 0.941 (node-0000)",
        "local control     0.510",
        "gap                 0.025",
        "artefact size     9.30 kB  mean; the teacher is 55.1× as large",
        "FedAvg             110 kB  FedAvg of the same students: 3.68× the labels, 0.90× labels and public",
        "time               34.2 s  a round 4.20 s (median)",
        "report      runs/digits-1/report.html",
    ],
)
def test_the_summary_gives_each_figure_with_its_control(text: str) -> None:
    assert text in printed(make_summary())


def test_the_summary_of_a_run_without_teacher_names_none() -> None:
    text = printed(make_summary(teacher=False))

    assert "teacher accuracy" not in text
    assert "teacher size" not in text
