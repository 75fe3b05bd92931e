"""Who takes part in a run, and in which round: the coordinator's end of identity and authorisation."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from pathlib import Path

from fedstill.common.certificates import NONCE_BYTES, read_clock, verify_hello
from fedstill.common.config import Config
from fedstill.common.errors import AccessError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.labels.access import open_round
from fedstill.server.labels.transport import ServerCertificates


class Guard:
    """Lets nodes into a run by their certificates, and opens one round after the other for uploads.

    Args:
        config: The run's configuration; without `exchange.certificates_dir` every node is
            who it says it is.
        run_dir: The run folder, where the label service reads what is open.
        run_id: The run.
    """

    def __init__(self, config: Config, run_dir: Path, run_id: str) -> None:
        folder = config.exchange.certificates_dir
        self._certificates = ServerCertificates(Path(folder)) if folder else None
        self._run_dir = run_dir
        self._run_id = run_id

    @property
    def is_enrolled(self) -> bool:
        """Whether nodes have certificates, so that what they say of the federation's size is not needed."""
        return self._certificates is not None

    def ask(self) -> bytes:
        """Makes the random bytes of a question; empty where nodes need not prove anything."""
        return secrets.token_bytes(NONCE_BYTES) if self._certificates is not None else b""

    def admit(self, hello: fleet_pb2.HelloResponse, nonce: bytes) -> None:
        """Refuses a node that is not the one that it says.

        Args:
            hello: The node's introduction.
            nonce: The random bytes of the question that it answers.

        Raises:
            AccessError: No good certificate, no proof of its key, or another's name.
        """
        if self._certificates is None:
            return
        name = verify_hello(
            hello.certificate,
            hello.proof,
            authority=self._certificates.authority,
            revoked=self._certificates.revoked,
            run_id=self._run_id,
            nonce=nonce,
            now=read_clock(),
        )
        if name != hello.node_id:
            raise AccessError(f"the certificate is that of {name!r}, the node calls itself {hello.node_id!r}")

    def open_round(self, round_number: int, members: Collection[str], *, keep_from: int) -> bytes:
        """Opens a round for the uploads of a run's nodes; see `fedstill.server.labels.access.open_round`."""
        return open_round(self._run_dir, self._run_id, round_number, members, keep_from=keep_from)
