"""Sending a node's arrays to the label service; a stream that broke goes on with what lacks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from fedstill.clients.labels.channels import SERVICE, RetryPolicy, explain, is_fatal, send_stream
from fedstill.clients.labels.transport import Transport
from fedstill.common.arrays import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_TEMPERATURE,
    RAW,
    Array,
    ArrayManifest,
    LabelEncoding,
    Mask,
    build_manifest,
    count_chunk_rows,
    describe_chunk,
    parse_manifest,
)
from fedstill.common.codecs import get_codec
from fedstill.common.errors import ConfigError, DataError, ExchangeError
from fedstill.protos.fedstill.v1 import labels_pb2


@dataclass(frozen=True)
class UploadedArray:
    """An array that the service has whole.

    Attributes:
        digest: SHA-256 of its manifest, 32 bytes: what the node's reply names.
        num_bytes: Bytes of the manifest and all chunk messages, each counted once.
    """

    digest: bytes
    num_bytes: int


def upload_array(
    address: str,
    array: Array,
    *,
    run_id: str,
    round_number: int,
    node_id: str,
    nonce: bytes = b"",
    transport: Transport = Transport(),  # noqa: B008 it is frozen
    codec: str = RAW,
    temperature: float = 1.0,
    covered_S: Mask | None = None,
    chunk_bytes: int = 1_048_576,
    timeout_seconds: float = 60.0,
    num_attempts: int = 8,
    backoff_seconds: float = 0.1,
) -> UploadedArray:
    """Sends an array to a label service; sending it again moves nothing and changes nothing.

    Args:
        address: host:port of the service.
        array: Rows along the first axis, at least one; integers or finite floats of 1 to 8
            bytes. Logits (S, C), float32, for any codec but raw.
        run_id: The run that the node works for.
        round_number: The round that it is for.
        node_id: The node.
        nonce: What the task brought; it lets this round's arrays in.
        transport: How the service is called.
        codec: "raw" or a name of the codec registry.
        temperature: Temperature that the codec optimises for, in (0, 100].
        covered_S: Which rows of a larger set (S,) these are, in its order; None where they
            are all there is.
        chunk_bytes: Bytes of decoded rows per chunk, about.
        timeout_seconds: Longest silence before a call counts as failed.
        num_attempts: Failures in a row, with no chunk more at the service, that end it.
        backoff_seconds: Pause after the first failure; it doubles up to 5 s.

    Returns:
        The array's digest, and what this node alone moves for it.

    Raises:
        DataError: An array that does not travel, or a mask that is not its own.
        ConfigError: An unknown codec or an impossible temperature.
        DigestError: The service saw altered bytes, at every attempt.
        AccessError: No certificate that the service takes, another node's name, or a closed round.
        ExchangeError: The service refused the upload or stayed out of reach.
    """
    _check_array(array, codec=codec, temperature=temperature, covered_S=covered_S)
    rows = count_chunk_rows(math.prod(array.shape[1:]) * array.dtype.itemsize, chunk_bytes)
    outgoing = _Outgoing(array, rows, codec, float(temperature))
    content = build_manifest(
        num_rows=len(array),
        row_shape=array.shape[1:],
        dtype=array.dtype.name,
        codec=codec,
        encoding=None if codec == RAW else LabelEncoding("", codec, outgoing.temperature),
        chunk_rows=rows,
        chunks=(describe_chunk(outgoing.payload(start // rows)) for start in range(0, len(array), rows)),
        covered_S=covered_S,
    )
    manifest = parse_manifest(content, digest=hashlib.sha256(content).digest())
    header = labels_pb2.UploadLabelsHeader(
        run_id=run_id,
        round=round_number,
        node_id=node_id,
        digest=manifest.digest,
        manifest=content,
        nonce=nonce,
    )
    with transport.open(address) as channel:
        retry = RetryPolicy(num_attempts, backoff_seconds, timeout_seconds)
        _Upload(channel, address, retry, transport, header, manifest, outgoing).run()
    return UploadedArray(manifest.digest, manifest.num_bytes + manifest.messages_bytes)


def _check_array(array: Array, *, codec: str, temperature: float, covered_S: Mask | None) -> None:
    if array.dtype.name not in DTYPES or not 1 <= array.ndim <= MAX_DIMENSIONS + 1 or 0 in array.shape:
        raise DataError(
            f"upload: expected a filled array of {', '.join(DTYPES)} with rows along the first axis,"
            f" got {array.dtype} {array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("upload: expected finite values, got NaN or infinity; lower the learning rate")
    if codec != RAW:
        get_codec(codec)
        if array.dtype != np.float32 or array.ndim != 2:
            raise DataError(
                f"upload: codec {codec} takes float32 logits (samples, classes), got {array.dtype}"
                f" {array.shape}; send other arrays raw"
            )
        if not 0 < temperature <= MAX_TEMPERATURE:
            raise ConfigError(f"temperature: expected above 0, up to {MAX_TEMPERATURE:g}, got {temperature}")
    if covered_S is not None and (
        covered_S.dtype != np.bool_ or covered_S.ndim != 1 or int(covered_S.sum()) != len(array)
    ):
        raise DataError(
            f"upload: expected a mask (S,) that is true for {len(array)} rows, got {covered_S.dtype}"
            f" {covered_S.shape} with {int(np.count_nonzero(covered_S))}"
        )


@dataclass(frozen=True)
class _Outgoing:
    """Rows that become payloads when they are needed, so that one at a time is in memory."""

    array: Array
    rows: int
    codec: str
    temperature: float

    def payload(self, index: int) -> bytes:
        block = self.array[index * self.rows : (index + 1) * self.rows]
        if self.codec == RAW:
            return block.astype(DTYPES[block.dtype.name], copy=False).tobytes()
        logits_SC = np.ascontiguousarray(block, dtype=np.float32)
        return get_codec(self.codec).encode(logits_SC, temperature=self.temperature)


@dataclass(frozen=True)
class _Upload:
    """One array's way through as many calls as it takes."""

    channel: grpc.Channel
    address: str
    retry: RetryPolicy
    transport: Transport
    header: labels_pb2.UploadLabelsHeader
    manifest: ArrayManifest
    outgoing: _Outgoing

    @property
    def action(self) -> str:
        return f"uploading for {self.header.node_id}"

    def run(self) -> None:
        """Sends what lacks until nothing does; any chunk more at the service is progress."""
        failures = most_arrived = 0
        while True:
            arrived = self._ask()
            if isinstance(arrived, ExchangeError):
                problem = arrived
            elif arrived is None:
                return
            else:
                failures = 0 if len(arrived) > most_arrived else failures
                most_arrived = max(most_arrived, len(arrived))
                answer = self._send(arrived)
                if answer is None:
                    return
                problem = answer
            failures += 1
            if failures >= self.retry.num_attempts:
                raise problem
            self.retry.pause(failures)

    def _ask(self) -> set[int] | ExchangeError | None:
        """Returns the chunks that the service has, None for the whole array, or what went wrong."""
        call: grpc.UnaryUnaryMultiCallable[Any, Any] = self.channel.unary_unary(
            f"{SERVICE}/GetUpload",
            request_serializer=labels_pb2.GetUploadRequest.SerializeToString,
            response_deserializer=labels_pb2.GetUploadResponse.FromString,
        )
        header = self.header
        request = labels_pb2.GetUploadRequest(
            run_id=header.run_id,
            round=header.round,
            node_id=header.node_id,
            digest=header.digest,
            nonce=header.nonce,
        )
        try:
            response = call(request, timeout=self.retry.timeout_seconds)
        except grpc.RpcError as error:
            problem = explain(error, address=self.address, action=self.action, transport=self.transport)
            if is_fatal(error, problem):
                raise problem from None
            return problem
        return None if response.complete else set(response.chunk_indices)

    def _send(self, arrived: set[int]) -> ExchangeError | None:
        """Sends the chunks that have not arrived; returns what went wrong, None if nothing did."""
        call: grpc.StreamUnaryMultiCallable[bytes, Any] = self.channel.stream_unary(
            f"{SERVICE}/UploadLabels", response_deserializer=labels_pb2.UploadLabelsResponse.FromString
        )
        answer = send_stream(
            call,
            self._messages(arrived),
            address=self.address,
            action=self.action,
            retry=self.retry,
            transport=self.transport,
        )
        if isinstance(answer, ExchangeError):
            return answer
        if answer.complete:
            return None
        return ExchangeError(
            f"label service {self.address} lost chunks while {self.action}; check the disk of its uploads"
        )

    def _messages(self, arrived: set[int]) -> Iterator[bytes]:
        yield labels_pb2.UploadLabelsRequest(header=self.header).SerializeToString()
        for index, chunk in enumerate(self.manifest.chunks):
            if index not in arrived:
                message = labels_pb2.UploadLabelsChunk(
                    index=index, crc32c=chunk.crc32c, payload=self.outgoing.payload(index)
                )
                yield labels_pb2.UploadLabelsRequest(chunk=message).SerializeToString()
