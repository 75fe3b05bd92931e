"""What the terminal shows of a comparison."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fedstill.server.compare import Comparison, make_display, make_plan, print_comparison

Write = Callable[..., Comparison]


def show(comparison: Comparison, *, width: int) -> str:
    stream = io.StringIO()
    print_comparison(
        comparison, Path("out/comparison.html"), Console(file=stream, width=width, force_terminal=True)
    )
    return stream.getvalue()


def test_table_fits_eighty_letters(write_comparison: Write) -> None:
    comparison = write_comparison(
        {"local": {0: 0.50, 1: 0.51, 2: 0.53}, "teacher": {0: 0.9, 1: 0.91, 2: 0.93}},
    )

    text = show(comparison, width=80)

    assert "0.513±0.015" in text
    assert "0.913±0.015*" in text
    assert "artefact" not in text
    assert "out/comparison.html" in text


def test_failures_are_named_after_the_table(write_comparison: Write) -> None:
    comparison = write_comparison({"local": {0: 0.5, 1: 0.5}}, failures={"teacher_seed=0": "no space left"})

    assert "teacher, seed 0, failed and is in no mean: no space left" in show(comparison, width=200)


def test_lines_stand_for_runs_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    plan = make_plan(None, schemes="local", seeds="0,1")
    display = make_display(plan, stream=stream)

    display.start(plan.runs[0], resumed=True)
    display.end(plan.runs[0], tmp_path, "no space left")
    display.close()

    assert stream.getvalue().splitlines() == [
        "local seed 0: resumed",
        "[1/2] local seed 0: failed: no space left",
    ]


def test_a_log_cannot_command_the_terminal(write_comparison: Write) -> None:
    comparison = write_comparison({"local": {0: 0.5, 1: 0.5}}, failures={"teacher_seed=0": "\x1b[2Jgone"})

    assert "\x1b[2J" not in show(comparison, width=200)
