"""Rests of nodes that fail again and again: fewer tasks for those that give nothing back.

After `rest_after` failures in a row a node sits out one round, then two, then four, and so
on, with one try between; a good answer ends that. Everything follows from the records in
the run's state, so a resumed run rests the same nodes in the same rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from fedstill.server.run.state import NodeState

# A node that has slept this often has missed 127 rounds; longer than 64 it should not wait to be tried.
MAX_DOUBLINGS = 6


def record_success(node: NodeState) -> None:
    """Notes a good answer: whatever failed before is forgotten."""
    node.num_failures = node.num_rests = 0
    node.rest_reason = ""


def record_failure(node: NodeState, *, round_number: int, reason: str, rest_after: int) -> None:
    """Notes a task that came to nothing, and sends the node to rest where it was one too many.

    Args:
        node: The node's record; changed in place.
        round_number: Round of the task.
        reason: Why, as "lost" or "timeout".
        rest_after: Failures in a row that send a node to rest; 0 never does.
    """
    node.num_failures += 1
    if rest_after and node.num_failures >= rest_after:
        node.rests_until = round_number + 2 ** min(node.num_rests, MAX_DOUBLINGS)
        node.num_rests += 1
        node.rest_reason = reason


def record_failures(
    nodes: Mapping[str, NodeState], reasons: Mapping[str, str], *, round_number: int, rest_after: int
) -> None:
    """Notes the failures of a round, by node id; nodes that the run does not know are left out."""
    for node_id, reason in reasons.items():
        if node_id in nodes:
            record_failure(nodes[node_id], round_number=round_number, reason=reason, rest_after=rest_after)


def choose_rested(
    nodes: Mapping[str, NodeState], able: Iterable[str], *, round_number: int, num_needed: int
) -> set[str]:
    """Says which nodes sit a round out.

    Args:
        nodes: Records by node id.
        able: Nodes that could be asked.
        round_number: The round that begins.
        num_needed: Nodes that it needs; where too few are awake, those wake first whose rest ends first.

    Returns:
        Ids of the nodes that rest.
    """
    able = sorted(able)
    asleep = sorted(
        (node_id for node_id in able if nodes[node_id].rests_until >= round_number),
        key=lambda node_id: (nodes[node_id].rests_until, node_id),
    )
    num_woken = max(0, num_needed - (len(able) - len(asleep)))
    return set(asleep[num_woken:])


def count_rested(nodes: Mapping[str, NodeState], rested: Iterable[str]) -> dict[str, int]:
    """Counts nodes at rest by the reason of their last failure, sorted by reason."""
    return dict(sorted(Counter(nodes[node_id].rest_reason for node_id in rested).items()))
