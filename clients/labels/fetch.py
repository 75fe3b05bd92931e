"""Fetching from a label service: manifests, and chunks that resume where a stream broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from fedstill.clients.labels.channels import SERVICE, RetryPolicy, Silence, explain, is_fatal
from fedstill.clients.labels.transport import Transport
from fedstill.common.arrays import ArrayManifest, parse_manifest, read_message
from fedstill.common.errors import DigestError, ExchangeError
from fedstill.protos.fedstill.v1 import labels_pb2

# A byte that flips on the way comes right at the next try; one that is wrong in the store never does.
_MAX_BAD_DELIVERIES = 3


@dataclass(frozen=True)
class Source:
    """An array at a service, and how patiently it is asked for.

    Attributes:
        channel: Open channel to the service.
        address: Its address, for messages.
        digest: Digest of the array, 32 bytes.
        retry: How often to try again.
        transport: How the channel was opened.
    """

    channel: grpc.Channel
    address: str
    digest: bytes
    retry: RetryPolicy
    transport: Transport

    @property
    def action(self) -> str:
        """What is being done, in words."""
        return f"fetching array {self.digest.hex()}"

    def explain(self, error: grpc.RpcError, *, silent_seconds: float = 0) -> ExchangeError:
        """Puts a failed call into words."""
        return explain(
            error,
            address=self.address,
            action=self.action,
            transport=self.transport,
            silent_seconds=silent_seconds,
        )


def fetch_manifest(source: Source) -> tuple[bytes, ArrayManifest, int]:
    """Fetches and checks a manifest.

    Returns:
        Its bytes, what they say, and the bytes that crossed the wire.

    Raises:
        NotPublishedError: The service does not hold the array.
        DigestError: The manifest is not that of the digest, several times over.
        ExchangeError: The service cannot be reached, or the manifest's claims are refused.
    """
    call = source.channel.unary_unary(
        f"{SERVICE}/GetManifest",
        request_serializer=labels_pb2.GetManifestRequest.SerializeToString,
        response_deserializer=labels_pb2.GetManifestResponse.FromString,
    )
    request = labels_pb2.GetManifestRequest(digest=source.digest)
    wire_bytes = num_bad = failures = 0
    while True:
        try:
            content: bytes = call(request, timeout=source.retry.timeout_seconds).manifest
            wire_bytes += len(content)
            return content, parse_manifest(content, digest=source.digest), wire_bytes
        except DigestError as error:
            num_bad += 1
            if num_bad >= _MAX_BAD_DELIVERIES:
                raise DigestError(f"label service {source.address}, {source.action}: {error}") from None
        except grpc.RpcError as error:
            failures += 1
            problem = source.explain(error)
            if is_fatal(error, problem) or failures >= source.retry.num_attempts:
                raise problem from None
            source.retry.pause(failures)


def fetch_chunks(
    source: Source, manifest: ArrayManifest, *, start_chunk: int, keep: Callable[[int, bytes], None]
) -> int:
    """Streams the chunks from `start_chunk` on, resuming as often as it has to.

    Args:
        source: Where from.
        manifest: The array's manifest.
        start_chunk: First chunk wanted.
        keep: Called with the index and the verified payload of each chunk, in order.

    Returns:
        Bytes that crossed the wire, those of broken deliveries included.

    Raises:
        NotPublishedError: The service does not hold the array.
        DigestError: A chunk came altered several times over; it is named.
        ExchangeError: The service stayed out of reach or broke off without progress.
    """
    stream = _Stream(source, manifest, next_chunk=start_chunk, keep=keep)
    failures = num_bad = 0
    while stream.next_chunk < len(manifest.chunks):
        before = stream.next_chunk
        try:
            problem: ExchangeError | None = stream.run()
        except DigestError as error:
            num_bad = num_bad + 1 if stream.next_chunk == before else 1
            if num_bad >= _MAX_BAD_DELIVERIES:
                raise DigestError(
                    f"label service {source.address}, {source.action}: {error} (seen {num_bad} times)"
                ) from None
            continue
        if problem is not None:
            failures = failures + 1 if stream.next_chunk == before else 1
            if failures >= source.retry.num_attempts:
                raise problem
            source.retry.pause(failures)
    return stream.wire_bytes


class _Stream:
    """One array's way through as many calls as it takes."""

    def __init__(
        self, source: Source, manifest: ArrayManifest, *, next_chunk: int, keep: Callable[[int, bytes], None]
    ) -> None:
        self._source = source
        self._manifest = manifest
        self._keep = keep
        # No deserializer: the bytes are counted as they came, and altered ones are our error to name.
        self._open: grpc.UnaryStreamMultiCallable[Any, bytes] = source.channel.unary_stream(
            f"{SERVICE}/StreamChunks", request_serializer=labels_pb2.StreamChunksRequest.SerializeToString
        )
        self.next_chunk = next_chunk
        self.wire_bytes = 0

    def run(self) -> ExchangeError | None:
        """Reads one call to its end; returns what broke it, None if nothing did."""
        source = self._source
        call = self._open(labels_pb2.StreamChunksRequest(digest=source.digest, start_chunk=self.next_chunk))
        with Silence(call, source.retry.timeout_seconds) as silence:
            try:
                for message in call:
                    silence.moved()
                    self.wire_bytes += len(message)
                    if self.next_chunk == len(self._manifest.chunks):
                        raise DigestError(f"more than {self.next_chunk} chunks came")
                    self._keep(self.next_chunk, read_message(self._manifest, self.next_chunk, message))
                    self.next_chunk += 1
                    silence.moved()
            except grpc.RpcError as error:
                problem = source.explain(
                    error, silent_seconds=source.retry.timeout_seconds if silence.expired else 0
                )
                if is_fatal(error, problem):
                    raise problem from None
                return problem
        if self.next_chunk < len(self._manifest.chunks):
            return ExchangeError(
                f"label service {source.address} ended its stream at chunk {self.next_chunk} of"
                f" {len(self._manifest.chunks)}; check its log"
            )
        return None
