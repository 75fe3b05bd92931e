"""What a task says of its training is what the configuration says."""

from __future__ import annotations

import pytest

from fedstill.common.config import DistillConfig, load_config
from fedstill.common.errors import ExchangeError
from fedstill.common.wire import settings_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.planner.fixed import COORDINATORS, FIELDS, plan_training


def test_settings_come_back_from_a_task() -> None:
    config = load_config(overrides=["distill.temperature=2", "distill.lambda=0.5", "distill.loss=dkd"])
    settings = settings_from_proto(plan_training(config, num_steps=3))
    read = settings.model_dump(exclude={"feature_weight"})
    assert read == config.distill.model_dump(exclude={"feature_weight"})


def test_keys_of_the_coordinator_do_not_travel() -> None:
    config = load_config(overrides=["distill.num_epochs=3", "distill.num_views=2"])
    assert plan_training(config, num_steps=3).more == ""
    assert DistillConfig.model_fields.keys() >= FIELDS | COORDINATORS


@pytest.mark.parametrize("more", ["{", '{"num_epochs": "many"}', '{"of_another_version": 1}'])
def test_settings_that_this_version_does_not_know_are_refused(more: str) -> None:
    message = plan_training(load_config(), num_steps=3)
    message.MergeFrom(fleet_pb2.Hyperparameters(more=more))
    with pytest.raises(ExchangeError, match="do not fit this version"):
        settings_from_proto(message)


@pytest.mark.parametrize(("scheme", "expected"), [("weights", True), ("teacher", False)])
def test_students_that_are_averaged_begin_together(scheme: str, expected: bool) -> None:
    config = load_config(overrides=[f"federation.scheme={scheme}"])
    assert plan_training(config, num_steps=3).begins_together is expected


def test_class_counts_are_asked_for_where_they_are_weighed_by() -> None:
    wanted = load_config(overrides=["federation.scheme=ensemble", "federation.aggregator=class_count"])
    assert plan_training(wanted, num_steps=3).wants_class_counts
    assert not plan_training(load_config(), num_steps=3).wants_class_counts
