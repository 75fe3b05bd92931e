"""Devices before a real SuperLink: whoever cannot come in is told why, and so is the coordinator."""

import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from fedstill.clients.superlink import find_fault
from fedstill.server.deployment.flower_control import Control
from fedstill.server.deployment.site import copy_certificates
from fedstill.server.deployment.supervision import _open_registry
from fedstill.server.pki.authority import init_authority, issue_node, open_authority, revoke_node
from fedstill.server.pki.enrolment import add_node, write_bundle
from fedstill.server.pki.signing import sign_revoked
from tests.superlinks import make_site, running_superlink

PROGRAM = str(Path(sys.executable).with_name("fedstill-node"))


def ago(days):
    return lambda: datetime.now(UTC) - timedelta(days=days)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A SuperLink with two enrolled devices, kitchen and attic, of which attic was removed."""
    folder = tmp_path_factory.mktemp("site")
    init_authority(folder / "certificates")
    opened = make_site(folder / "home", folder / "certificates")
    np.savez(folder / "own.npz", x=np.zeros((40, 8, 8), np.uint8), y=np.arange(40) % 4)
    for name in ("kitchen", "attic"):
        add_node(folder / "certificates", name, folder / name, superlink=opened.address, data="../own.npz")
    with running_superlink(opened):
        registry = _open_registry(opened, Control(opened), lambda line: None)
        copy_certificates(opened)
        registry.sync()
        revoke_node(folder / "certificates", "attic")
        copy_certificates(opened)
        registry.sync()
        yield opened


@pytest.fixture
def kitchen(site):
    return site.certificates.parent / "kitchen"


def fault_of(site, bundle, name="kitchen"):
    return find_fault(site.address, node_id=name, certificates=bundle)


def run_doctor(bundle):
    command = [PROGRAM, "doctor", "--bundle", str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_stands_in_the_way_of_an_enrolled_device(site, kitchen):
    assert fault_of(site, kitchen) is None
    done = run_doctor(kitchen)
    assert done.returncode == 0
    certificate, coordinator, data = done.stdout.splitlines()
    assert certificate == "ok    certificate  that of 'kitchen', lasts 364 days"
    assert coordinator == f"ok    coordinator  SuperLink {site.address} is there, its certificate is trusted"
    assert data.endswith("40 samples")


@pytest.mark.parametrize(
    ("days", "cause"), [(400, "'kitchen' expired on 20"), (-2, "'kitchen' begins only on 20")]
)
def test_a_certificate_that_ran_out_or_is_of_the_future_is_said(site, tmp_path, days, cause):
    files = issue_node_as_kitchen(site, tmp_path / "ca", clock=ago(days)).files
    settings = f'node_id = "kitchen"\nsuperlink = "{site.address}"\ndata = "x"\n'.encode()
    write_bundle(tmp_path / "kitchen", "kitchen", files | {"node.toml": settings})
    assert cause in fault_of(site, tmp_path / "kitchen")
    for words in (["run", "--bundle"], ["doctor", "--bundle"]):
        done = subprocess.run(
            [PROGRAM, *words, str(tmp_path / "kitchen")], capture_output=True, text=True, check=False
        )
        assert done.returncode == (2 if words[0] == "run" else 1)
        assert cause in done.stdout + done.stderr


def issue_node_as_kitchen(site, folder, **clock):
    """Issues another certificate of the same authority, from a copy of it that has no kitchen yet."""
    shutil.copytree(site.certificates, folder)
    revoke_node(folder, "kitchen")
    return issue_node(folder, "kitchen", **clock)


@pytest.mark.parametrize(
    ("days", "found"), [(-40, "begins only on 20"), (40, "that of 'kitchen', lasts 324 days")]
)
def test_a_clock_that_is_40_days_off_is_named_where_it_matters(kitchen, require_program, days, found):
    command = [require_program("faketime"), "-f", f"{days:+}d", PROGRAM, "doctor", "--bundle", str(kitchen)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found in done.stdout
    assert ("compare the clocks" in done.stdout) == (days < 0)


def test_a_device_of_another_authority_trusts_no_superlink_of_this_one(site, tmp_path):
    init_authority(tmp_path / "other")
    add_node(tmp_path / "other", "kitchen", tmp_path / "kitchen", superlink=site.address)
    assert f"SuperLink {site.address}: its certificate is refused" in fault_of(site, tmp_path / "kitchen")
    assert "(not of this node's authority)" in fault_of(site, tmp_path / "kitchen")
    done = run_doctor(tmp_path / "kitchen")
    assert done.returncode == 1
    assert "FAIL  coordinator" in done.stdout


def test_a_foreign_certificate_beside_the_right_authority_is_said(site, kitchen, tmp_path):
    init_authority(tmp_path / "other")
    add_node(tmp_path / "other", "kitchen", tmp_path / "kitchen", superlink=site.address)
    shutil.copy(kitchen / "ca.crt", tmp_path / "kitchen" / "ca.crt")
    assert "'kitchen' is foreign: not issued by 'FedStill authority" in fault_of(site, tmp_path / "kitchen")


def test_a_device_without_a_certificate_is_said(site):
    assert "it wants TLS and this node has no certificate" in fault_of(site, None)


def test_a_superlink_that_is_not_there_is_said(kitchen):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    fault = find_fault(address, node_id="kitchen", certificates=kitchen)
    assert fault == f"SuperLink {address} is not reached (Connection refused): check that it runs"


@contextmanager
def serving(authority):
    """A TLS server that a SuperLink with this authority's certificate would be."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "server.crt", authority / "server.key")
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            try:
                with closing(near), context.wrap_socket(near, server_side=True) as tls:
                    tls.recv(1)
            except OSError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize(("days", "cause"), [(400, "has expired"), (-2, "is not yet valid")])
