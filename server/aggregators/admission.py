"""What an upload of logits must be before any aggregator sees it."""

from __future__ import annotations

import numpy as np

from fedstill.common.errors import ExchangeError, NonFiniteError

# A thousand times what networks give; soft labels of such logits are hard at any temperature in use.
MAX_LOGIT = 1e6


def check_upload(logits_SC: np.ndarray, *, num_samples: int, num_classes: int) -> None:
    """Refuses logits that no honest node sends.

    Args:
        logits_SC: What a node uploaded.
        num_samples: Samples that it should have answered.
        num_classes: Classes of the run.

    Raises:
        ExchangeError: The logits are not floats of shape (samples, classes), not finite, or
            larger than a million; the message holds the reason.
    """
    if logits_SC.shape != (num_samples, num_classes):
        raise ExchangeError(
            f"upload refused: expected logits of shape ({num_samples}, {num_classes}), got {logits_SC.shape}"
        )
    if not np.issubdtype(logits_SC.dtype, np.floating):
        raise ExchangeError(f"upload refused: expected logits as floats, got {logits_SC.dtype}")
    num_broken = int(logits_SC.size - np.isfinite(logits_SC).sum())
    if num_broken:
        raise NonFiniteError(f"upload refused: {num_broken} of {logits_SC.size} logits are not finite")
    largest = float(np.abs(logits_SC).max(initial=0))
    if largest > MAX_LOGIT:
        raise ExchangeError(
            f"upload refused: a logit of size {largest:.3g}, where {MAX_LOGIT:g} is the most that is taken"
        )
