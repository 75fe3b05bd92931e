"""The report's pictures: SVG that takes its colours from the page, so that it turns dark with it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fedstill.server.display.units import format_bytes, format_ratio
from fedstill.server.run.summary import NodeSummary, Summary

# The light page's colours; in the finished SVG each becomes the page's variable of that name.
COLOURS = {
    "ink": "#1c2024",
    "muted": "#667079",
    "line": "#d9dde1",
    "student": "#1f6f8b",
    "teacher": "#b4532a",
    "control": "#98a0a8",
}
MAX_THIN_LINES = 30
# Above this a picture's points are drawn as pixels, or ten thousand nodes would fill megabytes.
MAX_VECTOR_POINTS = 1500

STYLE = {
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.color": COLOURS["line"],
    "ytick.labelcolor": COLOURS["muted"],
}


@dataclass(frozen=True)
class RoundPoint:
    """One round's accuracies on the evaluation set, by node; nodes without one are left out."""

    round: int
    accuracy_mean: float | None
    accuracies: dict[str, float]
    bytes_down: int = 0
    """Labels and manifests of all nodes, as each alone would move them."""
    bytes_up: int = 0
    public_sample_bytes: int = 0
    label_set_id: str = ""
    """What the round fetched; empty where its scheme has no labels."""


@dataclass(frozen=True)
class Picture:
    """An SVG element with its caption."""

    title: str
    caption: str
    svg: str


def draw_curves(points: Sequence[RoundPoint], summary: Summary) -> Picture | None:
    """Draws accuracy per round: the mean, each node or the band that holds most, and the teacher.

    Args:
        points: The rounds; those without an accuracy are skipped.
        summary: The finished run.

    Returns:
        The picture, None where no round has an accuracy.
    """
    points = [point for point in points if point.accuracy_mean is not None or point.accuracies]
    if not points:
        return None
    nodes = sorted({node for point in points for node in point.accuracies})
    rounds = [point.round for point in points]

    def draw(axes: Any) -> None:
        means = [_mean(point) for point in points]
        marker = "o" if len(points) <= 30 else ""
        if len(nodes) <= MAX_THIN_LINES:
            pixels = len(nodes) * len(points) > MAX_VECTOR_POINTS
            for node in nodes:
                seen = [(point.round, point.accuracies[node]) for point in points if node in point.accuracies]
                style = {"color": COLOURS["student"], "alpha": 0.35, "linewidth": 0.8, "markersize": 2}
                axes.plot(*zip(*seen, strict=True), marker=marker, rasterized=pixels, **style)
        else:
            low, high = zip(*(_band(point) for point in points), strict=True)
            axes.fill_between(rounds, low, high, color=COLOURS["student"], alpha=0.18, linewidth=0)
        axes.plot(rounds, means, color=COLOURS["student"], linewidth=2, marker=marker, markersize=4)
        axes.text(
            0.99, 0.04, f"mean {format_ratio(means[-1])}", ha="right", color=COLOURS["student"],
            transform=axes.transAxes,
        )  # fmt: skip
        accuracy = summary.teacher.accuracy if summary.teacher else None
        if accuracy is not None:
            axes.axhline(accuracy, color=COLOURS["teacher"], linewidth=1.2, linestyle=(0, (4, 3)))
            _note(axes, rounds[-1], accuracy, f"teacher {format_ratio(accuracy)}")
        axes.set_xlabel("round")
        axes.set_ylabel("accuracy")
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        margin = max(0.04 * (max(rounds) - min(rounds)), 0.15 if len(rounds) > 1 else 0.6)
        axes.set_xlim(min(rounds) - margin, max(rounds) + margin)

    spread = "thin: each node" if len(nodes) <= MAX_THIN_LINES else "band: 5th to 95th percentile of nodes"
    caption = f"Artefacts on the evaluation set after each round; thick: fleet mean, {spread}."
    return Picture("Accuracy by round", caption, to_svg(draw, name="curves", label=caption))


def draw_accuracy_against_bytes(summary: Summary) -> Picture | None:
    """Draws what a byte buys: each artefact, the same student before compression, the teacher.

    Args:
        summary: The finished run.

    Returns:
        The picture, None where no node has an accuracy.
    """
    artefacts = [(node.artefact_bytes, node.accuracy) for node in summary.nodes if node.accuracy is not None]
    dense = [
        (node.fp32_bytes, node.fp32_accuracy) for node in summary.nodes if node.fp32_accuracy is not None
    ]
    if not artefacts:
        return None
    teacher = summary.teacher
    teacher_bytes = teacher.size_bytes if teacher is not None else None

    def draw(axes: Any) -> None:
        pixels = len(artefacts) > MAX_VECTOR_POINTS / 2
        student = COLOURS["student"]
        if dense:
            axes.plot(
                *zip(*dense, strict=True), "o", markersize=5, markerfacecolor="none", markeredgewidth=0.8,
                color=student, alpha=0.6, rasterized=pixels,
            )  # fmt: skip
        axes.plot(
            *zip(*artefacts, strict=True), "o", markersize=5, markeredgewidth=0, color=student, alpha=0.7,
            rasterized=pixels,
        )  # fmt: skip
        front = list(zip(*find_front(artefacts), strict=True))
        axes.plot(*front, drawstyle="steps-post", color=COLOURS["ink"], linewidth=0.9, linestyle=(0, (4, 3)))
        accuracy = teacher.accuracy if teacher is not None else None
        if accuracy is not None and teacher_bytes is not None:
            axes.plot([teacher_bytes], [accuracy], "D", markersize=7, color=COLOURS["teacher"])
            text = f"teacher {format_ratio(accuracy)}, {format_bytes(teacher_bytes)}"
            _note(axes, teacher_bytes, accuracy, text)
        sizes = [size for size, _ in artefacts + dense] + ([teacher_bytes] if teacher_bytes else [])
        axes.set_xscale("log")
        axes.set_xlim(max(min(sizes), 1) / 3, max(sizes) * 3)
        axes.xaxis.set_major_formatter(FuncFormatter(format_tick))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("size on the device (log scale)")
        axes.set_ylabel("accuracy")
        axes.grid()

    caption = (
        "Filled: each node's artefact; hollow: its student before compression; diamond: the teacher in fp32."
        " Dashed: the front that no artefact beats."
    )
    return Picture("Accuracy against bytes", caption, to_svg(draw, name="bytes", label=caption))


