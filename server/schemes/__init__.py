"""Schemes: what is exchanged between coordinator and nodes."""

from __future__ import annotations

from typing import Any

from fedstill.common.errors import ConfigError
from fedstill.common.modules import is_reference
from fedstill.common.registry import Registry, gather, require_kind
from fedstill.server.schemes.records import Contribution, Scheme

__all__ = ["SCHEMES", "Contribution", "Scheme", "get_scheme"]


def _as_scheme(found: Any, name: str) -> Scheme:
    scheme: Scheme = require_kind(found, name, Scheme, key="federation.scheme")
    if scheme.learn is None and is_reference(name):
        raise ConfigError(f"federation.scheme: {name} says no `learn`: what nodes do with a round's lesson")
    return scheme


SCHEMES: Registry[Scheme] = Registry(
    "federation.scheme",
    "fedstill.schemes",
    gather(
        __name__,
        first=("teacher", "ensemble", "co-teaching", "classwise", "prototypes", "weights", "local"),
    ),
    _as_scheme,
)


def get_scheme(name: str) -> Scheme:
    """Looks a scheme up by name; raises `ConfigError` with the known ones."""
    return SCHEMES[name]
