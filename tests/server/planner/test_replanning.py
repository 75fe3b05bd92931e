"""A plan is left where a measured figure breaks its budget, and kept within the hysteresis."""

from __future__ import annotations

from typing import Any

import pytest

from fedstill.common.config import Config, load_config
from fedstill.common.devices import DeviceProfile
from fedstill.common.errors import ConfigError
from fedstill.common.models import InputSpec
from fedstill.server.exchange.publication import Publication
from fedstill.server.planner import replanning
from fedstill.server.planner.choice import Conditions, Option
from fedstill.server.planner.planner import Planner, check_planning
from fedstill.server.planner.replanning import observe_report, read_candidate, record_plan
from fedstill.server.run.events import Event, NodePlanned, Warned
from fedstill.server.run.state import NodePlan, NodeState
from tests.server.records import node_record

SPEC = InputSpec("image", (8, 8), "uint8", "HW", 1.0, (0.0,), (1.0,))
PUBLICATION = Publication("127.0.0.1:1", SPEC, ("a", "b"), (), b"", b"")
NUM_STEPS = 100


@pytest.fixture(autouse=True)
def equal_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host is as fast as the device, so that figures can be followed by hand."""
    monkeypatch.setattr(replanning, "scale_latencies", lambda profile: {"fp32": 1.0, "int8": 1.0})


def make_config(*overrides: str) -> Config:
    return load_config(overrides=["student.plan=auto", *overrides])


def make_node(profile: DeviceProfile, option: Option, **report: Any) -> NodeState:
    figures = {
        "artefact_bytes": option.artefact_bytes,
        "latency_seconds_batch1": option.latency_seconds,
        "fp32_latency_seconds_batch1": option.fp32_latency_seconds,
        "num_steps": NUM_STEPS,
        "phase_seconds": {"fetch": 0.1, "train": NUM_STEPS * option.step_seconds},
    }
    return NodeState(
        node_id="node-0000",
        num_train_samples=5,
        num_private_test=0,
        base_round=1,
        num_rounds=1,
        profile=profile,
        plan=record_plan(option, "the best", Conditions(), None),
        report=node_record(**(figures | report)),
    )


def review(node: NodeState, front: Any, *overrides: str, rounds_left: int = 5, times: int = 1) -> list[Event]:
    events: list[Event] = []
    planner = Planner(make_config(*overrides), SPEC, events.append, front)
    for _ in range(times):
        planner.review(node, PUBLICATION, rounds_left=rounds_left)
    return events


def changes(events: list[Event]) -> list[NodePlanned]:
    return [event for event in events if isinstance(event, NodePlanned) and event.is_change]


def test_a_plan_within_its_budgets_stays(profile: DeviceProfile, front: Any, ladder: list[Option]) -> None:
    node = make_node(profile, ladder[5])
    assert not changes(review(node, front, times=3))
    assert node.num_replans == 0
    assert node.plan is not None
    assert node.plan.num_rounds == 3


def test_an_artefact_over_its_flash_is_replanned_smaller_and_counted(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[5], artefact_bytes=30_500)
    (change,) = changes(review(node, front))
    assert change.plan == "cnn-tiny ×1, int8"
    assert "cnn-tiny ×2, int8 left: 30.5 kB of 30.0 kB flash" in change.plan_reason
    assert node.num_replans == 1
    assert node.plan is not None
    assert node.plan.num_rounds == 0


@pytest.mark.parametrize(("latency", "is_left"), [(0.0105, False), (0.0115, True)])
def test_latency_is_left_only_beyond_the_noise(
    profile: DeviceProfile, front: Any, ladder: list[Option], latency: float, is_left: bool
) -> None:
    node = make_node(
        profile, ladder[5], latency_seconds_batch1=latency, fp32_latency_seconds_batch1=2 * latency
    )
    assert bool(changes(review(node, front))) == is_left
    assert node.device_latency_seconds == latency


def test_a_device_that_is_slower_than_expected_gets_what_it_can_run(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[5], latency_seconds_batch1=0.016, fp32_latency_seconds_batch1=0.032)
    (change,) = changes(review(node, front))
    assert change.plan == "cnn-tiny ×1, int8"  # 8 ms expected: four times what was measured on this host
    assert node.latency_correction == {"fp32": 4.0, "int8": 4.0}


def test_a_form_that_is_slower_than_fp32_on_the_node_is_left(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[1], latency_seconds_batch1=0.004, fp32_latency_seconds_batch1=0.002)
    (change,) = changes(review(node, front))
    assert change.plan == "cnn-tiny ×0.5, fp32"
    assert "slower than fp32" in change.plan_reason


def test_a_deadline_that_steps_overrun_is_met_by_a_smaller_student(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[5], phase_seconds={"train": 20.0})
    (change,) = changes(review(node, front, "federation.deadline_seconds=20"))
    assert change.plan == "cnn-tiny ×1, int8"
    assert "a step takes 200 ms" in change.plan_reason


def test_steps_that_were_taken_beside_others_say_nothing_of_a_device(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[5], phase_seconds={"train": 20.0}, learned_together=True)
    assert not changes(review(node, front, "federation.deadline_seconds=20"))
    assert node.step_seconds is None


def test_missing_a_deadline_is_an_observation_too(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[5])
    events: list[Event] = []
    planner = Planner(make_config("federation.deadline_seconds=20"), SPEC, events.append, front)
    planner.review_timeout(node, num_steps=NUM_STEPS, rounds_left=3)
    assert node.step_seconds == pytest.approx(0.3)
    assert changes(events)[0].plan == "cnn-tiny ×0.5, fp32"


def test_room_moves_a_node_up_only_for_a_good_gain(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[1])
    (change,) = changes(review(node, front))
    assert change.plan == "cnn-tiny ×2, int8"
    assert "there is room for 0.075 more pilot accuracy" in change.plan_reason


def test_nobody_moves_up_in_the_last_rounds(profile: DeviceProfile, front: Any, ladder: list[Option]) -> None:
    assert not changes(review(make_node(profile, ladder[1]), front, rounds_left=1))


def test_moving_down_and_up_does_not_swing(profile: DeviceProfile, front: Any, ladder: list[Option]) -> None:
    node = make_node(profile, ladder[5], latency_seconds_batch1=0.0115, fp32_latency_seconds_batch1=0.023)
    review(node, front)
    assert node.plan is not None
    assert node.plan.width == 1.0
    assert node.report is not None
    node.report.latency_seconds_batch1 = 0.00575  # the smaller student, on the same slow device
    node.report.fp32_latency_seconds_batch1 = 0.0115
    assert not changes(review(node, front, times=3))


def test_when_nothing_fits_the_node_keeps_its_plan_and_the_operator_is_told(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[1], latency_seconds_batch1=0.5, fp32_latency_seconds_batch1=1.0)
    events = review(node, front)
    assert not changes(events)
    assert any(isinstance(event, Warned) and "nothing fits it" in event.text for event in events)


def test_after_the_last_round_nothing_is_replanned(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    node = make_node(profile, ladder[5], artefact_bytes=30_500)
    assert not changes(review(node, front, rounds_left=0))


def test_new_architecture_starts_from_its_initial_student(
    profile: DeviceProfile, front: Any, ladder: list[Option]
) -> None:
    planner = Planner(make_config(), SPEC, lambda event: None, front)
    node = make_node(profile, ladder[5], artefact_bytes=30_500)
    planner.review(node, PUBLICATION, rounds_left=5)
    assert planner.starts_anew(node)
    assert planner.plan(node).width == 1.0


def test_another_compression_of_the_same_student_goes_on_with_it(ladder: list[Option]) -> None:
    before = record_plan(ladder[1], "", Conditions(), None)
    before.num_rounds = 3
    assert record_plan(ladder[0], "", Conditions(), before).num_rounds == 3
    assert record_plan(ladder[2], "", Conditions(), before).num_rounds == 0


def test_a_plan_survives_the_state_file(ladder: list[Option]) -> None:
    plan = record_plan(ladder[3], "the best", Conditions(), None)
    again = NodePlan.model_validate_json(plan.model_dump_json())
    assert read_candidate(again) == ladder[3].candidate


def test_simulated_latencies_are_scaled_and_devices_own_are_not(
    profile: DeviceProfile, ladder: list[Option], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replanning, "scale_latencies", lambda profile: {"fp32": 10.0, "int8": 10.0})
    for is_simulated, expected in ((True, 0.04), (False, 0.004)):
        node = make_node(profile, ladder[5], latency_seconds_batch1=0.004)
        node.is_simulated = is_simulated
        observe_report(node, ladder[5])
        assert node.device_latency_seconds == pytest.approx(expected)


@pytest.mark.parametrize("scheme", ["weights", "prototypes"])
def test_schemes_of_equal_students_refuse_auto(scheme: str) -> None:
    with pytest.raises(ConfigError, match=rf"{scheme}.*student.plan = fixed"):
        check_planning(make_config(f"federation.scheme={scheme}", "federation.profiles=pi-4"))


def test_auto_without_profiles_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"federation\.profiles"):
        check_planning(make_config())
    check_planning(make_config("data.private=nodes"))