def find_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Finds the points (cost, gain) that no other beats: none is as cheap and at least as good."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def draw_controls(summary: Summary) -> Picture | None:
    """Draws students beside their local control, on the evaluation set and on the nodes' own test parts.

    Args:
        summary: The finished run.

    Returns:
        The picture, None where no node has an accuracy.
    """
    bars: list[tuple[float, str, str, list[float]]] = []
    groups: list[tuple[float, str]] = []
    for place, group, ours, control in (
        (0.0, "evaluation set", "accuracy", "local_accuracy"),
        (2.6, "own test parts", "private_accuracy", "local_private_accuracy"),
    ):
        found = [(0.0, "students", "student", ours), (1.0, "local", "control", control)]
        for offset, name, colour, field in found:
            values = known(summary.nodes, field)
            if values:
                bars.append((place + offset, name, colour, values))
        groups.append((place + 0.5, group))
    if not bars:
        return None

    def draw(axes: Any) -> None:
        for place, _, colour, values in bars:
            axes.bar(place, np.mean(values), width=0.8, color=COLOURS[colour], alpha=0.45, linewidth=0)
            if len(values) <= 200:
                spread = np.linspace(-0.28, 0.28, len(values)) if len(values) > 1 else [0.0]
                axes.plot(place + np.array(spread), values, "o", markersize=2.6, color=COLOURS[colour])
            else:
                axes.plot([place, place], np.percentile(values, [5, 95]), color=COLOURS[colour], linewidth=2)
        accuracy = summary.teacher.accuracy if summary.teacher else None
        if accuracy is not None:
            line = {"color": COLOURS["teacher"], "linewidth": 1.2, "linestyle": (0, (4, 3))}
            axes.plot([-0.5, 1.5], [accuracy, accuracy], **line)
        for place, group in groups:
            axes.text(place, 1.06, group, ha="center", color=COLOURS["ink"])
        axes.set_xticks([place for place, *_ in bars])
        axes.set_xticklabels(
            [f"{name}\n{format_ratio(float(np.mean(values)))}" for _, name, _, values in bars]
        )
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(-0.7, 4.3)
        axes.set_ylabel("accuracy")
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    nodes = "dots: nodes" if len(summary.nodes) <= 200 else "line: 5th to 95th percentile of nodes"
    is_known = summary.teacher is not None and summary.teacher.accuracy is not None
    teacher = " Dashed: the teacher." if is_known else ""
    caption = f"Bars: means; {nodes}. Local: the same student trained on private data alone.{teacher}"
    return Picture("Distilled against local", caption, to_svg(draw, name="controls", label=caption))


def known(nodes: Sequence[NodeSummary], field: str) -> list[float]:
    """Collects the values of one field over nodes, leaving out those that are null."""
    values = (getattr(node, field) for node in nodes)
    return [float(value) for value in values if value is not None]


def _mean(point: RoundPoint) -> float:
    if point.accuracy_mean is None:
        return float(np.mean(list(point.accuracies.values())))
    return point.accuracy_mean


def _band(point: RoundPoint) -> tuple[float, float]:
    low, high = np.percentile(list(point.accuracies.values()) or [_mean(point)], [5, 95])
    return float(low), float(high)


def _note(axes: Any, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), xytext=(-2, 6), textcoords="offset points", ha="right", va="bottom",
        color=COLOURS["teacher"], annotation_clip=False,
    )  # fmt: skip


def format_tick(size: float, _: Any) -> str:
    """Writes a size on an axis, bytes, without idle decimals."""
    return format_bytes(size).replace(".00 ", " ").replace(".0 ", " ")


def to_svg(draw: Callable[[Any], None], *, name: str, label: str) -> str:
    """Draws a chart as inline SVG in the page's own colours and font.

    Args:
        draw: Draws on matplotlib axes.
        name: Prefix of the ids, unique on the page.
        label: What a screen reader says.

    Returns:
        The `<svg>` element; the same drawing gives the same text.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.7, 3.3))
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True, dpi=160)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    # Three pictures share one page, so each needs ids of its own.
    svg = svg.replace(' id="', f' id="{name}-').replace("url(#", f"url(#{name}-")
    svg = svg.replace('href="#', f'href="#{name}-')
    for colour, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{colour})")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
