"""The front as one static picture: accuracy against bytes, and against time."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from fedstill.server.compress.records import Front, Row

_SHAPES = {"given": "*", "control": "D", "plan": "o"}


def draw_front(front: Front) -> bytes:
    """Draws a front.

    Args:
        front: What was measured.

    Returns:
        A PNG. Filled marks speed up, hollow ones only shrink; the line is the best accuracy for
        that size or time.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(11, 5), dpi=110, layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    control = next((row for row in front.rows if row.kind == "control"), None)
    measures: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("artefact size, kB", lambda row: row.artefact_bytes / 1e3),
        ("latency at batch 1, ms", lambda row: (row.latency_seconds_batch1 or 0) * 1e3),
    )
    for axes, (title, measure) in zip(panels, measures, strict=True):
        for row in front.rows:
            colour = "tab:orange" if row.kind == "control" else "tab:blue" if row.on_front else "0.6"
            axes.plot(
                [measure(row)],
                [row.accuracy],
                _SHAPES[row.kind],
                color=colour,
                markerfacecolor=colour if row.speeds_up or row.kind != "plan" else "none",
                markersize=11 if row.kind == "given" else 7,
            )
            axes.annotate(
                row.name,
                (measure(row), row.accuracy),
                fontsize=6.5,
                xytext=(5, 3),
                textcoords="offset points",
            )
        steps = _best_so_far([(measure(row), row.accuracy) for row in front.rows])
        axes.step(*zip(*steps, strict=True), where="post", color="tab:blue", alpha=0.3, linewidth=1)
        if control is not None:
            axes.axhline(control.accuracy, color="tab:orange", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(title)
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel(f"accuracy on {front.num_test} test samples")
    figure.suptitle(
        f"{front.model} on {front.data}: blue is on the front (chosen on validation), hollow only shrinks,"
        " dotted is the uncompressed control",
        fontsize=9,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _best_so_far(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best
