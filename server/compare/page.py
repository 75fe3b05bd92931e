"""`comparison.html`: the report's look around tables of cells, verdicts and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from string import Template
from urllib.parse import quote

from fedstill.server.compare.columns import COLUMNS
from fedstill.server.compare.pictures import draw_accuracies, draw_rounds, draw_traffic, series_number
from fedstill.server.compare.plan import format_scalar
from fedstill.server.compare.records import Cell, Comparison, RunRow, Verdict
from fedstill.server.compare.terminal import mark_cells, write_spread
from fedstill.server.display.theme import write_variables
from fedstill.server.display.units import UNKNOWN, format_bytes, format_ratio, format_seconds
from fedstill.server.report.page import render_figure
from fedstill.server.report.style import PAGE
from fedstill.server.report.tables import render_table

_FRAME = PAGE[: PAGE.index("</style>")]
_OWN_STYLE = """
.cells td, .cells th, .runs td, .runs th { white-space: nowrap; }
.cells tr > :first-child { position: sticky; left: 0; background: var(--paper); }
.cells td:first-child::before, .runs td:first-child::before {
  content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .5em; border-radius: 50%;
  background: var(--series);
}
a { color: var(--student); }
.best { font-weight: 650; }
.mark { color: var(--muted); font-size: .75rem; font-weight: 400; }
.best .mark { color: var(--student); font-weight: 650; }
.notes { margin: 1.5rem 0 0; padding: .7rem 1rem .7rem 2rem; background: var(--soft); }
.notes { border-left: 3px solid var(--teacher); overflow-wrap: anywhere; }
.pictures { margin-top: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
@media (min-width: 62rem) { figure:first-child { grid-row: span 2; } }
.scroll + .lead { margin-top: 1.75rem; }
"""
_BODY = """</style>
</head>
<body>
<header>
<div class="brand">FedStill</div>
<h1>$heading</h1>
<p class="lead">$lead</p>
</header>
<main>
$notes
<h2>What came out</h2>
<p class="lead">Mean ± sample standard deviation over seeds. Accuracies are those of the artefacts as devices
run them: on the evaluation set, on each node's own test part (private), and of the worst node. Local control:
the same students trained on private data alone.</p>
$accuracies
<p class="lead">Bytes are what all nodes would move on devices of their own; what crossed the wire here is
less, since the nodes of a run share one cache. Time is shown and not judged: runs may have shared the
machine, and a resumed one began warm; with <code>--jobs 1</code> and in one go, times can be compared.</p>
$costs
<div class="pictures">$pictures</div>
<h2>What the spread allows to be said</h2>
<p class="lead">Runs of one seed share partitions, so cells are compared seed by seed: one is best where the
95&nbsp;% t-interval of its paired difference to every other lies on the good side. The intervals are not
widened for the number of comparisons. Cells are only compared where their nodes hold the same data.</p>
$verdicts
<h2>By how much</h2>
<p class="lead">The cell with the best mean minus each other, over their common seeds.</p>
$margins
<h2>Runs</h2>
$runs
<h2>How to have it again</h2>
<p>With version $version installed:</p>
<pre>$command</pre>
<p class="lead">The same command goes on where it stopped and keeps finished runs. What all runs share stands
in <code>config.toml</code> beside this page, each run's own configuration in its folder, and every figure of
this page in <code>comparison.json</code>.</p>
</main>
</body>
</html>
"""


def render_page(comparison: Comparison) -> str:
    """Renders the whole page.

    Args:
        comparison: What came out.

    Returns:
        A complete HTML document that loads nothing.
    """
    ratios = [name for name in COLUMNS if name.endswith(("accuracy", "agreement"))]
    pictures = [draw_accuracies(comparison), draw_traffic(comparison), draw_rounds(comparison)]
    title = f"{' · '.join(comparison.schemes)} on {comparison.dataset}"
    return Template(_FRAME + _OWN_STYLE + _series_style() + _BODY).substitute(
        title=escape(f"FedStill: {title}"),
        heading=escape(title),
        lead=escape(_lead(comparison)),
        notes=_notes(comparison),
        accuracies=_cells_table(comparison, ratios),
        costs=_cells_table(comparison, [name for name in COLUMNS if name not in ratios]),
        pictures="".join(map(render_figure, filter(None, pictures))) or "<p>No run is finished.</p>",
        verdicts=_verdicts_table(comparison),
        margins=_margins_table(comparison),
        runs=_runs_table(comparison),
        version=escape(comparison.version),
        command=escape(comparison.command),
    )


def _series_style() -> str:
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {write_variables(1)} }} }}"
    return f":root {{ {write_variables(0)} }}\n{dark}\n"


def _lead(comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    swept = "; ".join(
        f"{key} = {', '.join(map(format_scalar, values))}" for key, values in comparison.sweep.items()
    )
    finished = sum(row.status == "finished" for row in comparison.runs)
    plural = "s" if len(comparison.seeds) > 1 else ""
    return (
        f"{len(comparison.schemes)} schemes{f', swept over {swept}' if swept else ''}; seed{plural} {seeds};"
        f" {finished} of {len(comparison.runs)} runs finished, on the {comparison.grid} grid."
    )


def _notes(comparison: Comparison) -> str:
    if not comparison.notes:
        return ""
    return f"<ul class=notes>{''.join(f'<li>{escape(note)}' for note in comparison.notes)}</ul>"


def _colour(comparison: Comparison, scheme: str) -> str:
    return f'style="--series: var(--series-{series_number(comparison, scheme)})"'


def _cells_table(comparison: Comparison, columns: Sequence[str]) -> str:
    heads = "".join(f"<th class=n>{escape(COLUMNS[name].title)}" for name in columns)
    marks = {name: mark_cells(comparison.verdicts, name) for name in columns}
    rows = "".join(_cell_row(comparison, cell, marks) for cell in comparison.cells)
    return render_table(f"<tr><th>Scheme<th class=n>Seeds{heads}", rows, css="cells")


def _cell_row(comparison: Comparison, cell: Cell, marks: dict[str, dict[str, str]]) -> str:
    failed = f" ({cell.num_failed} failed)" if cell.num_failed else ""
    parts = [f"<tr {_colour(comparison, cell.scheme)}><td>{escape(cell.name)}"]
    parts.append(f"<td class=n>{cell.num_finished}{failed}")
    for name in marks:
        mark = marks[name].get(cell.name, "")
        text = escape(write_spread(name, cell.figures.get(name)))
        tag = f" <span class=mark>{mark}</span>" if mark else ""
        parts.append(f'<td class="n{" best" if mark == "best" else ""}">{text}{tag}')
    return "".join(parts)


def _verdicts_table(comparison: Comparison) -> str:
    if not comparison.verdicts:
        return "<p>There are not two cells with the same data to compare.</p>"
    several = len({verdict.partitions for verdict in comparison.verdicts}) > 1
    rows = "".join(
        f"<tr><td>{escape(COLUMNS[verdict.column].title)}"
        f"<td>{escape(_sentence(comparison, verdict, several))}"
        for verdict in comparison.verdicts
    )
    return render_table("<tr><th>Figure<th>Verdict", rows)


def _sentence(comparison: Comparison, verdict: Verdict, several: bool) -> str:
    where = ""
    if several:
        cells = [cell.name for cell in comparison.cells if cell.partitions == verdict.partitions]
        where = f" Among {', '.join(cells)}."
    if verdict.best is not None:
        return f"{verdict.best} is best.{where}"
    if len(verdict.tied) == len(verdict.margins) + 1:
        if all(margin.low == margin.high == 0 for margin in verdict.margins):
            return f"All are equal.{where}"
        return f"All tie: the spread over seeds explains the differences.{where}"
    if verdict.tied:
        return f"Tie of {', '.join(verdict.tied)}: the spread over seeds explains the difference.{where}"
    return f"Nothing is marked: {verdict.reason}.{where}"


def _margins_table(comparison: Comparison) -> str:
    head = "<tr><th>Figure<th>Difference<th class=n>Mean<th class=n>95 % interval<th class=n>Seeds"
    rows = "".join(
        "".join(_margin_rows(verdict))
        for verdict in comparison.verdicts
        if verdict.column in ("accuracy", "private_accuracy")
    )
    return render_table(head, rows) if rows else "<p>Nothing to subtract.</p>"


def _margin_rows(verdict: Verdict) -> Iterator[str]:
    for margin in verdict.margins:
        low, high = format_ratio(margin.low, signed=True), format_ratio(margin.high, signed=True)
        interval = UNKNOWN if margin.low is None else f"{low} to {high}"
        yield (
            f"<tr><td>{escape(COLUMNS[verdict.column].title)}"
            f"<td>{escape(verdict.leader)} − {escape(margin.cell)}"
            f"<td class=n>{format_ratio(margin.mean, signed=True)}<td class=n>{interval}"
            f"<td class=n>{margin.num_seeds}"
        )


def _runs_table(comparison: Comparison) -> str:
    head = (
        "<tr><th>Run<th class=n>Seed<th class=n>Accuracy<th class=n>Private<th class=n>Worst node"
        "<th class=n>Down and up<th class=n>With public samples<th class=n>Time<th>Folder"
    )
    rows = "".join(_run_row(comparison, row) for row in comparison.runs)
    return render_table(head, rows, css="runs")


def _run_row(comparison: Comparison, row: RunRow) -> str:
    start = f"<tr {_colour(comparison, row.scheme)}><td>{escape(row.cell)}<td class=n>{row.seed}"
    if row.figures is None:
        return f"{start}<td colspan=6>{escape(row.status)}<td><code>{escape(row.run_dir)}</code>"
    figures = row.figures
    cells = (
        format_ratio(figures["accuracy"]),
        format_ratio(figures["private_accuracy"]),
        format_ratio(figures["worst_accuracy"]),
        format_bytes(figures["label_bytes"]),
        format_bytes(figures["total_bytes"]),
        format_seconds(figures["wall_seconds"]),
    )
    link = f'<a href="{quote(row.run_dir)}/report.html">{escape(row.slug)}</a>'
    return f"{start}{''.join(f'<td class=n>{cell}' for cell in cells)}<td>{link}"
