"""Bundles: complete, for one node, and for its owner's eyes."""

import stat
import tarfile

import pytest

from fedstill.clients.bundle import read_bundle
from fedstill.common.errors import UsageError
from fedstill.server.pki.authority import init_authority, read_fleet
from fedstill.server.pki.enrolment import add_node


@pytest.fixture
def authority(tmp_path):
    init_authority(tmp_path / "ca", hosts=["coordinator.example"])
    return tmp_path / "ca"


def test_a_bundle_is_all_that_a_node_needs(authority, tmp_path):
    add_node(authority, "kitchen", tmp_path / "kitchen", data="own.npz")
    bundle = read_bundle(tmp_path / "kitchen")
    assert bundle.node_id == "kitchen"
    assert bundle.superlink == "coordinator.example:8000"
    assert bundle.data == tmp_path / "kitchen" / "own.npz"


def test_an_absolute_path_of_data_stays(authority, tmp_path):
    add_node(authority, "kitchen", tmp_path / "kitchen", data="/data/own.npz", superlink="other:1")
    bundle = read_bundle(tmp_path / "kitchen")
    assert str(bundle.data) == "/data/own.npz"
    assert bundle.superlink == "other:1"


def test_only_its_owner_reads_a_bundle(authority, tmp_path):
    add_node(authority, "kitchen", tmp_path / "kitchen")
    assert stat.S_IMODE((tmp_path / "kitchen").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "kitchen").iterdir()} == {0o600}


def test_an_archive_unpacks_to_the_same_bundle(authority, tmp_path):
    path = tmp_path / "out" / "kitchen.tar.gz"
    add_node(authority, "kitchen", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        assert {item.mode for item in archive if item.isfile()} == {0o600}
        archive.extractall(tmp_path, filter="data")
    assert read_bundle(tmp_path / "kitchen").node_id == "kitchen"


def test_a_bundle_holds_no_other_nodes_secrets(authority, tmp_path):
    keys = {}
    for name in ("kitchen", "attic"):
        add_node(authority, name, tmp_path / name)
        keys[name] = (tmp_path / name / "node.key").read_bytes()
    secrets = [
        keys["attic"],
        (authority / "authority/ca.key").read_bytes(),
        (authority / "server.key").read_bytes(),
    ]
    contents = [path.read_bytes() for path in (tmp_path / "kitchen").iterdir()]
    assert keys["kitchen"] in contents
    assert not any(secret in content for secret in secrets for content in contents)


def test_what_is_there_is_not_overwritten_and_nobody_enrolled(authority, tmp_path):
    (tmp_path / "kitchen").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        add_node(authority, "kitchen", tmp_path / "kitchen")
    assert read_fleet(authority) == {}


def test_a_forced_bundle_leaves_the_data_beside_it(authority, tmp_path):
    (tmp_path / "kitchen").mkdir()
    (tmp_path / "kitchen" / "own.npz").write_bytes(b"data")
    add_node(authority, "kitchen", tmp_path / "kitchen", force=True)
    assert (tmp_path / "kitchen" / "own.npz").read_bytes() == b"data"
    assert read_bundle(tmp_path / "kitchen").node_id == "kitchen"


def test_an_address_without_a_port_is_refused(authority, tmp_path):
    with pytest.raises(UsageError, match="expected host:port, got 'coordinator'"):
        add_node(authority, "kitchen", tmp_path / "kitchen", superlink="coordinator")
