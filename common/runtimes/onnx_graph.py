"""`onnxruntime`: a plain ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping

from fedstill.common.inference import Predictor, open_graph
from fedstill.common.runtimes.records import Runtime

MODEL_FILE = "model.onnx"


def _open(files: Mapping[str, bytes], *, num_threads: int, options: Mapping[str, str]) -> Predictor:
    return open_graph(files[MODEL_FILE], num_threads=num_threads, options=options)


ONNX_RUNTIME = Runtime("ONNX Runtime", MODEL_FILE, _open, lambda files: files[MODEL_FILE])

BUILT_IN = {"onnxruntime": ONNX_RUNTIME}
