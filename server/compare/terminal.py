"""What a person sees of a comparison: a line per run, and one table at the end."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fedstill.server.compare.columns import COLUMNS
from fedstill.server.compare.folder import read_finished
from fedstill.server.compare.plan import Plan, PlannedRun
from fedstill.server.compare.records import Cell, Comparison, Spread, Verdict
from fedstill.server.compare.running import Display
from fedstill.server.display.units import UNKNOWN, format_ratio, format_seconds, printable
from fedstill.server.schemes import get_scheme

# Short heads, since the table has to fit eighty letters; the artefact's size only where there are more.
HEADS = {
    "accuracy": "accuracy",
    "private_accuracy": "private",
    "worst_accuracy": "worst",
    "label_bytes": "moved",
    "total_bytes": "+ public",
    "wall_seconds": "time",
    "artefact_bytes": "artefact",
}
WITH_SPREAD = ("accuracy", "private_accuracy")
WIDE_LETTERS = 90
PIPE_LETTERS = 120
MARKS = {"best": "*", "tied": "~", "": ""}


def make_display(plan: Plan, *, stream: TextIO | None = None) -> Display:
    """Chooses how the runs are shown on standard error: live on a terminal, as lines elsewhere."""
    console = Console(file=stream or sys.stderr, highlight=False)
    return _LineDisplay(console, plan)


def mark_cells(verdicts: list[Verdict], column: str) -> dict[str, str]:
    """Says which cells are "best" or "tied" in a column; the others are left out."""
    marks: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.column == column:
            marks |= dict.fromkeys(verdict.tied, "tied")
            if verdict.best is not None:
                marks[verdict.best] = "best"
    return marks


def write_spread(column: str, spread: Spread | None) -> str:
    """Writes "mean ± deviation"; a figure that did not vary, or has one seed, is written alone."""
    if spread is None:
        return UNKNOWN
    write = COLUMNS[column].write
    return f"{write(spread.mean)} ± {write(spread.deviation)}" if spread.deviation else write(spread.mean)


def print_comparison(comparison: Comparison, page_path: Path, console: Console | None = None) -> None:
    """Prints the table of cells, what has to be known first, and where the page is.

    Args:
        comparison: What came out.
        page_path: Its page.
        console: Where to print; None is standard output.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPE_LETTERS)
    heads = list(HEADS) if console.width >= WIDE_LETTERS else list(HEADS)[:-1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("scheme", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    for name in heads:
        table.add_column(HEADS[name], justify="right", no_wrap=True)
    marks = {name: mark_cells(comparison.verdicts, name) for name in heads}
    for cell in comparison.cells:
        cells = [_table_cell(cell, name, marks[name].get(cell.name, "")) for name in heads]
        table.add_row(Text(cell.name), str(cell.num_finished), *cells)
    console.print()
    console.print(table)
    legend = (
        "n seeds: mean±sample deviation; moved: labels, weights, uploads of all nodes, + public: with public"
        " samples; * best, ~ tied with the best mean (paired, 95 %)"
    )
    console.print(Text(legend, style="dim"), soft_wrap=True)
    for note in comparison.notes:
        console.print(Text(printable(note), style="yellow"), soft_wrap=True)
    console.print(Text(f"comparison  {page_path}"), soft_wrap=True)


def _table_cell(cell: Cell, column: str, mark: str) -> Text:
    spread = cell.figures.get(column)
    if spread is None:
        return Text(UNKNOWN)
    text = write_spread(column, spread).replace(" ± ", "±")
    if column not in WITH_SPREAD:
        text = COLUMNS[column].write(spread.mean)
    return Text(text + MARKS[mark], style="bold" if mark == "best" else "")


class _LineDisplay:
    """One lasting line per ended run; on a terminal the running ones stand below, live."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._num_runs = len(plan.runs)
        self._num_ended = 0
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", style="dim", markup=False),
                console=console,
                transient=True,
            )
            self._bars.start()

    def start(self, run: PlannedRun, *, resumed: bool) -> None:
        if self._bars is not None:
            self._tasks[run.slug] = self._bars.add_task(_name(run), detail="resumed" if resumed else "")
        else:
            self._say(f"{_name(run)}: {'resumed' if resumed else 'started'}")

    def advance(self, run: PlannedRun, num_rounds: int) -> None:
        if self._bars is not None and run.slug in self._tasks:
            federation = run.config.federation
            last_round = get_scheme(federation.scheme).last_round(federation.num_rounds)
            detail = f"round {num_rounds} of {last_round}"
            self._bars.update(self._tasks[run.slug], detail=detail)

    def end(self, run: PlannedRun, run_dir: Path, reason: str | None) -> None:
        self._num_ended += 1
        if self._bars is not None and run.slug in self._tasks:
            self._bars.remove_task(self._tasks.pop(run.slug))
        where = f"[{self._num_ended}/{self._num_runs}] {_name(run)}"
        summary = read_finished(run_dir)
        if reason is not None or summary is None:
            self._say(f"{where}: failed: {reason}", style="red")
            return
        fleet = summary.fleet
        self._say(
            f"{where}: accuracy {format_ratio(fleet.accuracy_mean)}, private"
            f" {format_ratio(fleet.private_accuracy_mean)}, {format_seconds(summary.wall_seconds)}"
        )

    def close(self) -> None:
        if self._bars is not None:
            with suppress(OSError):
                self._bars.stop()

    def _say(self, line: str, *, style: str = "") -> None:
        # A reader that went away must not end the comparison.
        with suppress(OSError, ValueError):
            self._console.print(Text(printable(line), style=style), soft_wrap=True)


def _name(run: PlannedRun) -> str:
    return f"{run.cell} seed {run.seed}"
