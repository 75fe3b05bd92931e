"""What a person sees of a run: bars and one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import statistics
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from fedstill.server.display.units import (
    UNKNOWN,
    format_bytes,
    format_ratio,
    format_seconds,
    format_times,
    printable,
)
from fedstill.server.run.events import (
    Event,
    NodeJoined,
    NodeLeft,
    NodePlanned,
    NodeReported,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunFinished,
    RunStarted,
    ScrapeAwaited,
    TeacherReady,
    Warned,
)
from fedstill.server.run.logs import JsonLog
from fedstill.server.run.summary import Summary

MAX_ROWS = 20


class Display(Protocol):
    """An observer that shows a run and has to be closed, however the run ends."""

    def __call__(self, event: Event) -> None:
        """Takes one event."""

    def close(self) -> None:
        """Gives the terminal back; may be called twice."""


def make_progress(*, json_mode: bool, stream: TextIO | None = None, log: str = "text") -> Display:
    """Chooses how a run is shown.

    Args:
        json_mode: Standard output belongs to a machine: only standard error is
            used, for bars where it is a terminal, else for warnings alone.
        stream: Where to write; None is standard error.
        log: "json" writes one JSON object per event, and nothing else.

    Returns:
        The observer; close it before anything else is printed.
    """
    if stream is None or (json_mode and stream is sys.stdout):
        stream = sys.stderr
    if log == "json":
        return JsonLog(stream)
    console = Console(file=stream)
    if stream.isatty() and not console.is_dumb_terminal:
        return _LiveDisplay(console)
    return _PlainDisplay(stream, only_warnings=json_mode)


def describe_event(event: Event) -> str | None:
    """Puts an event into one plain line; None for one that is no news by itself."""
    match event:
        case RunStarted():
            line = (
                f"run {event.run_id}: scheme {event.scheme} on {event.dataset}, {event.num_nodes} nodes,"
                f" {event.num_rounds} rounds at most, in {event.run_dir}"
            )
        case PhaseStarted() if event.phase != "round":
            line = f"{event.phase}: started"
        case PhaseEnded() if event.phase != "round":
            line = f"{event.phase}: done in {format_seconds(event.seconds)}"
        case TeacherReady(accuracy=None):
            line = "teacher: soft labels from a file, accuracy unknown"
        case TeacherReady():
            line = (
                f"teacher: accuracy {format_ratio(event.accuracy)}, {event.num_parameters:,} parameters,"
                f" {format_bytes(event.size_bytes)}"
            )
        case ReplyDropped():
            detail = f": {event.detail}" if event.detail else ""
            line = f"round {event.round}: {event.node_id} dropped ({event.reason}){detail}"
        case RoundClosed():
            gap = "" if event.gap is None else f", gap {format_ratio(event.gap)}"
            line = (
                f"round {event.round}: accuracy {format_ratio(event.accuracy_mean)}{gap},"
                f" {event.num_replied} of {event.num_sampled} replied, {event.num_dropped} dropped,"
                f" {format_seconds(event.seconds)}"
            )
        case NodePlanned() if event.is_news or event.is_change:
            line = f"{event.node_id}{f' ({event.profile})' if event.profile else ''}: {describe_plan(event)}"
        case NodeJoined():
            line = f"{event.node_id} {'is back' if event.is_back else 'has joined'}"
        case NodeLeft():
            line = f"{event.node_id} has left"
        case Warned():
            line = f"warning: {event.text}"
        case RunFinished():
            line = f"report: {event.report_path}"
        case ScrapeAwaited():
            line = (
                f"waiting {format_seconds(event.seconds)} at most until Prometheus has scraped the last"
                " figures; Ctrl-C ends the wait"
            )
        case _:
            return None
    return printable(line)


def describe_plan(event: NodePlanned) -> str:
    """Puts what was decided for a node into words: student, codec, and why."""
    parts = [
        f"{name} ({reason})" if reason else name
        for name, reason in ((event.plan, event.plan_reason), (event.codec, event.codec_reason))
        if name
    ]
    return ("replanned, " if event.is_change else "") + ", ".join(parts)


class _PlainDisplay:
    def __init__(self, stream: TextIO, *, only_warnings: bool) -> None:
        self._stream = stream
        self._only_warnings = only_warnings

    def __call__(self, event: Event) -> None:
        line = describe_event(event)
        if line is None or (self._only_warnings and not isinstance(event, Warned | ScrapeAwaited)):
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        # A reader that went away (`| head`) must not end the run.
        with suppress(OSError, ValueError):
            self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()

    def close(self) -> None:
        return


class _LiveDisplay:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._nodes: dict[str, NodeReported] = {}
        self._tasks: dict[str, TaskID] = {}
        self._num_rounds = 0
        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=console,
        )
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=5,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def __call__(self, event: Event) -> None:
        with suppress(OSError):
            self._take(event)

    def close(self) -> None:
        with suppress(OSError):
            self._live.stop()

    def _take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._num_rounds = event.num_rounds
                self._say(event)
            case PhaseStarted():
                self._start_bar(event)
            case PhaseAdvanced() if event.phase in self._tasks:
                task_id = self._tasks[event.phase]
                self._bars.update(task_id, completed=event.done, detail=printable(event.detail))
            case PhaseEnded() if event.phase in self._tasks:
                self._end_bar(event)
            case NodeReported():
                with self._lock:
                    self._nodes[event.node_id] = event
            case (
                TeacherReady()
                | RoundClosed()
                | ReplyDropped()
                | NodePlanned()
                | NodeJoined()
                | NodeLeft()
                | Warned()
                | ScrapeAwaited()
            ):
                self._say(event)

    def _say(self, event: Event) -> None:
        line = describe_event(event)
        if line is not None:
            style = "yellow" if isinstance(event, Warned | ReplyDropped) else ""
            self._console.print(Text(line, style=style), soft_wrap=True)

    def _start_bar(self, event: PhaseStarted) -> None:
        title = f"round {event.round}/{self._num_rounds}" if event.round else event.phase
        if event.phase not in self._tasks:
            self._tasks[event.phase] = self._bars.add_task(title, total=event.total, detail="")
            return
        task_id = self._tasks[event.phase]
        self._bars.reset(task_id, description=title, detail="")
        # Set here, since `reset` takes None for "as before".
        self._bars.tasks[task_id].total = event.total

    def _end_bar(self, event: PhaseEnded) -> None:
        task = self._bars.tasks[self._tasks[event.phase]]
        total = task.total or max(task.completed, 1)
        self._bars.update(task.id, total=total, completed=total, detail="")

    def _render(self) -> RenderableType:
        with self._lock:
            nodes = list(self._nodes.values())
        if not nodes:
            return self._bars
        room = self._console.size.height - len(self._bars.tasks) - 8
        return Group(_node_table(nodes, max_rows=max(3, min(MAX_ROWS, room))), self._bars)


def _node_table(nodes: list[NodeReported], *, max_rows: int) -> Table:
    hidden = len(nodes) - max_rows
    caption = None
    if hidden > 0:
        nodes = sorted(nodes, key=lambda node: (node.accuracy or 0.0, node.node_id))[:max_rows]
        caption = f"and {hidden:,} more nodes, none less accurate"
    else:
        nodes = sorted(nodes, key=lambda node: node.node_id)
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", pad_edge=False)
    for name in ("node", "student"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name in ("round", "accuracy", "private", "artefact", "received", "sent"):
        table.add_column(name, justify="right", no_wrap=True)
    for node in nodes:
        table.add_row(
            Text(printable(node.node_id)),
            Text(printable(node.family)),
            str(node.round),
            format_ratio(node.accuracy),
            format_ratio(node.private_accuracy),
            format_bytes(node.artefact_bytes),
            format_bytes(node.bytes_down + node.public_sample_bytes),
            format_bytes(node.bytes_up),
        )
    return table


def print_summary(summary: Summary, run_dir: Path, report_path: Path, console: Console | None = None) -> None:
    """Prints what came out of a run.

    Args:
        summary: The finished run.
        run_dir: Its folder.
        report_path: Its report.
        console: Where to print; None is standard output.
    """
    console = console or Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", style="bold", no_wrap=True)
    grid.add_column()
    for row in _accuracy_rows(summary) + _device_rows(summary) + _cost_rows(summary):
        grid.add_row(*(Text(cell) for cell in row))
    title = (
        f"{summary.run_id}: scheme {summary.scheme} on {summary.dataset}, {len(summary.nodes)} nodes,"
        f" {len(summary.rounds)} rounds; {summary.stopped_because}"
    )
    console.print()
    console.print(Text(printable(title)), soft_wrap=True)
    console.print(grid)
    console.print(Text(f"run folder  {run_dir}"), soft_wrap=True)
    console.print(Text(f"report      {report_path}"), soft_wrap=True)


def _accuracy_rows(summary: Summary) -> list[tuple[str, str, str]]:
    fleet, teacher = summary.fleet, summary.teacher
    samples = summary.eval_set.get("num_samples", UNKNOWN)
    rows = []
    if teacher is not None:
        note = f"{teacher.model}, on {samples} samples of the evaluation set"
        rows.append(("teacher accuracy", format_ratio(teacher.accuracy), note))
    scored = [(node.accuracy, node.node_id) for node in summary.nodes if node.accuracy is not None]
    worst = f", worst {format_ratio(min(scored)[0])} ({printable(min(scored)[1])})" if scored else ""
    spread = f"mean of {len(scored)} artefacts, p5 {format_ratio(fleet.accuracy_p5)}{worst}"
    rows.append(("student accuracy", format_ratio(fleet.accuracy_mean), spread))
    local = "the same student from private data alone"
    rows.append(("  local control", format_ratio(fleet.local_accuracy_mean), local))
    dense = "the same student and distillation, nothing taken out, 32 bits"
    rows.append(("  uncompressed", format_ratio(fleet.uncompressed_accuracy_mean), dense))
    own = "artefacts on their nodes' own test parts"
    rows.append(("private accuracy", format_ratio(fleet.private_accuracy_mean), own))
    rows.append(("  local control", format_ratio(fleet.local_private_accuracy_mean), local))
    if teacher is not None and fleet.accuracy_mean is not None:
        gap = None if teacher.accuracy is None else teacher.accuracy - fleet.accuracy_mean
        rows.append(("gap", format_ratio(gap), "teacher minus students, evaluation set"))
    return rows


def _device_rows(summary: Summary) -> list[tuple[str, str, str]]:
    rows = []
    known = [(node, node.device) for node in summary.nodes if node.device is not None]
    for profile in sorted({device.profile for _, device in known}):
        nodes = [(node, device) for node, device in known if device.profile == profile]
        accuracies = [node.accuracy for node, _ in nodes if node.accuracy is not None]
        device = nodes[0][1]
        latencies = [found.latency_seconds for _, found in nodes if found.latency_seconds is not None]
        over = sum(found.is_within_budget is False for _, found in nodes)
        note = (
            f"{len(nodes)} nodes, {device.plan or nodes[0][0].family}:"
            f" {format_bytes(max(node.artefact_bytes for node, _ in nodes))} of"
            f" {format_bytes(device.flash_bytes)}, {format_seconds(max(latencies, default=None))} of"
            f" {format_seconds(device.latency_budget_seconds)}" + (f"; {over} over budget" if over else "")
        )
        mean = statistics.fmean(accuracies) if accuracies else None
        rows.append((f"  {printable(profile)}", format_ratio(mean), note))
    return rows


def _cost_rows(summary: Summary) -> list[tuple[str, str, str]]:
    fleet, teacher = summary.fleet, summary.teacher
    rows = []
    if teacher is not None:
        known = teacher.num_parameters is not None
        parameters = f"fp32, {teacher.num_parameters:,} parameters" if known else "soft labels from a file"
        rows.append(("teacher size", format_bytes(teacher.size_bytes), parameters))
    ratio = ""
    if teacher is not None and teacher.size_bytes is not None and fleet.artefact_bytes_mean:
        ratio = f"; the teacher is {format_times(teacher.size_bytes / fleet.artefact_bytes_mean)} as large"
    rows.append(("artefact size", format_bytes(fleet.artefact_bytes_mean), f"mean{ratio}"))
    rounds = [entry.seconds for entry in summary.rounds]
    median = f"a round {format_seconds(statistics.median(rounds))} (median)" if rounds else "no round"
    batched = f"; {fleet.num_learned_together} of {len(summary.nodes)} students trained in batches"
    rows.append(("time", format_seconds(summary.wall_seconds), f"{median}{batched}"))
    exchanged = fleet.bytes_down + fleet.bytes_up
    split = f"labels: {format_bytes(fleet.bytes_down)} down, {format_bytes(fleet.bytes_up)} up"
    rows.append(("exchanged", format_bytes(exchanged), split))
    rows.append(
        ("public samples", format_bytes(fleet.public_sample_bytes), "as each node alone would fetch them")
    )
    rows.append(("on the wire", format_bytes(fleet.wire_bytes_actual), "what crossed, with shared caches"))
    total = exchanged + fleet.public_sample_bytes
    against = ""
    if exchanged and total and fleet.fedavg_bytes:
        against = (
            f"FedAvg of the same students: {format_times(fleet.fedavg_bytes / exchanged)} the labels,"
            f" {format_times(fleet.fedavg_bytes / total)} labels and public samples"
        )
    rows.append(("FedAvg", format_bytes(fleet.fedavg_bytes), against))
    return rows
