"""The planner gives nodes their profile and codec, and reacts to what their reports show."""

from __future__ import annotations

from typing import Any

import pytest

from fedstill.common.config import load_config
from fedstill.common.devices import load_profile
from fedstill.common.errors import ConfigError
from fedstill.common.models import InputSpec
from fedstill.common.wire import profile_from_proto, profile_to_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Encoding, Publication
from fedstill.server.planner.planner import Planner, observe_link, read_profiles
from fedstill.server.run.events import Event, NodeBudgeted, NodePlanned, Warned
from fedstill.server.run.records import NodeRecord, PhaseSeconds
from fedstill.server.run.state import NodeState
from tests.server.records import node_record

SPEC = InputSpec("image", (8, 8), "uint8", "HW", 1.0, (0.0,), (1.0,))
ENCODINGS = (Encoding("lp8", b"\1" * 32, 1_000_000, 1e-5), Encoding("hard", b"\2" * 32, 10_000, 0.4))
PUBLICATION = Publication(
    "127.0.0.1:1", SPEC, ("a", "b"), (), b"", b"", labels_digest=b"\1" * 32, codec="lp8", encodings=ENCODINGS
)


def make_planner(*overrides: str) -> tuple[Planner, list[Event]]:
    events: list[Event] = []
    return Planner(load_config(overrides=["exchange.codec=auto", *overrides]), SPEC, events.append), events


def make_node(name: str = "node-0000", **values: Any) -> NodeState:
    return NodeState(node_id=name, num_train_samples=5, num_private_test=0, **values)


def hello(name: str = "node-0000", profile: str = "") -> fleet_pb2.HelloResponse:
    message = fleet_pb2.HelloResponse(node_id=name)
    if profile:
        message.profile.CopyFrom(profile_to_proto(load_profile(profile)))
    return message


def test_profiles_survive_the_wire() -> None:
    for name in ("microcontroller", "jetson"):
        assert profile_from_proto(profile_to_proto(load_profile(name))) == load_profile(name)


def test_simulated_nodes_take_profiles_in_turn() -> None:
    planner, events = make_planner("federation.profiles=pi-zero, phone")
    nodes = [make_node(f"node-{number:04d}") for number in range(3)]
    for node in nodes:
        planner.welcome(hello(node.node_id), node)
    assert [node.profile.name for node in nodes if node.profile] == ["pi-zero", "phone", "pi-zero"]
    assert all(node.is_simulated for node in nodes)
    assert events[0] == NodeBudgeted("node-0000", 60_000, 0.02)


def test_a_device_brings_its_own_profile() -> None:
    planner, _ = make_planner("federation.profiles=pi-zero")
    node = make_node()
    planner.welcome(hello(profile="jetson"), node)
    assert node.profile == load_profile("jetson")
    assert not node.is_simulated


def test_an_impossible_profile_from_a_device_is_said_and_left_out() -> None:
    planner, events = make_planner()
    message, node = hello(profile="jetson"), make_node()
    message.profile.flash_bytes = 3
    planner.welcome(message, node)
    assert node.profile is None
    assert any(isinstance(event, Warned) and "flash_bytes" in event.text for event in events)


def test_unknown_profile_of_the_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="pi-zero"):
        read_profiles(load_config(overrides=["federation.profiles=pi-zer0"]))


def test_each_node_gets_the_codec_of_its_link_and_the_decision_is_kept() -> None:
    planner, events = make_planner("federation.profiles=microcontroller,pi-4")
    nodes = [make_node(f"node-{number:04d}") for number in range(3)]
    for node in nodes:
        planner.welcome(hello(node.node_id), node)
    codecs = [planner.publication_of(node, PUBLICATION).source().codec for node in nodes]
    assert codecs == ["hard", "lp8", "hard"] == [node.codec for node in nodes]
    assert planner.publication_of(nodes[0], PUBLICATION).labels_digest == b"\2" * 32
    assert [event.is_news for event in events if isinstance(event, NodePlanned)] == [True, True, False]


def test_a_named_codec_is_everybodys() -> None:
    planner, _ = make_planner("exchange.codec=fp16", "federation.profiles=microcontroller")
    node = make_node()
    planner.welcome(hello(), node)
    assert planner.publication_of(node, PUBLICATION) is PUBLICATION
    assert planner.upload_codec(node, PUBLICATION) == "fp16"


def report(num_bytes: int, seconds: float) -> NodeRecord:
    return node_record(wire_bytes=num_bytes, phase_seconds=PhaseSeconds(fetch=seconds))


def test_a_link_that_turns_out_slow_moves_the_codec() -> None:
    planner, events = make_planner()
    node = make_node()
    planner.welcome(hello(profile="pi-4"), node)
    assert planner.publication_of(node, PUBLICATION).codec == "lp8"
    node.report = report(200_000, 20.0)
    planner.review(node, PUBLICATION, rounds_left=1)
    assert node.codec == "hard"
    (change,) = [event for event in events if isinstance(event, NodePlanned) and event.is_change]
    assert "10,000 B/s" in change.codec_reason


def test_what_a_simulated_nodes_host_sees_is_not_its_link() -> None:
    planner, _ = make_planner("federation.profiles=microcontroller")
    node = make_node()
    planner.welcome(hello(), node)
    planner.publication_of(node, PUBLICATION)
    node.report = report(200_000_000, 1.0)
    planner.review(node, PUBLICATION, rounds_left=1)
    assert node.codec == "hard"


def test_fetches_from_the_cache_say_nothing_of_the_link() -> None:
    node = make_node(report=report(1000, 0.1))
    observe_link(node)
    assert node.link_bytes_per_second is None


def test_the_link_is_a_moving_mean() -> None:
    node = make_node(report=report(100_000, 1.0), link_bytes_per_second=300_000.0)
    observe_link(node)
    assert node.link_bytes_per_second == 200_000
