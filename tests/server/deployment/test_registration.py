"""A SuperLink's list of SuperNodes follows the enrolled fleet; here against a real SuperLink."""

import json

import pytest
from flwr.proto import control_pb2

from fedstill.server.deployment.flower_control import Control
from fedstill.server.deployment.registration import REGISTERED
from fedstill.server.deployment.site import copy_certificates
from fedstill.server.deployment.supervision import _open_registry
from fedstill.server.pki.authority import init_authority, issue_node, revoke_node
from tests.superlinks import make_site, running_superlink

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path):
    init_authority(tmp_path / "certificates")
    opened = make_site(tmp_path / "home", tmp_path / "certificates")
    with running_superlink(opened):
        yield opened


def list_supernodes(site):
    with Control(site)._open() as client:
        return [node.status for node in client.ListNodes(control_pb2.ListNodesRequest()).nodes_info]


def test_who_is_enrolled_is_registered_and_who_is_removed_is_not(site):
    said = []
    registry = _open_registry(site, Control(site), said.append)
    for name in ("kitchen", "attic"):
        issue_node(site.certificates, name)
    copy_certificates(site)
    registry.sync()
    registry.sync()
    assert sorted(said) == ["attic may come", "kitchen may come"]
    revoke_node(site.certificates, "attic")
    copy_certificates(site)
    registry.sync()
    assert sorted(list_supernodes(site)) == ["registered", "unregistered"]
    assert len(json.loads((site.home / REGISTERED).read_bytes())) == 1
    # A record that was lost is no reason to stop: the key is known to the SuperLink.
    (site.home / REGISTERED).unlink()
    again = _open_registry(site, Control(site), said.append)
    again.sync()
    assert len(said) == 3
