"""Sending a node's files to the label service."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import grpc

from fedstill.clients.labels.channels import SERVICE, RetryPolicy, send_stream
from fedstill.clients.labels.transport import Transport
from fedstill.common.errors import ExchangeError
from fedstill.protos.fedstill.v1 import labels_pb2

_PAYLOAD_BYTES = 1_048_576


def upload_artefact(
    address: str,
    *,
    run_id: str,
    node_id: str,
    files: Mapping[str, Path],
    nonce: bytes = b"",
    transport: Transport = Transport(),  # noqa: B008 it is frozen
    timeout_seconds: float = 60.0,
    num_attempts: int = 8,
    backoff_seconds: float = 0.1,
) -> int:
    """Sends files to a label service; sending them again changes nothing.

    Args:
        address: host:port of the service.
        run_id: The run that the node works for.
        node_id: The node.
        files: Where each file lies here, by its path at the service, as "artefact/model.onnx".
        nonce: What the closing task brought; it lets the files in.
        transport: How the service is called.
        timeout_seconds: Longest silence before the upload is begun again.
        num_attempts: Failures that end it.
        backoff_seconds: Pause after the first failure; it doubles up to 5 s.

    Returns:
        Bytes of the messages that carried the files, those of one whole upload.

    Raises:
        AccessError: No certificate that the service takes, another node's name, or a closed round.
        DigestError: The service saw altered bytes, at every attempt.
        ExchangeError: A file cannot be read, the service refused the upload or stayed
            out of reach.
    """
    retry = RetryPolicy(num_attempts, backoff_seconds, timeout_seconds)
    header = labels_pb2.UploadHeader(run_id=run_id, node_id=node_id, nonce=nonce)
    try:
        for path, file in files.items():
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").digest()
            header.files.add(path=path, num_bytes=file.stat().st_size, sha256=digest)
    except OSError as error:
        raise ExchangeError(f"upload: cannot read {error.filename}: {error.strerror}") from None
    failures = 0
    with transport.open(address) as channel:
        call: grpc.StreamUnaryMultiCallable[bytes, Any] = channel.stream_unary(
            f"{SERVICE}/UploadArtefact", response_deserializer=labels_pb2.UploadArtefactResponse.FromString
        )
        while True:
            upload = _Upload(header, list(files.values()))
            answer = send_stream(
                call,
                upload.messages(),
                address=address,
                action=f"uploading for {node_id}",
                retry=retry,
                transport=transport,
            )
            if not isinstance(answer, ExchangeError):
                return upload.num_bytes
            failures += 1
            if failures >= retry.num_attempts:
                raise answer
            retry.pause(failures)


class _Upload:
    """One attempt's messages, and their size."""

    def __init__(self, header: labels_pb2.UploadHeader, files: list[Path]) -> None:
        self._header = header
        self._files = files
        self.num_bytes = 0

    def messages(self) -> Iterator[bytes]:
        yield self._counted(labels_pb2.UploadArtefactRequest(header=self._header))
        for index, path in enumerate(self._files):
            position = 0
            with path.open("rb") as file:
                while content := file.read(_PAYLOAD_BYTES):
                    payload = labels_pb2.UploadPayload(
                        file_index=index,
                        offset=position,
                        payload=content,
                        crc32c=google_crc32c.value(content),
                    )
                    yield self._counted(labels_pb2.UploadArtefactRequest(payload=payload))
                    position += len(content)

    def _counted(self, message: labels_pb2.UploadArtefactRequest) -> bytes:
        content: bytes = message.SerializeToString()
        self.num_bytes += len(content)
        return content
