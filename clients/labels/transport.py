"""How a node reaches label services: mutual TLS with its bundle, or plaintext; and words for what fails."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from common.arrays import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from common.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    find_fault,
    is_loopback,
    name_of,
    read_clock,
    read_credentials,
)
from common.errors import AccessError, UsageError

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.max_frame_size", MAX_FRAME_BYTES),
    # A restarted service shall be found again at once; our own back-off paces the calls.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A channel that was let go of takes its connection along: one that fell silent may never be told so.
    ("grpc.use_local_subchannel_pool", 1),
    # Streams are read by the thread that asked for them: no hand-over per message.
    ("SingleThreadedUnaryStream", 1),
)
_PROBE_SECONDS = 2.0
# What an HTTP/2 client says first: its preface and empty settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@dataclass(frozen=True)
class Transport:
    """How channels to label services are opened.

    Attributes:
        certificates: The node's bundle: mutual TLS, always; None: plaintext.
        allow_insecure: Plaintext to other than loopback is wanted.
    """

    certificates: Path | None = None
    allow_insecure: bool = False

    def open(self, address: str) -> grpc.Channel:
        """Opens a channel; certificates are read anew for each.

        Raises:
            AccessError: Plaintext to another machine that was not asked for, or a bundle that
                cannot be read.
        """
        if self.certificates is None:
            host = address.rpartition(":")[0]
            if not (self.allow_insecure or is_loopback(host)):
                raise AccessError(
                    f"label service {address} is on another machine and this node has no certificate: start"
                    " it with --bundle, or set exchange.allow_insecure on a network that you trust"
                )
            return grpc.insecure_channel(address, options=OPTIONS)
        try:
            own = read_credentials(self.certificates)
        except UsageError as error:
            raise AccessError(str(error)) from None
        credentials = grpc.ssl_channel_credentials(own.ca, own.key, own.certificate)
        return grpc.secure_channel(address, credentials, options=OPTIONS)

    def diagnose(self, address: str) -> str | None:
        """Finds out why no connection comes about; gRPC says no more than that there is none.

        Args:
            address: The service that could not be reached.

        Returns:
            The cause in words, if it lies in TLS or certificates; else None.
        """
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        cause = self._probe(host, int(port))
        # A link that broke just then looks the same as being turned away: it would not do so twice.
        return cause if cause is None or self._probe(host, int(port)) == cause else None

    def _probe(self, host: str, port: int) -> str | None:
        try:
            with socket.create_connection((host, port), timeout=_PROBE_SECONDS) as plain:
                if self.certificates is None:
                    return _probe_plaintext(plain)
                return _probe_tls(plain, host, self.certificates)
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
                    f"it closes the connection on seeing the certificate of {name_of(own.leaf)!r}: not of its"
                    " authority, or the clocks differ"
                )
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused: {error.verify_message}"
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return (
                "it speaks no TLS, this node nothing else; set exchange.certificates_dir at the coordinator"
            )
    return None


def _is_turned_away(secure: ssl.SSLSocket) -> bool:
    try:
        secure.sendall(_PREFACE)
        return not secure.recv(1)
    except ConnectionError:
        return True
