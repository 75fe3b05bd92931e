"""Mutual TLS: who is let in, who is not and why, and new certificates while the service runs."""

import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509

from clients.labels import LabelCache, Transport, upload_array, upload_artefact
from common.certificates import read_certificate
from common.errors import AccessError, ExchangeError, UsageError
from server.authority import init_authority, issue_node, renew_node, renew_server, revoke_node
from server.enrolment import write_bundle
from server.labels import LabelService, LabelStore
from server.labels.access import ACCESS_FILE, open_round


class Federation:
    """A run folder with a label service over mutual TLS, and nodes with bundles."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = folder / "certificates"
        init_authority(self.authority)
        self.store = LabelStore(folder / "run" / "labels")
        self.digest = self.store.publish_samples(np.arange(100))
        self.refused = []
        self.service = LabelService(
            self.store,
            uploads_dir=folder / "run" / "nodes",
            run_id="run-1",
            certificates_dir=self.authority,
            access_file=folder / "run" / ACCESS_FILE,
            on_refuse=self.refused.append,
        )

    @property
    def address(self):
        return self.service.address

    def enrol(self, name, *, clock=None, authority=None):
        bundle = self.folder / "bundles" / name
        secrets = issue_node(authority or self.authority, name, **({"clock": clock} if clock else {}))
        write_bundle(bundle, name, secrets.files)
        return bundle

    def open_round(self, number, *members):
        return open_round(self.folder / "run", "run-1", number, members)

    def fetch(self, bundle, *, num_attempts=2):
        # Each node has a cache of its own, so that every fetch goes over the wire.
        cache = LabelCache(
            self.folder / "caches" / (bundle.name if bundle else "plain"),
            num_attempts=num_attempts,
            backoff_seconds=0.02,
            transport=Transport(bundle),
        )
        try:
            return cache.fetch_array(self.address, self.digest, timeout_seconds=10)
        finally:
            cache.close()

    def upload(self, bundle, nonce, *, node_id, round_number=1, run_id="run-1"):
        return upload_array(
            self.address,
            np.arange(8, dtype=np.float32),
            run_id=run_id,
            round_number=round_number,
            node_id=node_id,
            nonce=nonce,
            transport=Transport(bundle),
            num_attempts=2,
            backoff_seconds=0.02,
        )


@pytest.fixture
def federation(tmp_path):
    opened = Federation(tmp_path)
    with opened.service:
        yield opened


@pytest.fixture
def kitchen(federation):
    return federation.enrol("kitchen")


def ago(days):
    return lambda: datetime.now(UTC) - timedelta(days=days)


def test_a_member_fetches_and_uploads(federation, kitchen):
    nonce = federation.open_round(1, "kitchen")
    np.testing.assert_array_equal(federation.fetch(kitchen).array, np.arange(100))
    sent = federation.upload(kitchen, nonce, node_id="kitchen")
    assert (federation.folder / "run/uploads/round-00001/kitchen" / sent.digest.hex()).is_dir()


def test_an_enrolled_node_of_another_run_gets_nothing(federation, kitchen):
    federation.open_round(1, "attic")
    with pytest.raises(AccessError, match="kitchen does not belong to run run-1"):
        federation.fetch(kitchen)


def test_before_its_first_round_a_run_gives_nobody_anything(federation, kitchen):
    with pytest.raises(AccessError, match="this run, which has no nodes yet"):
        federation.fetch(kitchen)


def test_a_node_uploads_as_itself_only(federation, kitchen):
    nonce = federation.open_round(1, "kitchen", "attic")
    with pytest.raises(AccessError, match="the certificate is that of kitchen, the upload that of 'attic'"):
        federation.upload(kitchen, nonce, node_id="attic")
    assert not (federation.folder / "run/uploads/round-00001/attic").exists()
    assert [(event.node_id, event.reason) for event in federation.refused] == [("attic", "forbidden")]


def test_files_of_an_artefact_are_their_nodes_own(federation, kitchen, tmp_path):
    nonce = federation.open_round(1, "kitchen", "attic")
    (tmp_path / "model.onnx").write_bytes(b"model")
    sending = {"run_id": "run-1", "files": {"artefact/model.onnx": tmp_path / "model.onnx"}}
    options = {"nonce": nonce, "transport": Transport(kitchen), "num_attempts": 1}
    with pytest.raises(AccessError, match="the upload that of 'attic'"):
        upload_artefact(federation.address, node_id="attic", **sending, **options)
    upload_artefact(federation.address, node_id="kitchen", **sending, **options)
    assert (federation.folder / "run/nodes/kitchen/artefact/model.onnx").read_bytes() == b"model"
    assert not (federation.folder / "run/nodes/attic").exists()


def test_an_upload_of_a_closed_round_is_refused(federation, kitchen):
    nonce = federation.open_round(1, "kitchen")
    federation.open_round(2, "kitchen")
    with pytest.raises(AccessError, match="upload for round 1, but round 2 is open"):
        federation.upload(kitchen, nonce, node_id="kitchen")


def test_a_round_that_is_kept_open_takes_what_answers_its_own_task(federation, kitchen):
    old = federation.open_round(1, "kitchen")
    folder = federation.folder / "run"
    for number in (2, 3):
        open_round(folder, "run-1", number, ["kitchen"], keep_from=1)
    federation.upload(kitchen, old, node_id="kitchen")
    with pytest.raises(AccessError, match="answers no task of round 2"):
        federation.upload(kitchen, old, node_id="kitchen", round_number=2)
    open_round(folder, "run-1", 4, ["kitchen"], keep_from=2)
    with pytest.raises(AccessError, match="upload for round 1, but round 4 is open"):
        federation.upload(kitchen, old, node_id="kitchen")


def test_what_answered_another_rounds_task_is_refused(federation, kitchen):
    old = federation.open_round(1, "kitchen")
    federation.open_round(2, "kitchen")
    with pytest.raises(AccessError, match="answers no task of round 2: it comes late or is replayed"):
        federation.upload(kitchen, old, node_id="kitchen", round_number=2)
    # A round that is done again after a crash is another one too.
    again = federation.open_round(2, "kitchen")
    federation.upload(kitchen, again, node_id="kitchen", round_number=2)


def test_a_plaintext_run_refuses_replays_too(tmp_path):
    service = LabelService(
        LabelStore(tmp_path / "labels"), uploads_dir=tmp_path / "nodes", access_file=tmp_path / ACCESS_FILE
    )
    old, _ = (open_round(tmp_path, "run-1", number, ["kitchen"]) for number in (1, 2))
    sending = {"run_id": "run-1", "node_id": "kitchen", "nonce": old, "num_attempts": 1}
    with service, pytest.raises(AccessError, match="round 2 is open"):
        upload_array(service.address, np.arange(8), round_number=1, **sending)


@pytest.mark.parametrize(
    ("days", "cause"), [(400, r"'kitchen' expired on 20"), (-2, r"'kitchen' begins only on 20")]
)
def test_expired_and_future_certificates_are_refused_in_words(federation, days, cause):
    bundle = federation.enrol("kitchen", clock=ago(days))
    federation.open_round(1, "kitchen")
    with pytest.raises(AccessError, match=f"it refuses this node: the certificate of {cause}"):
        federation.fetch(bundle)


def test_a_foreign_certificate_is_refused_in_words(federation, kitchen, tmp_path):
    init_authority(tmp_path / "other")
    foreign = federation.enrol("attic", authority=tmp_path / "other")
    (foreign / "ca.crt").write_bytes((kitchen / "ca.crt").read_bytes())
    federation.open_round(1, "attic")
    with pytest.raises(AccessError, match="'attic' is foreign: not issued by 'FedStill authority"):
        federation.fetch(foreign)


def test_a_service_of_another_authority_is_not_trusted(federation, tmp_path):
    init_authority(tmp_path / "other")
    stranger = federation.enrol("attic", authority=tmp_path / "other")
    with pytest.raises(AccessError, match=r"its certificate is refused: .*issuer certificate"):
        federation.fetch(stranger)


def test_a_service_under_another_name_is_not_trusted(tmp_path, federation, kitchen):
    port = federation.address.rpartition(":")[2]
    cause = Transport(kitchen).diagnose(f"127.0.0.2:{port}")
    assert cause is None  # it listens elsewhere: not a matter of certificates
    with LabelService(
        federation.store, host="127.0.0.2", uploads_dir=tmp_path, certificates_dir=federation.authority
    ) as elsewhere:
        cache = LabelCache(tmp_path / "c", num_attempts=2, transport=Transport(kitchen))
        with pytest.raises(AccessError, match=r"certificate is refused: IP address mismatch"):
            cache.fetch_array(elsewhere.address, federation.digest)
        cache.close()


def test_a_node_without_a_certificate_is_told_so(federation):
    federation.open_round(1, "kitchen")
    with pytest.raises(AccessError, match="it wants TLS and this node has no certificate"):
        federation.fetch(None)


def test_a_node_with_a_bundle_never_speaks_plaintext(tmp_path, federation, kitchen):
    with LabelService(federation.store, uploads_dir=tmp_path) as plain:
        cache = LabelCache(tmp_path / "c", num_attempts=2, transport=Transport(kitchen))
        with pytest.raises(AccessError, match="it speaks no TLS, this node nothing else"):
            cache.fetch_array(plain.address, federation.digest)
        cache.close()


def test_a_service_that_is_gone_is_no_matter_of_certificates(federation, kitchen):
    federation.service.stop()
    with pytest.raises(ExchangeError, match="check that it runs") as caught:
        federation.fetch(kitchen)
    assert not isinstance(caught.value, AccessError)


def test_a_revoked_node_is_refused_from_its_next_call_on(federation, kitchen, caplog):
    federation.open_round(1, "kitchen")
    channel = Transport(kitchen).open(federation.address)
    call = channel.unary_unary("/fedstill.v1.LabelService/GetUpload")
    with pytest.raises(grpc.RpcError) as before:
        call(b"")
    assert "was revoked" not in before.value.details()
    revoke_node(federation.authority, "kitchen")
    with pytest.raises(grpc.RpcError) as after, channel:
        call(b"")
    assert after.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "the certificate of 'kitchen' was revoked on" in after.value.details()
    with pytest.raises(AccessError, match="was revoked on"):
        federation.fetch(kitchen)
    assert re.search(r"refused: the certificate of 'kitchen' was revoked on 20", caplog.text)


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


def test_plaintext_to_other_machines_has_to_be_asked_for(tmp_path, caplog):
    store = LabelStore(tmp_path / "labels")
    with pytest.raises(UsageError, match=r"in plaintext: set exchange\.certificates_dir"):
        LabelService(store, host="0.0.0.0", uploads_dir=tmp_path).start()
    with (
        caplog.at_level(logging.WARNING),
        LabelService(store, host="0.0.0.0", uploads_dir=tmp_path, allow_insecure=True),
    ):
        pass
    assert "anyone on the way can read and alter" in caplog.text


def test_a_node_does_not_send_in_plaintext_to_other_machines_unasked():
    with pytest.raises(AccessError, match="is on another machine and this node has no certificate"):
        Transport().open("192.0.2.1:9500")
    Transport(allow_insecure=True).open("192.0.2.1:9500").close()


def call_with(address, bundle):
    with Transport(bundle).open(address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/fedstill.v1.LabelService/GetUpload")(b"", timeout=10)


def test_the_services_log_says_why_a_handshake_failed(federation, kitchen, tmp_path):
    init_authority(tmp_path / "other")
    foreign = federation.enrol("foreign", authority=tmp_path / "other")
    (foreign / "ca.crt").write_bytes((kitchen / "ca.crt").read_bytes())
    refused = [federation.enrol("old", clock=ago(400)), federation.enrol("new", clock=ago(-2)), foreign]
    command = [str(Path(sys.executable).with_name("fedstill")), "labels", "serve", str(federation.store.root)]
    process = subprocess.Popen(
        [*command, "--certificates", str(federation.authority)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Flower sets it in the process that imports it; from there it would be inherited.
        env={key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"},
        text=True,
    )
    try:
        address = process.stdout.readline().split()[-1]
        for bundle in refused:
            call_with(address, bundle)
        nameless = grpc.ssl_channel_credentials((kitchen / "ca.crt").read_bytes())
        with grpc.secure_channel(address, nameless) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/fedstill.v1.LabelService/GetUpload")(b"", timeout=10)
    finally:
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert "CERTIFICATE_VERIFY_FAILED: certificate has expired" in log
    assert "CERTIFICATE_VERIFY_FAILED: certificate is not yet valid" in log
    assert "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate" in log
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in log


_SERVE_WITHOUT_STDERR = """
import sys
from pathlib import Path
from common.config import load_config
from server.app import serve_run
folder, certificates = Path(sys.argv[1]), sys.argv[2]
settings = [f"exchange.certificates_dir={certificates}", "monitoring.enabled=true"]
with serve_run(load_config(overrides=settings), folder, "run-1", print) as (address, _):
    print(address, flush=True)
    sys.stdin.read()
"""


def test_a_run_keeps_the_causes_that_flower_would_throw_away(federation):
    old = federation.enrol("old", clock=ago(400))
    run_dir = federation.folder / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE_WITHOUT_STDERR, str(run_dir), str(federation.authority)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"GRPC_VERBOSITY": "INFO"},
        text=True,
    )
    call_with(process.stdout.readline().strip(), old)
    process.communicate(timeout=60)
    assert "CERTIFICATE_VERIFY_FAILED: certificate has expired" in (run_dir / "stderr.log").read_text()
    exported = (run_dir / "metrics.txt").read_text()
    assert 'fedstill_certificate_expiry_timestamp_seconds{certificate="server.crt"}' in exported
