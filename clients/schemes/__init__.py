"""Schemes on the node: a registry of learners."""

from __future__ import annotations

from fedstill.clients.schemes.adaptive import settle
from fedstill.clients.schemes.classwise import learn_classwise
from fedstill.clients.schemes.ensemble import learn_with_ensemble
from fedstill.clients.schemes.prototypes import learn_prototypes
from fedstill.clients.schemes.records import Learner, Lesson, Outcome, Rows
from fedstill.clients.schemes.teacher import learn_alone, learn_from_teacher
from fedstill.clients.schemes.weights import learn_weights
from fedstill.common.errors import unknown_name

__all__ = ["LEARNERS", "Learner", "Lesson", "Outcome", "Rows", "get_learner", "settle"]

LEARNERS: dict[str, Learner] = {
    "teacher": learn_from_teacher,
    "ensemble": learn_with_ensemble,
    "co-teaching": learn_with_ensemble,
    "classwise": learn_classwise,
    "prototypes": learn_prototypes,
    "weights": learn_weights,
    "local": learn_alone,
}


def get_learner(name: str) -> Learner:
    """Looks a scheme's learner up by name; raises `ConfigError` with the known ones."""
    if name not in LEARNERS:
        raise unknown_name("federation.scheme", name, LEARNERS)
    return LEARNERS[name]
