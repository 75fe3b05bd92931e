"""The report's section on devices: who is within its budget, what was planned for each, and why."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from fedstill.server.display.units import UNKNOWN, format_bytes, format_ratio, format_seconds
from fedstill.server.run.summary import DeviceSummary, NodeSummary

HEAD = (
    "<tr><th>Device<th class=n>Nodes<th>Student<th class=n>Accuracy<th class=n>Expected<th class=n>Local"
    "<th class=n>Largest artefact<th class=n>Flash<th class=n>Slowest sample<th class=n>Budget<th>Labels in"
    "<th class=n>Replanned<th>Within budget"
)
INTRODUCTION = (
    "Means over the nodes of one device profile; the largest artefact and the slowest sample of them."
    " Expected: a short pilot before the first round, on the server's validation part."
)
MAX_REASONS = 200
_WORDS = (0, 2, 10, 12)  # columns that are no figures


def render_devices(nodes: Sequence[NodeSummary]) -> str:
    """Renders the section; empty where no node has a device profile."""
    known = [(node, node.device) for node in nodes if node.device is not None]
    if not known:
        return ""
    known.sort(key=lambda pair: (pair[1].profile, pair[1].plan or "", pair[0].node_id))
    groups = [
        list(group) for _, group in groupby(known, key=lambda pair: (pair[1].profile, pair[1].plan or ""))
    ]
    rows = "".join(f"<tr>{''.join(_cells(group))}" for group in groups)
    table = f"<table><thead>{HEAD}</thead><tbody>{rows}</tbody></table>"
    return (
        f"<h2>Devices</h2><p class=lead>{escape(INTRODUCTION)}</p>"
        f"<div class=scroll tabindex=0>{table}</div><p class=lead>{escape(_describe_speeds(known))}</p>"
        f"<details><summary>Decisions</summary><ul>{_list_reasons(known)}</ul></details>"
    )


def _cells(group: list[tuple[NodeSummary, DeviceSummary]]) -> list[str]:
    nodes, devices = [pair[0] for pair in group], [pair[1] for pair in group]
    first = devices[0]
    within = [device.is_within_budget for device in devices]
    latencies = [device.latency_seconds for device in devices if device.latency_seconds is not None]
    cells = [
        escape(first.profile),
        f"{len(group):,}",
        escape(first.plan or nodes[0].family),
        f"{_mean([node.accuracy for node in nodes])}",
        format_ratio(first.expected_accuracy),
        f"{_mean([node.local_accuracy for node in nodes])}",
        format_bytes(max(node.artefact_bytes for node in nodes)),
        format_bytes(first.flash_bytes),
        format_seconds(max(latencies, default=None)),
        format_seconds(first.latency_budget_seconds),
        escape(", ".join(sorted({device.codec or UNKNOWN for device in devices}))),
        f"{sum(device.num_replans for device in devices):,}",
        "not measured" if None in within else "yes" if all(within) else f"{within.count(False)} are not",
    ]
    return [f"<td>{cell}" if number in _WORDS else f"<td class=n>{cell}" for number, cell in enumerate(cells)]


def _mean(values: list[float | None]) -> str:
    found = [value for value in values if value is not None]
    return format_ratio(sum(found) / len(found) if found else None)


def _describe_speeds(known: list[tuple[NodeSummary, DeviceSummary]]) -> str:
    if not any(device.is_simulated for _, device in known):
        return "Latencies are the devices' own, one thread, one sample."
    sources = sorted({f"{device.profile}: {device.speed_source}" for _, device in known})
    return (
        "Devices are simulated: latencies are this host's, one thread, one sample, scaled by the speed in"
        f" each profile against this host's on the same fixed graphs ({'; '.join(sources)})."
    )


def _list_reasons(known: list[tuple[NodeSummary, DeviceSummary]]) -> str:
    items = [
        f"<li>{escape(node.node_id)} ({escape(device.profile)}): {escape(line)}"
        for node, device in known[:MAX_REASONS]
        for line in (
            f"{device.plan}: {device.plan_reason}" if device.plan else "",
            f"{device.codec}: {device.codec_reason}" if device.codec else "",
        )
        if line
    ]
    left_out = len(known) - MAX_REASONS
    return "".join(items) + (f"<li>and {left_out:,} more, in summary.json" if left_out > 0 else "")
