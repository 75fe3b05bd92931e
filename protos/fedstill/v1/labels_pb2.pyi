from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetManifestRequest(_message.Message):
    __slots__ = ("digest", "encoding")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    encoding: LabelEncoding
    def __init__(self, digest: _Optional[bytes] = ..., encoding: _Optional[_Union[LabelEncoding, _Mapping]] = ...) -> None: ...

class LabelEncoding(_message.Message):
    __slots__ = ("label_set_id", "codec", "temperature")
    LABEL_SET_ID_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    label_set_id: str
    codec: str
    temperature: float
    def __init__(self, label_set_id: _Optional[str] = ..., codec: _Optional[str] = ..., temperature: _Optional[float] = ...) -> None: ...

class GetManifestResponse(_message.Message):
    __slots__ = ("manifest",)
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    def __init__(self, manifest: _Optional[bytes] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("num_rows", "row_shape", "dtype", "codec", "encoding", "chunk_rows", "chunks", "row_mask")
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    ROW_SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ROWS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    ROW_MASK_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    row_shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    codec: str
    encoding: LabelEncoding
    chunk_rows: int
    chunks: _containers.RepeatedCompositeFieldContainer[ChunkInfo]
    row_mask: RowMask
    def __init__(self, num_rows: _Optional[int] = ..., row_shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., codec: _Optional[str] = ..., encoding: _Optional[_Union[LabelEncoding, _Mapping]] = ..., chunk_rows: _Optional[int] = ..., chunks: _Optional[_Iterable[_Union[ChunkInfo, _Mapping]]] = ..., row_mask: _Optional[_Union[RowMask, _Mapping]] = ...) -> None: ...

class RowMask(_message.Message):
    __slots__ = ("num_rows", "bits")
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    bits: bytes
    def __init__(self, num_rows: _Optional[int] = ..., bits: _Optional[bytes] = ...) -> None: ...

class ChunkInfo(_message.Message):
    __slots__ = ("num_bytes", "crc32c", "sha256")
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    num_bytes: int
    crc32c: int
    sha256: bytes
    def __init__(self, num_bytes: _Optional[int] = ..., crc32c: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class StreamChunksRequest(_message.Message):
    __slots__ = ("digest", "start_chunk")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    START_CHUNK_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    start_chunk: int
    def __init__(self, digest: _Optional[bytes] = ..., start_chunk: _Optional[int] = ...) -> None: ...

class StreamChunksResponse(_message.Message):
    __slots__ = ("index", "crc32c", "payload")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    index: int
    crc32c: int
    payload: bytes
    def __init__(self, index: _Optional[int] = ..., crc32c: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class UploadArtefactRequest(_message.Message):
    __slots__ = ("header", "payload")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    payload: UploadPayload
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., payload: _Optional[_Union[UploadPayload, _Mapping]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("run_id", "node_id", "files", "nonce")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node_id: str
    files: _containers.RepeatedCompositeFieldContainer[FileInfo]
    nonce: bytes
    def __init__(self, run_id: _Optional[str] = ..., node_id: _Optional[str] = ..., files: _Optional[_Iterable[_Union[FileInfo, _Mapping]]] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class FileInfo(_message.Message):
    __slots__ = ("path", "num_bytes", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    num_bytes: int
    sha256: bytes
    def __init__(self, path: _Optional[str] = ..., num_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class UploadPayload(_message.Message):
    __slots__ = ("file_index", "offset", "payload", "crc32c")
    FILE_INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    file_index: int
    offset: int
    payload: bytes
    crc32c: int
    def __init__(self, file_index: _Optional[int] = ..., offset: _Optional[int] = ..., payload: _Optional[bytes] = ..., crc32c: _Optional[int] = ...) -> None: ...

class UploadArtefactResponse(_message.Message):
    __slots__ = ("num_bytes",)
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    num_bytes: int
    def __init__(self, num_bytes: _Optional[int] = ...) -> None: ...

class UploadLabelsRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadLabelsHeader
    chunk: UploadLabelsChunk
    def __init__(self, header: _Optional[_Union[UploadLabelsHeader, _Mapping]] = ..., chunk: _Optional[_Union[UploadLabelsChunk, _Mapping]] = ...) -> None: ...

class UploadLabelsHeader(_message.Message):
    __slots__ = ("run_id", "round", "node_id", "digest", "manifest", "nonce")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    node_id: str
    digest: bytes
    manifest: bytes
    nonce: bytes
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., node_id: _Optional[str] = ..., digest: _Optional[bytes] = ..., manifest: _Optional[bytes] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class UploadLabelsChunk(_message.Message):
    __slots__ = ("index", "crc32c", "payload")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    index: int
    crc32c: int
    payload: bytes
    def __init__(self, index: _Optional[int] = ..., crc32c: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class UploadLabelsResponse(_message.Message):
    __slots__ = ("complete",)
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    def __init__(self, complete: _Optional[bool] = ...) -> None: ...

class GetUploadRequest(_message.Message):
    __slots__ = ("run_id", "round", "node_id", "digest", "nonce")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    node_id: str
    digest: bytes
    nonce: bytes
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., node_id: _Optional[str] = ..., digest: _Optional[bytes] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class GetUploadResponse(_message.Message):
    __slots__ = ("complete", "chunk_indices")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_INDICES_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    chunk_indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, complete: _Optional[bool] = ..., chunk_indices: _Optional[_Iterable[int]] = ...) -> None: ...
