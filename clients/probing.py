"""Why no connection to a service comes about, in words: neither gRPC nor Flower says."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from fedstill.common.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    find_fault,
    name_of,
    read_clock,
    read_credentials,
)
from fedstill.common.dialing import dial
from fedstill.common.errors import UsageError

PROBE_SECONDS = 2.0
# What an HTTP/2 client says first: its preface and empty settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def diagnose(address: str, certificates: Path | None) -> str | None:
    """Finds out whether it lies in TLS or certificates that a service cannot be used.

    Args:
        address: The service, host:port.
        certificates: The node's bundle; None: plaintext.

    Returns:
        The cause in words; None where it lies elsewhere, or nothing is wrong.
    """
    cause = _probe(address, certificates)
    # A link that broke just then looks the same as being turned away: it would not do so twice.
    return cause if cause is None or _probe(address, certificates) == cause else None


def connect(address: str) -> socket.socket:
    """Opens a connection to host:port; an `OSError` says why there is none."""
    return dial(address, timeout_seconds=PROBE_SECONDS)


def _probe(address: str, certificates: Path | None) -> str | None:
    try:
        with connect(address) as plain:
            if certificates is None:
                return _probe_plaintext(plain)
            return _probe_tls(plain, address.rpartition(":")[0].strip("[]"), certificates)
    except (OSError, UsageError):
        return None


def _probe_plaintext(plain: socket.socket) -> str | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: it is only asked whether TLS is spoken
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(plain):
        return "it wants TLS and this node has no certificate; start it with --bundle"


def _probe_tls(plain: socket.socket, host: str, folder: Path) -> str | None:
    context = ssl.create_default_context(cafile=str(folder / CA_CERTIFICATE))
    context.load_cert_chain(folder / NODE_CERTIFICATE, folder / NODE_KEY)
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(plain, server_hostname=host) as secure:
            own = read_credentials(folder)
            if fault := find_fault(own.leaf, own.authority, now=read_clock()):
                return f"it refuses this node: {fault}"
            if _is_turned_away(secure):
                return (
                    f"it closes the connection on seeing the certificate of {name_of(own.leaf)!r}:"
                    " revoked, not of its authority, or the clocks differ"
                )
    except ssl.SSLCertVerificationError as error:
        is_foreign = any(word in error.verify_message for word in ("issuer", "self-signed"))
        foreign = " (not of this node's authority)" if is_foreign else ""
        return f"its certificate is refused: {error.verify_message}{foreign}"
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return (
                "it speaks no TLS, this node nothing else; give the coordinator its certificates"
                " (--certificates or exchange.certificates_dir)"
            )
    return None


def _is_turned_away(secure: ssl.SSLSocket) -> bool:
    try:
        secure.sendall(_PREFACE)
        return not secure.recv(1)
    except ConnectionError:
        return True
