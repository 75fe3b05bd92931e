"""Nodes that come to a running federation, or come back to it under another of Flower's ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedstill.common.certificates import read_credentials, sign_hello
from fedstill.common.config import load_config
from fedstill.common.errors import RunError
from fedstill.common.wire import pack, unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.fleet import Fleet
from fedstill.server.fleet.guard import Guard
from fedstill.server.fleet.mailbox import collect, send
from fedstill.server.grids import LocalGrid
from fedstill.server.pki.authority import init_authority, issue_node
from fedstill.server.pki.enrolment import write_bundle
from fedstill.server.run.events import ReplyDropped

EXPECTED = fleet_pb2.InputSpec()


class PatchyGrid(LocalGrid):
    """A grid of four nodes of which some are switched on."""

    on = frozenset({1, 2})

    def get_node_ids(self) -> list[int]:
        return sorted(self.on)


def make_grid(who: dict[int, tuple[str, str]]) -> PatchyGrid:
    """Flower's nodes by id: how each calls itself, and the digest of its data."""
    app = ClientApp()

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        name, digest = who[int(context.node_config["partition-id"]) + 1]
        if name == "raises":
            raise ValueError("no, thanks")
        hello = fleet_pb2.HelloResponse(node_id=name, private_digest=digest, num_train_samples=5)
        return Message(pack(hello), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(pack(fleet_pb2.TaskResponse()), reply_to=message)

    return PatchyGrid(app, num_nodes=4, run_config={})


def open_fleet(
    grid: LocalGrid, *, num_nodes: int = 2, min_nodes: int = 0, guard: Guard | None = None
) -> tuple[Fleet, list[tuple[str, bool]], list[ReplyDropped]]:
    met: list[tuple[str, bool]] = []
    drops: list[ReplyDropped] = []
    fleet = Fleet(run_id="run", on_drop=drops.append)
    fleet.roster.guard = guard
    fleet.introduce(
        grid,
        num_nodes=num_nodes,
        wait_seconds=0.5,
        expected=EXPECTED,
        min_nodes=min_nodes,
        on_hello=lambda hello, is_back: met.append((hello.node_id, is_back)),
    )
    return fleet, met, drops


def go_on(grid: PatchyGrid, fleet: Fleet, sent: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Waits for answers as a round does, and returns whose came."""
    monkeypatch.setattr("fedstill.server.fleet.reception.LOOK_SECONDS", 0.0)
    answered: list[int] = []
    collect(
        grid,
        fleet.roster.mailbox,
        sent,
        num_needed=9,
        deadline_seconds=0.5,
        on_reply=lambda flower_id, reply: answered.append(flower_id),
        on_late=fleet.drop_late,
        meanwhile=lambda: fleet.look_for_newcomers(grid),
    )
    return answered


class DeadNodeGrid(PatchyGrid):
    """Node 1 never does what it was told after its name; its SuperNode was killed."""

    def _advance(self, timeout_seconds: float) -> None:
        while self._queue and self._queue[0].node_id == 1 and self.on != {1, 2}:
            self._queue.popleft()
        super()._advance(timeout_seconds)


def test_a_node_started_again_takes_its_name_back_and_what_it_owed_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = make_grid({1: ("a", "x"), 2: ("b", "y"), 3: ("a", "x")})
    grid.__class__ = DeadNodeGrid
    fleet, met, drops = open_fleet(grid)
    fleet.open_round(7)
    grid.on = frozenset({1, 2, 3})  # Flower believes for a minute that the first still lives
    tasks = dict.fromkeys((1, 2), fleet_pb2.TaskRequest())
    sent = send(grid, fleet.roster.mailbox, tasks, message_type="train", round_number=7)
    assert go_on(grid, fleet, sent, monkeypatch) == [2]
    assert fleet.roster.flower_ids == {"b": 2, "a": 3}
    assert met == [("a", False), ("b", False), ("a", True)]
    assert [(drop.round, drop.node_id, drop.reason) for drop in drops] == [(7, "a", "lost")]
    assert not fleet.roster.mailbox.pending
    assert not fleet.roster.busy


@pytest.mark.parametrize(("on", "expected"), [({1, 2, 3}, 1), ({2, 3}, 3)])
def test_another_device_of_the_same_name_gets_it_only_where_the_first_has_left(
    on: set[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid({1: ("a", "x"), 2: ("b", "y"), 3: ("a", "z")})
    fleet, _, drops = open_fleet(grid)
    grid.on = frozenset(on)
    sent = send(
        grid, fleet.roster.mailbox, {2: fleet_pb2.TaskRequest()}, message_type="train", round_number=0
    )
    go_on(grid, fleet, sent, monkeypatch)
    fleet.await_answers(grid, wait_seconds=0.5, enough=lambda: not fleet.roster.mailbox.pending)
    assert fleet.roster.flower_ids["a"] == expected
    assert bool(drops) == (expected == 1)


def test_two_devices_of_one_name_are_refused_at_the_start() -> None:
    grid = make_grid({1: ("a", "x"), 2: ("a", "y")})
    with pytest.raises(RunError, match="two nodes call themselves a"):
        open_fleet(grid)


class FiveNodeGrid(LocalGrid):
    """Nodes n1 to n5; the second is a liar, whose hello the test chooses."""

    def __init__(self, lie: Callable[[Message], Message]) -> None:
        app = ClientApp()

        @app.query()
        def hello(message: Message, context: Context) -> Message:
            number = int(context.node_config["partition-id"]) + 1
            if number == 2:
                return lie(message)
            hello = fleet_pb2.HelloResponse(node_id=f"n{number}", num_train_samples=5, num_partitions=5)
            return Message(pack(hello), reply_to=message)

        super().__init__(app, num_nodes=5, run_config={})


def claim_one_partition(message: Message) -> Message:
    return Message(pack(fleet_pb2.HelloResponse(node_id="n2", num_partitions=1)), reply_to=message)


def raise_it(_message: Message) -> Message:
    raise ValueError("no, thanks")


def send_something_else(message: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


@pytest.mark.parametrize("lie", [claim_one_partition, raise_it, send_something_else])
def test_one_nodes_hello_does_not_keep_the_others_out(lie: Callable[[Message], Message]) -> None:
    fleet, _, drops = open_fleet(FiveNodeGrid(lie), num_nodes=5)
    assert set(fleet.roster.flower_ids) - {"n2"} == {"n1", "n3", "n4", "n5"}
    if lie is not claim_one_partition:
        assert [(drop.node_id, drop.reason) for drop in drops] == [("flower-2", "refused")]
    if lie is raise_it:
        assert "it takes no part: ValueError: no, thanks" in drops[0].detail


class CountingGrid(LocalGrid):
    """Three nodes that say how many partitions there are, as Flower's simulation tells them."""

    def __init__(self, claims: tuple[int, int, int], *, bundles: Path | None = None) -> None:
        app = ClientApp()

        @app.query()
        def hello(message: Message, context: Context) -> Message:
            number = int(context.node_config["partition-id"])
            hello = fleet_pb2.HelloResponse(node_id=f"n{number}", num_partitions=claims[number])
            if bundles is not None:
                own = read_credentials(bundles / hello.node_id)
                nonce = unpack(message.content, fleet_pb2.HelloRequest).nonce
                hello.certificate, hello.proof = own.certificate, sign_hello(own, run_id="run", nonce=nonce)
            return Message(pack(hello), reply_to=message)

        super().__init__(app, num_nodes=3, run_config={})


@pytest.mark.parametrize("claims", [(3, 3, 3), (1, 3, 3), (1, 1, 1)])
def test_a_grid_that_is_smaller_than_the_federation_is_enough_where_all_say_so(
    claims: tuple[int, int, int], tmp_path: Path
) -> None:
    # A run has a guard also where nobody has certificates.
    guard = Guard(load_config(), tmp_path, "run")
    fleet, _, _ = open_fleet(CountingGrid(claims), num_nodes=5, guard=guard)
    assert sorted(fleet.roster.flower_ids) == ["n0", "n1", "n2"]


def test_the_word_of_one_node_makes_no_federation_smaller() -> None:
    with pytest.raises(RunError, match="expected 5 nodes, 3 introduced themselves"):
        open_fleet(CountingGrid((1, 0, 0)), num_nodes=5)


def test_enrolled_nodes_are_not_asked_how_many_there_are(tmp_path: Path) -> None:
    init_authority(tmp_path)
    for name in ("n0", "n1", "n2"):
        write_bundle(tmp_path / name, name, issue_node(tmp_path, name).files)
    guard = Guard(load_config(overrides=[f"exchange.certificates_dir={tmp_path}"]), tmp_path, "run")
    with pytest.raises(RunError, match="expected 5 nodes, 3 introduced themselves"):
        open_fleet(CountingGrid((3, 3, 3), bundles=tmp_path), num_nodes=5, guard=guard)


def test_who_refuses_keeps_no_place_from_those_who_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = make_grid({1: ("raises", ""), 2: ("raises", ""), 3: ("a", "x"), 4: ("b", "y")})
    monkeypatch.setattr(PatchyGrid, "on", frozenset({1, 2, 3, 4}))
    fleet, _, drops = open_fleet(grid, num_nodes=2)
    assert sorted(fleet.roster.flower_ids) == ["a", "b"]
    assert [drop.node_id for drop in drops] == ["flower-1", "flower-2"]


def test_where_all_refuse_the_run_ends_with_what_they_said() -> None:
    grid = make_grid({1: ("raises", ""), 2: ("raises", "")})
    with pytest.raises(RunError, match="no node takes part; the first refused: ValueError: no, thanks"):
        open_fleet(grid)


@pytest.mark.parametrize(("num_nodes", "expected"), [(3, ["a", "b", "c"]), (2, ["a", "b"])])
def test_who_comes_later_joins_where_a_place_is_left(
    num_nodes: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedstill.server.fleet.reception.LOOK_SECONDS", 0.0)
    grid = make_grid({1: ("a", "x"), 2: ("b", "y"), 3: ("c", "z")})
    fleet, _, _ = open_fleet(grid, num_nodes=num_nodes, min_nodes=2)
    grid.on = frozenset({1, 2, 3})
    fleet.look_for_newcomers(grid)
    fleet.await_answers(grid, wait_seconds=0.5, enough=lambda: not fleet.roster.mailbox.pending)
    assert sorted(fleet.roster.flower_ids) == expected


def test_a_pause_ends_when_a_node_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedstill.server.fleet.reception.LOOK_SECONDS", 0.0)
    grid = make_grid({1: ("a", "x"), 2: ("b", "y"), 3: ("a", "x")})
    fleet, _, _ = open_fleet(grid)
    grid.on, fleet.roster.departed = frozenset({2, 3}), {"a"}
    assert fleet.await_answers(grid, wait_seconds=5, enough=lambda: "a" not in fleet.roster.departed)
