"""The best student that fits is chosen, others are rejected with a reason, a refusal says what would fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedstill.common.compressors import make_plan
from fedstill.common.devices import DeviceProfile
from fedstill.server.planner.candidates import Candidate
from fedstill.server.planner.choice import Conditions, Option, choose_option, find_obstacle


def make(profile: DeviceProfile, **values: Any) -> DeviceProfile:
    return profile.model_copy(update=values)


def test_the_most_accurate_that_fits_is_chosen(profile: DeviceProfile, ladder: list[Option]) -> None:
    choice = choose_option(ladder, profile, Conditions())
    assert choice.chosen is not None
    assert choice.chosen.candidate.describe() == "cnn-tiny ×2, int8"
    assert "the best of 4 that fit of 6" in choice.reason


def test_every_other_is_rejected_with_its_reason(profile: DeviceProfile, ladder: list[Option]) -> None:
    rejected = {
        entry.option.candidate.describe(): entry
        for entry in choose_option(ladder, profile, Conditions()).rejected
    }
    assert len(rejected) == 5
    assert rejected["cnn-tiny ×1, fp32"].reason == "40.0 kB of 30.0 kB flash"
    assert not rejected["cnn-tiny ×1, fp32"].is_feasible
    assert rejected["cnn-tiny ×1, int8"].reason == "pilot accuracy 0.840"
    assert rejected["cnn-tiny ×1, int8"].is_feasible


def test_equal_accuracies_go_by_bytes(profile: DeviceProfile, ladder: list[Option]) -> None:
    equal = [replace(option, accuracy=0.9) for option in ladder]
    chosen = choose_option(equal, profile, Conditions()).chosen
    assert chosen is not None
    assert chosen.artefact_bytes == 5000


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"memory_bytes": 3000}, "5.00 kB of 3.00 kB memory"),
        ({"latency_budget_seconds": 1e-4}, "of 100 µs"),
        ({"runtimes": ("executorch",)}, "no onnxruntime"),
        ({"arithmetic": ("fp32",)}, "no int8"),
    ],
)
def test_each_budget_is_an_obstacle(
    profile: DeviceProfile, ladder: list[Option], budget: dict[str, Any], reason: str
) -> None:
    smallest = min(ladder, key=lambda option: option.artefact_bytes)
    smallest = replace(smallest, memory_bytes=5000)
    assert reason in find_obstacle(smallest, make(profile, **budget), Conditions())


def test_latency_is_scaled_to_the_device_by_its_arithmetic(
    profile: DeviceProfile, ladder: list[Option]
) -> None:
    slow = Conditions(latency_scale={"fp32": 2.0, "int8": 6.0})
    int8 = ladder[1]
    assert slow.latency(int8) == pytest.approx(6 * int8.latency_seconds)
    assert slow.fp32_latency(int8) == pytest.approx(2 * int8.fp32_latency_seconds)


def test_a_form_that_is_slower_than_its_fp32_is_left(profile: DeviceProfile, ladder: list[Option]) -> None:
    slow = [
        replace(option, latency_seconds=0.005) if option.candidate.compression.bits == 8 else option
        for option in ladder
    ]
    chosen = choose_option(slow, profile, Conditions()).chosen
    assert chosen is not None
    assert chosen.candidate.describe() in ("cnn-tiny ×0.5, fp32", "cnn-tiny ×2, int8")
    reasons = {
        entry.option.candidate.describe(): entry.reason
        for entry in choose_option(slow, profile, Conditions()).rejected
    }
    assert reasons["cnn-tiny ×0.5, int8"] == "slower than fp32, 2.00 ms"


def test_a_deadline_leaves_out_what_trains_too_long(profile: DeviceProfile, ladder: list[Option]) -> None:
    chosen = choose_option(ladder, profile, Conditions(step_scale=3.0, step_limit_seconds=0.02)).chosen
    assert chosen is not None
    assert chosen.candidate.width == 0.5


def test_packed_files_need_a_device_that_unpacks(profile: DeviceProfile, ladder: list[Option]) -> None:
    packed = replace(
        ladder[0], candidate=Candidate("cnn-tiny", 1.0, make_plan(steps="", bits=32, storage="packed"))
    )
    assert find_obstacle(packed, profile, Conditions()) == "the device has no packed"
    able = make(profile, runtimes=("onnxruntime", "packed"))
    assert find_obstacle(packed, able, Conditions()) == ""


def test_a_refusal_names_the_nearest_budget(profile: DeviceProfile, ladder: list[Option]) -> None:
    choice = choose_option(ladder, make(profile, flash_bytes=4000), Conditions())
    assert choice.chosen is None
    assert choice.nearest == "cnn-tiny ×0.5, int8 would fit with flash_bytes = 5_000 instead of 4_000"


def test_a_refusal_names_every_budget_that_is_over(profile: DeviceProfile, ladder: list[Option]) -> None:
    tight = make(profile, flash_bytes=4000, latency_budget_seconds=0.0009)
    nearest = choose_option(ladder, tight, Conditions()).nearest
    assert "flash_bytes = 5_000" in nearest
    assert "latency_budget_seconds = 0.001 instead of 0.0009" in nearest


def test_a_device_that_runs_nothing_is_told_so(profile: DeviceProfile, ladder: list[Option]) -> None:
    choice = choose_option(ladder, make(profile, runtimes=("executorch",)), Conditions())
    assert choice.nearest == "no candidate runs on executorch with fp32, int8"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flash=st.integers(1024, 200_000), latency=st.floats(1e-4, 0.05), scale=st.floats(0.1, 50))
def test_what_is_chosen_always_fits(
    profile: DeviceProfile, ladder: list[Option], flash: int, latency: float, scale: float
) -> None:
    tried = make(profile, flash_bytes=flash, latency_budget_seconds=latency)
    conditions = Conditions(latency_scale={"fp32": scale, "int8": scale})
    choice = choose_option(ladder, tried, conditions)
    assert len(choice.rejected) + (choice.chosen is not None) == len(ladder)
    if choice.chosen is None:
        assert choice.nearest
        return
    assert choice.chosen.artefact_bytes <= flash
    assert conditions.latency(choice.chosen) <= latency
