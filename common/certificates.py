"""Certificates as both ends read them: whose they are, what is wrong with them, and proofs of a key.

A coordinator's folder holds `ca.crt`, `server.crt`, `server.key` and `revoked.crl`; a node's
bundle `ca.crt`, `node.crt`, `node.key`, and `flower.key`, the same key as Flower wants it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedstill.common.errors import AccessError, UsageError

CA_CERTIFICATE = "ca.crt"
SERVER_CERTIFICATE = "server.crt"
SERVER_KEY = "server.key"
NODE_CERTIFICATE = "node.crt"
NODE_KEY = "node.key"
FLOWER_KEY = "flower.key"
REVOKED = "revoked.crl"
COORDINATOR_FILES = (CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY, REVOKED)
"""What a server of the coordinator's serves with; the last one only where anything was revoked."""
NODE_SETTINGS = "node.toml"
"""A bundle's settings: `node_id`, `superlink`, and `data`, relative to the bundle."""
NODE_URI = "fedstill://node/"
NONCE_BYTES = 16
_HELLO = b"fedstill hello\0"

Clock = Callable[[], datetime]


def read_clock() -> datetime:
    """Tells the time, with its zone."""
    return datetime.now(UTC)


def is_loopback(host: str) -> bool:
    """Says whether a host is this machine and no other can reach it."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def read_certificate(path: Path) -> x509.Certificate:
    """Reads the first certificate of a PEM file.

    Raises:
        UsageError: There is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the certificate {path}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path}: expected a certificate in PEM") from None


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Writes a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Writes a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def name_of(certificate: x509.Certificate) -> str:
    """Says whose a certificate is: the node that it names, else its common name."""
    with suppress(x509.ExtensionNotFound, ValueError):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
            if uri.startswith(NODE_URI):
                return uri.removeprefix(NODE_URI)
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else ""


def read_revoked(path: Path, authority: x509.Certificate) -> dict[int, datetime]:
    """Reads which serial numbers were revoked, and when.

    Args:
        path: The authority's list, PEM; a missing one revokes nothing.
        authority: Certificate of the authority, which must have signed it.

    Raises:
        UsageError: The list is damaged or not this authority's.
    """
    try:
        revoked = x509.load_pem_x509_crl(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise UsageError(f"{path}: expected the authority's list of revoked certificates") from None
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not revoked.is_signature_valid(key):
        raise UsageError(f"{path} is not signed by the authority {name_of(authority)}")
    return {item.serial_number: item.revocation_date_utc for item in revoked}


def find_fault(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    *,
    now: datetime,
    revoked: dict[int, datetime] | None = None,
) -> str | None:
    """Says in words why a certificate is not to be trusted.

    Args:
        certificate: The certificate.
        authority: Certificate of the authority that it should come from.
        now: The time.
        revoked: When serial numbers were revoked.

    Returns:
        The cause, as "the certificate of kitchen ended on 2026-11-25 10:00 UTC"; None where
        nothing is wrong.
    """
    whose = f"the certificate of {name_of(certificate)!r}"
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return f"{whose} is foreign: not issued by {name_of(authority)!r}"
    if now > certificate.not_valid_after_utc:
        return f"{whose} expired on {_date(certificate.not_valid_after_utc)}"
    if now < certificate.not_valid_before_utc:
        return f"{whose} begins only on {_date(certificate.not_valid_before_utc)}; compare the clocks"
    if when := (revoked or {}).get(certificate.serial_number):
        return f"{whose} was revoked on {_date(when)}"
    return None


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Credentials:
    """A node's key and certificates, as they lie in its bundle.

    Attributes:
        ca: The authority's certificate, PEM.
        certificate: The node's, PEM.
        key: The node's private key, PEM.
    """

    ca: bytes
    certificate: bytes
    key: bytes

    @property
    def leaf(self) -> x509.Certificate:
        """The node's certificate."""
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def authority(self) -> x509.Certificate:
        """The authority's certificate."""
        return x509.load_pem_x509_certificate(self.ca)


def read_credentials(folder: Path) -> Credentials:
    """Reads a node's bundle.

    Raises:
        UsageError: A file is missing, or none of a certificate.
    """
    contents = []
    for name in (CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY):
        try:
            contents.append((folder / name).read_bytes())
        except OSError as error:
            raise UsageError(
                f"cannot read {name} of the bundle {folder}: {error.strerror}; fedstill fleet add makes"
                " bundles"
            ) from None
    for name in (CA_CERTIFICATE, NODE_CERTIFICATE):
        read_certificate(folder / name)
    return Credentials(*contents)


def sign_hello(credentials: Credentials, *, run_id: str, nonce: bytes) -> bytes:
    """Proves to a coordinator that a node holds the key of its certificate.

    Args:
        credentials: The node's.
        run_id: The run that asks.
        nonce: The coordinator's random bytes, new in each question.

    Returns:
        The signature, for `verify_hello`.
    """
    key = serialization.load_pem_private_key(credentials.key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("the node's key: expected one of an elliptic curve; enrol the node again")
    return key.sign(_hello_text(run_id, nonce), ec.ECDSA(hashes.SHA256()))


def verify_hello(
    certificate_pem: bytes,
    signature: bytes,
    *,
    authority: x509.Certificate,
    revoked: dict[int, datetime],
    run_id: str,
    nonce: bytes,
    now: datetime,
) -> str:
    """Says which node answered a coordinator's question.

    Args:
        certificate_pem: The certificate that came.
        signature: What `sign_hello` made of run and nonce.
        authority: Certificate of the authority.
        revoked: When serial numbers were revoked.
        run_id: The run.
        nonce: The random bytes of this question.
        now: The time.

    Returns:
        The node's name, as its certificate has it.

    Raises:
        AccessError: A missing, refused or stolen certificate, or an answer to another question.
    """
    if not certificate_pem:
        raise AccessError("the node showed no certificate: start it with its bundle")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError:
        raise AccessError("the node showed something that is no certificate") from None
    if fault := find_fault(certificate, authority, now=now, revoked=revoked):
        raise AccessError(fault)
    key = certificate.public_key()
    try:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signature, _hello_text(run_id, nonce), ec.ECDSA(hashes.SHA256()))
    except (AssertionError, InvalidSignature):
        raise AccessError(
            f"the answer of {name_of(certificate)!r} is not signed by its key for this question: replayed or"
            " stolen"
        ) from None
    return name_of(certificate)


def _hello_text(run_id: str, nonce: bytes) -> bytes:
    return _HELLO + nonce + run_id.encode()
