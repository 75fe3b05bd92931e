"""The contract that every codec of the registry passes through."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedstill.common.codecs import CODECS, get_codec
from fedstill.common.errors import ConfigError, ExchangeError

# Mean KL at the temperature of encoding that a codec may cost on ordinary logits.
KL_BOUNDS = {"fp32": 1e-12, "fp16": 1e-6, "lp8": 1e-4, "int4": 1e-2, "hard": 32.0}
# The same for the worst row there is: with 2.2 nats of entropy at most, (32 nats / 255²)·2.2/2
# is lp8's, (32 nats / 15²)·2.2/2 int4's; hard labels may be wrong by all that they cut off.
WORST_ROW = {"fp32": 6e-4, "fp16": 6e-4, "lp8": 6e-4, "int4": 0.2, "hard": 32.0}
every_codec = pytest.mark.parametrize("name", sorted(CODECS))


def soft_labels(logits, temperature):
    scaled = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    exponentials = np.exp(scaled)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def kl_rows(logits, decoded, temperature):
    p, q = soft_labels(logits, temperature), soft_labels(decoded, temperature)
    tiny = np.finfo(np.float64).tiny
    return (p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))).sum(axis=1)


def teacher_logits(num_samples=1000, num_classes=10, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size=(num_samples, num_classes))
    logits[np.arange(num_samples), rng.integers(num_classes, size=num_samples)] += rng.uniform(
        0, 12, num_samples
    )
    return logits.astype(np.float32)


def round_trip(name, logits, temperature=1.0):
    codec = CODECS[name]
    payload = codec.encode(logits, temperature=temperature)
    num_samples, num_classes = logits.shape
    return codec.decode(payload, num_samples=num_samples, num_classes=num_classes, temperature=temperature)


@every_codec
def test_registry_key_is_the_codecs_name(name):
    assert get_codec(name).name == name


@every_codec
def test_every_codec_has_a_bound_on_its_loss(name):
    assert name in KL_BOUNDS


@every_codec
@pytest.mark.parametrize("shape", [(1, 2), (3, 10), (7, 1000)])
def test_decoded_logits_have_shape_and_type(name, shape):
    decoded = round_trip(name, teacher_logits(*shape))
    assert decoded.shape == shape
    assert decoded.dtype == np.float32


@every_codec
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("num_classes", [10, 100])
def test_mean_kl_stays_within_the_bound(name, temperature, num_classes):
    logits = teacher_logits(num_classes=num_classes)
    kl = kl_rows(logits, round_trip(name, logits, temperature), temperature).mean()
    assert kl <= KL_BOUNDS[name]


@every_codec
def test_confident_decisions_survive(name):
    logits = teacher_logits()
    top = np.sort(logits, axis=1)
    confident = top[:, -1] - top[:, -2] > 0.5
    decoded = round_trip(name, logits)
    assert (decoded.argmax(1) == logits.argmax(1))[confident].all()


@every_codec
def test_same_logits_give_same_bytes(name):
    logits = teacher_logits()
    assert CODECS[name].encode(logits, temperature=2.0) == CODECS[name].encode(logits.copy(), temperature=2.0)


@every_codec
def test_row_order_is_kept(name):
    logits = np.eye(8, dtype=np.float32)[np.random.default_rng(3).permutation(8)] * 9
    assert (round_trip(name, logits).argmax(1) == logits.argmax(1)).all()


@every_codec
@pytest.mark.parametrize(
    "wrong", [lambda payload: payload[:-1], lambda payload: payload + b"\0", lambda _: b""]
)
def test_payload_of_wrong_size_is_refused(name, wrong):
    codec = CODECS[name]
    payload = wrong(codec.encode(teacher_logits(4, 3), temperature=1.0))
    with pytest.raises(ExchangeError, match=name):
        codec.decode(payload, num_samples=4, num_classes=3, temperature=1.0)


@every_codec
def test_payload_stays_within_the_announced_limit(name):
    codec = CODECS[name]
    assert len(codec.encode(teacher_logits(11, 7), temperature=1.0)) <= codec.max_payload_bytes(11, 7)


@every_codec
def test_payload_may_be_a_memoryview(name):
    codec, logits = CODECS[name], teacher_logits(4, 3)
    payload = codec.encode(logits, temperature=1.0)
    decoded = codec.decode(memoryview(payload), num_samples=4, num_classes=3, temperature=1.0)
    np.testing.assert_array_equal(decoded, round_trip(name, logits))


@every_codec
@given(
    logits=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9),
        elements=st.floats(-60, 60, width=32),
    ),
    temperature=st.floats(0.5, 20),
)
def test_kl_of_any_row_is_small(name, logits, temperature):
    assert kl_rows(logits, round_trip(name, logits, temperature), temperature).max() <= WORST_ROW[name]


@every_codec
def test_extreme_logits_stay_finite(name):
    logits = np.array([[3e38, -3e38, 0.0], [-1e30, 1e30, 1e30]], dtype=np.float32)
    assert np.isfinite(round_trip(name, logits, 0.01)).all()


def test_fp16_keeps_differences_of_large_logits():
    logits = np.array([[100_000.0, 100_001.0, 99_998.0]], dtype=np.float32)
    np.testing.assert_allclose(round_trip("fp16", logits), [[-1.0, 0.0, -3.0]])


def test_lp8_bytes_by_hand():
    # softmax(0, 3) = (.0474, .9526): roots of -log p are 1.74602 and .22043; softmax(0, 0) has
    # .83256 twice, that is (.83256 - .22043) / 1.52560 · 255 = 102.3 steps above the lowest.
    payload = CODECS["lp8"].encode(np.array([[0, 3], [0, 0]], dtype=np.float32), temperature=1.0)
    np.testing.assert_allclose(np.frombuffer(payload[:8], "<f4"), [0.22043, 1.74602], atol=1e-5)
    assert list(payload[8:]) == [255, 0, 102, 102]


def test_lp8_encodes_at_its_temperature():
    hot = CODECS["lp8"].encode(np.array([[0, 12], [0, 0]], dtype=np.float32), temperature=4.0)
    cold = CODECS["lp8"].encode(np.array([[0, 3], [0, 0]], dtype=np.float32), temperature=1.0)
    assert hot == cold


def test_lp8_golden_bytes():
    logits = (np.arange(60, dtype=np.float32).reshape(6, 10) * 7 % 11) - 5
    payload = CODECS["lp8"].encode(logits, temperature=2.0)
    assert (
        hashlib.sha256(payload[8:]).hexdigest()
        == "e79f384bc71c2559cecac58800c9eb21f3404919f7cb77c5184935bda67a3d89"
    )


def test_lp8_refuses_an_impossible_range():
    payload = np.array([np.nan, 1.0], "<f4").tobytes() + bytes(6)
    with pytest.raises(ExchangeError, match="range"):
        CODECS["lp8"].decode(payload, num_samples=2, num_classes=3, temperature=1.0)


def test_one_wild_row_does_not_spoil_its_chunk():
    logits = teacher_logits()
    logits[0] = [5000.0] + [0.0] * 9
    assert kl_rows(logits, round_trip("lp8", logits), 1.0).mean() <= 1e-4


def test_unknown_codec_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'fp16'"):
        get_codec("fp61")


def test_int4_takes_half_a_byte_per_class_and_four_per_row():
    assert len(CODECS["int4"].encode(teacher_logits(7, 10), temperature=1.0)) == 7 * 9
    assert len(CODECS["int4"].encode(teacher_logits(7, 9), temperature=1.0)) == 7 * 9


def test_int4_by_hand():
    # Probabilities of 1/2 each: one root, sqrt(log 2), in both nibbles' step 0.
    payload = CODECS["int4"].encode(np.zeros((1, 2), np.float32), temperature=1.0)
    assert payload == np.full(2, np.sqrt(np.log(2)), "<f2").tobytes() + b"\0"


def test_int4_refuses_a_range_that_it_cannot_have_written():
    payload = np.array([1.0, 9.0], "<f2").tobytes() + b"\0"
    with pytest.raises(ExchangeError, match="int4: expected ranges"):
        CODECS["int4"].decode(payload, num_samples=1, num_classes=2, temperature=1.0)


def test_hard_by_hand():
    # Classes 2 and 1 of 3, two bits each, lowest bit first: 01 10, so 0b0110.
    logits = np.array([[0, 1, 5], [0, 3, 1]], np.float32)
    payload = CODECS["hard"].encode(logits, temperature=4.0)
    assert payload == bytes([0b0110])
    decoded = CODECS["hard"].decode(payload, num_samples=2, num_classes=3, temperature=4.0)
    np.testing.assert_array_equal(decoded, [[-128, -128, 0], [-128, 0, -128]])


def test_hard_labels_are_one_hot_at_the_temperature_of_encoding():
    labels = soft_labels(round_trip("hard", teacher_logits(), 8.0), 8.0)
    assert labels.max(axis=1).min() > 0.999999


def test_hard_takes_the_bits_that_classes_need():
    assert len(CODECS["hard"].encode(teacher_logits(1000, 10), temperature=1.0)) == 500
    assert len(CODECS["hard"].encode(teacher_logits(1000, 1000), temperature=1.0)) == 1250


def test_hard_refuses_a_class_that_does_not_exist():
    with pytest.raises(ExchangeError, match="hard: expected classes below 3, got 3"):
        CODECS["hard"].decode(b"\x03", num_samples=1, num_classes=3, temperature=1.0)
