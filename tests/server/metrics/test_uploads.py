"""What the label service refuses is counted by reason and logged with its sender."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedstill.common.arrays import build_manifest, describe_chunk
from fedstill.protos.fedstill.v1 import labels_pb2, labels_pb2_grpc
from fedstill.server.labels import LabelService, LabelStore
from fedstill.server.metrics import RunMetrics
from fedstill.server.run.events import broadcast
from fedstill.server.run.logs import JsonLog


def upload(address: str, rows: np.ndarray, *, run_id: str = "run-1", damage: bytes = b"") -> None:
    payload = rows.tobytes()
    manifest = build_manifest(
        num_rows=len(rows),
        row_shape=rows.shape[1:],
        dtype=rows.dtype.name,
        codec="raw",
        encoding=None,
        chunk_rows=len(rows),
        chunks=[describe_chunk(payload)],
    )
    header = labels_pb2.UploadLabelsHeader(
        run_id=run_id,
        round=1,
        node_id="node-0001",
        digest=hashlib.sha256(manifest).digest(),
        manifest=manifest,
    )
    sent = damage or payload
    chunk = labels_pb2.UploadLabelsChunk(index=0, payload=sent, crc32c=describe_chunk(sent).crc32c)
    parts = [
        labels_pb2.UploadLabelsRequest(header=header),
        labels_pb2.UploadLabelsRequest(chunk=chunk),
    ]
    with grpc.insecure_channel(address) as channel:
        labels_pb2_grpc.LabelServiceStub(channel).UploadLabels(iter(parts), timeout=10)


GOOD = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        (np.full((2, 3), np.nan, np.float32), {}, "non_finite"),
        (GOOD, {"run_id": "another"}, "invalid"),
        (GOOD, {"damage": b"\1" * GOOD.nbytes}, "damaged"),
    ],
)
def test_a_refused_upload_is_counted_and_its_sender_named(
    rows: np.ndarray, options: dict[str, str | bytes], reason: str, tmp_path: Path
) -> None:
    metrics, stream = RunMetrics(max_node_series=1), io.StringIO()
    with (
        LabelService(
            LabelStore(tmp_path / "labels"),
            uploads_dir=tmp_path / "nodes",
            run_id="run-1",
            on_call=metrics.observe_call,
            on_refuse=broadcast([metrics, JsonLog(stream)]),
        ) as service,
        pytest.raises(grpc.RpcError),
    ):
        upload(service.address, rows, **options)  # type: ignore[arg-type]

    [line] = [json.loads(line) for line in stream.getvalue().splitlines()]
    count = metrics.registry.get_sample_value("fedstill_uploads_refused_total", {"reason": reason})
    assert (line["event"], line["reason"], line["node"]) == ("upload_refused", reason, "node-0001")
    assert count == 1


def test_a_good_upload_is_refused_by_nobody(tmp_path: Path) -> None:
    refused: list[object] = []
    with LabelService(
        LabelStore(tmp_path / "labels"),
        uploads_dir=tmp_path / "nodes",
        run_id="run-1",
        on_refuse=refused.append,
    ) as service:
        upload(service.address, GOOD)

    assert refused == []