def test_a_superlink_whose_certificate_ran_out_or_is_of_the_future_is_said(tmp_path, days, cause):
    # The authority is older than what it signs: only the coordinator's certificate is at fault.
    init_authority(tmp_path / "ca", days=1, clock=ago(days))
    add_node(tmp_path / "ca", "kitchen", tmp_path / "kitchen")
    with serving(tmp_path / "ca") as address:
        fault = find_fault(address, node_id="kitchen", certificates=tmp_path / "kitchen")
    assert fault == f"SuperLink {address}: its certificate is refused: certificate {cause}"


def run_attic(site, home, *, until):
    """Runs the removed device until its log says something, and returns the log."""
    log = home.with_suffix(".log")
    with log.open("wb") as file:
        attic = site.certificates.parent / "attic"
        command = [PROGRAM, "run", "--bundle", str(attic), "--home", str(home)]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        end = datetime.now(UTC) + timedelta(seconds=60)
        while until not in log.read_text() and datetime.now(UTC) < end:
            threading.Event().wait(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    return log.read_text()


def test_a_revoked_device_is_told_so(site, tmp_path):
    told = "it closes the connection on seeing the certificate of 'attic': revoked, not of its authority"
    assert told in fault_of(site, site.certificates.parent / "attic", "attic")
    assert told in run_attic(site, tmp_path / "home", until="no way to the coordinator")


def test_a_device_that_flower_does_not_know_is_told_so_and_the_coordinators_log_too(site, tmp_path):
    nobody = sign_revoked(open_authority(site.certificates), {}, now=datetime.now(UTC))
    (site.tls / "revoked.crl").write_bytes(nobody)  # as where only Flower's list was kept up
    try:
        said = run_attic(site, tmp_path / "home", until="starting again")
    finally:
        copy_certificates(site)
    assert "if it refused 'attic', that was revoked or never enrolled" in said
    assert "No SuperNode found with the given public key" in (site.home / "logs/superlink.log").read_text()
