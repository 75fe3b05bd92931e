"""Schemes: what is exchanged between coordinator and nodes."""

from __future__ import annotations

from typing import Any

from fedstill.common.errors import ConfigError
from fedstill.common.modules import is_reference
from fedstill.common.registry import Registry, require_kind
from fedstill.server.schemes.classwise import average_class_means
from fedstill.server.schemes.co_teaching import refine_teacher
from fedstill.server.schemes.ensemble import publish_ensemble
from fedstill.server.schemes.prototypes import average_prototypes
from fedstill.server.schemes.records import Contribution, Scheme
from fedstill.server.schemes.weights import average_weights

__all__ = ["SCHEMES", "Contribution", "Scheme", "get_scheme"]


def _as_scheme(found: Any, name: str) -> Scheme:
    scheme: Scheme = require_kind(found, name, Scheme, key="federation.scheme")
    if scheme.learn is None and is_reference(name):
        raise ConfigError(f"federation.scheme: {name} says no `learn`: what nodes do with a round's lesson")
    return scheme


SCHEMES: Registry[Scheme] = Registry(
    "federation.scheme",
    "fedstill.schemes",
    {
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
    },
    _as_scheme,
)


def get_scheme(name: str) -> Scheme:
    """Looks a scheme up by name; raises `ConfigError` with the known ones."""
    return SCHEMES[name]
