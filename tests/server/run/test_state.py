from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedstill.common.config import Config
from fedstill.common.errors import DataError, UsageError
from fedstill.server.run.folder import load_run_config, open_run
from fedstill.server.run.records import RoundRecord
from fedstill.server.run.state import (
    STATE_FILE,
    FederationState,
    NodeState,
    commit_state,
    hold_folder,
    load_state,
    read_rounds,
    sweep,
)


def a_state() -> FederationState:
    node = NodeState(
        node_id="node-0000", family="cnn-tiny", num_train_samples=9, num_private_test=2, base_round=1
    )
    return FederationState(run_id="r", round=1, nodes={"node-0000": node}, rounds=[RoundRecord(round=1)])


def test_state_is_read_back_as_committed(tmp_path: Path) -> None:
    state = a_state()
    commit_state(state, tmp_path)
    assert load_state(tmp_path) == state
    assert state.rounds == []  # they are in the file
    assert list(read_rounds(tmp_path, state)) == [RoundRecord(round=1)]


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


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        hold_folder(tmp_path),
        pytest.raises(UsageError, match="another coordinator"),
        hold_folder(tmp_path),
    ):
        pass
    with hold_folder(tmp_path):
        pass


def test_a_run_folder_is_its_owners_alone(tmp_path: Path) -> None:
    with open_run(Config(), run_dir=tmp_path / "runs" / "one", resume=False) as (folder, _):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_sweeping_leaves_what_has_a_name(tmp_path: Path) -> None:
    state = a_state()
    commit_state(state, tmp_path)
    names = (".rounds.jsonl.abcdefgh", ".access.json.abcdefgh", "checkpoints/.state.json.abcdefgh")
    for name in names:
        (tmp_path / name).write_text("half")
    sweep(tmp_path)
    assert load_state(tmp_path) == state
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {str(STATE_FILE), "rounds.jsonl"}


def test_a_run_that_ended_before_its_first_state_cannot_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("seed = 1\n")
    with pytest.raises(DataError, match="nothing to resume"):
        load_run_config(tmp_path)
    with (
        pytest.raises(DataError, match="nothing to resume"),
        open_run(Config(), run_dir=tmp_path, resume=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_resuming_drops_a_round_that_a_kill_left_without_its_state(tmp_path: Path) -> None:
    commit_state(a_state(), tmp_path)
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write(json.dumps({"round": 2, "nodes": []}) + "\n")
    with open_run(Config(), run_dir=tmp_path, resume=True) as (_, state):
        assert state.num_resumes == 1
        (line,) = (tmp_path / "rounds.jsonl").read_text().splitlines()
        assert json.loads(line)["round"] == 1


@pytest.mark.parametrize("content", [None, "", '{"rou', '{"round": "no number"}\n'])
def test_a_run_whose_committed_rounds_are_gone_is_not_resumed(content: str | None, tmp_path: Path) -> None:
    commit_state(a_state(), tmp_path)
    (tmp_path / "rounds.jsonl").unlink()
    if content is not None:
        (tmp_path / "rounds.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"rounds\.jsonl"):
        load_state(tmp_path)


def test_a_commit_costs_what_its_round_brings_and_not_what_came_before(tmp_path: Path) -> None:
    state = a_state()
    commit_state(state, tmp_path)
    size = (tmp_path / STATE_FILE).stat().st_size
    inode = (tmp_path / "rounds.jsonl").stat().st_ino
    for number in range(2, 10):
        state.round = number
        state.rounds.append(RoundRecord(round=number, num_sampled=100))
        commit_state(state, tmp_path)
        assert state.rounds == []
    assert (tmp_path / STATE_FILE).stat().st_size <= size + 3  # digits of one number
    assert (tmp_path / "rounds.jsonl").stat().st_ino == inode  # appended to, not written anew
    assert load_state(tmp_path) == state
    assert [record.round for record in read_rounds(tmp_path, state)] == list(range(1, 10))


def test_what_stands_behind_the_committed_rounds_is_cut_off(tmp_path: Path) -> None:
    state = a_state()
    commit_state(state, tmp_path)
    committed = (tmp_path / "rounds.jsonl").read_bytes()
    with (tmp_path / "rounds.jsonl").open("ab") as file:
        file.write(b'{"round": 2, "nodes": [{"node_')  # a full disk, or a kill in the middle
    assert [record.round for record in read_rounds(tmp_path, load_state(tmp_path))] == [1]
    commit_state(load_state(tmp_path), tmp_path)
    assert (tmp_path / "rounds.jsonl").read_bytes() == committed


def test_a_run_of_before_is_gone_on_with_though_its_state_does_not_know_the_length(tmp_path: Path) -> None:
    state = a_state()
    commit_state(state, tmp_path)
    content = json.loads((tmp_path / STATE_FILE).read_text())
    del content["rounds_bytes"]
    (tmp_path / STATE_FILE).write_text(json.dumps(content))
    assert load_state(tmp_path) == state


def test_rounds_that_were_changed_are_not_gone_on_with(tmp_path: Path) -> None:
    commit_state(a_state(), tmp_path)
    line = (tmp_path / "rounds.jsonl").read_text()
    (tmp_path / "rounds.jsonl").write_text(line.replace('"round": 1', '"round":  1'))
    with pytest.raises(DataError, match="is not as it was committed"):
        load_state(tmp_path)


def test_a_strangers_folder_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds files"), open_run(Config(), run_dir=tmp_path, resume=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
