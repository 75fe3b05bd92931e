"""Why a device's SuperNode does not stay with its SuperLink, in words: Flower gives a number."""

from __future__ import annotations

from pathlib import Path

from fedstill.clients.bundle import check_certificate
from fedstill.clients.probing import connect, diagnose
from fedstill.common.errors import UsageError


def find_fault(superlink: str, *, node_id: str, certificates: Path | None) -> str | None:
    """Looks at the device's certificate as it is now, and at the SuperLink's end of the line.

    Args:
        superlink: The SuperLink, host:port.
        node_id: The device's name.
        certificates: The device's bundle; None: plaintext.

    Returns:
        What keeps the device out; None where nothing can be seen from here.
    """
    try:
        if certificates is not None:
            check_certificate(certificates, node_id=node_id)
    except UsageError as error:
        return str(error)
    if cause := diagnose(superlink, certificates):
        return f"SuperLink {superlink}: {cause}"
    try:
        connect(superlink).close()
    except OSError as error:
        return f"SuperLink {superlink} is not reached ({error.strerror or error}): check that it runs"
    return None


def explain_end(superlink: str, *, node_id: str, certificates: Path | None) -> str:
    """Says why a SuperNode ended, as far as that can be seen; arguments as of `find_fault`."""
    if fault := find_fault(superlink, node_id=node_id, certificates=certificates):
        return fault
    if certificates is None:
        return f"SuperLink {superlink} is there"
    return (
        f"SuperLink {superlink} is there and trusted; if it refused {node_id!r}, that was revoked or never"
        " enrolled (fedstill fleet list tells), or is believed online for another minute"
    )
