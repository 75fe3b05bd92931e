"""Faults of certificates in words, and proofs that a key is held."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from fedstill.common.certificates import (
    Credentials,
    find_fault,
    is_loopback,
    read_certificate,
    read_credentials,
    sign_hello,
    verify_hello,
)
from fedstill.common.errors import AccessError, UsageError
from fedstill.server.pki.authority import init_authority, issue_node

NOW = datetime(2030, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    init_authority(folder, clock=lambda: NOW)
    return folder


@pytest.fixture(scope="module")
def kitchen(folder):
    return credentials(issue_node(folder, "kitchen", clock=lambda: NOW))


def credentials(secrets):
    return Credentials(*(secrets.files[name] for name in ("ca.crt", "node.crt", "node.key")))


@pytest.mark.parametrize(
    ("now", "fault"),
    [
        (NOW, None),
        (NOW + timedelta(days=366), "the certificate of 'kitchen' expired on 2031-06-01 00:00 UTC"),
        (
            NOW - timedelta(days=1),
            "the certificate of 'kitchen' begins only on 2030-05-31 23:55 UTC; compare the clocks",
        ),
    ],
)
def test_a_certificate_is_good_in_its_time(kitchen, now, fault):
    assert find_fault(kitchen.leaf, kitchen.authority, now=now) == fault


def test_a_foreign_certificate_is_told_from_its_own(kitchen, tmp_path):
    init_authority(tmp_path, clock=lambda: NOW)
    foreign = read_certificate(tmp_path / "ca.crt")
    assert "'kitchen' is foreign: not issued by 'FedStill authority" in find_fault(
        kitchen.leaf, foreign, now=NOW
    )


def prove(node, *, revoked=None, **asked):
    signature = sign_hello(node, run_id="run-1", nonce=b"n" * 16)
    question = {"run_id": "run-1", "nonce": b"n" * 16, "now": NOW} | asked
    return verify_hello(
        node.certificate, signature, authority=node.authority, revoked=revoked or {}, **question
    )


def test_a_node_proves_its_name(kitchen):
    assert prove(kitchen) == "kitchen"


@pytest.mark.parametrize("asked", [{"nonce": b"m" * 16}, {"run_id": "run-2"}])
def test_a_proof_for_another_question_is_refused(kitchen, asked):
    with pytest.raises(AccessError, match="replayed or stolen"):
        prove(kitchen, **asked)


def test_a_stolen_certificate_without_its_key_proves_nothing(folder, kitchen):
    thief = credentials(issue_node(folder, "thief", clock=lambda: NOW))
    with pytest.raises(AccessError, match="'kitchen' is not signed by its key"):
        prove(Credentials(kitchen.ca, kitchen.certificate, thief.key))


def test_revoked_and_expired_proofs_are_refused(kitchen):
    serial = x509.load_pem_x509_certificate(kitchen.certificate).serial_number
    with pytest.raises(AccessError, match="was revoked on"):
        prove(kitchen, revoked={serial: NOW})
    with pytest.raises(AccessError, match="expired on"):
        prove(kitchen, now=NOW + timedelta(days=400))


@pytest.mark.parametrize(("shown", "words"), [(b"", "showed no certificate"), (b"x", "is no certificate")])
def test_nothing_and_nonsense_are_refused(kitchen, shown, words):
    with pytest.raises(AccessError, match=words):
        verify_hello(shown, b"", authority=kitchen.authority, revoked={}, run_id="r", nonce=b"", now=NOW)


def test_a_bundle_that_lacks_a_file_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read ca\.crt of the bundle"):
        read_credentials(tmp_path)


@pytest.mark.parametrize(
    ("host", "so"),
    [("127.0.0.1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback_is_known(host, so):
    assert is_loopback(host) is so
