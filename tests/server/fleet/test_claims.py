"""What a node says of itself has to be possible."""

from __future__ import annotations

import math

import pytest

from fedstill.common.errors import ExchangeError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.claims import check_claims

TASK, PHASES = fleet_pb2.TaskResponse, fleet_pb2.PhaseSeconds


@pytest.mark.parametrize(
    "answer",
    [
        TASK(private_test_accuracy=7),
        TASK(private_validation_accuracy=-0.1),
        TASK(private_test_accuracy=math.inf),
        TASK(distillation_loss=-math.inf),
        TASK(latency_seconds_batch1=-1),
        TASK(latency_seconds_batch1=math.nan),
        TASK(seconds=PHASES(train=1e30)),
        TASK(wire_bytes_down=2**63),
        TASK(upload_counts=[3, 2**60]),
        TASK(choice=fleet_pb2.Choice(distill_lambda=1.5)),
        fleet_pb2.HelloResponse(num_train_samples=2**62),
        fleet_pb2.HelloResponse(profile=fleet_pb2.DeviceProfile(int8_macs_per_second=math.inf)),
        fleet_pb2.ControlResponse(private_test_accuracy=2),
        fleet_pb2.ClosingResponse(latency_seconds_batch1=-5),
    ],
    ids=str,
)
def test_absurd_claims_are_refused(answer):
    with pytest.raises(ExchangeError, match=r"claims \w+ = .*; expected "):
        check_claims(answer)


def test_what_a_node_can_say_is_taken():
    check_claims(
        TASK(
            private_test_accuracy=math.nan,  # it has no test part
            private_validation_accuracy=1.0,
            distillation_loss=-0.5,
            private_loss=math.nan,
            latency_seconds_batch1=0.002,
            seconds=PHASES(fetch=0.1, train=86_400),
            upload_counts=[0, 12],
            wire_bytes_down=10**9,
        )
    )
    check_claims(fleet_pb2.HelloResponse())
