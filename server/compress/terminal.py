"""What a person sees of a compression: a line per plan, and one table at the end."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedstill.server.compress.records import Front, Row
from fedstill.server.display.units import UNKNOWN, format_bytes

_WIDTH = 140


def print_front(front: Front, output_dir: Path, console: Console | None = None) -> None:
    """Prints the table of rows, how it was measured, and where everything is.

    Args:
        front: What was measured.
        output_dir: Its folder.
        console: Where to print; None is standard output.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    given = next(row for row in front.rows if row.kind == "given")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("plan", overflow="fold")
    for head in (
        "accuracy",
        "valid.",
        "agree",
        "bytes",
        "÷",
        "batch 1",
        "×",
        "batch 64",
        "×",
        "MACs",
        "peak",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("gain", no_wrap=True)
    for row in front.rows:
        table.add_row(*_cells(row, given), style="bold" if row.on_front else "")
    console.print(table)
    for line in (
        "* on the front: none is at least as accurate on validation, as small and as fast at batch 1, and"
        " better in one. accuracy, agree: test part.",
        f"÷ × against ONNX Runtime fp32 of the model as given; {front.latency}; {front.host}."
        " peak: added to a fresh process.",
        *front.notes,
    ):
        console.print(Text(line, style="dim"), soft_wrap=True)
    console.print(Text(f"front  {output_dir}"), soft_wrap=True)


def _cells(row: Row, given: Row) -> list[str]:
    return [
        "*" if row.on_front else "",
        row.name,
        f"{row.accuracy:.4f}",
        f"{row.validation_accuracy:.4f}",
        f"{row.agreement:.3f}",
        format_bytes(row.artefact_bytes),
        f"{given.artefact_bytes / row.artefact_bytes:.1f}",
        *_time(row.latency_seconds_batch1, given.latency_seconds_batch1),
        *_time(row.latency_seconds_batch64, given.latency_seconds_batch64),
        UNKNOWN if row.macs is None else f"{row.macs / 1e6:.3g} M",
        UNKNOWN if row.peak_memory_bytes is None else format_bytes(row.peak_memory_bytes),
        describe_gain(row, given),
    ]


def _time(seconds: float | None, baseline: float | None) -> tuple[str, str]:
    if seconds is None or baseline is None:
        return UNKNOWN, UNKNOWN
    return f"{seconds * 1e3:.3g} ms", f"{baseline / seconds:.1f}"


def describe_gain(row: Row, given: Row) -> str:
    """Says what kind of gain a row is, and whether a faster form is faster on this machine."""
    if row.kind != "plan":
        return {"given": "as given", "control": "control"}[row.kind]
    if not row.speeds_up:
        return "only shrinks"
    mine, its = row.latency_seconds_batch1, given.latency_seconds_batch1
    return "slower here" if mine and its and mine > its else "speeds up"
