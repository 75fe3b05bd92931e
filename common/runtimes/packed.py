"""`packed`: an ONNX graph that is stored in fewer bytes and unpacked when it is opened."""

from __future__ import annotations

from collections.abc import Mapping

from fedstill.common.inference import Predictor, open_graph
from fedstill.common.packing import unpack_bytes
from fedstill.common.runtimes.records import Runtime

PACKED_FILE = "model.packed"


def _to_graph(files: Mapping[str, bytes]) -> bytes:
    return unpack_bytes(files[PACKED_FILE])


def _open(files: Mapping[str, bytes], *, num_threads: int, options: Mapping[str, str]) -> Predictor:
    return open_graph(_to_graph(files), num_threads=num_threads, options=options)


PACKED_RUNTIME = Runtime("ONNX Runtime, unpacked", PACKED_FILE, _open, _to_graph)

BUILT_IN = {"packed": PACKED_RUNTIME}
