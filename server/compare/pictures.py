"""The comparison's pictures in the report's look: schemes have colours, swept values have signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fedstill.server.compare.plan import format_scalar
from fedstill.server.compare.records import Cell, Comparison
from fedstill.server.compare.statistics import sample_deviation
from fedstill.server.display.theme import SERIES
from fedstill.server.report.pictures import COLOURS, Picture, format_tick, to_svg

MARKERS = "osD^vPX*"
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MAX_MARKED_ROUNDS = 30


@dataclass(frozen=True)
class _Signs:
    colour: str
    marker: str
    dashes: Any


def draw_accuracies(comparison: Comparison) -> Picture | None:
    """Draws each cell's accuracies: a dot per seed, the mean, and a sample deviation to either side.

    Args:
        comparison: The figures.

    Returns:
        The picture, None where no run has an accuracy.
    """
    cells = [cell for cell in comparison.cells if "accuracy" in cell.figures]
    if not cells:
        return None
    kinds = (("accuracy", -0.2, COLOURS["ink"]), ("private_accuracy", 0.2, COLOURS["muted"]))

    def draw(axes: Any) -> None:
        axes.figure.set_size_inches(4.7, max(3.3, 1.1 + 0.42 * len(cells)))
        for place, cell in enumerate(cells):
            for kind, offset, colour in kinds:
                values = [
                    row.figures[kind]
                    for row in comparison.runs
                    if row.cell == cell.name and row.figures and row.figures[kind] is not None
                ]
                if values:
                    _draw_interval(axes, place + offset, values, cell.figures[kind].deviation, colour)
        axes.set_yticks(range(len(cells)), [cell.name.replace(" ", "\n", 1) for cell in cells])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.set_xlabel("accuracy")
        axes.grid(axis="x")
        handles = [
            Line2D([], [], color=colour, marker="o", linewidth=1.6, label=label)
            for (_, _, colour), label in zip(kinds, ("evaluation set", "own test parts"), strict=True)
        ]
        axes.figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)

    caption = (
        "Small dots: seeds. Large dot and line: their mean and one sample standard deviation either way."
    )
    return _picture("Accuracy by scheme", caption, draw, name="accuracies")


def _draw_interval(axes: Any, place: float, values: Sequence[Any], spread: float | None, colour: str) -> None:
    mean = fmean(values)
    seeds = [place + 0.11] * len(values)
    axes.plot(values, seeds, "o", color=colour, alpha=0.6, markersize=3, markeredgewidth=0)
    axes.plot([mean - (spread or 0), mean + (spread or 0)], [place, place], color=colour, linewidth=1.6)
    axes.plot([mean], [place], "o", color=colour, markersize=6)


def draw_traffic(comparison: Comparison) -> Picture | None:
    """Draws accuracy against what was moved, without and with the public samples.

    Args:
        comparison: The figures.

    Returns:
        The picture, None where no cell has an accuracy and moved a byte.
    """
    cells = [
        cell
        for cell in comparison.cells
        if "accuracy" in cell.figures and cell.figures["total_bytes"].mean > 0
    ]
    if not cells:
        return None
    signs = _sign_cells(comparison)

    def draw(axes: Any) -> None:
        sizes = []
        for cell in cells:
            accuracy = cell.figures["accuracy"]
            labels, total = cell.figures["label_bytes"].mean, cell.figures["total_bytes"].mean
            sign = signs[cell.name]
            sizes += [max(labels, 1.0), total]
            style = {"color": sign.colour, "linewidth": 1.2, "markersize": 6}
            axes.plot([max(labels, 1.0), total], [accuracy.mean] * 2, linestyle=(0, (1, 2)), **style)
            axes.plot([total], [accuracy.mean], sign.marker, markerfacecolor="none", **style)
            axes.errorbar(
                [max(labels, 1.0)], [accuracy.mean], yerr=[accuracy.deviation or 0.0], fmt=sign.marker,
                elinewidth=1.2, **style,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(min(sizes) / 2, max(sizes) * 2)
        axes.xaxis.set_major_formatter(FuncFormatter(format_tick))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("moved by all nodes, down and up (log scale)")
        axes.set_ylabel("accuracy, evaluation set")
        axes.grid()
        _legend(axes, comparison, cells)

    caption = (
        "Filled: labels, weights, tasks and uploads; hollow: the same with public samples counted."
        " Bars: one sample standard deviation over seeds."
    )
    return _picture("Accuracy against traffic", caption, draw, name="traffic")


def draw_rounds(comparison: Comparison) -> Picture | None:
    """Draws accuracy by round: the mean over seeds and a band of one sample deviation either way.

    Args:
        comparison: The figures.

    Returns:
        The picture, None where no round has an accuracy.
    """
    curves = {cell.name: _curve(comparison, cell) for cell in comparison.cells}
    cells = [cell for cell in comparison.cells if curves[cell.name]]
    if not cells:
        return None
    signs = _sign_cells(comparison)

    def draw(axes: Any) -> None:
        for cell in cells:
            sign = signs[cell.name]
            rounds, means, spreads = zip(*curves[cell.name], strict=True)
            low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
            high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
            axes.fill_between(rounds, low, high, color=sign.colour, alpha=0.13, linewidth=0)
            marker = sign.marker if len(rounds) <= MAX_MARKED_ROUNDS else ""
            axes.plot(
                rounds, means, color=sign.colour, linestyle=sign.dashes, linewidth=1.8, marker=marker,
                markersize=4,
            )  # fmt: skip
        axes.set_xlabel("round")
        axes.set_ylabel("accuracy, evaluation set")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.grid(axis="y")
        _legend(axes, comparison, cells)

    caption = "Lines: mean over the seeds that reached the round; bands: one sample standard deviation."
    return _picture("Accuracy by round", caption, draw, name="rounds")


def _curve(comparison: Comparison, cell: Cell) -> list[tuple[int, float, float]]:
    runs = [row.round_accuracies for row in comparison.runs if row.cell == cell.name]
    points = []
    for index in range(max(map(len, runs), default=0)):
        values = [run[index] for run in runs if index < len(run)]
        known = [value for value in values if value is not None]
        if known:
            points.append((index + 1, fmean(known), sample_deviation(known) or 0.0))
    return points


def _sign_cells(comparison: Comparison) -> dict[str, _Signs]:
    sweeps: list[Any] = []
    signs = {}
    for cell in comparison.cells:
        if cell.sweep not in sweeps:
            sweeps.append(cell.sweep)
        number = sweeps.index(cell.sweep)
        signs[cell.name] = _Signs(
            colour=series_colour(comparison, cell.scheme),
            marker=MARKERS[number % len(MARKERS)],
            dashes=DASHES[number % len(DASHES)],
        )
    return signs


def series_number(comparison: Comparison, scheme: str) -> int:
    """Gives a scheme its colour's number, the same in table and pictures."""
    return comparison.schemes.index(scheme) % len(SERIES)


