"""Who may fetch from and upload to a run: by certificate, by membership, by the open round.

The coordinator writes `access.json` into the run folder as each round opens; the label
service, which may be another process, reads it. Coordinator and service share nothing else.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from fedstill.common.certificates import NONCE_BYTES
from fedstill.common.errors import AccessError
from fedstill.common.files import write_text_atomically
from fedstill.server.labels.transport import ServerCertificates

ACCESS_FILE = "access.json"


@dataclass(frozen=True)
class RunAccess:
    """What a run lets its nodes do at present.

    Attributes:
        run_id: The run.
        members: Nodes that belong to it.
        round: The round that uploads are taken for.
        nonce: Random bytes that only this round's tasks carry.
        earlier: The same of older rounds whose answers may still be used, by round.
    """

    run_id: str
    members: frozenset[str]
    round: int
    nonce: bytes
    earlier: Mapping[int, bytes]


def open_round(
    run_dir: Path,
    run_id: str,
    round_number: int,
    members: Collection[str],
    *,
    keep_from: int | None = None,
) -> bytes:
    """Opens a round for uploads and closes those before.

    Args:
        run_dir: The run folder.
        run_id: The run.
        round_number: The round; after the last one, that one again for the artefacts.
        members: Nodes that belong to the run.
        keep_from: The oldest round that stays open beside; None closes them all.

    Returns:
        The nonce for the round's tasks.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    before = read_access(run_dir / ACCESS_FILE) if keep_from is not None else None
    earlier = {**before.earlier, before.round: before.nonce} if before and before.run_id == run_id else {}
    content = {
        "run_id": run_id,
        "round": round_number,
        "nonce": nonce.hex(),
        "members": sorted(members),
        "earlier": {
            str(number): old.hex()
            for number, old in earlier.items()
            if keep_from is not None and keep_from <= number < round_number
        },
    }
    # Who reads the file could upload in a plaintext federation: it is its owner's alone.
    write_text_atomically(run_dir / ACCESS_FILE, json.dumps(content), mode=0o600)
    return nonce


def read_access(path: Path) -> RunAccess | None:
    """Reads what a run allows; None before its first round."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return RunAccess(
        content["run_id"],
        frozenset(content["members"]),
        content["round"],
        bytes.fromhex(content["nonce"]),
        {int(number): bytes.fromhex(old) for number, old in content.get("earlier", {}).items()},
    )


class Doorkeeper:
    """Checks each call to a label service; safe among threads.

    Args:
        certificates: The service's; None: plaintext, and nobody can be told apart.
        access_file: What the coordinator allows; None: anything.
    """

    def __init__(self, certificates: ServerCertificates | None, access_file: Path | None) -> None:
        self.certificates = certificates
        self._access_file = access_file
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._access: RunAccess | None = None

    def identify(self, context: grpc.ServicerContext) -> str:
        """Says which node calls, by its certificate; empty on plaintext.

        Raises:
            AccessError: No certificate, or one that is not valid any more.
        """
        if self.certificates is None:
            return ""
        shown = context.auth_context().get("x509_pem_cert")
        if not shown:
            raise AccessError("no certificate was shown: start the node with its bundle")
        return self.certificates.identify(bytes(shown[0]))

    def check_fetch(self, caller: str) -> None:
        """Refuses to hand a run's arrays to other nodes than its own.

        Args:
            caller: What `identify` returned.

        Raises:
            AccessError: The node does not belong to the run.
        """
        if caller and self._access_file is not None:
            access = self._read_access()
            if access is None or caller not in access.members:
                run = f"run {access.run_id}" if access else "this run, which has no nodes yet"
                raise AccessError(f"{caller} does not belong to {run}")

    def check_upload(
        self, caller: str, *, node_id: str, nonce: bytes, round_number: int | None = None
    ) -> None:
        """Refuses what a node sends as another, for another round, or a second time.

        Args:
            caller: What `identify` returned.
            node_id: Whose upload it is, as the message says.
            nonce: The nonce of the task that it answers.
            round_number: The round that it is for; None for the files of an artefact.

        Raises:
            AccessError: Another's name, a closed round, or a nonce of another task.
        """
        if caller and caller != node_id:
            raise AccessError(f"the certificate is that of {caller}, the upload that of {node_id[:80]!r}")
        self.check_fetch(caller)
        access = self._read_access() if self._access_file is not None else None
        if access is None:
            return
        wanted = access.round if round_number is None else round_number
        expected = access.nonce if wanted == access.round else access.earlier.get(wanted)
        if expected is None:
            raise AccessError(
                f"upload for round {round_number}, but round {access.round} is open: it comes late or is"
                " replayed"
            )
        if not hmac.compare_digest(nonce, expected):
            raise AccessError(f"the upload answers no task of round {wanted}: it comes late or is replayed")

    def _read_access(self) -> RunAccess | None:
        assert self._access_file is not None
        try:
            status = self._access_file.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
        except FileNotFoundError:
            return None
        with self._lock:
            if stamp != self._stamp:
                self._access, self._stamp = read_access(self._access_file), stamp
            return self._access
