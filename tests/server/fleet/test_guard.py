"""Nodes are who their certificates say: strangers, thieves and impostors do not get into a run."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedstill.common.certificates import read_credentials, sign_hello
from fedstill.common.config import flatten, load_config
from fedstill.common.errors import RunError
from fedstill.common.wire import pack, unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.fleet import Fleet
from fedstill.server.fleet.guard import Guard
from fedstill.server.grids import LocalGrid
from fedstill.server.labels.access import ACCESS_FILE, read_access
from fedstill.server.pki.authority import init_authority, issue_node, revoke_node
from fedstill.server.pki.enrolment import write_bundle


@pytest.fixture
def authority(tmp_path):
    init_authority(tmp_path / "certificates")
    return tmp_path / "certificates"


def enrol(folder, name, **clock):
    bundle = folder.parent / name
    write_bundle(bundle, name, issue_node(folder, name, **clock).files)
    return read_credentials(bundle)


def introduce(authority, answer, *, num_nodes=1):
    """Lets one node answer as told; returns the names that came in and why others did not."""
    app = ClientApp()

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        request = unpack(message.content, fleet_pb2.HelloRequest)
        return Message(pack(answer(request)), reply_to=message)

    config = load_config(
        overrides=[f"federation.num_nodes={num_nodes}", f"exchange.certificates_dir={authority}"]
    )
    dropped = []
    fleet = Fleet(run_id="run-1", on_drop=dropped.append)
    fleet.roster.guard = Guard(config, authority.parent, "run-1")
    with (
        LocalGrid(app, num_nodes=num_nodes, run_config=flatten(config)) as grid,
        contextlib.suppress(RunError),  # too few came in
    ):
        fleet.introduce(
            grid,
            num_nodes=num_nodes,
            wait_seconds=1,
            expected=fleet_pb2.InputSpec(),
            on_hello=lambda hello, is_back: None,
        )
    return sorted(fleet.roster.flower_ids), [(drop.reason, drop.detail) for drop in dropped]


def proven(own, name="kitchen", **changed):
    def answer(request):
        asked = {"run_id": request.run_id, "nonce": request.nonce} | changed
        return fleet_pb2.HelloResponse(
            node_id=name, certificate=own.certificate, proof=sign_hello(own, **asked)
        )

    return answer


def test_a_node_that_proves_its_name_comes_in(authority):
    assert introduce(authority, proven(enrol(authority, "kitchen"))) == (["kitchen"], [])


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"name": "attic"}, "the certificate is that of 'kitchen', the node calls itself 'attic'"),
        ({"nonce": b"an old question!"}, "replayed or stolen"),
        ({"run_id": "run-0"}, "replayed or stolen"),
    ],
)
def test_other_names_and_old_answers_stay_out(authority, changed, cause):
    names, [(reason, detail)] = introduce(authority, proven(enrol(authority, "kitchen"), **changed))
    assert names == []
    assert reason == "refused"
    assert cause in detail


def test_a_name_without_a_certificate_stays_out(authority):
    names, [(_, detail)] = introduce(authority, lambda request: fleet_pb2.HelloResponse(node_id="kitchen"))
    assert names == []
    assert "showed no certificate" in detail


def test_a_revoked_node_stays_out(authority):
    own = enrol(authority, "kitchen")
    revoke_node(authority, "kitchen")
    names, [(_, detail)] = introduce(authority, proven(own))
    assert names == []
    assert "was revoked on" in detail


@pytest.mark.parametrize(("days", "cause"), [(400, "expired on 20"), (-2, "begins only on 20")])
def test_a_certificate_that_ran_out_or_is_of_the_future_stays_out(authority, days, cause):
    own = enrol(authority, "kitchen", clock=lambda: datetime.now(UTC) - timedelta(days=days))
    names, [(_, detail)] = introduce(authority, proven(own))
    assert names == []
    assert f"the certificate of 'kitchen' {cause}" in detail


def test_a_foreign_certificate_stays_out(authority, tmp_path):
    init_authority(tmp_path / "other" / "certificates")
    names, [(_, detail)] = introduce(authority, proven(enrol(tmp_path / "other" / "certificates", "kitchen")))
    assert names == []
    assert "'kitchen' is foreign: not issued by 'FedStill authority" in detail


def test_no_question_is_asked_twice(authority):
    nonces = []

    def answer(request):
        nonces.append(request.nonce)
        return fleet_pb2.HelloResponse(node_id="kitchen")

    introduce(authority, answer, num_nodes=3)
    assert len(set(nonces)) == 3
    assert {len(nonce) for nonce in nonces} == {16}


def test_an_open_round_stands_in_the_run_folder_for_its_owner_alone(tmp_path):
    guard = Guard(load_config(), tmp_path, "run-1")
    first, second = (guard.open_round(number, ["b", "a"], keep_from=number) for number in (1, 2))
    access = read_access(tmp_path / ACCESS_FILE)
    assert (access.run_id, access.round, access.nonce) == ("run-1", 2, second)
    assert access.members == {"a", "b"}
    assert first != second
    assert (tmp_path / ACCESS_FILE).stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / ACCESS_FILE).read_text())["members"] == ["a", "b"]
