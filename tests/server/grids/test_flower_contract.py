"""Flower's private names that the grids stand on: an upgrade that moves one fails here, by name."""

import inspect

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common import constant, serde
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedstill.server.grids import LocalGrid


@pytest.fixture
def identity():
    before = (
        (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id) if TaskIdentity._run_id else None
    )
    yield
    if before:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = before


def test_grid_has_the_seven_members_that_ours_implement():
    assert Grid.__abstractmethods__ == {
        "create_message",
        "get_node_ids",
        "pull_messages",
        "push_messages",
        "run",
        "send_and_receive",
        "set_run",
    }, "Flower's Grid asks for other members: revise HostedGrid in server/grids/hosted_grid.py"


def test_messages_take_their_sender_from_task_identity(identity):
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 11, 12, 13
    metadata = Message(RecordDict(), 5, "train").metadata
    assert (metadata.run_id, metadata.src_task_id, metadata.src_node_id) == (11, 12, 13), (
        "Message no longer reads TaskIdentity: revise HostedGrid.set_run"
    )


def test_message_id_is_set_through_the_metadata_dict(identity):
    LocalGrid(num_nodes=1, run_config={})
    message = Message(RecordDict(), 1, "train")
    assert "_message_id" in message.metadata.__dict__, "Metadata renamed _message_id: revise hosting.stamp"
    message.metadata.__dict__["_message_id"] = "abc"
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "abc"


def test_empty_run_is_made_from_an_id():
    assert Run.create_empty(run_id=3).run_id == 3, "Run.create_empty changed: revise HostedGrid.__init__"


def test_message_survives_flowers_own_protobuf(identity):
    LocalGrid(num_nodes=1, run_config={})
    message = Message(RecordDict(), 1, "train", group_id="7", ttl=60.0)
    back = serde.message_from_proto(serde.message_to_proto(message))
    assert (back.metadata.group_id, back.metadata.ttl, back.metadata.created_at) == (
        "7",
        60.0,
        message.metadata.created_at,
    )


def test_context_takes_the_five_fields_that_a_node_needs():
    fields = list(inspect.signature(Context).parameters)
    assert fields[:5] == ["run_id", "node_id", "node_config", "state", "run_config"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPERLINK_NODE_ID", 1),
        ("PARTITION_ID_KEY", "partition-id"),
        ("NUM_PARTITIONS_KEY", "num-partitions"),
    ],
)
def test_constants_are_where_they_were(name, value):
    assert getattr(constant, name) == value
