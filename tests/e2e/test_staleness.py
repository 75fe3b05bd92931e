"""Late answers are mixed in by their weight, in every scheme that sends something back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedstill.common.config import load_config
from fedstill.server.simulate import simulate

QUICK = (
    "teacher.num_epochs=1",
    "teacher.num_threads=1",
    "distill.num_epochs=1",
    "data.num_public=64",
    "federation.num_nodes=4",
    "federation.num_rounds=3",
    "federation.quorum=0.5",
    "federation.staleness=weigh",
    "federation.control_fraction=0",
    "exchange.collect_artefacts=false",
    "monitoring.quality_nodes=0",
    "monitoring.enabled=false",
)


@pytest.mark.parametrize("scheme", ["ensemble", "classwise", "weights"])
def test_nodes_that_a_quorum_left_behind_are_heard_a_round_later(scheme: str, tmp_path: Path) -> None:
    config = load_config(overrides=[*QUICK, f"federation.scheme={scheme}"])
    summary = simulate(config, run_dir=tmp_path / "run", grid_name="local")
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert lines[0]["num_dropped"] == 2
    assert lines[1]["weighed_rounds"]
    assert set(lines[1]["weighed_rounds"].values()) == {1}
    late = set(lines[1]["weighed_rounds"])
    assert not late & {node["node_id"] for node in lines[1]["nodes"]}
    # What a late node sent counts as sent, and its student as its own.
    for node in summary.nodes:
        if node.node_id in late:
            assert node.num_rounds >= 1
            assert node.bytes_up > 0
