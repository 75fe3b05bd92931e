"""The page of per-node series: bounded, and ready-made so that a scrape only joins it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedstill.server.metrics.catalogue import NODE_METRICS

_NAMES = tuple(metric.full_name for metric in NODE_METRICS)
_PLACES = {metric.name.removeprefix("node_"): place for place, metric in enumerate(NODE_METRICS)}


@dataclass
class _Node:
    labels: str = ""
    """Empty until the node's family is known: until then it has no series."""
    values: dict[int, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=lambda: [""] * len(_NAMES))


class NodeSeries:
    """Newest figures of each node; safe among threads.

    Args:
        max_nodes: Nodes that get series at most; the others are counted.
    """

    def __init__(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._lock = threading.Lock()
        self._nodes: dict[str, _Node] = {}
        self._excess: set[str] = set()

    @property
    def num_excess(self) -> int:
        """Nodes that found no room."""
        return len(self._excess)

    def update(self, node_id: str, figures: Mapping[str, float | None], *, family: str = "") -> None:
        """Sets some of a node's figures.

        Args:
            node_id: The node.
            figures: Value by name of `NODE_METRICS`, without `node_`; None removes the series.
            family: The family of its student, where the caller knows it.
        """
        with self._lock:
            node = self._find(node_id)
            if node is not None:
                _change(node, node_id, family, {_PLACES[name]: value for name, value in figures.items()})

    def count(self, node_id: str, name: str) -> None:
        """Adds one to a node's counter."""
        place = _PLACES[name]
        with self._lock:
            node = self._find(node_id)
            if node is not None:
                _change(node, node_id, "", {place: node.values.get(place, 0) + 1})

    def forget(self, node_id: str) -> None:
        """Drops a node's series; an unknown node is no error."""
        with self._lock:
            self._nodes.pop(node_id, None)
            self._excess.discard(node_id)

    def render(self) -> str:
        """Renders the page in Prometheus' text format 0.0.4."""
        with self._lock:
            columns = zip(*(node.lines for node in self._nodes.values() if node.labels), strict=True)
            bodies = ["".join(column) for column in columns] or [""] * len(_NAMES)
        return "".join(
            f"# HELP {name} {metric.text}\n# TYPE {name} {metric.kind}\n{body}"
            for name, metric, body in zip(_NAMES, NODE_METRICS, bodies, strict=True)
        )

    def _find(self, node_id: str) -> _Node | None:
        node = self._nodes.get(node_id)
        if node is None and len(self._nodes) < self._max_nodes:
            node = self._nodes[node_id] = _Node(values={_PLACES["drops"]: 0})
            self._excess.discard(node_id)
        if node is None:
            self._excess.add(node_id)
        return node


def _change(node: _Node, node_id: str, family: str, figures: Mapping[int, float | None]) -> None:
    for place, value in figures.items():
        if value is None:
            node.values.pop(place, None)
            node.lines[place] = ""
        else:
            node.values[place] = value
    places = list(figures)
    if family:
        labels = f'{{node_id="{_escape(node_id)}",family="{_escape(family)}"}} '
        if labels != node.labels:
            node.labels, places = labels, list(node.values)
    for place in places:
        value = node.values.get(place)
        if value is not None and node.labels:
            node.lines[place] = f"{_NAMES[place]}{node.labels}{'NaN' if value != value else value}\n"


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
