"""The label service: a gRPC server over the files of a label store and of nothing else.

Chunks go out as they lie in the store, serialised once; gRPC only frames them.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import grpc

from fedstill.common.arrays import DIGEST_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from fedstill.common.certificates import is_loopback
from fedstill.common.errors import (
    AccessError,
    BusyError,
    DigestError,
    ExchangeError,
    NonFiniteError,
    NotPublishedError,
    UsageError,
)
from fedstill.protos.fedstill.v1 import labels_pb2
from fedstill.server.labels.access import Doorkeeper
from fedstill.server.labels.array_uploads import UPLOADS_DIR, AllowArray, UploadStore
from fedstill.server.labels.rations import Pulse, Rations
from fedstill.server.labels.store import LabelStore
from fedstill.server.labels.transport import ServerCertificates
from fedstill.server.labels.uploads import receive_upload
from fedstill.server.run.events import UploadRefused

OnCall = Callable[[str, str, float, int], None]
OnRefuse = Callable[[UploadRefused], None]

SERVICE_NAME = "fedstill.v1.LabelService"
# A sync server holds one thread per stream; who finds none free is told to come back.
_NUM_THREADS = 32
_MAX_WAITING_CALLS = 256
# Each codec and temperature that anyone asks for is kept: a limit keeps strangers from filling the disk.
_MAX_ENCODINGS = 32
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.max_frame_size", MAX_FRAME_BYTES),
    # A node that vanished without closing its connection gives its thread back in under a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (NotPublishedError, grpc.StatusCode.NOT_FOUND),
    (UsageError, grpc.StatusCode.INVALID_ARGUMENT),
    (AccessError, grpc.StatusCode.PERMISSION_DENIED),
    (DigestError, grpc.StatusCode.DATA_LOSS),
    (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ExchangeError, grpc.StatusCode.INVALID_ARGUMENT),
    (OSError, grpc.StatusCode.RESOURCE_EXHAUSTED),
)
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (AccessError, "forbidden"),
    (NonFiniteError, "non_finite"),
    (DigestError, "damaged"),
    (UsageError, "invalid"),
    (ExchangeError, "invalid"),
    (OSError, "storage"),
)
_UPLOADS = ("UploadArtefact", "UploadLabels", "GetUpload")
_log = logging.getLogger(__name__)


class _Tally:
    """Bytes of payload that one call has moved so far, and who calls.

    `caller` stands in the certificate, empty on plaintext; `node_id` is what the message says.
    """

    num_bytes = 0
    caller = ""
    node_id = ""
    pulse: Pulse


class LabelService:
    """Serves a label store and takes uploads; usable as a context manager.

    Args:
        store: The store; other processes may serve and fill the same folder.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        uploads_dir: Folder that receives `<node id>/<path>` of each uploaded file.
        arrays_dir: Folder that receives uploaded arrays, see `UploadStore`; None takes
            `uploads` beside `uploads_dir`.
        run_id: The only run whose uploads are accepted; None accepts any.
        certificates_dir: Folder that `fedstill certs init` filled: mutual TLS; None: plaintext.
        access_file: What the coordinator allows, see `Doorkeeper`; None: anything.
        allow_insecure: Plaintext on other than loopback is wanted.
        on_call: Told of each finished call: method, gRPC code, seconds, bytes moved.
            It runs on the server's threads.
        on_refuse: Told of each refused upload, on the server's threads too.
    """

    def __init__(
        self,
        store: LabelStore,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        uploads_dir: Path,
        arrays_dir: Path | None = None,
        run_id: str | None = None,
        certificates_dir: Path | None = None,
        access_file: Path | None = None,
        allow_insecure: bool = False,
        on_call: OnCall | None = None,
        on_refuse: OnRefuse | None = None,
    ) -> None:
        self._store = store
        self._bare_host = host
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._uploads_dir = uploads_dir
        self._uploads = UploadStore(arrays_dir or uploads_dir.parent / UPLOADS_DIR)
        self._run_id = run_id
        self._certificates_dir = certificates_dir
        self._allow_insecure = allow_insecure
        self._door = Doorkeeper(None, access_file)
        self._on_call = on_call
        self._on_refuse = on_refuse
        self._server: grpc.Server | None = None
        self._rations = Rations()

    @property
    def address(self) -> str:
        """Where it listens, as host:port; known once it is started."""
        return f"{self._host}:{self._port}"

    def start(self) -> None:
        """Binds the port and serves in background threads.

        Raises:
            UsageError: The port is taken, the host is not this machine's, certificates cannot be
                used, or other machines would be served in plaintext unasked.
        """
        self._check_exposure()
        _check_bindable(self._bare_host, self._port)
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=_NUM_THREADS, thread_name_prefix="labels"),
            options=_OPTIONS,
            maximum_concurrent_rpcs=_MAX_WAITING_CALLS,
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            if self._certificates_dir is None:
                self._port = server.add_insecure_port(self.address)
            else:
                self._door.certificates = ServerCertificates(self._certificates_dir)
                self._port = server.add_secure_port(self.address, self._door.certificates.credentials())
        except RuntimeError as error:
            raise _not_bindable(self._bare_host, self._port, str(error)) from None
        self._rations.start()
        server.start()
        self._server = server

    def _check_exposure(self) -> None:
        if self._certificates_dir is not None or is_loopback(self._bare_host):
            return
        if not self._allow_insecure:
            raise UsageError(
                f"exchange.host = {self._bare_host} would serve other machines in plaintext: set"
                " exchange.certificates_dir (fedstill certs init makes one), or exchange.allow_insecure on a"
                " network that you trust"
            )
        _log.warning("label service on %s: plaintext; anyone on the way can read and alter", self._host)

    def stop(self, grace: float = 1.0) -> None:
        """Stops serving; calls in progress get `grace` seconds to end."""
        if self._server is not None:
            self._server.stop(grace).wait()
            self._server = None
            self._rations.stop()

    def wait(self) -> None:
        """Blocks until the service is stopped."""
        if self._server is not None:
            self._server.wait_for_termination()

    def __enter__(self) -> LabelService:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _handlers(self) -> grpc.GenericRpcHandler:
        handlers: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                # Questions are taken as streams of one message: gRPC's own unary handlers wait for it on a
                # thread of the pool before they call us, without end and for whoever it is.
                "GetManifest": grpc.stream_unary_rpc_method_handler(
                    self._get_manifest,
                    request_deserializer=labels_pb2.GetManifestRequest.FromString,
                    response_serializer=labels_pb2.GetManifestResponse.SerializeToString,
                ),
                # No serializer: the messages lie serialised in the store.
                "StreamChunks": grpc.stream_stream_rpc_method_handler(
                    self._stream_chunks,
                    request_deserializer=labels_pb2.StreamChunksRequest.FromString,
                ),
                "UploadArtefact": grpc.stream_unary_rpc_method_handler(
                    self._upload_artefact,
                    request_deserializer=labels_pb2.UploadArtefactRequest.FromString,
                    response_serializer=labels_pb2.UploadArtefactResponse.SerializeToString,
                ),
                "UploadLabels": grpc.stream_unary_rpc_method_handler(
                    self._upload_labels,
                    request_deserializer=labels_pb2.UploadLabelsRequest.FromString,
                    response_serializer=labels_pb2.UploadLabelsResponse.SerializeToString,
                ),
                "GetUpload": grpc.stream_unary_rpc_method_handler(
                    self._get_upload,
                    request_deserializer=labels_pb2.GetUploadRequest.FromString,
                    response_serializer=labels_pb2.GetUploadResponse.SerializeToString,
                ),
            },
        )
        return handlers

    def _get_manifest(
        self, requests: Iterator[labels_pb2.GetManifestRequest], context: grpc.ServicerContext
    ) -> labels_pb2.GetManifestResponse:
        with self._counted("GetManifest", context) as tally:
            request = tally.pulse.read_one(requests)
            digest = request.digest
            if request.WhichOneof("array") == "encoding":
                wanted = request.encoding
                digest = self._store.encode(
                    wanted.label_set_id,
                    codec=wanted.codec,
                    temperature=wanted.temperature,
                    max_encodings=_MAX_ENCODINGS,
                ).digest
            manifest = self._store.array(_checked_digest(digest)).manifest
            tally.num_bytes = len(manifest)
            return labels_pb2.GetManifestResponse(manifest=manifest)

    def _stream_chunks(
        self, requests: Iterator[labels_pb2.StreamChunksRequest], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        with self._counted("StreamChunks", context) as tally:
            request = tally.pulse.read_one(requests)
            array = self._store.array(_checked_digest(request.digest))
            if request.start_chunk >= array.num_chunks:
                raise UsageError(f"start_chunk: expected below {array.num_chunks}, got {request.start_chunk}")
            for index in range(request.start_chunk, array.num_chunks):
                message = array.message(index)
                tally.pulse.beat()
                tally.num_bytes += len(message)
                yield message

    def _upload_artefact(
        self, requests: Iterator[labels_pb2.UploadArtefactRequest], context: grpc.ServicerContext
    ) -> labels_pb2.UploadArtefactResponse:
        with self._counted("UploadArtefact", context) as tally:

            def allow(header: labels_pb2.UploadHeader) -> None:
                tally.node_id = header.node_id
                self._door.check_upload(tally.caller, node_id=header.node_id, nonce=header.nonce)

            num_bytes = receive_upload(
                tally.pulse.follow(requests), uploads_dir=self._uploads_dir, run_id=self._run_id, allow=allow
            )
            tally.num_bytes = num_bytes
            return labels_pb2.UploadArtefactResponse(num_bytes=num_bytes)

    def _upload_labels(
        self, requests: Iterator[labels_pb2.UploadLabelsRequest], context: grpc.ServicerContext
    ) -> labels_pb2.UploadLabelsResponse:
        with self._counted("UploadLabels", context) as tally:
            complete = self._uploads.receive(
                _weighed(tally.pulse.follow(requests), tally),
                run_id=self._run_id,
                allow=self._allow_array(tally),
            )
            if not complete and not context.is_active():
                raise ExchangeError("the stream broke off")
            return labels_pb2.UploadLabelsResponse(complete=complete)

    def _get_upload(
        self, requests: Iterator[labels_pb2.GetUploadRequest], context: grpc.ServicerContext
    ) -> labels_pb2.GetUploadResponse:
        with self._counted("GetUpload", context) as tally:
            request = tally.pulse.read_one(requests)
            self._allow_array(tally)(request)
            arrived = self._uploads.find_chunks(request, run_id=self._run_id)
            answer = labels_pb2.GetUploadResponse(complete=arrived is None, chunk_indices=arrived or ())
            tally.num_bytes = answer.ByteSize()
            return answer

    def _allow_array(self, tally: _Tally) -> AllowArray:
        def allow(sender: labels_pb2.UploadLabelsHeader | labels_pb2.GetUploadRequest) -> None:
            tally.node_id = sender.node_id
            self._door.check_upload(
                tally.caller, node_id=sender.node_id, nonce=sender.nonce, round_number=sender.round
            )

        return allow

    @contextmanager
    def _counted(self, method: str, context: grpc.ServicerContext) -> Iterator[_Tally]:
        started = time.monotonic()
        tally = _Tally()
        code = grpc.StatusCode.OK
        try:
            tally.caller = tally.node_id = self._door.identify(context)
            self._door.check_fetch(tally.caller)  # who does not belong here is not read at all
            with self._rations.admit(tally.caller, context) as tally.pulse:
                yield tally
        except GeneratorExit:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code = _code_of(error, context)
            if code is not grpc.StatusCode.CANCELLED:
                # Refusals for want of room come by the hundred: they are counted, not told one by one.
                is_told = method in _UPLOADS and not isinstance(error, BusyError)
                if self._on_refuse is not None and is_told:
                    reason = next((name for kind, name in _REASONS if isinstance(error, kind)), "internal")
                    self._on_refuse(UploadRefused(tally.node_id, reason, str(error)))
                _refuse(error, code, method, context)
            raise
        finally:
            if self._on_call is not None:
                self._on_call(method, code.name, time.monotonic() - started, tally.num_bytes)


def _weighed(
    requests: Iterator[labels_pb2.UploadLabelsRequest], tally: _Tally
) -> Iterator[labels_pb2.UploadLabelsRequest]:
    for request in requests:
        tally.node_id = tally.node_id or request.header.node_id
        tally.num_bytes += len(request.header.manifest) + request.chunk.ByteSize()
        yield request


def _check_bindable(host: str, port: int) -> None:
    # gRPC would print lines of its own and not say whether port or host is at fault.
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise _not_bindable(host, port, error.strerror or str(error)) from None


def _not_bindable(host: str, port: int, reason: str) -> UsageError:
    return UsageError(
        f"label service: cannot listen on port {port} of {host}: {reason}; set exchange.port to 0 or to a"
        " free port, and exchange.host to an address of this machine"
    )


def _checked_digest(digest: bytes) -> bytes:
    if len(digest) != DIGEST_BYTES:
        raise UsageError(f"digest: expected {DIGEST_BYTES} bytes, got {len(digest)}")
    return digest


def _code_of(error: Exception, context: grpc.ServicerContext) -> grpc.StatusCode:
    if not context.is_active():
        return grpc.StatusCode.CANCELLED
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def _refuse(error: Exception, code: grpc.StatusCode, method: str, context: grpc.ServicerContext) -> None:
    if code is grpc.StatusCode.INTERNAL:
        _log.error("%s from %s failed", method, context.peer(), exc_info=error)
        context.abort(code, f"{method} failed inside the label service; its log says why")
    level = logging.DEBUG if isinstance(error, BusyError) else logging.WARNING
    _log.log(level, "%s from %s refused: %s", method, context.peer(), error)
    context.abort(code, str(error))
