"""What a node does after its last round: measure its artefact, and hand it in."""

from __future__ import annotations

from fedstill.clients.fetching import Fetcher, NodeContext
from fedstill.clients.labels import upload_artefact
from fedstill.clients.machine import name_machine
from fedstill.common.artefact import amend_manifest, list_artefact_files, read_artefact
from fedstill.common.inference import measure_latency
from fedstill.protos.fedstill.v1 import fleet_pb2


def close_run(node: NodeContext, request: fleet_pb2.ClosingRequest) -> fleet_pb2.ClosingResponse:
    """Measures the latency, completes the artefact's manifest and sends student and artefact.

    The latency goes into the report alone: a manifest holds nothing that differs between equal runs.

    Args:
        node: Cache and store of the node.
        request: The coordinator's closing task.

    Returns:
        The node's last report.

    Raises:
        ExchangeError: The evaluation set could not be fetched or the files not sent.
        ArtefactError: The artefact is gone from the node store.
    """
    evaluation = Fetcher(node, request.labels).fetch(request.labels.evaluation_digest)
    folder = node.store.artefact_dir(request.base_round)
    artefact = read_artefact(folder)
    latency = measure_latency(artefact.predict, evaluation)
    artefact_bytes = amend_manifest(
        artefact,
        accuracy={"value": request.accuracy, "n": request.num_evaluation_samples},
        uncompressed_accuracy={
            "value": request.uncompressed_accuracy if request.HasField("uncompressed_accuracy") else None,
            "n": request.num_evaluation_samples,
        },
    )
    reply = fleet_pb2.ClosingResponse(
        run_id=request.run_id,
        node_id=node.private.node_id,
        latency_seconds_batch1=latency,
        artefact_bytes=artefact_bytes,
        host=name_machine(),
    )
    if request.collect_artefact:
        reply.upload_bytes = upload_artefact(
            request.labels.address,
            run_id=request.run_id,
            node_id=node.private.node_id,
            files={
                **{f"artefact/{path.name}": path for path in list_artefact_files(folder)},
                "student.safetensors": node.store.student_path(request.base_round),
            },
            nonce=request.upload_nonce,
            transport=node.transport,
            timeout_seconds=node.config.exchange.timeout_seconds,
        )
    return reply
