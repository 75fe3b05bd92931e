"""What a node keeps between rounds survives crashes and redone rounds."""

import pytest
import torch
from torch import nn

from fedstill.clients.node_store import NodeStore
from fedstill.common.errors import ExchangeError
from fedstill.common.training import digest_weights, save_weights


def build(value):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


@pytest.fixture
def store(tmp_path):
    return NodeStore(tmp_path, run_id="run-1", node_id="node-0001")


def write(store, round_number, *, base_round, value=None):
    with store.write_round(round_number, base_round=base_round) as folder:
        save_weights(build(round_number if value is None else value), folder / "student.safetensors")


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def load(store, base_round):
    model = build(-1.0)
    found = store.load_student(model, base_round=base_round)
    return found, model.weight[0, 0].item()


def test_opening_writes_nothing(store, tmp_path):
    assert list(tmp_path.iterdir()) == []


def test_a_rounds_student_is_the_next_ones_base(store):
    write(store, 1, base_round=0)
    assert load(store, 1) == (True, 1.0)


def test_round_zero_is_the_initial_student(store):
    write(store, 1, base_round=0)
    assert load(store, 0) == (True, -1.0)


def test_base_and_newest_are_kept_and_others_dropped(store):
    write(store, 1, base_round=0)
    write(store, 2, base_round=1)
    assert names(store) == ["round-00001", "round-00002"]
    write(store, 3, base_round=2)
    assert names(store) == ["round-00002", "round-00003"]


def test_an_uncommitted_round_does_not_displace_the_base(store):
    write(store, 1, base_round=0)
    write(store, 2, base_round=1)
    write(store, 4, base_round=1)
    assert names(store) == ["round-00001", "round-00004"]
    assert load(store, 1) == (True, 1.0)


def test_a_round_redone_replaces_the_whole_folder(store):
    with store.write_round(1, base_round=0) as folder:
        (folder / "old").write_text("old")
    write(store, 1, base_round=0, value=7)
    assert [path.name for path in store.round_dir(1).iterdir()] == ["student.safetensors"]
    assert load(store, 1) == (True, 7.0)


def crash(folder, error):
    save_weights(build(9), folder / "student.safetensors")
    raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crash_leaves_the_old_rounds_and_no_staging_folder(store, error):
    write(store, 1, base_round=0)
    with pytest.raises(error), store.write_round(1, base_round=0) as folder:
        crash(folder, error)
    assert names(store) == ["round-00001"]
    assert load(store, 1) == (True, 1.0)


def test_what_a_killed_process_left_is_swept_by_the_next_round(store):
    write(store, 1, base_round=0)
    (store.folder / ".staging-killed").mkdir()
    write(store, 2, base_round=1)
    assert names(store) == ["round-00001", "round-00002"]


def test_a_round_is_in_place_only_when_it_is_whole(store):
    with store.write_round(1, base_round=0) as folder:
        save_weights(build(1), folder / "student.safetensors")
        assert load(store, 1)[0] is False
    assert load(store, 1)[0] is True


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: save_weights(nn.Linear(3, 2), path),
    ],
)
def test_an_unreadable_student_keeps_the_initial_weights(store, damage):
    write(store, 1, base_round=0)
    damage(store.student_path(1))
    model = build(-1.0)
    before = digest_weights(model)
    assert store.load_student(model, base_round=1) is False
    assert digest_weights(model) == before


@pytest.mark.parametrize("name", ["", "a/b", "../up", "..", ".hidden", "a\\b", "a b", "x" * 129, "a\n", "ä"])
def test_an_id_that_is_no_plain_file_name_is_refused(tmp_path, name):
    with pytest.raises(ExchangeError, match="expected a run id of letters"):
        NodeStore(tmp_path, run_id=name, node_id="node-0001")
    with pytest.raises(ExchangeError, match="expected a node id of letters"):
        NodeStore(tmp_path, run_id="run", node_id=name)


def test_runs_and_nodes_do_not_meet(store, tmp_path):
    write(store, 1, base_round=0)
    for run_id, node_id in (("run-2", "node-0001"), ("run-1", "node-0002")):
        assert load(NodeStore(tmp_path, run_id=run_id, node_id=node_id), 1)[0] is False


def test_release_forgets_this_node_only(store, tmp_path):
    other = NodeStore(tmp_path, run_id="run-1", node_id="node-0002")
    write(store, 1, base_round=0)
    write(other, 1, base_round=0)
    store.release()
    assert not store.folder.exists()
    assert load(other, 1)[0] is True


def test_the_last_release_forgets_the_run(store):
    write(store, 1, base_round=0)
    store.release()
    assert not store.folder.parent.exists()


def test_releasing_twice_is_harmless(store):
    store.release()
    store.release()
