"""The report's section on what went wrong, from the run's log."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from pathlib import Path

from fedstill.server.report.tables import render_table
from fedstill.server.run.logs import LOG_FILE

MAX_NAMES = 4
MAX_WARNINGS = 20
_COUNTED = {"reply_dropped": "reply not used", "upload_refused": "upload refused"}


def render_faults(run_dir: Path) -> str:
    """Counts what nodes and coordinator complained of.

    Args:
        run_dir: The run folder; without a log there is nothing to say.

    Returns:
        HTML without its heading.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    warnings: Counter[str] = Counter()
    try:
        with (run_dir / LOG_FILE).open(encoding="utf-8") as file:
            for line in file:
                if '"level": "warning"' in line:
                    _count(line, counts, warnings)
    except OSError:
        return "<p>This run kept no log.</p>"
    if not counts and not warnings:
        return "<p>Nothing: every reply was used, no upload was refused and nobody warned.</p>"
    body = "".join(
        f"<tr><td>{escape(_COUNTED[event])}<td>{escape(reason)}<td class=n>{nodes.total():,}"
        f"<td class=n>{len(nodes):,}<td>{escape(_name(nodes))}"
        for (event, reason), nodes in sorted(counts.items())
    )
    head = "<tr><th>What<th>Reason<th class=n>Times<th class=n>Nodes<th>Most often"
    table = render_table(head, body) if counts else ""
    said = "".join(
        f"<li>{escape(text)}{f' ({times:,} times)' if times > 1 else ''}"
        for text, times in warnings.most_common(MAX_WARNINGS)
    )
    return table + (f"<ul>{said}</ul>" if said else "")


def _count(line: str, counts: dict[tuple[str, str], Counter[str]], warnings: Counter[str]) -> None:
    try:
        entry = json.loads(line)
        event, node, text = str(entry["event"]), str(entry.get("node") or "unknown"), entry.get("text")
    except (ValueError, KeyError, TypeError):
        return
    if event in _COUNTED:
        counts.setdefault((event, str(entry.get("reason"))), Counter())[node] += 1
    elif text:
        warnings[str(text)] += 1


def _name(nodes: Counter[str]) -> str:
    names = [name for name, _ in sorted(nodes.items(), key=lambda item: (-item[1], item[0]))]
    return ", ".join(names[:MAX_NAMES]) + (" …" if len(names) > MAX_NAMES else "")
