"""A device's bundle: name, coordinator, data and certificates in one folder."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from fedstill.common.certificates import (
    FLOWER_KEY,
    NODE_SETTINGS,
    find_fault,
    name_of,
    read_clock,
    read_credentials,
)
from fedstill.common.errors import UsageError


@dataclass(frozen=True)
class Bundle:
    """What `fedstill fleet add` wrote for one device.

    Attributes:
        node_id: The device's name.
        superlink: The coordinator's SuperLink, host:port.
        data: The device's own data.
    """

    node_id: str
    superlink: str
    data: Path


def read_bundle(folder: Path) -> Bundle:
    """Reads a bundle and checks that its certificate can work.

    Args:
        folder: The bundle.

    Returns:
        Its settings; `data` is absolute, or relative to where the command runs.

    Raises:
        UsageError: A file is missing or wrong, or the certificate is refused.
    """
    if folder.is_file():
        raise UsageError(f"--bundle: {folder} is a file; unpack it (tar -xzf {folder}) and give the folder")
    path = folder / NODE_SETTINGS
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        bundle = Bundle(settings["node_id"], settings["superlink"], folder / settings["data"])
    except FileNotFoundError:
        raise UsageError(
            f"--bundle: {folder} holds no {NODE_SETTINGS}; expected what fedstill fleet add wrote"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: expected node_id, superlink and data; enrol the node again") from None
    check_certificate(folder, node_id=bundle.node_id)
    return bundle


def check_certificate(folder: Path, *, node_id: str) -> None:
    """Refuses certificates that no coordinator would take.

    Raises:
        UsageError: A file lacks, or the certificate is expired, of the future, foreign, or another's.
    """
    credentials = read_credentials(folder)
    if fault := find_fault(credentials.leaf, credentials.authority, now=read_clock()):
        raise UsageError(f"{folder}: {fault}")
    if (name := name_of(credentials.leaf)) != node_id:
        raise UsageError(f"{folder}: the certificate is that of {name!r}, the node is called {node_id!r}")
    if not (folder / FLOWER_KEY).is_file():
        raise UsageError(f"{folder} holds no {FLOWER_KEY}; expected what fedstill fleet add wrote")
