import pytest

from fedstill.common.config import load_config
from fedstill.common.errors import ConfigError, UsageError
from fedstill.server.grids import ActorNeeds
from fedstill.server.simulate import simulate

CLUSTER = {"CPU": 8.0, "GPU": 2.0, "memory": 16e9, "phone": 3.0, "board": 2.0}


@pytest.mark.parametrize(
    ("needs", "num_actors"),
    [
        (ActorNeeds(), 8),
        (ActorNeeds(cpus=0.5), 16),
        (ActorNeeds(cpus=3), 2),
        (ActorNeeds(cpus=0), 8),
        (ActorNeeds(gpus=0.25), 8),
        (ActorNeeds(gpus=1), 2),
        (ActorNeeds(memory_bytes=5_000_000_000), 3),
        (ActorNeeds(kinds=("phone",)), 3),
        (ActorNeeds(kinds=("phone", "board")), 4),
        (ActorNeeds(cpus=100), 1),
    ],
)
def test_as_many_actors_as_have_room(needs, num_actors):
    assert needs.count_actors(CLUSTER, num_nodes=1000) == num_actors


def test_never_more_actors_than_nodes():
    assert ActorNeeds().count_actors(CLUSTER, num_nodes=3) == 3


def test_actors_take_their_kinds_in_turn():
    needs = ActorNeeds(cpus=0.5, gpus=0.25, memory_bytes=1000, kinds=("phone", "board"))
    assert needs.options(0)["resources"] == {"phone": 1}
    assert needs.options(3)["resources"] == {"board": 1}
    assert needs.options(0) | {"resources": {}} == {
        "num_cpus": 0.5,
        "num_gpus": 0.25,
        "memory": 1000,
        "resources": {},
    }


def test_who_asked_for_no_gpu_sees_none():
    assert ActorNeeds().environment() == {"CUDA_VISIBLE_DEVICES": ""}
    assert ActorNeeds(gpus=0.5).environment() == {}


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (ActorNeeds(gpus=0.5), "no machine of the Ray cluster has a GPU"),
        (ActorNeeds(cpus=1.5), r"cpus_per_node: Ray takes whole numbers above 1, or a fraction; got 1\.5"),
        (ActorNeeds(kinds=("watch",)), "no machine of the Ray cluster has watch; start one with"),
    ],
)
def test_what_no_machine_has_is_named_instead_of_waited_for(needs, message):
    with pytest.raises(ConfigError, match=message):
        needs.check({"CPU": 8.0, "phone": 3.0})


def test_cuda_without_a_share_of_a_gpu_is_refused(tmp_path):
    with pytest.raises(UsageError, match="gpus_per_node"):
        simulate(load_config(overrides=["federation.device=cuda"]), run_dir=tmp_path / "run")
