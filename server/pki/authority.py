"""A small certificate authority: one folder, one coordinator, its nodes.

    ca.crt              the authority's certificate
    server.crt .key     the coordinator's: SuperLink and label service
    revoked.crl         what was revoked
    fleet.json          the enrolled nodes: names, serial numbers, public keys
    releases.json       signatures of the apps that devices may run, where any were left
    authority/ca.key    the authority's key; only what issues, revokes and releases needs it

Keys of nodes are not kept: they leave in the node's bundle. Every file is written beside
its place and renamed, so that a service that reads them meanwhile sees the old or the new.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedstill.common.certificates import (
    CA_CERTIFICATE,
    FLOWER_KEY,
    NODE_CERTIFICATE,
    NODE_KEY,
    REVOKED,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    Clock,
    certificate_pem,
    key_pem,
    read_certificate,
    read_clock,
    read_revoked,
)
from fedstill.common.errors import UsageError
from fedstill.common.files import write_bytes_atomically
from fedstill.server.pki.signing import (
    Signer,
    make_key,
    make_signer,
    name_hosts,
    names_of,
    sign_node,
    sign_revoked,
    sign_server,
)

CA_KEY = Path("authority") / "ca.key"
FLEET = "fleet.json"
SERVER = "server"
LEAF_DAYS = 365
PRIVATE = 0o600
# X.509 takes no longer common name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class EnrolledNode:
    """A node that holds a certificate.

    Attributes:
        name: Its name.
        serials: Serial numbers of its certificates, hexadecimal, the newest last.
        not_after: End of the newest one, ISO 8601.
        public_key: Its public key in OpenSSH's form, as Flower registers it.
    """

    name: str
    serials: tuple[str, ...]
    not_after: str
    public_key: str


@dataclass(frozen=True)
class NodeSecrets:
    """What a new node gets, by file name of its bundle."""

    files: dict[str, bytes]
    node: EnrolledNode


def init_authority(
    folder: Path,
    *,
    hosts: Sequence[str] = (),
    days: int = LEAF_DAYS,
    force: bool = False,
    clock: Clock = read_clock,
) -> datetime:
    """Makes an authority and the coordinator's certificate.

    Args:
        folder: Its folder; made.
        hosts: Names and addresses by which nodes reach the coordinator; this machine's own
            (localhost, 127.0.0.1, ::1) are always among them.
        days: Lifetime of the coordinator's certificate.
        force: Replace an authority that is there; all that it issued becomes foreign.
        clock: Gives the time.

    Returns:
        When the coordinator's certificate ends.

    Raises:
        UsageError: The folder holds an authority already, or a host that is none.
    """
    names = name_hosts(hosts)
    with hold_authority(folder):
        if (folder / CA_CERTIFICATE).exists() and not force:
            raise UsageError(
                f"{folder} holds an authority already; --force replaces it, and all its certificates become"
                " worthless"
            )
        now = clock()
        signer = make_signer(now)
        _write_private(folder / CA_KEY, key_pem(signer.key))
        write_bytes_atomically(folder / CA_CERTIFICATE, certificate_pem(signer.certificate))
        _write_fleet(folder, {})
        write_bytes_atomically(folder / REVOKED, sign_revoked(signer, {}, now=now))
        key = make_key()
        issued = sign_server(signer, key.public_key(), names, days=days, now=now)
        _write_private(folder / SERVER_KEY, key_pem(key))
        write_bytes_atomically(folder / SERVER_CERTIFICATE, certificate_pem(issued))
        return issued.not_valid_after_utc


def issue_node(folder: Path, name: str, *, days: int = LEAF_DAYS, clock: Clock = read_clock) -> NodeSecrets:
    """Makes a node's key and certificate and enrols it; the key is not kept here.

    Raises:
        UsageError: No authority, a name that is none, or a node that is enrolled already.
    """
    check_node_name(name)
    with hold_authority(folder):
        fleet = read_fleet(folder)
        if name in fleet:
            raise UsageError(
                f"{name} is enrolled already: renew its certificate (fedstill certs renew {name}), or remove"
                f" it first (fedstill fleet remove {name})"
            )
        key = make_key()
        signer = open_authority(folder)
        certificate = sign_node(signer, key.public_key(), name, days=days, now=clock())
        node = EnrolledNode(
            name,
            (f"{certificate.serial_number:x}",),
            certificate.not_valid_after_utc.isoformat(),
            key.public_key()
            .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            .decode(),
        )
        _write_fleet(folder, fleet | {name: node})
    files = {
        CA_CERTIFICATE: (folder / CA_CERTIFICATE).read_bytes(),
        NODE_CERTIFICATE: certificate_pem(certificate),
        NODE_KEY: key_pem(key),
        FLOWER_KEY: key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    }
    return NodeSecrets(files, node)


def renew_server(
    folder: Path, *, hosts: Sequence[str] = (), days: int = LEAF_DAYS, clock: Clock = read_clock
) -> datetime:
    """Gives the coordinator a new certificate for the key that it has.

    Args:
        folder: The authority's folder.
        hosts: Names and addresses from now on; empty keeps those of the old certificate.
        days: Lifetime.
        clock: Gives the time.

    Returns:
        When the new certificate ends.
    """
    with hold_authority(folder):
        old = read_certificate(folder / SERVER_CERTIFICATE)
        names = name_hosts(hosts) if hosts else names_of(old)
        key = old.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        issued = sign_server(open_authority(folder), key, names, days=days, now=clock())
        write_bytes_atomically(folder / SERVER_CERTIFICATE, certificate_pem(issued))
        return issued.not_valid_after_utc


def renew_node(
    folder: Path, name: str, *, days: int = LEAF_DAYS, clock: Clock = read_clock
) -> tuple[bytes, EnrolledNode]:
    """Makes a new certificate for the key that a node has.

    Returns:
        The certificate, PEM, no secret; and the node.

    Raises:
        UsageError: No authority, or a node that is not enrolled.
    """
    with hold_authority(folder):
        fleet = read_fleet(folder)
        node = _enrolled(fleet, name, folder)
        key = serialization.load_ssh_public_key(node.public_key.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = sign_node(open_authority(folder), key, name, days=days, now=clock())
        node = replace(
            node,
            serials=(*node.serials, f"{certificate.serial_number:x}"),
            not_after=certificate.not_valid_after_utc.isoformat(),
        )
        _write_fleet(folder, fleet | {name: node})
        return certificate_pem(certificate), node


def revoke_node(folder: Path, name: str, *, clock: Clock = read_clock) -> EnrolledNode:
    """Revokes all certificates of a node and takes it off the fleet.

    Raises:
        UsageError: No authority, or a node that is not enrolled.
    """
    with hold_authority(folder):
        fleet = read_fleet(folder)
        node = _enrolled(fleet, name, folder)
        signer = open_authority(folder)
        now = clock()
        revoked = read_revoked(folder / REVOKED, signer.certificate)
        revoked |= {int(serial, 16): now for serial in node.serials}
        # The list first: a node that is off the fleet and not on the list would still be let in.
        write_bytes_atomically(folder / REVOKED, sign_revoked(signer, revoked, now=now))
        _write_fleet(folder, {other: fleet[other] for other in fleet if other != name})
        return node


def read_fleet(folder: Path) -> dict[str, EnrolledNode]:
    """Reads the enrolled nodes by name, sorted.

    Raises:
        UsageError: No authority, or a damaged list.
    """
    path = folder / FLEET
    try:
        items = json.loads(path.read_bytes())
        nodes = [EnrolledNode(**(item | {"serials": tuple(item["serials"])})) for item in items]
    except FileNotFoundError:
        raise _no_authority(folder) from None
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{path} is damaged: expected a list of enrolled nodes") from None
    return {node.name: node for node in sorted(nodes, key=lambda node: node.name)}


def first_host(folder: Path) -> str:
    """Gives the first name in the coordinator's certificate that other machines can use, else loopback's."""
    hosts = [str(name.value) for name in names_of(read_certificate(folder / SERVER_CERTIFICATE))]
    return hosts[0]


def check_node_name(name: str) -> None:
    """Refuses what cannot name a node.

    Raises:
        UsageError: Other characters, or more than 64.
    """
    if not _NAME.fullmatch(name) or name == SERVER:
        raise UsageError(
            f"expected a node name of up to 64 letters, digits, '.', '_' and '-', other than {SERVER!r},"
            f" got {name[:80]!r}"
        )


def _enrolled(fleet: dict[str, EnrolledNode], name: str, folder: Path) -> EnrolledNode:
    if name not in fleet:
        known = ", ".join(list(fleet)[:20]) or "nobody"
        raise UsageError(f"{name} is not enrolled in {folder}; enrolled: {known}")
    return fleet[name]


@contextmanager
def hold_authority(folder: Path) -> Iterator[None]:
    """Lets one process at a time change an authority's folder; makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _no_authority(folder: Path) -> UsageError:
    return UsageError(f"{folder} holds no authority; make one: fedstill certs init {folder}")


def open_authority(folder: Path) -> Signer:
    """Reads the authority's key and certificate.

    Raises:
        UsageError: No authority, or its key is not there or not readable.
    """
    if not (folder / CA_CERTIFICATE).exists():
        raise _no_authority(folder)
    try:
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), password=None)
    except (OSError, ValueError):
        raise UsageError(
            f"cannot read {folder / CA_KEY}, the authority's key; bring it back to issue, revoke or release"
        ) from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Signer(key, read_certificate(folder / CA_CERTIFICATE))


def _write_fleet(folder: Path, fleet: dict[str, EnrolledNode]) -> None:
    content = json.dumps([asdict(fleet[name]) for name in sorted(fleet)], indent=1)
    write_bytes_atomically(folder / FLEET, f"{content}\n".encode())


def _write_private(path: Path, content: bytes) -> None:
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True)
    write_bytes_atomically(path, content, mode=PRIVATE)
