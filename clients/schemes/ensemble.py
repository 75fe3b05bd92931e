"""`ensemble` and `co-teaching`: nodes label the public set, and learn what all think of it.

Reference: Li & Wang 2019, "FedMD", arXiv:1910.03581 (digest the consensus, then
revisit private data); Itahara et al. 2020, "DS-FL", arXiv:2008.06180.

We differ in two points. The revisit trains a copy, which labels the public set and is then
dropped: the student itself stays the one that has digested the consensus, with private labels
beside it at weight 1 − λ; revisiting in place forgets what others know on skewed partitions. And
the copy learns with its logits adjusted by how often the node has each class (see
`fedstill.clients.distil.train_alone`), so that what it says of the public set does not lean to its own
classes and does not speak against those that it never saw.

With `federation.selective_quantile` a node withholds its logits of public samples that lie
outside its own data (EdgeFD, arXiv:2508.14769; see `fedstill.clients.density`).
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
from torch import nn

from fedstill.clients.density import choose_shared
from fedstill.clients.distil import class_log_prior
from fedstill.clients.schemes.records import Learner, Learning, Lesson, Rows
from fedstill.clients.schemes.teacher import learn_alone, learn_from_teacher
from fedstill.common.features import compute_features
from fedstill.common.training import predict_logits


def learn_with_ensemble(lesson: Lesson) -> Learning:
    """Digests the consensus, or begins alone where there is none yet, and labels the public set."""
    assert lesson.public_S is not None
    if lesson.labels is None:
        opinion, num_steps = copy.deepcopy(lesson.student), lesson.num_steps
        outcome = yield from learn_alone(lesson)
    else:
        outcome = yield from learn_from_teacher(lesson)
        opinion = copy.deepcopy(outcome.student)
        num_steps = max(1, round(lesson.revisit_ratio * lesson.num_steps))
    if not lesson.wants_upload:
        return outcome
    yield from _revisit(lesson, opinion, num_steps=num_steps)
    logits_SC = predict_logits(opinion, lesson.public_S)
    upload = Rows(logits_SC, _choose(lesson, opinion).astype(np.int64))
    return dataclasses.replace(outcome, upload=upload)


def _choose(lesson: Lesson, opinion: nn.Module) -> np.ndarray:
    """Says of which public samples the node shares its logits, bool (S,)."""
    assert lesson.public_S is not None
    if not lesson.selective_quantile:
        return np.ones(len(lesson.public_S), np.bool_)
    return choose_shared(
        compute_features(opinion, lesson.train.x_S),
        compute_features(opinion, lesson.public_S),
        num_clusters=len(np.unique(lesson.train.y_S)),
        quantile=lesson.selective_quantile,
        rng=lesson.rng,
    )


def _revisit(lesson: Lesson, student: nn.Module, *, num_steps: int) -> Learning:
    log_prior_C = class_log_prior(lesson.train.y_S, num_classes=lesson.num_classes)
    revisit = dataclasses.replace(lesson, student=student, num_steps=num_steps)
    return (yield from learn_alone(revisit, log_prior_C=log_prior_C))


BUILT_IN: dict[str, Learner] = {"ensemble": learn_with_ensemble, "co-teaching": learn_with_ensemble}
