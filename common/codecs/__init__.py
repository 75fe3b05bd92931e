"""Codecs: how the logits of a chunk become bytes, and logits again.

A codec belongs to an encoding of a label set, never to the set's id. Those that lose
something are measured by the KL divergence from the soft labels at the temperature
that they were encoded for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedstill.common.codecs.codec import Codec, Logits, Payload
from fedstill.common.codecs.fp16 import FP16
from fedstill.common.codecs.fp32 import FP32
from fedstill.common.codecs.hard import HARD
from fedstill.common.codecs.int4 import INT4
from fedstill.common.codecs.lp8 import LP8
from fedstill.common.registry import Registry, require_kind


def _as_codec(found: Any, name: str) -> Codec:
    codec: Codec = require_kind(found, name, Codec, key="exchange.codec")
    return replace(codec, name=name)  # manifests call it what the configuration does


CODECS: Registry[Codec] = Registry(
    "codec", "fedstill.codecs", {codec.name: codec for codec in (FP32, FP16, LP8, INT4, HARD)}, _as_codec
)


def get_codec(name: str) -> Codec:
    """Looks a codec up.

    Raises:
        ConfigError: The registry does not hold `name`; the known names are listed.
    """
    return CODECS[name]


__all__ = ["CODECS", "Codec", "Logits", "Payload", "get_codec"]