def series_colour(comparison: Comparison, scheme: str) -> str:
    """Gives a scheme its colour on the light page."""
    return SERIES[series_number(comparison, scheme)][0]


def _legend(axes: Any, comparison: Comparison, cells: Sequence[Cell]) -> None:
    signs = _sign_cells(comparison)
    schemes = dict.fromkeys(cell.scheme for cell in cells)
    handles = [
        Line2D([], [], color=series_colour(comparison, scheme), linewidth=3, label=scheme)
        for scheme in schemes
    ]
    if comparison.sweep:
        sweeps = {_name_sweep(cell): signs[cell.name] for cell in cells}
        handles += [
            Line2D([], [], color=COLOURS["muted"], marker=sign.marker, linestyle=sign.dashes, label=label)
            for label, sign in sweeps.items()
        ]
    ncols = 3 if comparison.sweep else 4
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9, handlelength=1.6
    )


def _name_sweep(cell: Cell) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={format_scalar(value)}" for key, value in cell.sweep.items())


def _picture(title: str, caption: str, draw: Any, *, name: str) -> Picture:
    svg = to_svg(draw, name=name, label=caption)
    for number, (light, _) in enumerate(SERIES):
        svg = svg.replace(light, f"var(--series-{number})")
    return Picture(title, caption, svg)
