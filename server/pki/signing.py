"""X.509 as the authority makes it: short chains, elliptic curves, names that nodes and hosts go by."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedstill.common.certificates import NODE_URI
from fedstill.common.errors import UsageError

CA_DAYS = 3650
# Machines' clocks differ: a certificate is valid a little before it was made.
SKEW = timedelta(minutes=5)
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Signer:
    """The authority's key and certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_key() -> ec.EllipticCurvePrivateKey:
    """Makes a private key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_signer(now: datetime) -> Signer:
    """Makes an authority.

    Args:
        now: The time.

    Returns:
        Its key and its own certificate, good for ten years.
    """
    key = make_key()
    # A name of its own: else a foreign authority would differ by its signature only.
    name = _common_name(f"FedStill authority {x509.random_serial_number() & 0xFFFFFFFF:08x}")
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder(name, name, public, x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Signer(key, certificate)


def name_hosts(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Makes subject names of a coordinator's hosts, and of this machine's own.

    Raises:
        UsageError: What is neither a host name nor an address.
    """
    names: list[x509.GeneralName] = []
    for host in (*hosts, "localhost", "127.0.0.1", "::1"):
        name: x509.GeneralName
        try:
            name = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            if not _HOST.fullmatch(host):
                raise UsageError(f"--host: expected a host name or an address, got {host[:80]!r}") from None
            name = x509.DNSName(host)
        if name not in names:
            names.append(name)
    return names


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Reads a certificate's subject names, in their order."""
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def sign_server(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    *,
    days: int,
    now: datetime,
) -> x509.Certificate:
    """Signs a coordinator's certificate."""
    return _sign(signer, key, "server", names, ExtendedKeyUsageOID.SERVER_AUTH, days=days, now=now)


def sign_node(
    signer: Signer, key: ec.EllipticCurvePublicKey, name: str, *, days: int, now: datetime
) -> x509.Certificate:
    """Signs a node's certificate."""
    names = [x509.UniformResourceIdentifier(NODE_URI + name)]
    return _sign(signer, key, name, names, ExtendedKeyUsageOID.CLIENT_AUTH, days=days, now=now)


def _sign(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    name: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    *,
    days: int,
    now: datetime,
) -> x509.Certificate:
    # One that outlives its authority would be refused all the same.
    end = min(now + timedelta(days=days), signer.certificate.not_valid_after_utc)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    return (
        x509.CertificateBuilder(
            signer.certificate.subject, _common_name(name), key, x509.random_serial_number()
        )
        .not_valid_before(now - SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(signer.key, hashes.SHA256())
    )


def sign_revoked(signer: Signer, revoked: dict[int, datetime], *, now: datetime) -> bytes:
    """Signs the list of revoked certificates, PEM."""
    certificate = signer.certificate
    builder = x509.CertificateRevocationListBuilder(certificate.subject, now, certificate.not_valid_after_utc)
    for serial, when in sorted(revoked.items()):
        item = x509.RevokedCertificateBuilder(serial, when.replace(microsecond=0)).build()
        builder = builder.add_revoked_certificate(item)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
