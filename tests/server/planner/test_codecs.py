"""`auto` gives each node the codec that loses least among those that its link carries in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedstill.common.config import load_config
from fedstill.common.devices import Link
from fedstill.server.exchange.encodings import encode_labels, measure_codec
from fedstill.server.exchange.publication import Encoding
from fedstill.server.labels import LabelStore
from fedstill.server.planner.codecs import choose_codec, choose_upload_codec, reconsider_codec

LADDER = (
    Encoding("lp8", b"\1" * 32, 100_000, 1e-5),
    Encoding("int4", b"\2" * 32, 60_000, 1e-2),
    Encoding("hard", b"\3" * 32, 5_000, 0.4),
)


def link(rate: float, *, up: float | None = None) -> Link:
    return Link(down_bytes_per_second=rate, up_bytes_per_second=up or rate)


@pytest.mark.parametrize(("rate", "expected"), [(1e6, "lp8"), (7_000, "int4"), (1_000, "hard"), (1, "hard")])
def test_slower_links_get_smaller_labels(rate: float, expected: str) -> None:
    assert choose_codec(LADDER, link(rate), label_seconds=10)[0] == expected


def test_an_unknown_link_gets_the_best_labels() -> None:
    assert choose_codec(LADDER, None, label_seconds=10) == ("lp8", "the link is not known")


def test_the_reason_names_bytes_time_and_rate() -> None:
    _, reason = choose_codec(LADDER, link(7_000), label_seconds=10)
    assert "60,000 bytes in 8.6 s at 7,000 B/s" in reason


def test_latency_counts() -> None:
    slow = link(10_100).model_copy(update={"latency_seconds": 1.0})
    assert choose_codec(LADDER, slow, label_seconds=10)[0] == "int4"


@pytest.mark.parametrize("rate", [9_000, 10_000, 12_000, 14_000])
def test_near_the_border_nothing_moves(rate: float) -> None:
    for current in ("lp8", "int4"):
        assert reconsider_codec(current, LADDER, link(rate), label_seconds=10) is None


def test_far_from_the_border_it_moves_both_ways() -> None:
    down = reconsider_codec("lp8", LADDER, link(300), label_seconds=10)
    up = reconsider_codec("hard", LADDER, link(1e6), label_seconds=10)
    assert down is not None
    assert up is not None
    assert (down[0], up[0]) == ("hard", "lp8")


def test_logits_that_are_averaged_are_never_sent_hard() -> None:
    assert choose_upload_codec("auto", LADDER, link(1e6, up=1), label_seconds=10) == "int4"
    assert choose_upload_codec("fp16", LADDER, link(1e6, up=1), label_seconds=10) == "fp16"


@pytest.fixture
def labels(tmp_path: Path) -> tuple[LabelStore, str]:
    store = LabelStore(tmp_path / "labels")
    logits = np.random.default_rng(0).normal(0, 4, (500, 10)).astype(np.float32)
    return store, store.publish_labels(logits, teacher_digest="a" * 64, public_digest="b" * 64).id


def test_auto_encodes_what_is_worth_sending_and_measures_what_it_costs(
    labels: tuple[LabelStore, str],
) -> None:
    store, set_id = labels
    found = encode_labels(store, set_id, load_config(overrides=["exchange.codec=auto"]))
    names = [encoding.codec for encoding in found]
    assert names[0] == "lp8"
    assert {"int4", "hard"} <= set(names)
    assert not {"fp32", "fp16"} & set(names)
    costs = {encoding.codec: encoding.kl_nats for encoding in found}
    assert costs["lp8"] < costs["int4"] < costs["hard"]
    assert all(encoding.num_bytes == store.array(encoding.digest).num_bytes for encoding in found)


def test_a_named_codec_is_the_only_one(labels: tuple[LabelStore, str]) -> None:
    store, set_id = labels
    (only,) = encode_labels(store, set_id, load_config(overrides=["exchange.codec=fp16"]))
    assert only.codec == "fp16"


def test_lossless_codec_costs_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    assert measure_codec("fp32", logits, temperature=2.0) == pytest.approx(0, abs=1e-12)
