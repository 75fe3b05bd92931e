"""The part of `fedstill-node bench` that needs torch: one step of a fixed student."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch.nn import functional

from fedstill.common.models import InputSpec, build_model
from fedstill.common.training import Optimisation, deterministic, fit

_BATCH_SIZE = 32
_NUM_WARMUP = 3
_SPEC = InputSpec("image", (28, 28), "uint8", "HW", 1 / 255, (0.5,), (0.5,))


def time_steps(num_steps: int) -> list[float]:
    """Times steps of `cnn-small` on 28×28 images, batches of 32, one thread, seconds."""

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (_BATCH_SIZE, 28, 28), dtype=torch.uint8, generator=generator)
        y = torch.randint(0, 10, (_BATCH_SIZE,), generator=generator)
        while True:
            yield x, y

    ends: list[float] = []

    def note(_: int) -> bool:
        ends.append(time.perf_counter())
        return False

    with deterministic(0, num_threads=1):
        fit(
            build_model("cnn-small", _SPEC, num_classes=10),
            batches(),
            lambda model, batch: (functional.cross_entropy(model(batch[0]), batch[1]),),
            loss_weights=(1.0,),
            num_steps=_NUM_WARMUP + num_steps,
            optimisation=Optimisation(1e-3, 0.0),
            on_step=note,
        )
    return [
        after - before for before, after in zip(ends[_NUM_WARMUP - 1 : -1], ends[_NUM_WARMUP:], strict=True)
    ]
