"""The authority: what it issues, renews, revokes, and what it refuses to overwrite."""

import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from fedstill.common.certificates import find_fault, name_of, read_certificate, read_revoked
from fedstill.common.errors import UsageError
from fedstill.server.pki.authority import (
    init_authority,
    issue_node,
    read_fleet,
    renew_node,
    renew_server,
    revoke_node,
)

NOW = datetime(2030, 6, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    init_authority(tmp_path / "authority", hosts=["coordinator.example", "10.0.0.5"], clock=lambda: NOW)
    return tmp_path / "authority"


def ca(folder):
    return read_certificate(folder / "ca.crt")


def leaf(secrets):
    return x509.load_pem_x509_certificate(secrets.files["node.crt"])


def test_keys_are_their_owners_alone(folder):
    for name in ("authority/ca.key", "server.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "authority").stat().st_mode) == 0o700


def test_the_coordinators_certificate_names_its_hosts_and_this_machine(folder):
    names = read_certificate(folder / "server.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["coordinator.example", "localhost"]
    addresses = [str(item) for item in names.value.get_values_for_type(x509.IPAddress)]
    assert addresses == ["10.0.0.5", "127.0.0.1", "::1"]


def test_openssl_accepts_what_the_authority_signs(folder, require_program, tmp_path):
    (tmp_path / "node.crt").write_bytes(issue_node(folder, "kitchen", clock=lambda: NOW).files["node.crt"])
    at = str(int(NOW.timestamp()))
    for path, purpose in ((folder / "server.crt", "sslserver"), (tmp_path / "node.crt", "sslclient")):
        command = [require_program("openssl"), "verify", "-x509_strict", "-attime", at, "-purpose", purpose]
        done = subprocess.run(
            [*command, "-CAfile", str(folder / "ca.crt"), str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_node_cannot_pose_as_the_coordinator(folder, require_program, tmp_path):
    (tmp_path / "node.crt").write_bytes(issue_node(folder, "kitchen").files["node.crt"])
    command = [require_program("openssl"), "verify", "-purpose", "sslserver", "-CAfile"]
    done = subprocess.run(
        [*command, str(folder / "ca.crt"), str(tmp_path / "node.crt")], capture_output=True, text=True
    )
    assert done.returncode != 0


def test_an_authority_is_not_overwritten_without_being_told(folder):
    before = (folder / "ca.crt").read_bytes()
    with pytest.raises(UsageError, match="holds an authority already; --force replaces it"):
        init_authority(folder)
    assert (folder / "ca.crt").read_bytes() == before


def test_what_a_replaced_authority_issued_is_foreign(folder):
    issued = leaf(issue_node(folder, "kitchen", clock=lambda: NOW))
    init_authority(folder, force=True, clock=lambda: NOW)
    assert "'kitchen' is foreign" in find_fault(issued, ca(folder), now=NOW)


def test_a_nodes_certificate_carries_its_name_and_lasts_a_year(folder):
    issued = leaf(issue_node(folder, "kitchen_2.west", clock=lambda: NOW))
    assert name_of(issued) == "kitchen_2.west"
    assert issued.not_valid_after_utc == NOW + timedelta(days=365)
    assert find_fault(issued, ca(folder), now=NOW) is None


def test_the_authority_keeps_no_key_of_a_node(folder):
    key = issue_node(folder, "kitchen").files["node.key"]
    assert not any(key in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_flowers_key_is_the_certificates_own(folder):
    secrets = issue_node(folder, "kitchen")
    done = subprocess.run(
        [sys.executable, "-c", _PUBLIC], input=secrets.files["flower.key"], capture_output=True, check=True
    )
    assert done.stdout.decode() == read_fleet(folder)["kitchen"].public_key


_PUBLIC = """
import sys
from cryptography.hazmat.primitives import serialization as s
key = s.load_ssh_private_key(sys.stdin.buffer.read(), None).public_key()
sys.stdout.write(key.public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH).decode())
"""


def test_an_enrolled_name_is_not_given_twice(folder):
    issue_node(folder, "kitchen")
    with pytest.raises(UsageError, match="kitchen is enrolled already"):
        issue_node(folder, "kitchen")


@pytest.mark.parametrize("name", ["", "../up", "a" * 65, "two words", "server"])
def test_names_that_are_none_are_refused(folder, name):
    with pytest.raises(UsageError, match="expected a node name"):
        issue_node(folder, name)


@pytest.mark.parametrize("host", ["bad host", "-x", "http://x", ""])
def test_hosts_that_are_none_are_refused(tmp_path, host):
    with pytest.raises(UsageError, match="expected a host name or an address"):
        init_authority(tmp_path, hosts=[host])


def test_renewing_keeps_key_and_hosts_of_the_coordinator(folder):
    old = read_certificate(folder / "server.crt")
    key = (folder / "server.key").read_bytes()
    later = NOW + timedelta(days=300)
    assert renew_server(folder, clock=lambda: later) == later + timedelta(days=365)
    new = read_certificate(folder / "server.crt")
    assert (folder / "server.key").read_bytes() == key
    assert new.public_key() == old.public_key()
    assert new.serial_number != old.serial_number
    kind = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(kind)


def test_nothing_outlives_the_authority(folder):
    at = NOW + timedelta(days=3600)
    assert renew_server(folder, days=365, clock=lambda: at) == ca(folder).not_valid_after_utc


def test_a_renewed_certificate_fits_the_nodes_old_key(folder):
    secrets = issue_node(folder, "kitchen", clock=lambda: NOW)
    content, node = renew_node(folder, "kitchen", clock=lambda: NOW + timedelta(days=300))
    assert x509.load_pem_x509_certificate(content).public_key() == leaf(secrets).public_key()
    assert len(node.serials) == 2


def test_revoking_takes_all_certificates_of_a_node_and_no_others(folder):
    first = leaf(issue_node(folder, "kitchen", clock=lambda: NOW))
    content, _ = renew_node(folder, "kitchen", clock=lambda: NOW)
    other = leaf(issue_node(folder, "attic", clock=lambda: NOW))
    revoke_node(folder, "kitchen", clock=lambda: NOW)
    revoked = read_revoked(folder / "revoked.crl", ca(folder))
    for certificate in (first, x509.load_pem_x509_certificate(content)):
        fault = find_fault(certificate, ca(folder), now=NOW, revoked=revoked)
        assert fault == "the certificate of 'kitchen' was revoked on 2030-06-01 00:00 UTC"
    assert find_fault(other, ca(folder), now=NOW, revoked=revoked) is None
    assert list(read_fleet(folder)) == ["attic"]


def test_the_list_of_revoked_ones_grows(folder):
    for name in ("a", "b"):
        issue_node(folder, name)
        revoke_node(folder, name)
    assert len(read_revoked(folder / "revoked.crl", ca(folder))) == 2


def test_a_foreign_list_of_revoked_ones_is_refused(folder, tmp_path):
    init_authority(tmp_path / "other")
    with pytest.raises(UsageError, match="is not signed by the authority"):
        read_revoked(tmp_path / "other" / "revoked.crl", ca(folder))


def test_a_missing_key_of_the_authority_is_said(folder):
    (folder / "authority" / "ca.key").unlink()
    with pytest.raises(UsageError, match="the authority's key; bring it back"):
        issue_node(folder, "kitchen")


def test_a_folder_without_an_authority_is_said(tmp_path):
    with pytest.raises(UsageError, match="holds no authority; make one: fedstill certs init"):
        issue_node(tmp_path, "kitchen")
    with pytest.raises(UsageError, match="holds no authority"):
        read_fleet(tmp_path)


def test_a_damaged_fleet_is_said(folder):
    (folder / "fleet.json").write_text(json.dumps([{"name": "x"}]))
    with pytest.raises(UsageError, match="is damaged"):
        read_fleet(folder)


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("fedstill")), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_commands_from_nothing_to_a_removed_device(tmp_path):
    assert run("certs", "init", "--host", "coordinator.example", cwd=tmp_path).returncode == 0
    assert run("fleet", "add", "kitchen", "--output", "kitchen", cwd=tmp_path).returncode == 0
    listed = run("fleet", "list", cwd=tmp_path).stdout
    assert "kitchen" in listed
    assert "364" in listed
    renewed = run("certs", "renew", "kitchen", cwd=tmp_path)
    assert "put it over node.crt in the bundle of kitchen" in renewed.stdout
    assert "2 revoked" in run("fleet", "remove", "kitchen", cwd=tmp_path).stdout
    assert "kitchen" not in run("fleet", "list", cwd=tmp_path).stdout
    twice = run("certs", "init", cwd=tmp_path)
    assert twice.returncode == 2
    assert twice.stderr.count("\n") == 1
