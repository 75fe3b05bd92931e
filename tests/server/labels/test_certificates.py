"""Certificates of a service: renewed, damaged and replaced while it runs, and unfit to start with."""

import logging
import socket
import ssl
import threading

import pytest
from cryptography import x509

from fedstill.clients.labels import LabelCache, Transport
from fedstill.common.certificates import read_certificate
from fedstill.common.errors import AccessError, ExchangeError, UsageError
from fedstill.server.labels import LabelService
from fedstill.server.pki.authority import init_authority, renew_node, renew_server
from tests.server.labels.federation import ago


def served_serial(address):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain) as tls:
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).serial_number


def test_a_renewed_certificate_is_served_while_calls_go_on(federation, kitchen):
    federation.open_round(1, "kitchen")
    problems, done = [], threading.Event()

    def fetch_on():
        while not done.is_set():
            try:
                cache = LabelCache(
                    federation.folder / "caches" / f"{len(problems)}", transport=Transport(kitchen)
                )
                cache.fetch_array(federation.address, federation.digest)
                cache.close()
            except ExchangeError as error:
                problems.append(error)
                return

    thread = threading.Thread(target=fetch_on)
    thread.start()
    before = served_serial(federation.address)
    renew_server(federation.authority)
    after = served_serial(federation.address)
    done.set()
    thread.join()
    assert after == read_certificate(federation.authority / "server.crt").serial_number != before
    assert problems == []


def test_a_nodes_renewed_certificate_is_taken(federation, kitchen):
    federation.open_round(1, "kitchen")
    content, _ = renew_node(federation.authority, "kitchen")
    (kitchen / "node.crt").write_bytes(content)
    assert federation.fetch(kitchen).wire_bytes > 0


def test_damaged_files_leave_the_sound_ones_in_use(federation, kitchen, caplog):
    federation.open_round(1, "kitchen")
    (federation.authority / "server.crt").write_text("half a certif")
    with caplog.at_level(logging.WARNING):
        assert federation.fetch(kitchen).wire_bytes > 0
    assert "the certificates from before stay in use" in caplog.text


def test_a_replaced_authority_shuts_its_nodes_out(federation, kitchen):
    federation.open_round(1, "kitchen")
    init_authority(federation.authority, force=True)
    with pytest.raises(AccessError, match="its certificate is refused"):
        federation.fetch(kitchen)


def test_certificates_that_cannot_serve_are_said_at_the_start(tmp_path, federation):
    init_authority(tmp_path / "old", clock=ago(400))
    (tmp_path / "empty").mkdir()
    for folder, words in (("old", "expired on .* fedstill certs renew"), ("empty", "cannot read the certif")):
        service = LabelService(federation.store, uploads_dir=tmp_path, certificates_dir=tmp_path / folder)
        with pytest.raises(UsageError, match=words):
            service.start()


def test_a_key_of_another_certificate_is_said(tmp_path, federation):
    init_authority(tmp_path / "other")
    (federation.authority / "server.key").write_bytes((tmp_path / "other" / "server.key").read_bytes())
    service = LabelService(federation.store, uploads_dir=tmp_path, certificates_dir=federation.authority)
    with pytest.raises(UsageError, match=r"is not the key of server\.crt"):
        service.start()
