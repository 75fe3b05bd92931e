"""Schemes on the node: a registry of learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedstill.clients.course import follow
from fedstill.clients.schemes.adaptive import settle
from fedstill.clients.schemes.records import Learner, Learning, Lesson, Outcome, Rows
from fedstill.common.registry import Registry, gather, require_callable

__all__ = ["LEARNERS", "Learner", "Learning", "Lesson", "Outcome", "Rows", "get_learner", "settle"]


def _as_learner(found: Any, name: str) -> Learner:
    # A scheme of the user's module names both sides: what the coordinator concludes, and `learn`.
    signature = "a function from a Lesson to an Outcome, or one that yields Courses and returns it"
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


def get_learner(name: str) -> Callable[[Lesson], Outcome]:
    """Looks a scheme's learner up by name, to take a lesson by itself; `ConfigError` with the known ones."""
    learner = LEARNERS[name]

    def learn(lesson: Lesson) -> Outcome:
        begun = learner(lesson)
        return begun if isinstance(begun, Outcome) else _conclude(begun)

    return learn


def _conclude(learning: Learning) -> Outcome:
    try:
        course = next(learning)
        while True:
            course = learning.send(follow(course))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
