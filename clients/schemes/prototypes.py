"""`prototypes`: per-class mean features instead of a public set.

Reference: Tan et al. 2021, "FedProto", arXiv:2105.00243. The total is CE + λ'·d, d the
mean squared distance of a sample's features to the prototype of its class over all
nodes. As everywhere here, λ weighs the exchanged part and 1 − λ the private labels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from clients.distil import private_batches
from clients.schemes.classwise import mean_by_class
from clients.schemes.records import Lesson, Outcome
from common.features import compute_features, forward_with_features
from common.training import Batch, fit


def learn_prototypes(lesson: Lesson) -> Outcome:
    """Trains on private labels, drawing features towards the prototypes of their classes."""
    shared = lesson.shared
    weight = lesson.distillation.distill_lambda

    def loss_terms(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        x, y = batch
        logits, features = forward_with_features(model, x)
        private = functional.cross_entropy(logits, y)
        if shared is None:
            return (private,)
        known = torch.from_numpy(shared.counts_R > 0)[y]
        if not known.any():
            return private, logits.sum() * 0.0
        return private, functional.mse_loss(features[known], torch.from_numpy(shared.values)[y[known]])

    terms = fit(
        lesson.student,
        private_batches(lesson.train, lesson.distillation.batch_size, lesson.rng),
        loss_terms,
        loss_weights=(1.0,) if shared is None else (1 - weight, weight),
        num_steps=lesson.num_steps,
        optimisation=lesson.optimisation,
        on_step=lesson.on_step,
    )
    distance = terms[1] if shared is not None else float("nan")
    if not lesson.wants_upload:
        return Outcome(lesson.student, distance, terms[0])
    features_SD = compute_features(lesson.student, lesson.train.x_S)
    upload = mean_by_class(features_SD, lesson.train.y_S, num_classes=lesson.num_classes)
    return Outcome(lesson.student, distance, terms[0], upload)
