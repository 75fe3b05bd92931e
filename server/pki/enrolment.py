"""Bundles: what a device needs to take part, in one folder or archive, and nobody else's secrets."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import tomli_w

from fedstill.common.certificates import NODE_SETTINGS
from fedstill.common.errors import UsageError
from fedstill.common.files import write_bytes_atomically
from fedstill.server.pki.authority import LEAF_DAYS, PRIVATE, NodeSecrets, first_host, issue_node

SUPERLINK_PORT = 8000
ARCHIVE_ENDINGS = (".tar.gz", ".tgz")


def add_node(
    authority: Path,
    name: str,
    output: Path,
    *,
    superlink: str = "",
    data: str = "data",
    days: int = LEAF_DAYS,
    force: bool = False,
) -> NodeSecrets:
    """Enrols a node and writes its bundle.

    Args:
        authority: The authority's folder.
        name: The node's name.
        output: A folder to make, or an archive where it ends in .tar.gz.
        superlink: host:port of the coordinator; empty takes the first host of its certificate.
        data: The node's own data on the device, relative to the bundle where it is relative.
        days: Lifetime of the certificate.
        force: Replace what stands at `output`.

    Returns:
        What went into the bundle.

    Raises:
        UsageError: No authority, a name that is none or enrolled already, or an output that exists.
    """
    check_output(output, force=force)
    if superlink and not superlink.rpartition(":")[2].isdigit():
        raise UsageError(f"--superlink: expected host:port, got {superlink!r}")
    address = superlink or f"{first_host(authority)}:{SUPERLINK_PORT}"
    secrets = issue_node(authority, name, days=days)
    settings = {"node_id": name, "superlink": address, "data": data}
    secrets.files[NODE_SETTINGS] = tomli_w.dumps(settings).encode()
    write_bundle(output, name, secrets.files)
    return secrets


def check_output(output: Path, *, force: bool) -> None:
    """Refuses to write over what is there unless it was asked for.

    Raises:
        UsageError: Something stands there.
    """
    if output.exists() and not force:
        raise UsageError(f"{output} exists already: choose another --output, or replace it with --force")


def write_bundle(output: Path, name: str, files: dict[str, bytes]) -> None:
    """Writes a bundle, whole or not at all; only its owner can read it.

    Into a folder that is there its files are written one by one: it may hold the node's data.

    Args:
        output: A folder, or an archive where it ends in .tar.gz.
        name: The node's name: the folder inside the archive.
        files: Contents by name.
    """
    if output.name.endswith(ARCHIVE_ENDINGS):
        write_bytes_atomically(output, _archive(name, files), mode=PRIVATE)
        return
    if output.is_dir():
        for file, content in files.items():
            write_bytes_atomically(output / file, content, mode=PRIVATE)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))  # 0700
    try:
        for file, content in files.items():
            write_bytes_atomically(staged / file, content, mode=PRIVATE)
        staged.replace(output)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _archive(name: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    now = int(time.time())
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o700, now
        archive.addfile(folder)
        for file, content in sorted(files.items()):
            item = tarfile.TarInfo(f"{name}/{file}")
            item.size, item.mode, item.mtime = len(content), PRIVATE, now
            archive.addfile(item, io.BytesIO(content))
    return buffer.getvalue()
