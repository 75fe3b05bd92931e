"""The report's page: text and tables around the pictures; everything a run wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from fedstill.common.config import defaults
from fedstill.server.analysis.flips import Flips
from fedstill.server.display.units import UNKNOWN, format_bytes, format_ratio, format_seconds, format_times
from fedstill.server.report.choices import render_choices
from fedstill.server.report.devices import render_devices
from fedstill.server.report.pictures import Picture, RoundPoint, known
from fedstill.server.report.quality import render_quality
from fedstill.server.report.reproduction import Identity, render_reproduction
from fedstill.server.report.style import PAGE
from fedstill.server.report.tables import render_table
from fedstill.server.run.summary import NodeSummary, RoundSummary, Summary

# These keep the file under 2 MB; what is left out stands in summary.json.
MAX_NODE_ROWS = 10_000
MAX_ROUND_ROWS = 1000
DIGEST_LETTERS = 12


def render_page(
    summary: Summary,
    *,
    config: Mapping[str, Any],
    pictures: Sequence[Picture],
    points: Sequence[RoundPoint],
    faults: str,
    identity: Identity,
    flips: Flips | None = None,
) -> str:
    """Renders the whole report.

    Args:
        summary: The finished run.
        config: The resolved configuration, flat with dotted keys.
        pictures: What to show below the key figures.
        points: The rounds' accuracies and bytes.
        faults: The section on what went wrong.
        identity: What a second run can be held against.
        flips: Samples that compression flipped, where the run kept any.

    Returns:
        A complete HTML document that loads nothing.
    """
    return Template(PAGE).substitute(
        title=escape(f"FedStill: {summary.run_id}"),
        run_id=escape(summary.run_id),
        lead=escape(_lead(summary)),
        tiles=_tiles(summary),
        pictures="".join(render_figure(picture) for picture in pictures) or "<p>No round was committed.</p>",
        figures=_figures_table(summary),
        nodes=_nodes_table(summary.nodes),
        devices=render_devices(summary.nodes),
        choices=render_choices(summary.nodes),
        quality=render_quality(summary.nodes, flips),
        rounds=_rounds_table(summary.rounds, points),
        changed=_config_table({key: value for key, value in config.items() if _is_changed(key, value)}),
        config=_config_table(config),
        faults=faults,
        reproduction=render_reproduction(summary, identity, config),
    )


def _lead(summary: Summary) -> str:
    num_rounds = len(summary.rounds)
    rounds = f"{num_rounds} round{'' if num_rounds == 1 else 's'}"
    what = f"Scheme {summary.scheme} on {summary.dataset}: {len(summary.nodes):,} nodes, {rounds}"
    resumed = f", resumed {summary.num_resumes} times" if summary.num_resumes else ""
    batched = f"{summary.fleet.num_learned_together} of {len(summary.nodes)} students trained in batches"
    return (
        f"{what}, {format_seconds(summary.wall_seconds)}{resumed}; {batched}."
        f" Ended because: {summary.stopped_because}."
    )


def _tiles(summary: Summary) -> str:
    fleet, teacher = summary.fleet, summary.teacher
    scored = [(node.accuracy, node.node_id) for node in summary.nodes if node.accuracy is not None]
    worst = f"worst {format_ratio(min(scored)[0])}, {min(scored)[1]}" if scored else "no artefact was scored"
    tiles = [("Students", format_ratio(fleet.accuracy_mean), f"mean accuracy; {worst}")]
    size_note = "mean artefact"
    if teacher is not None:
        tiles.insert(0, ("Teacher", format_ratio(teacher.accuracy), f"accuracy; {teacher.model}"))
        if fleet.accuracy_mean is not None:
            gap = None if teacher.accuracy is None else teacher.accuracy - fleet.accuracy_mean
            tiles.append(("Gap", format_ratio(gap), "teacher minus students"))
        if fleet.artefact_bytes_mean and teacher.size_bytes is not None:
            factor = format_times(teacher.size_bytes / fleet.artefact_bytes_mean)
            size_note = f"mean artefact; the teacher is {factor} as large"
    tiles.append(
        ("Local control", format_ratio(fleet.local_accuracy_mean), "same student, private data alone")
    )
    tiles.append(("Size", format_bytes(fleet.artefact_bytes_mean), size_note))
    exchanged = fleet.bytes_down + fleet.bytes_up
    both = format_bytes(exchanged + fleet.public_sample_bytes)
    against = f"labels; {both} with public samples; FedAvg {format_bytes(fleet.fedavg_bytes)}"
    tiles.append(("Exchanged", format_bytes(exchanged), against))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b> <span>{escape(note)}</span></dd></div>"
        for name, value, note in tiles
    )


def render_figure(picture: Picture) -> str:
    """Writes a chart with its title and caption."""
    return (
        f"<figure><h3>{escape(picture.title)}</h3>{picture.svg}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _figures_table(summary: Summary) -> str:
    rows = _accuracy_figures(summary) + _size_figures(summary) + _traffic_figures(summary)
    head = "<tr><th>Figure<th class=n>Students<th class=n>Control<th>The control is"
    body = "".join(
        f"<tr><td>{escape(name)}<td class=n>{escape(ours)}<td class=n>{escape(control)}<td>{escape(note)}"
        for name, ours, control, note in rows
    )
    return render_table(head, body, css="figures")


def _accuracy_figures(summary: Summary) -> list[tuple[str, str, str, str]]:
    fleet, nodes, teacher = summary.fleet, summary.nodes, summary.teacher
    controls = len(known(nodes, "local_accuracy"))
    local = f"local: same student and budget, private data alone ({controls:,} of {len(nodes):,} nodes)"
    samples = summary.eval_set.get("num_samples", UNKNOWN)
    means = (format_ratio(fleet.accuracy_mean), format_ratio(fleet.local_accuracy_mean))
    own = (format_ratio(fleet.private_accuracy_mean), format_ratio(fleet.local_private_accuracy_mean))
    worst = f"{format_ratio(fleet.accuracy_p5)} / {format_ratio(fleet.accuracy_min)}"
    dense = format_ratio(_mean(nodes, "fp32_accuracy"))
    name = f"Accuracy, evaluation set (n = {samples})"
    rows = [(name, *means, local)]
    if teacher is not None:
        rows = [(name, means[0], format_ratio(teacher.accuracy), "the teacher"), ("", *means, local)]
    rows += [
        (
            "",
            means[0],
            format_ratio(fleet.uncompressed_accuracy_mean),
            f"the same students uncompressed, distilled alike ({len(known(nodes, 'uncompressed_accuracy')):,}"
            f" of {len(nodes):,} nodes)",
        ),
        ("Accuracy, 5th percentile / worst node", worst, UNKNOWN, ""),
        ("Accuracy, own test parts", *own, f"{local}; the nodes' own word"),
        ("Accuracy after compression", means[0], dense, "the same students before compression"),
        (
            "Agreement with the teacher",
            format_ratio(_mean(nodes, "agreement_ratio")),
            format_ratio(_mean(nodes, "agreement_chance_ratio")),
            "chance: what equally frequent classes alone would give",
        ),
        *_compression_figures(nodes),
        ("Calibration error (ECE), lower is better", format_ratio(_mean(nodes, "ece")), UNKNOWN, ""),
    ]
    return rows


def _compression_figures(nodes: Sequence[NodeSummary]) -> list[tuple[str, str, str, str]]:
    flipped = known(list(nodes), "num_flipped")
    falls = known(list(nodes), "worst_recall_change")
    if not flipped:
        return []
    return [
        (
            "Samples whose class compression changed, mean / most",
            f"{sum(flipped) / len(flipped):,.1f} / {max(flipped):,.0f}",
            UNKNOWN,
            "",
        ),
        ("Recall of the worst class, mean", format_ratio(_mean(nodes, "worst_recall")), UNKNOWN, ""),
        (
            "Largest fall of a class's recall by compression",
            format_ratio(-min(falls)),
            UNKNOWN,
            "over all nodes and classes",
        ),
    ]


def _size_figures(summary: Summary) -> list[tuple[str, str, str, str]]:
    nodes, teacher = summary.nodes, summary.teacher
    size = format_bytes(summary.fleet.artefact_bytes_mean)
    dense = format_bytes(_mean(nodes, "fp32_bytes"))
    rows = [("Size on the device, mean", size, dense, "the same students before compression, fp32")]
    if teacher is not None:
        rows.append(("", size, format_bytes(teacher.size_bytes), "the teacher, fp32"))
    latency = _mean(nodes, "latency_seconds_batch1")
    teacher_latency = _mean(nodes, "teacher_latency_seconds_batch1")
    note = "the teacher on the same host" if teacher_latency is not None else ""
    rows.append(
        ("Latency of one sample, mean", format_seconds(latency), format_seconds(teacher_latency), note)
    )
    return rows


def _traffic_figures(summary: Summary) -> list[tuple[str, str, str, str]]:
    fleet = summary.fleet
    labels = fleet.bytes_down + fleet.bytes_up
    fedavg = format_bytes(fleet.fedavg_bytes)
    both = labels + fleet.public_sample_bytes
    note = "FedAvg of the same students: replies × 2 × fp32 bytes"
    return [
        ("Labels and uploads moved", format_bytes(labels), fedavg, note),
        ("Labels, uploads and public samples moved", format_bytes(both), fedavg, note),
        ("Crossed the wire, with shared caches", format_bytes(fleet.wire_bytes_actual), UNKNOWN, ""),
    ]


NODE_HEAD = (
    "<tr><th>Node<th>Student<th class=n>Train n<th class=n>Accuracy<th class=n>fp32<th class=n>Local"
    "<th class=n>Private<th class=n>Private n<th class=n>Local private<th class=n>Agreement<th class=n>ECE"
    "<th class=n>Size<th class=n>Latency<th class=n>Down<th class=n>Up<th class=n>Public<th class=n>Rounds"
    "<th>Artefact digest"
)


def _nodes_table(nodes: Sequence[NodeSummary]) -> str:
    shown = sorted(nodes, key=lambda node: node.node_id)
    note = ""
    if len(nodes) > MAX_NODE_ROWS:
        worst_first = sorted(nodes, key=lambda node: (node.accuracy or 0.0, node.node_id))
        shown = worst_first[:MAX_NODE_ROWS]
        left_out = len(nodes) - MAX_NODE_ROWS
        note = f"<p>The {MAX_NODE_ROWS:,} worst; summary.json holds the other {left_out:,}.</p>"
    return note + render_table(NODE_HEAD, "".join(map(_node_row, shown)), css="nodes")


def _node_row(node: NodeSummary) -> str:
    # HTML lets cells stay open and CSS counts them: this table is the bulk of the file.
    cells = (
        escape(node.node_id),
        escape(node.family),
        f"{node.num_train_samples:,}",
        format_ratio(node.accuracy),
        format_ratio(node.fp32_accuracy),
        format_ratio(node.local_accuracy),
        format_ratio(node.private_accuracy),
        f"{node.num_private_test:,}",
        format_ratio(node.local_private_accuracy),
        format_ratio(node.agreement_ratio),
        format_ratio(node.ece),
        format_bytes(node.artefact_bytes),
        format_seconds(node.latency_seconds_batch1),
        format_bytes(node.bytes_down),
        format_bytes(node.bytes_up),
        format_bytes(node.public_sample_bytes),
        str(node.num_rounds),
        escape(node.artefact_digest[:DIGEST_LETTERS]),
    )
    return f"<tr><td>{'<td>'.join(cells)}"


def _rounds_table(rounds: Sequence[RoundSummary], points: Sequence[RoundPoint]) -> str:
    head = (
        "<tr><th class=n>Round<th class=n>Accuracy<th class=n>Validation gap<th class=n>Sampled"
        "<th class=n>Replied<th class=n>Dropped<th class=n>Late<th class=n>Down<th class=n>Up"
        "<th class=n>Public<th class=n>Time"
    )
    moved = {point.round: point for point in points}
    cells = (
        (
            str(entry.round),
            format_ratio(entry.accuracy_mean),
            format_ratio(entry.gap),
            f"{entry.num_sampled:,}",
            f"{entry.num_replied:,}",
            f"{entry.num_dropped:,}",
            f"{entry.num_late:,}",
            *_moved(moved.get(entry.round)),
            format_seconds(entry.seconds),
        )
        for entry in rounds[-MAX_ROUND_ROWS:]
    )
    note = "" if len(rounds) <= MAX_ROUND_ROWS else f"<p>The last {MAX_ROUND_ROWS:,}.</p>"
    return note + render_table(head, "".join(f"<tr><td>{'<td>'.join(row)}" for row in cells), css="rounds")


def _moved(point: RoundPoint | None) -> tuple[str, str, str]:
    if point is None:
        return UNKNOWN, UNKNOWN, UNKNOWN
    return (
        format_bytes(point.bytes_down),
        format_bytes(point.bytes_up),
        format_bytes(point.public_sample_bytes),
    )


def _is_changed(key: str, value: Any) -> bool:
    known_keys = defaults()
    return key not in known_keys or known_keys[key] != value


def _config_table(config: Mapping[str, Any]) -> str:
    if not config:
        return "<p>Every key has its default.</p>"
    rows = ((key, _format_value(value), _is_changed(key, value)) for key, value in config.items())
    body = "".join(
        f"<tr{' class=changed' if changed else ''}><td><code>{escape(key)}</code><td>{escape(value)}"
        for key, value, changed in rows
    )
    return render_table("<tr><th>Key<th>Value", body)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else "(empty)"


def _mean(nodes: Iterable[NodeSummary], field: str) -> float | None:
    values = known(list(nodes), field)
    return sum(values) / len(values) if values else None
