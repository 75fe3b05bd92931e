"""Schemes: what is exchanged between coordinator and nodes."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import unknown_name


@dataclass(frozen=True)
class Scheme:
    """One entry of the registry."""

    has_teacher: bool
    """The coordinator trains or holds a teacher and publishes its soft labels once."""


SCHEMES: dict[str, Scheme] = {
    "teacher": Scheme(has_teacher=True),
    "local": Scheme(has_teacher=False),
}


def get_scheme(name: str) -> Scheme:
    """Looks a scheme up by name; raises `ConfigError` with the known ones."""
    if name not in SCHEMES:
        raise unknown_name("federation.scheme", name, SCHEMES)
    return SCHEMES[name]
