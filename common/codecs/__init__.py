"""Codecs: how the logits of a chunk become bytes, and logits again.

A codec belongs to an encoding of a label set, never to the set's id. Those that lose
something are measured by the KL divergence from the soft labels at the temperature
that they were encoded for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedstill.common.codecs.codec import Codec, Logits, Payload
from fedstill.common.registry import Registry, gather, require_kind


def _as_codec(found: Any, name: str) -> Codec:
    codec: Codec = require_kind(found, name, Codec, key="exchange.codec")
    return replace(codec, name=name)  # manifests call it what the configuration does


CODECS: Registry[Codec] = Registry(
    "codec",
    "fedstill.codecs",
    gather(__name__, first=("fp32", "fp16", "lp8", "int4", "hard")),
    _as_codec,
)


def get_codec(name: str) -> Codec:
    """Looks a codec up.

    Raises:
        ConfigError: The registry does not hold `name`; the known names are listed.
    """
    return CODECS[name]


__all__ = ["CODECS", "Codec", "Logits", "Payload", "get_codec"]
