"""Views are the same bits wherever and in whatever order they are made."""

import dataclasses
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.errors import ConfigError
from fedstill.common.models.inputs import InputSpec
from fedstill.common.views import ViewPlan, Views, open_views
from fedstill.common.views.changes import mix_samples, shift_images
from fedstill.common.views.draws import BELL_SPREAD, draw_bell, draw_below, draw_words, mix_words

PLAN = ViewPlan(seed=7, num_views=4)


def spec(task, shape, dtype, layout, *, channels=1, num_ids=0):
    return InputSpec(task, shape, dtype, layout, 1.0, (0.0,) * channels, (20.0,) * channels, num_ids)


KINDS = {
    "image": spec("image", (8, 6), "uint8", "HW"),
    "colour image": spec("image", (8, 6, 3), "uint8", "HWC", channels=3),
    "image, channels first": spec("image", (3, 8, 6), "float32", "CHW", channels=3),
    "series": spec("series", (3, 32), "int16", "CT", channels=3),
    "series, time first": spec("series", (32, 3), "float32", "TC", channels=3),
    "table": spec("tabular", (5,), "float32", "F", channels=5),
    "table of counts": spec("tabular", (5,), "uint8", "F", channels=5),
    "text": spec("text", (40,), "int16", "T", num_ids=300),
    "sequence": spec("sequence", (200,), "uint8", "T", num_ids=6),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def draw_samples(kind, num_samples=9):
    rng, sort = np.random.default_rng(3), KINDS[kind]
    shape = (num_samples, *sort.sample_shape)
    if sort.num_ids:
        ids = rng.integers(2, sort.num_ids, shape)
        ids[:, -8:] = 0
        return ids.astype(sort.dtype)
    if sort.dtype == "float32":
        return rng.normal(0, 20, shape).astype(np.float32)
    return rng.integers(0, 200, shape).astype(sort.dtype)


def views_of(kind, plan=PLAN):
    return Views(draw_samples(kind), plan, KINDS[kind])


@every_kind
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_any_row_alone_is_the_row_of_them_all(kind, mixup):
    views = views_of(kind, dataclasses.replace(PLAN, mixup_ratio=mixup))
    together = views[:]
    for row in np.random.default_rng(0).permutation(len(views)):
        np.testing.assert_array_equal(views[np.array([row])][0], together[row])


@every_kind
def test_rows_look_like_samples_and_the_first_view_is_them(kind):
    views = views_of(kind)
    made = views[:]
    assert made.shape == views.shape == (36, *KINDS[kind].sample_shape)
    assert made.dtype == views.dtype == KINDS[kind].dtype
    np.testing.assert_array_equal(made[:9], draw_samples(kind))


@every_kind
def test_views_differ_from_the_sample_and_from_each_other(kind):
    made = views_of(kind)[:].reshape(4, 9, -1)
    same = [(made[one] == made[two]).all(axis=1).mean() for one in range(4) for two in range(one)]
    assert np.mean(same) < 0.35


@every_kind
def test_samples_themselves_stay_as_they_were(kind):
    samples = draw_samples(kind)
    Views(samples, dataclasses.replace(PLAN, mixup_ratio=1.0), KINDS[kind])[:]
    np.testing.assert_array_equal(samples, draw_samples(kind))


@every_kind
def test_another_seed_makes_other_views(kind):
    other = dataclasses.replace(PLAN, seed=8)
    assert (views_of(kind)[9:] != views_of(kind, other)[9:]).any()


def test_one_view_is_the_samples_and_no_copy():
    samples = draw_samples("image")
    assert open_views(samples, ViewPlan(), KINDS["image"]) is samples


# CRC-32s on record: another NumPy, another machine, and a student of years ago make the same samples.
GOLDEN = {
    "image": 4_173_407_712,
    "series": 969_056_091,
    "series, time first": 2_751_395_415,
    "text": 1_072_727_394,
    "sequence": 4_154_515_438,
}


def count_up(kind, num_samples=9):
    """Samples that no generator is needed for."""
    shape = (num_samples, *KINDS[kind].sample_shape)
    numbers = np.arange(np.prod(shape)) * 37 % 197
    return (numbers % 4 + 2 if kind == "sequence" else numbers).reshape(shape).astype(KINDS[kind].dtype)


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_views(kind):
    made = Views(count_up(kind), dataclasses.replace(PLAN, mixup_ratio=0.5), KINDS[kind])[:]
    checksum = zlib.crc32(made.astype(made.dtype.newbyteorder("<")).tobytes())
    assert checksum == GOLDEN[kind]


def test_words_are_those_of_splitmix64():
    # The first outputs of the published generator with state 0, whose state grows by the step.
    step = 0x9E3779B97F4A7C15
    states = np.array([step, 2 * step % 2**64, 3 * step % 2**64], np.uint64)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix_words(states).tolist() == expected


def test_words_are_spread_evenly():
    rows = np.arange(4000, dtype=np.uint64)
    words = draw_words(1, 2, rows % np.uint64(4), rows, num_words=16)
    counts = np.bincount(draw_below(words, 10).ravel(), minlength=10)
    # 64,000 draws: a fair count is 6,400 with a standard deviation of 76.
    assert abs(counts - 6400).max() < 4 * 76
    bell = draw_bell(words)
    assert abs(bell.mean()) < 4 * BELL_SPREAD / 64_000**0.5
    assert bell.std() == pytest.approx(BELL_SPREAD, rel=0.02)


def test_shift_by_hand():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)
    up, left = np.array([1]), np.array([-1])
    shifted = shift_images(image, up, left)
    np.testing.assert_array_equal(shifted[0], [[3, 3, 4], [6, 6, 7], [6, 6, 7]])


