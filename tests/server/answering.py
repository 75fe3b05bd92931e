"""Nodes that answer at once, well or badly, and the strategy that asks them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedstill.common.config import Config, flatten, load_config
from fedstill.common.models import InputSpec
from fedstill.common.wire import pack, predictions_to_proto, unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Publication
from fedstill.server.federation.strategy import FedDistill
from fedstill.server.figures.scoring import Truth
from fedstill.server.grids import LocalGrid
from fedstill.server.run.events import Event, ReplyDropped
from fedstill.server.run.state import FederationState
from fedstill.server.schemes import Contribution

NUM_SAMPLES, NUM_CLASSES = 10, 4
SPEC = InputSpec("image", (8, 8), "uint8", "HW", 1.0, (0.0,), (1.0,))
Change = Callable[[fleet_pb2.TaskResponse, fleet_pb2.TaskRequest], None]


def answering_app(change: Change | None = None, *, num_correct: int = 8) -> ClientApp:
    """A node that answers at once, its artefact right on `num_correct` of ten samples."""
    app = ClientApp()

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        name = f"node-{int(context.node_config['partition-id']):04d}"
        return Message(pack(fleet_pb2.HelloResponse(node_id=name, num_train_samples=5)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task = unpack(message.content, fleet_pb2.TaskRequest)
        probabilities = np.full((NUM_SAMPLES, NUM_CLASSES), 0.1, np.float32)
        probabilities[np.arange(NUM_SAMPLES), (np.arange(NUM_SAMPLES) >= num_correct).astype(int)] = 0.7
        predictions = predictions_to_proto(probabilities)
        response = fleet_pb2.TaskResponse(
            run_id=task.run_id,
            round=task.round,
            node_id=f"node-{int(context.node_config['partition-id']):04d}",
            evaluation=predictions,
            evaluation_fp32=predictions,
            validation=predictions,
            model=fleet_pb2.ModelFacts(num_parameters=10, fp32_bytes=40, artefact_bytes=30),
        )
        if change is not None:
            change(response, task)
        return Message(pack(response), reply_to=message)

    return app


def federate(
    app: ClientApp,
    *overrides: str,
    teacher_hits_S: np.ndarray | None = None,
    state: FederationState | None = None,
    grid_type: type[LocalGrid] = LocalGrid,
) -> tuple[FedDistill, LocalGrid, list[Event]]:
    config: Config = load_config(overrides=["federation.num_nodes=4", "federation.num_rounds=2", *overrides])
    events: list[Event] = []
    zeros = np.zeros(NUM_SAMPLES, np.int64)
    strategy = FedDistill(
        config,
        Publication(
            "127.0.0.1:1",
            SPEC,
            ("a", "b", "c", "d"),
            (),
            b"\1" * 32,
            b"\2" * 32,
            array_bytes={"01" * 32: 100, "02" * 32: 50},
        ),
        Truth(zeros, zeros, NUM_CLASSES, teacher_hits_S=teacher_hits_S),
        state=state or FederationState(run_id="run"),
        num_public=32,
        observe=events.append,
    )
    return strategy, grid_type(app, num_nodes=4, run_config=flatten(config)), events


def dropped(events: list[Event]) -> list[ReplyDropped]:
    return [event for event in events if isinstance(event, ReplyDropped)]


def misbehave(node: str, change: Change) -> Change:
    def apply(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
        if response.node_id == node:
            change(response, task)

    return apply


def crash(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
    raise ValueError("out of paper")


def contribute(response: fleet_pb2.TaskResponse) -> Contribution:
    """Takes from any answer the same rows of one sample."""
    return Contribution(response.node_id, np.zeros((1, 1)), np.ones(1))
