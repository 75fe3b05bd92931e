"""The label service's side of TLS: certificates that are read again whenever they change."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedstill.common.certificates import (
    CA_CERTIFICATE,
    COORDINATOR_FILES,
    REVOKED,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    Clock,
    find_fault,
    name_of,
    read_certificate,
    read_clock,
    read_revoked,
)
from fedstill.common.errors import AccessError, UsageError
from fedstill.common.files import stamp_files

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Files:
    """What the folder held when it was read last."""

    authority: x509.Certificate
    certificate: x509.Certificate
    revoked: dict[int, datetime]
    configuration: grpc.ServerCertificateConfiguration


class ServerCertificates:
    """The certificates of a coordinator's folder, as they are now; safe among threads.

    A folder that is being replaced, or that was damaged, is read again at the next
    connection; until it is sound the last sound one counts.

    Args:
        folder: Folder with ca.crt, server.crt and server.key, and revoked.crl where anything was.
        clock: Gives the time.

    Raises:
        UsageError: A file is missing, or the certificate cannot be used.
    """

    def __init__(self, folder: Path, *, clock: Clock = read_clock) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = stamp_files(self._folder, COORDINATOR_FILES)
        self._files = self._read()

    @property
    def authority(self) -> x509.Certificate:
        """The authority that nodes' certificates have to come from."""
        return self._refreshed().authority

    @property
    def revoked(self) -> dict[int, datetime]:
        """When serial numbers were revoked."""
        return self._refreshed().revoked

    @property
    def end(self) -> datetime:
        """When the coordinator's certificate ends."""
        return self._refreshed().certificate.not_valid_after_utc

    def credentials(self) -> grpc.ServerCredentials:
        """Makes gRPC's credentials; they ask for a certificate and take up new files by themselves."""
        served: list[grpc.ServerCertificateConfiguration] = [self._files.configuration]

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            newest = self._refreshed().configuration
            if newest is served[0]:
                return None
            served[0] = newest
            return newest

        make: Callable[..., grpc.ServerCredentials] = grpc.dynamic_ssl_server_credentials
        return make(self._files.configuration, fetch, require_client_authentication=True)

    def identify(self, certificate_pem: bytes) -> str:
        """Says which node a certificate is of.

        Args:
            certificate_pem: The peer's certificate, which the handshake has checked.

        Returns:
            The node's name.

        Raises:
            AccessError: It was revoked, or is no longer valid.
        """
        files = self._refreshed()
        certificate = _parse(certificate_pem)
        fault = find_fault(certificate, files.authority, now=self._clock(), revoked=files.revoked)
        if fault is not None:
            raise AccessError(fault)
        return name_of(certificate)

    def _refreshed(self) -> _Files:
        stamp = stamp_files(self._folder, COORDINATOR_FILES)
        with self._lock:
            if stamp != self._stamp:
                try:
                    self._files = self._read()
                    _log.info("certificates in %s were read anew", self._folder)
                except UsageError as error:
                    _log.warning("the certificates from before stay in use: %s", error)
                self._stamp = stamp
            return self._files

    def _read(self) -> _Files:
        folder = self._folder
        authority = read_certificate(folder / CA_CERTIFICATE)
        certificate = read_certificate(folder / SERVER_CERTIFICATE)
        if fault := find_fault(certificate, authority, now=self._clock()):
            raise UsageError(f"{folder / SERVER_CERTIFICATE}: {fault}; fedstill certs renew makes a new one")
        try:
            key_pem = (folder / SERVER_KEY).read_bytes()
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (OSError, ValueError, TypeError):
            raise UsageError(f"cannot read the private key {folder / SERVER_KEY}") from None
        if key.public_key() != certificate.public_key():
            raise UsageError(f"{folder / SERVER_KEY} is not the key of {SERVER_CERTIFICATE} beside it")
        pairs = [(key_pem, (folder / SERVER_CERTIFICATE).read_bytes())]
        configuration = grpc.ssl_server_certificate_configuration(
            pairs, root_certificates=(folder / CA_CERTIFICATE).read_bytes()
        )
        return _Files(authority, certificate, read_revoked(folder / REVOKED, authority), configuration)


@functools.lru_cache(maxsize=1024)
def _parse(certificate_pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate_pem)
