"""Reasons of dropped replies: one list, that of the metrics and of what Flower reports."""

from __future__ import annotations

import pytest

from fedstill.server.fleet.mailbox import ERROR_KINDS
from fedstill.server.metrics.catalogue import RUN_METRICS
from fedstill.server.run.events import DROP_REASONS, ReplyDropped


def test_a_reply_is_dropped_for_a_listed_reason_only() -> None:
    for reason in DROP_REASONS:
        assert ReplyDropped(1, "node-0000", reason).reason == reason
    with pytest.raises(AssertionError, match="timeout"):
        ReplyDropped(1, "node-0000", "timeout")


def test_every_kind_of_error_and_every_series_is_listed() -> None:
    [metric] = [metric for metric in RUN_METRICS if metric.name == "nodes_dropped"]

    assert set(ERROR_KINDS.values()) <= set(DROP_REASONS)
    assert metric.values == DROP_REASONS
