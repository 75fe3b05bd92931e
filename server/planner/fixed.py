"""Which student a node trains, and with which hyperparameters."""

from __future__ import annotations

import json

from fedstill.common.config import Config
from fedstill.common.losses import compares_features
from fedstill.common.models import InputSpec, resolve_model
from fedstill.common.wire import plan_to_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.aggregators import needs_class_counts
from fedstill.server.run.state import NodeState
from fedstill.server.schemes import get_scheme

# Keys of [distill] that have a field of the message, and those that only the coordinator reads. Every
# other key travels by itself, so that a new one is declared in the schema and read where it is used.
FIELDS = {
    "loss",
    "temperature",
    "lambda_",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "feature_weight",
    "mode",
}
COORDINATORS = {"num_views", "mixup_ratio", "flip_views", "num_epochs"}


def plan_student(config: Config, spec: InputSpec, node_id: str) -> fleet_pb2.StudentPlan:
    """Plans one node's student.

    Args:
        config: The run's configuration; several models with commas are taken in turn.
        spec: What samples look like.
        node_id: The node; the number at its end is its turn.

    Returns:
        The plan.

    Raises:
        ConfigError: An unknown model, or one that takes other samples.
    """
    names = [name.strip() for name in config.student.model.split(",")]
    number = node_id.rpartition("-")[2]
    name = names[int(number) % len(names) if number.isdigit() else 0]
    model = resolve_model(name, role="student", spec=spec)
    return plan_to_proto(config.compress.plan, model=model, width=config.student.width)


def plan_node(config: Config, spec: InputSpec, node: NodeState) -> fleet_pb2.StudentPlan:
    """Gives a node the student that was planned for its device, else the configuration's."""
    if node.plan is None:
        return plan_student(config, spec, node.node_id)
    return plan_to_proto(node.plan.compression, model=node.plan.model, width=node.plan.width)


def plan_training(config: Config, *, num_steps: int) -> fleet_pb2.Hyperparameters:
    """Packs the hyperparameters of one task of `num_steps` optimiser steps."""
    distill, federation = config.distill, config.federation
    scheme = get_scheme(federation.scheme)
    answers_labels = scheme.rows == "public"
    more = distill.model_dump(mode="json", exclude=FIELDS | COORDINATORS, exclude_defaults=True)
    return fleet_pb2.Hyperparameters(
        scheme=federation.scheme,
        loss=distill.loss,
        temperature=distill.temperature,
        distill_lambda=distill.lambda_,
        num_steps=num_steps,
        batch_size=distill.batch_size,
        learning_rate=distill.learning_rate,
        weight_decay=distill.weight_decay,
        proximal_mu=federation.proximal_mu,
        feature_weight=distill.feature_weight if compares_features(distill.loss) else 0.0,
        mode=distill.mode,
        more=json.dumps(more) if more else "",
        begins_together=scheme.begins_together,
        wants_class_counts=answers_labels and needs_class_counts(federation.aggregator),
        selective_quantile=federation.selective_quantile if answers_labels else 0.0,
        revisit_ratio=federation.revisit_ratio if answers_labels else 0.0,
    )