def test_mirrored_image_by_hand():
    image = np.array([[[1, 2, 3]]], np.uint8)
    zero = np.array([0])
    assert shift_images(image, zero, zero, mirrored_B=np.array([True])).tolist() == [[[3, 2, 1]]]


def test_images_are_mirrored_only_where_that_is_allowed():
    samples = np.tile(np.arange(6, dtype=np.uint8), (50, 8, 1))
    for flips in (False, True):
        plan = ViewPlan(seed=1, num_views=2, flips=flips)
        made = Views(samples, plan, KINDS["image"])[50:].astype(int)
        falls = made[:, 0, 0] > made[:, 0, -1]
        assert falls.any() == flips
        assert not falls.all()


def test_mixture_of_whole_numbers_is_rounded_half_up_by_hand():
    one, other = np.array([[10, 255, 0]], np.uint8), np.array([[20, 0, 1]], np.uint8)
    # (10·192 + 20·64 + 128) / 256 = 13 (12.5 + .5), 255·.75 = 191.25, .25.
    mixed = mix_samples(one, other, np.array([192]), holds_ids=False)
    assert mixed.tolist() == [[13, 191, 0]]
    assert mixed.dtype == np.uint8


@settings(max_examples=40, deadline=None)
@given(share=st.integers(0, 255), seed=st.integers(0, 1000))
def test_mixture_lies_between_its_parts(share, seed):
    one, other = np.random.default_rng(seed).integers(0, 256, (2, 1, 30)).astype(np.uint8)
    mixed = mix_samples(one, other, np.array([share]), holds_ids=False)
    assert (np.minimum(one, other) <= mixed).all()
    assert (mixed <= np.maximum(one, other)).all()


def test_mixed_texts_begin_as_one_and_end_as_the_other():
    one, other = np.array([[2, 3, 4, 5, 0, 0]], np.int16), np.array([[6, 7, 8, 9, 10, 0]], np.int16)
    mixed = mix_samples(one, other, np.array([128]), holds_ids=True)
    assert mixed.tolist() == [[2, 3, 8, 9, 10, 0]]


def test_noise_is_a_twentieth_of_the_spread():
    table = KINDS["table"]
    samples = np.zeros((400, 5), np.float32)
    noise = Views(samples, ViewPlan(seed=1, num_views=2), table)[400:]
    assert noise.std() == pytest.approx(0.05 * 20, rel=0.05)


def test_words_are_dropped_and_letters_become_unknown():
    text, sequence = views_of("text")[9:], views_of("sequence")[9:]
    assert (text[:, :-8] == 0).mean() == pytest.approx(0.2, abs=0.04)
    assert (sequence[:, :-8] == 1).mean() == pytest.approx(0.05, abs=0.015)
    assert (sequence[:, -8:] == 0).all()


def test_values_of_whole_numbers_stay_in_their_range():
    samples = np.full((50, 5), 255, np.uint8)
    made = Views(samples, PLAN, KINDS["table of counts"])[50:]
    assert made.max() == 255
    assert made.min() > 200


def test_plans_have_keys_of_their_own():
    plans = [
        ViewPlan(),
        PLAN,
        dataclasses.replace(PLAN, seed=8),
        dataclasses.replace(PLAN, num_views=5),
        dataclasses.replace(PLAN, mixup_ratio=0.5),
        dataclasses.replace(PLAN, flips=True),
    ]
    assert len({plan.index_key for plan in plans}) == len(plans)
    assert plans[0].index_key == 0


def test_labels_of_another_recipe_are_refused():
    with pytest.raises(ConfigError, match="recipe 2, this version makes recipe 1"):
        open_views(draw_samples("image"), ViewPlan(recipe=2), KINDS["image"])
