"""Schemes on the node: a registry of learners."""

from __future__ import annotations

from typing import Any

from fedstill.clients.schemes.adaptive import settle
from fedstill.clients.schemes.classwise import learn_classwise
from fedstill.clients.schemes.ensemble import learn_with_ensemble
from fedstill.clients.schemes.prototypes import learn_prototypes
from fedstill.clients.schemes.records import Learner, Lesson, Outcome, Rows
from fedstill.clients.schemes.teacher import learn_alone, learn_from_teacher
from fedstill.clients.schemes.weights import learn_weights
from fedstill.common.registry import Registry, require_callable

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
    {
        "teacher": learn_from_teacher,
        "ensemble": learn_with_ensemble,
        "co-teaching": learn_with_ensemble,
        "classwise": learn_classwise,
        "prototypes": learn_prototypes,
        "weights": learn_weights,
        "local": learn_alone,
    },
    _as_learner,
)


def get_learner(name: str) -> Learner:
    """Looks a scheme's learner up by name; raises `ConfigError` with the known ones."""
    return LEARNERS[name]
