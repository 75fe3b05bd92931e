"""The teacher's features, shipped beside its soft labels where the loss compares them."""

from __future__ import annotations

import numpy as np
from torch import nn

from fedstill.common.features import compute_features
from fedstill.common.losses import compares_features, feature_tap
from fedstill.common.training import deterministic
from fedstill.server.exchange.exchange import Exchange

# float16 holds 11 bits, which is more than anything learned from features could tell.
_LARGEST = 60_000.0


def publish_hints(exchange: Exchange, teacher: nn.Module) -> None:
    """Computes and publishes what `distill.loss` compares beside soft labels, if it compares any.

    Features (`hint`) are standardised over the public rows, so that one weight suits every
    teacher; attention maps are divided by their largest place, which their loss does not see.

    Args:
        exchange: The run's exchange; its public rows have their soft labels already.
        teacher: The teacher that gave them.

    Raises:
        ConfigError: The teacher has no such features.
    """
    name = exchange.config.distill.loss
    if not compares_features(name):
        return
    kind = feature_tap(name)
    with deterministic(0, num_threads=exchange.config.teacher.num_threads):
        features = compute_features(teacher, exchange.public_rows, kind=kind)
    exchange.publish_features(scale_features(features, kind=kind))


def scale_features(features: np.ndarray, *, kind: str) -> np.ndarray:
    """Brings features to a common scale, float16; see `publish_hints`."""
    wide = features.astype(np.float64)
    if kind == "hint":
        spread = wide.std(axis=0)
        wide = (wide - wide.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
    else:
        largest = wide.max(axis=tuple(range(1, wide.ndim)), keepdims=True)
        wide = wide / np.where(largest > 0, largest, 1.0)
    return np.clip(wide, -_LARGEST, _LARGEST).astype(np.float16)
