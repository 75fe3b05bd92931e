"""`ensemble` and `co-teaching`: nodes label the public set, and learn what all think of it.

Reference: Li & Wang 2019, "FedMD", arXiv:1910.03581 (digest the consensus, then
revisit private data); Itahara et al. 2020, "DS-FL", arXiv:2008.06180.

We differ in one point: the revisit trains a copy, which labels the public set and is
then dropped. The student itself stays the one that has digested the consensus, with
private labels beside it at weight 1 − λ; revisiting in place forgets what others know
on skewed partitions. With `federation.selective_quantile` a node withholds its logits of public
samples that lie outside its own data (EdgeFD, arXiv:2508.14769; see `clients.density`).
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
from torch import nn

from clients.density import choose_shared
from clients.schemes.records import Lesson, Outcome, Rows
from clients.schemes.teacher import learn_alone, learn_from_teacher
from common.features import compute_features
from common.training import predict_logits

# Steps of the revisit as a share of the round's.
REVISIT_RATIO = 0.5


def learn_with_ensemble(lesson: Lesson) -> Outcome:
    """Digests the consensus, or begins alone where there is none yet, and labels the public set."""
    assert lesson.public_S is not None
    if lesson.labels is None:
        outcome = learn_alone(lesson)
        opinion = outcome.student
    else:
        outcome = learn_from_teacher(lesson)
        opinion = _revisit(lesson, outcome.student) if lesson.wants_upload else outcome.student
    if not lesson.wants_upload:
        return outcome
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


def _revisit(lesson: Lesson, student: nn.Module) -> nn.Module:
    revisit = dataclasses.replace(
        lesson,
        student=copy.deepcopy(student),
        num_steps=max(1, round(REVISIT_RATIO * lesson.num_steps)),
    )
    return learn_alone(revisit).student
