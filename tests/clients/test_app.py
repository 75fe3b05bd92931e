"""What a node answers to a coordinator's first question."""

from __future__ import annotations

import pytest
from flwr.app import Message

import fedstill
from fedstill.common.config import flatten, load_config
from fedstill.common.wire import pack, unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.grids import LocalGrid


def ask(version: str) -> Message:
    config = load_config(overrides=["federation.num_nodes=1"])
    with LocalGrid(num_nodes=1, run_config=flatten(config)) as grid:
        request = fleet_pb2.HelloRequest(run_id="run", version=version)
        message_ids = grid.push_messages([Message(pack(request), 1, "query")])
        replies: list[Message] = []
        while not replies:
            replies = list(grid.pull_messages(message_ids))
        return replies[0]


def test_a_node_says_its_name_to_a_coordinator_of_its_version() -> None:
    hello = unpack(ask(fedstill.__version__).content, fleet_pb2.HelloResponse)
    assert (hello.node_id, hello.version) == ("node-0000", fedstill.__version__)


@pytest.mark.parametrize("version", ["9.0.0", "0.7.0", ""])
def test_a_coordinator_that_is_far_apart_is_refused(version: str) -> None:
    reply = ask(version)
    assert reply.has_error()
    assert "at most a minor version apart" in reply.error.reason
