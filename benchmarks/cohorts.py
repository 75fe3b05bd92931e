"""Students trained in one batch beside the same one by one: `python -m benchmarks.cohorts [--steps 100]`.

For the default students of small images, tables, series and texts: microseconds of one core per student
and step, one after the other as devices do it (`follow`), and in groups (`train_together`);
batches of 32 public and 16 private samples. And how far the weights are apart after the steps, at most.

Expected: overhead of Python and of small products is shared by a group, so what is smallest gains most;
ten times for a perceptron, eight for the convolutions on 8×8 images, and little where a student by itself
keeps the core's units busy (series, embeddings, whose gradients and optimiser move whole tables).

Samples are drawn, of the shapes of digits, Fashion-MNIST, human activities and short news.

Seen on one core of a busy machine, groups of 8, 32 and 64: perceptron 4.0, 9.8 and 12.8 times as fast,
cnn-tiny on 8×8 4.7, 8.4 and 8.6, on 28×28 1.8, 1.6 and 1.3 (groups are of 8 there), series 1.7, 1.8 and 1.6,
embeddings 1.7, 2.1, 2.1. Weights of the small ones are 5e-8 and 9e-8 apart; what is drawn is noise, on
which larger students turn rounding into 2e-5 to 2e-2 within a hundred steps.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import numpy as np
import torch

from fedstill.clients.cohorts.training import train_together
from fedstill.clients.course import Course, follow
from fedstill.clients.distil import Distillation, SoftLabels
from fedstill.clients.private import LabelledSamples
from fedstill.common.losses import get_loss
from fedstill.common.models import build_model, measure_input
from fedstill.common.seeding import stream
from fedstill.common.training import Optimisation, deterministic

NUM_CLASSES, NUM_PUBLIC, NUM_PRIVATE = 10, 2_000, 100
GROUPS = (1, 8, 32, 64)
NUM_ALONE = 4
RNG = np.random.default_rng(0)
KINDS = {
    "mlp-small, 64 features": (
        "mlp-small",
        RNG.normal(size=(4_000, 64)).astype(np.float32),
        {"task": "tabular", "layout": "F", "scale": 1.0},
    ),
    "cnn-tiny, 8×8": (
        "cnn-tiny",
        RNG.integers(0, 17, (4_000, 8, 8), np.uint8),
        {"task": "image", "layout": "HW", "scale": 1 / 16},
    ),
    "cnn-tiny, 28×28": (
        "cnn-tiny",
        RNG.integers(0, 256, (4_000, 28, 28), np.uint8),
        {"task": "image", "layout": "HW", "scale": 1 / 255},
    ),
    "series-cnn, 128×9": (
        "series-cnn",
        RNG.normal(size=(4_000, 128, 9)).astype(np.float32),
        {"task": "series", "layout": "TC", "scale": 1.0},
    ),
    "embedding-bag, 48 of 4,096 words": (
        "embedding-bag",
        np.minimum(RNG.zipf(1.3, (4_000, 48)), 4_095).astype(np.int32),
        {"task": "text", "layout": "T", "scale": 1.0, "num_ids": 4_096},
    ),
}


@functools.cache
def share_labels(kind: str) -> SoftLabels:
    """Draws soft labels, the same for all."""
    logits = np.random.default_rng(0).normal(0, 4, (NUM_PUBLIC, NUM_CLASSES)).astype(np.float32)
    return SoftLabels(KINDS[kind][1][:NUM_PUBLIC], logits)


def make_course(kind: str, place: int, num_steps: int) -> Course:
    """Makes the course of one of many nodes; its private part has a size of its own."""
    model, samples, about = KINDS[kind]
    spec = measure_input(samples, **about)  # type: ignore[arg-type]
    rng = np.random.default_rng(place)
    index = rng.integers(NUM_PUBLIC, len(samples), NUM_PRIVATE - place % 7)
    with deterministic(place, num_threads=1):
        student = build_model(model, spec, num_classes=NUM_CLASSES)
    return Course(
        student=student,
        labels=share_labels(kind),
        private=LabelledSamples(samples[index], rng.integers(0, NUM_CLASSES, len(index))),
        distillation=Distillation(get_loss("kl"), 4.0, 0.9, 32),
        optimisation=Optimisation(5e-3, 1e-4),
        num_steps=num_steps,
        rng=stream(0, "student-batches", node=f"node-{place:04d}"),
        on_step=_go_on,
    )


def _go_on(step: int) -> bool:
    return step < 0


def time_steps(action: Callable[[list[Course]], object], courses: list[Course]) -> float:
    """Measures microseconds of this thread per student and step."""
    begin = time.thread_time()
    action(courses)
    return (time.thread_time() - begin) / sum(course.num_steps for course in courses) * 1e6


def follow_each(courses: list[Course]) -> None:
    """Takes them one after the other."""
    for course in courses:
        follow(course)


def main() -> None:
    """Prints a row a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    num_steps = arguments.steps
    print(
        f"{'µs a student and step':34}{'alone':>8}"
        + "".join(f"{f'of {size}':>18}" for size in GROUPS)
        + "   apart"
    )
    for kind in KINDS:
        alone: list[float] = []
        groups: dict[int, list[float]] = {size: [] for size in GROUPS}
        for _ in range(arguments.repeats):
            single = [make_course(kind, place, num_steps) for place in range(NUM_ALONE)]
            alone.append(time_steps(follow_each, single))
            for size in GROUPS:
                many = [make_course(kind, place, num_steps) for place in range(size)]
                groups[size].append(time_steps(train_together, many))
        apart = max(
            float((mine.detach() - other.detach()).abs().max())
            for one, beside in zip(single, many, strict=False)
            for mine, other in zip(one.student.parameters(), beside.student.parameters(), strict=True)
        )
        base = float(np.median(alone))
        cells = "".join(
            f"{np.median(values):9.0f} ({base / np.median(values):5.1f}×)" for values in groups.values()
        )
        print(f"{kind:34}{base:8.0f}{cells}   {apart:.0e}", flush=True)


if __name__ == "__main__":
    main()
