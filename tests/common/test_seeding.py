"""Random streams."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.seeding import stream, stream_seed

BASE = {"seed": 1, "purpose": "batches", "node": "node-0001", "round_number": 2}


def seed_of(**changes):
    arguments = BASE | changes
    return stream_seed(arguments.pop("seed"), arguments.pop("purpose"), **arguments)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"purpose": "weights"}, {"node": "node-0002"}, {"round_number": 3}]
)
def test_each_argument_makes_another_stream(change):
    assert seed_of() != seed_of(**change)


def test_neighbouring_arguments_do_not_run_together():
    assert stream_seed(1, "a", node="b1") != stream_seed(1, "a", node="b", round_number=1)
    assert stream_seed(1, "a", node="b") != stream_seed(1, "ab", node="")


def test_the_same_arguments_give_the_same_numbers():
    assert stream(3, "x").integers(1 << 40) == stream(3, "x").integers(1 << 40)


def test_golden_seed():
    assert seed_of() == 8808602173019571424


def test_golden_numbers():
    assert stream(0, "partition").integers(1_000_000, size=3).tolist() == [543004, 497806, 133235]


@settings(deadline=None)
@given(seed=st.integers(0, 2**63 - 1), purpose=st.text(max_size=8), round_number=st.integers(0, 10_000))
def test_seeds_fit_a_signed_word(seed, purpose, round_number):
    assert 0 <= stream_seed(seed, purpose, round_number=round_number) < 2**63
