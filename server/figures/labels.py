"""What published soft labels are like: how soft, and how far from another's."""

from __future__ import annotations

import numpy as np


def measure_entropy(logits_SC: np.ndarray, *, temperature: float) -> float:
    """Computes the mean entropy of soft labels.

    Args:
        logits_SC: Logits (S, C), float.
        temperature: Divides the logits, above 0.

    Returns:
        Mean over samples, nats, in [0, log C].
    """
    log_p_SC = _log_softmax(logits_SC, temperature)
    return float(-(np.exp(log_p_SC) * log_p_SC).sum(axis=1).mean())


def measure_divergence(logits_SC: np.ndarray, from_SC: np.ndarray, *, temperature: float) -> float:
    """Computes the mean Kullback-Leibler divergence KL(p ‖ q) of soft labels.

    Args:
        logits_SC: Logits (S, C) of p.
        from_SC: Logits (S, C) of q.
        temperature: Divides both, above 0.

    Returns:
        Mean over samples, nats, 0 or more.
    """
    log_p_SC, log_q_SC = _log_softmax(logits_SC, temperature), _log_softmax(from_SC, temperature)
    return float((np.exp(log_p_SC) * (log_p_SC - log_q_SC)).sum(axis=1).mean())


def _log_softmax(logits_SC: np.ndarray, temperature: float) -> np.ndarray:
    scaled_SC = logits_SC.astype(np.float64) / temperature
    scaled_SC -= scaled_SC.max(axis=1, keepdims=True)
    result: np.ndarray = scaled_SC - np.log(np.exp(scaled_SC).sum(axis=1, keepdims=True))
    return result
