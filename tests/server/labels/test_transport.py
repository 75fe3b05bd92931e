"""Mutual TLS: who is let in, and who is not and why."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from fedstill.clients.labels import LabelCache, Transport
from fedstill.common.errors import AccessError, ExchangeError, UsageError
from fedstill.server.labels import LabelService, LabelStore
from fedstill.server.pki.authority import init_authority, revoke_node
from tests.server.labels.federation import ago


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
from fedstill.common.config import load_config
from fedstill.server.federation.serving import serve_run
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
