"""The report's section on what nodes chose for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from fedstill.server.display.units import format_ratio
from fedstill.server.run.summary import ChoiceSummary, NodeSummary

MAX_ROWS = 5000
CHOICES_HEAD = (
    "<tr><th>Node<th class=n>Round<th class=n>Temperature<th class=n>Lambda<th class=n>Step kept"
    "<th class=n>Trial steps<th class=n>Public share<th class=n>Own data<th class=n>Alone"
    "<th class=n>Validation n<th>Why"
)
INTRODUCTION = (
    "Each node set these by its own validation part: as near to the soft labels as possible, but no less"
    " accurate on its own data than private data alone would be. Both accuracies are on that part, shrunk"
    " towards what public samples tell. Public share: weight of equally frequent classes in the answers,"
    " against the node's own frequencies."
)


def render_choices(nodes: Sequence[NodeSummary]) -> str:
    """Renders the section.

    Args:
        nodes: The run's nodes.

    Returns:
        HTML with its heading; empty where no node chose anything.
    """
    rows = [
        (node.node_id, choice)
        for node in sorted(nodes, key=lambda node: node.node_id)
        for choice in node.choices
    ]
    if not rows:
        return ""
    body = "".join(_row(node_id, choice) for node_id, choice in rows[:MAX_ROWS])
    note = f"<p>The first {MAX_ROWS:,} of {len(rows):,}.</p>" if len(rows) > MAX_ROWS else ""
    table = f"<table class=choices><thead>{CHOICES_HEAD}</thead><tbody>{body}</tbody></table>"
    return (
        f"<h2>What nodes chose</h2><p class=lead>{escape(INTRODUCTION)}</p>{note}"
        f"<div class=scroll tabindex=0>{table}</div>"
    )


def _row(node_id: str, choice: ChoiceSummary) -> str:
    figures = (
        str(choice.round),
        f"{choice.temperature:.2f}",
        format_ratio(choice.distill_lambda),
        f"{choice.num_steps:,}",
        f"{choice.num_trial_steps:,}",
        format_ratio(choice.public_share),
        format_ratio(choice.own_accuracy),
        format_ratio(choice.alone_accuracy),
        f"{choice.num_validation:,}",
    )
    cells = "".join(f"<td class=n>{figure}" for figure in figures)
    return f"<tr><td>{escape(node_id)}{cells}<td>{escape(choice.why)}"
