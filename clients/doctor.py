"""`fedstill-node doctor`: whether this device could take part, one line per finding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedstill.clients.bundle import read_bundle
from fedstill.clients.superlink import find_fault
from fedstill.common.certificates import NODE_CERTIFICATE, read_certificate, read_clock
from fedstill.common.datasets import read_samples
from fedstill.common.errors import UsageError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def examine(bundle: Path) -> Iterator[Finding]:
    """Looks at a device's certificate, the way to its coordinator, and its data; changes nothing.

    Args:
        bundle: The folder that `fedstill fleet add` made.

    Yields:
        The findings; nothing follows a bundle that cannot be used.
    """
    try:
        device = read_bundle(bundle)
    except UsageError as error:
        yield Finding("certificate", False, str(error))
        return
    days = (read_certificate(bundle / NODE_CERTIFICATE).not_valid_after_utc - read_clock()).days
    yield Finding("certificate", True, f"that of {device.node_id!r}, lasts {days} days")
    fault = find_fault(device.superlink, node_id=device.node_id, certificates=bundle)
    trusted = f"SuperLink {device.superlink} is there, its certificate is trusted"
    yield Finding("coordinator", fault is None, fault or trusted)
    try:
        samples = read_samples(device.data, split="all")
    except (UsageError, OSError) as error:
        yield Finding("data", False, str(error))
    else:
        yield Finding("data", True, f"{device.data}: {len(samples.x):,} samples")
