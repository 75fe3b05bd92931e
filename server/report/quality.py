"""The report's section on what compression changed: how alike models are, and samples that flipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from fedstill.server.analysis.flips import Flip, Flips
from fedstill.server.display.units import UNKNOWN, format_ratio
from fedstill.server.run.summary import NodeQuality, NodeSummary, Resemblance

QUALITY_HEAD = (
    "<tr><th>Node<th>Compared<th class=n>Same class<th class=n>KL, nats<th class=n>CKA"
    "<th class=n>Saliency cosine<th class=n>Saliency overlap"
)
INTRODUCTION = (
    "A few nodes' models, drawn by the seed, on a sample of the evaluation set. Small figures are the floor:"
    " the same student with random weights. Saliency: how the logit falls when a place is covered; overlap:"
    " what the maps' top deciles share."
)


def render_quality(nodes: Sequence[NodeSummary], flips: Flips | None) -> str:
    """Renders the section.

    Args:
        nodes: The run's nodes; those that were compared have a row each.
        flips: Samples to show, where the run kept any.

    Returns:
        HTML with its heading; empty where nothing was compared and nothing kept.
    """
    compared = [(node.node_id, node.quality) for node in nodes if node.quality is not None]
    if not compared and flips is None:
        return ""
    parts = ["<h2>What compression changed</h2>"]
    if compared:
        rows = "".join(row for node_id, quality in compared for row in _rows(node_id, quality))
        table = f"<table><thead>{QUALITY_HEAD}</thead><tbody>{rows}</tbody></table>"
        parts.append(f"<p class=lead>{escape(INTRODUCTION)}</p><div class=scroll tabindex=0>{table}</div>")
    if flips is not None:
        parts.append(_render_flips(flips))
    return "".join(parts)


def _rows(node_id: str, quality: NodeQuality) -> Iterator[str]:
    pairs = [
        ("artefact and teacher", quality.artefact_to_teacher, quality.floor_to_teacher),
        ("uncompressed student and teacher", quality.fp32_to_teacher, quality.floor_to_teacher),
        ("artefact and uncompressed student", quality.artefact_to_fp32, quality.floor_to_fp32),
    ]
    name = node_id
    for what, measured, floor in pairs:
        if measured is not None and floor is not None:
            cells = [escape(name), what]
            yield f"<tr><td>{'<td>'.join(cells)}{''.join(_cells(measured, floor))}"
            name = ""


def _cells(measured: Resemblance, floor: Resemblance) -> Iterator[str]:
    for field in ("agreement_ratio", "kl_nats", "cka", "saliency_cosine", "saliency_overlap"):
        value, lowest = getattr(measured, field), getattr(floor, field)
        yield f"<td class=n>{_figure(value)} <span class=floor>{_figure(lowest)}</span>"


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None else format_ratio(value).replace("-", "−")


def _render_flips(flips: Flips) -> str:
    if not flips.flips:
        return f"<p>Compression changed no class on any of {flips.num_nodes:,} nodes.</p>"
    figures = "".join(_render_flip(flip, flips) for flip in flips.flips)
    return (
        f"<p class=lead>The samples that compression flipped on most of {flips.num_nodes:,} nodes: what the"
        f" student said, and what its artefact says.</p><div class=flips>{figures}</div>"
    )


def _render_flip(flip: Flip, flips: Flips) -> str:
    def name(index: int) -> str:
        return escape(flips.class_names[index])

    shown = ""
    if flip.png:
        shown = f'<img alt="sample {flip.index}" src="data:image/png;base64,{escape(flip.png)}">'
    elif flip.text:
        shown = f"<blockquote>{escape(flip.text)}</blockquote>"
    nodes = f"{flip.num_nodes:,} node{'' if flip.num_nodes == 1 else 's'}"
    return (
        f"<figure>{shown}<figcaption><b>{name(flip.fp32_class)} → {name(flip.artefact_class)}</b><br>true"
        f" {name(flip.true_class)}<br>{nodes}, sample {flip.index}</figcaption></figure>"
    )
