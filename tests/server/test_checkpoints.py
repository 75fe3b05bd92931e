from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import DataError
from server.checkpoints import STATE_FILE, FederationState, NodeState, commit_state, load_state


def a_state() -> FederationState:
    node = NodeState(
        node_id="node-0000", family="cnn-tiny", num_train_samples=9, num_private_test=2, base_round=1
    )
    return FederationState(run_id="r", round=1, nodes={"node-0000": node}, rounds=[{"round": 1, "nodes": []}])


def test_state_is_read_back_as_committed(tmp_path: Path) -> None:
    commit_state(a_state(), tmp_path)
    assert load_state(tmp_path) == a_state()


def test_rounds_jsonl_has_a_line_per_committed_round(tmp_path: Path) -> None:
    commit_state(a_state(), tmp_path)
    lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1]


def test_a_folder_without_state_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to resume"):
        load_state(tmp_path)


def test_a_foreign_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    path.parent.mkdir()
    path.write_text('{"run_id": "r", "round": 1, "surprise": 2}')
    with pytest.raises(DataError, match="does not fit"):
        load_state(tmp_path)
