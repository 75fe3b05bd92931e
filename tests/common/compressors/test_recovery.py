"""Removal grows as the schedule says, while training goes on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedstill.common.compressors import make_plan
from fedstill.common.compressors.pruning import count_channels
from fedstill.common.compressors.recovery import cubic_share, event_steps, make_recovery
from fedstill.common.training import count_bytes, digest_weights


def test_the_cubic_schedule_by_hand():
    assert [cubic_share(done) for done in (0, 0.5, 1, 2)] == [0, 0.875, 1, 1]


@given(st.integers(1, 5000))
def test_events_grow_to_the_whole_and_leave_steps_to_recover(num_steps):
    events = event_steps(num_steps)
    shares = [events[step] for step in sorted(events)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert all(1 <= step <= max(1, num_steps * 0.55) for step in events)


def test_a_plan_that_leaves_training_alone_has_no_recovery(digits_cnn):
    plan = make_plan(steps="quantise")
    assert (
        make_recovery(plan, digits_cnn.spec, design=digits_cnn.model, measure=lambda _: None, costs=[])
        is None
    )


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_pruning_while_training_ends_at_the_ratio_and_says_what_it_cost(compress, importance):
    result = compress(make_plan(steps="prune", prune_ratio=0.5, importance=importance), num_steps=60)
    assert list(count_channels(result.model).values()) == [4, 8, 8, 32, 10]
    (cost,) = result.costs
    assert cost["step"] == "prune"
    assert cost["bytes_before"] == count_bytes(result.design)
    assert cost["bytes_after"] == count_bytes(result.model) < cost["bytes_before"] / 2
    assert 0 <= cost["accuracy_at_once"] <= 1


def test_the_same_seed_prunes_the_same_channels(compress):
    plan = make_plan(steps="prune,lowrank", energy=0.7)
    first, second = (digest_weights(compress(plan, num_steps=40).model) for _ in range(2))
    assert first == second


def test_one_step_is_enough(compress):
    result = compress(make_plan(steps="prune,lowrank", energy=0.5), num_steps=1)
    assert [cost["step"] for cost in result.costs] == ["prune", "lowrank"]
    assert all(torch.isfinite(value).all() for value in result.model.state_dict().values())
    assert np.isfinite(count_bytes(result.model))
