"""Schemes on the node: a registry of learners."""

from __future__ import annotations

from typing import Any

from fedstill.clients.schemes.adaptive import settle
from fedstill.clients.schemes.records import Learner, Lesson, Outcome, Rows
from fedstill.common.registry import Registry, gather, require_callable

__all__ = ["LEARNERS", "Learner", "Lesson", "Outcome", "Rows", "get_learner", "settle"]


def _as_learner(found: Any, name: str) -> Learner:
    # A scheme of the user's module names both sides: what the coordinator concludes, and `learn`.
    signature = "a function from a Lesson to an Outcome"
    learner: Learner = require_callable(
        getattr(found, "learn", found), name, key="federation.scheme", signature=signature
    )
    return learner


LEARNERS: Registry[Learner] = Registry(
    "federation.scheme",
    "fedstill.learners",
    gather(__name__),
    _as_learner,
)


def get_learner(name: str) -> Learner:
    """Looks a scheme's learner up by name; raises `ConfigError` with the known ones."""
    return LEARNERS[name]
