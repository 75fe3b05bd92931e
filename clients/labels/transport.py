"""How a node reaches label services: mutual TLS with its bundle, or plaintext."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from fedstill.clients.probing import diagnose
from fedstill.common.arrays import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from fedstill.common.certificates import is_loopback, read_credentials
from fedstill.common.errors import AccessError, UsageError

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
        """Finds out why no connection comes about; see `fedstill.clients.probing.diagnose`."""
        return diagnose(address, self.certificates)
