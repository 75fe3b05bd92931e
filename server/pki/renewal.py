"""Whether a server that reads its certificate only as it starts has taken up the renewed one."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from fedstill.common.certificates import CA_CERTIFICATE, SERVER_CERTIFICATE, read_certificate
from fedstill.common.dialing import dial, split_address
from fedstill.common.errors import RunError

ANSWER_SECONDS = 5.0


def check_served(address: str, folder: Path) -> None:
    """Compares the certificate that a server shows with the coordinator's on the disk.

    Args:
        address: The server, host:port.
        folder: The authority's folder, or what a coordinator has of it.

    Raises:
        RunError: Nobody answers, the certificate is refused, or it is the one from before a renewal.
        UsageError: The folder lacks a certificate.
    """
    newest = read_certificate(folder / SERVER_CERTIFICATE)
    read_certificate(folder / CA_CERTIFICATE)
    context = ssl.create_default_context(cafile=str(folder / CA_CERTIFICATE))
    host, _ = split_address(address)
    try:
        with (
            dial(address, timeout_seconds=ANSWER_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            served = secure.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError as error:
        raise RunError(
            f"the certificate that {address} serves is refused: {error.verify_message}; renew it where it ran"
            " out (fedstill certs renew), and start the server again"
        ) from None
    except OSError as error:
        raise RunError(f"{address} does not answer: {error.strerror or error}") from None
    if served != newest.public_bytes(Encoding.DER):
        raise RunError(
            f"{address} serves another certificate than {folder / SERVER_CERTIFICATE}, as before a renewal:"
            " start it again"
        )
