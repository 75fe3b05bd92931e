"""Schemes: what is exchanged between coordinator and nodes."""

from __future__ import annotations

from fedstill.common.errors import unknown_name
from fedstill.server.schemes.classwise import average_class_means
from fedstill.server.schemes.co_teaching import refine_teacher
from fedstill.server.schemes.ensemble import publish_ensemble
from fedstill.server.schemes.prototypes import average_prototypes
from fedstill.server.schemes.records import Contribution, Scheme
from fedstill.server.schemes.weights import average_weights

__all__ = ["SCHEMES", "Contribution", "Scheme", "get_scheme"]

SCHEMES: dict[str, Scheme] = {
    "teacher": Scheme(has_teacher=True, uses_public=True),
    "ensemble": Scheme(uses_public=True, conclude=publish_ensemble, rows="public"),
    "co-teaching": Scheme(has_teacher=True, uses_public=True, conclude=refine_teacher, rows="public"),
    "classwise": Scheme(conclude=average_class_means, rows="classes"),
    "prototypes": Scheme(conclude=average_prototypes, rows="features", shares="features of one width"),
    "weights": Scheme(
        conclude=average_weights,
        rows="weights",
        shares="weights of one shape",
        begins_together=True,
        takes_over=True,
    ),
    "local": Scheme(is_alone=True),
}


def get_scheme(name: str) -> Scheme:
    """Looks a scheme up by name; raises `ConfigError` with the known ones."""
    if name not in SCHEMES:
        raise unknown_name("federation.scheme", name, SCHEMES)
    return SCHEMES[name]
