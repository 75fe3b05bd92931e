"""What models are fed with, and the layer that makes raw samples digestible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from fedstill.common.errors import DataError


@dataclass(frozen=True)
class InputSpec:
    """Raw samples as a data file holds them, and how they are normalised.

    `layout` names the axes of one sample: H height, W width, C channel, T time,
    F feature. A value v of channel c becomes (scale·v − mean[c]) / std[c]. Where samples
    are ids of words or letters, `num_ids` says how many there are and nothing is normalised.
    """

    task: str
    sample_shape: tuple[int, ...]
    dtype: str
    layout: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_ids: int = 0

    @property
    def channel_axis(self) -> int | None:
        """Position of the channel in `sample_shape`; None where there is one channel only."""
        for axis in "CF":
            if axis in self.layout:
                return self.layout.index(axis)
        return None

    @property
    def channels_first_shape(self) -> tuple[int, ...]:
        """Shape of one sample behind `Preprocess`, its channels first."""
        axis = self.channel_axis
        if axis is None:
            return (1, *self.sample_shape)
        rest = [size for index, size in enumerate(self.sample_shape) if index != axis]
        return (self.sample_shape[axis], *rest)


def measure_input(x_S: np.ndarray, *, task: str, layout: str, scale: float, num_ids: int = 0) -> InputSpec:
    """Measures mean and spread per channel.

    Args:
        x_S: Raw samples (S, *sample_shape) that no student's test part holds.
        task: Kind of samples.
        layout: Axes of one sample, as in `InputSpec`.
        scale: Factor on raw values.
        num_ids: Ids that there are, where samples are ids; 0 where they are values.

    Returns:
        The specification; a channel that never changes gets std 1.

    Raises:
        DataError: The layout does not fit the samples.
    """
    if len(layout) != x_S.ndim - 1:
        raise DataError(f"expected samples with axes {layout}, got shape {x_S.shape[1:]}")
    draft = InputSpec(task, tuple(x_S.shape[1:]), str(x_S.dtype), layout, scale, (), ())
    if num_ids:
        return replace(draft, scale=1.0, num_ids=num_ids)
    axis = draft.channel_axis
    axes = tuple(index for index in range(x_S.ndim) if axis is None or index != axis + 1)
    mean = np.atleast_1d(np.mean(x_S, axis=axes, dtype=np.float64) * scale)
    std = np.atleast_1d(np.std(x_S, axis=axes, dtype=np.float64) * scale)
    # Per channel: columns of a table differ by many orders of magnitude. Below these
    # limits there is nothing but float32's rounding, or 1/std would overflow it.
    std = np.where(std > np.maximum(1e-7 * np.abs(mean), 1e-30), std, 1.0)
    return InputSpec(
        draft.task,
        draft.sample_shape,
        draft.dtype,
        layout,
        scale,
        tuple(float(np.float32(value)) for value in mean),
        tuple(float(np.float32(value)) for value in std),
    )


class Preprocess(nn.Module):
    """Casts, scales, normalises and brings the channel to the front; ids are cast only."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self._holds_ids = spec.num_ids > 0
        if self._holds_ids:
            return
        shape = (-1, *(1 for _ in spec.channels_first_shape[1:]))
        mean = torch.tensor(spec.mean, dtype=torch.float64)
        std = torch.tensor(spec.std, dtype=torch.float64)
        # One multiplication and one addition run on the device instead of three steps.
        self.register_buffer("gain", (spec.scale / std).float().reshape(shape))
        self.register_buffer("shift", (-mean / std).float().reshape(shape))
        self._axis = spec.channel_axis

    gain: torch.Tensor
    shift: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._holds_ids:
            return x.to(torch.int64)
        x = x.to(torch.float32)
        x = x.unsqueeze(1) if self._axis is None else x.movedim(self._axis + 1, 1)
        return x * self.gain + self.shift
