"""`co-teaching`: the teacher itself learns from the ensemble of its students.

References: Lin et al. 2020, "FedDF", arXiv:2006.07242; Cheng et al. 2021, "FedGEMS",
arXiv:2110.11027. The refined teacher is kept only if its accuracy on the server's
validation part does not fall.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.common.losses import get_loss
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.training import (
    Batch,
    Optimisation,
    deterministic,
    digest_weights,
    fit,
    shuffled_batches,
    steps_per_epoch,
)
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.hints import publish_hints
from fedstill.server.exchange.teacher import Teacher, find_hits, label_samples, teacher_device
from fedstill.server.figures.labels import measure_divergence
from fedstill.server.run.records import ConclusionRecord
from fedstill.server.schemes.ensemble import aggregate_logits
from fedstill.server.schemes.records import Contribution, Scheme

# Passes over the public set in each round, no fewer steps than it takes to change a trained model at all;
# the ensemble's weight against the server's own labels, and its temperature. Found on Fashion-MNIST's
# training part, 3,000 samples of it held back: slower, warmer or more evenly weighed it learned less.
REFINE_EPOCHS = 6
MIN_REFINE_STEPS = 200
REFINE_SHARE = 0.7
REFINE_TEMPERATURE = 1.0


def refine_teacher(exchange: Exchange, contributions: list[Contribution]) -> None:
    """Distils the ensemble into the teacher, keeps it if it is not worse, and labels anew."""
    teacher = exchange.teacher
    assert teacher is not None  # the scheme has one
    labels_SC = exchange.store.logits(exchange.publication.label_set_id)
    ensemble_SC = aggregate_logits(exchange, [*contributions, _as_member(exchange, labels_SC)])
    divergence = measure_divergence(ensemble_SC, labels_SC, temperature=exchange.config.distill.temperature)
    model = copy.deepcopy(teacher.model)
    loss = _refine(exchange, model, ensemble_SC)
    with deterministic(0, num_threads=exchange.config.teacher.num_threads):
        hits_S = find_hits(model, exchange.dataset, exchange.splits.server_validation)
    refined = dataclasses.replace(teacher, model=model.eval(), validation_hits_S=hits_S)
    is_kept = refined.validation_accuracy >= teacher.validation_accuracy and math.isfinite(loss)
    exchange.notes = ConclusionRecord(
        accuracy_before=teacher.validation_accuracy,
        refined_accuracy=refined.validation_accuracy,
        refined_kept=is_kept,
        ensemble_teacher_kl_nats=divergence,
    )
    if not is_kept:
        return
    exchange.teacher = refined
    _relabel(exchange, refined)


def _as_member(exchange: Exchange, labels_SC: np.ndarray) -> Contribution:
    """The teacher's own answers count too: it has learned from the server's samples."""
    y_S = exchange.dataset.y_train[exchange.splits.server_train]
    counts_C = np.bincount(y_S, minlength=exchange.dataset.num_classes)
    return Contribution("teacher", labels_SC, counts_C)


def _refine(exchange: Exchange, model: nn.Module, ensemble_SC: np.ndarray) -> float:
    config = exchange.config
    rng = stream(config.seed, "co-teaching-batches", round_number=exchange.round)
    public_S = exchange.public_rows
    server = exchange.splits.server_train
    targets = torch.from_numpy(ensemble_SC)
    loss_fn = get_loss(config.distill.loss)
    batch_size = config.teacher.batch_size
    per_epoch = steps_per_epoch(len(exchange.splits.public), batch_size)

    def batches() -> object:
        server_batches = shuffled_batches(len(server), batch_size, rng)
        for index in shuffled_batches(len(public_S), batch_size, rng):
            chosen = server[next(server_batches)]
            yield (
                torch.from_numpy(public_S[index]),
                targets[index],
                torch.from_numpy(exchange.dataset.x_train[chosen]),
                torch.from_numpy(exchange.dataset.y_train[chosen]),
            )

    def loss_terms(module: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        logits = module(torch.cat([batch[0], batch[2]]))
        size = len(batch[0])
        return (
            loss_fn(logits[:size], batch[1], temperature=REFINE_TEMPERATURE),
            functional.cross_entropy(logits[size:], batch[3]),
        )

    seed = stream_seed(config.seed, "co-teaching", round_number=exchange.round)
    with deterministic(seed, num_threads=config.teacher.num_threads):
        terms = fit(
            model,
            batches(),  # type: ignore[arg-type]
            loss_terms,
            loss_weights=(REFINE_SHARE, 1 - REFINE_SHARE),
            num_steps=max(MIN_REFINE_STEPS, REFINE_EPOCHS * per_epoch),
            optimisation=Optimisation(
                config.teacher.learning_rate,
                config.teacher.weight_decay,
                teacher_device(config.teacher),
            ),
        )
    return sum(terms)


def _relabel(exchange: Exchange, teacher: Teacher) -> None:
    logits_SC = label_samples(
        teacher.model,
        exchange.spec,
        exchange.public_rows,
        num_threads=exchange.config.teacher.num_threads,
        device=teacher_device(exchange.config.teacher),
    )
    exchange.publish_labels(logits_SC, origin=digest_weights(teacher.model))
    publish_hints(exchange, teacher.model)


BUILT_IN = {"co-teaching": Scheme(has_teacher=True, uses_public=True, conclude=refine_teacher, rows="public")}
