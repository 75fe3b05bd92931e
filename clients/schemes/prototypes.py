"""`prototypes`: per-class mean features instead of a public set.

Reference: Tan et al. 2021, "FedProto", arXiv:2105.00243. The total is CE + λ'·d, d the
mean squared distance of a sample's features to the prototype of its class over all
nodes. As everywhere here, λ weighs the exchanged part and 1 − λ the private labels.
"""

from __future__ import annotations

from torch.nn import functional

from fedstill.clients.schemes.by_class import fit_by_class, mean_by_class
from fedstill.clients.schemes.records import Learner, Lesson, Outcome
from fedstill.common.features import compute_features, forward_with_features


def learn_prototypes(lesson: Lesson) -> Outcome:
    """Trains on private labels, drawing features towards the prototypes of their classes."""
    distance, private = fit_by_class(
        lesson, lesson.shared, forward=forward_with_features, compare=functional.mse_loss
    )
    if not lesson.wants_upload:
        return Outcome(lesson.student, distance, private)
    features_SD = compute_features(lesson.student, lesson.train.x_S)
    upload = mean_by_class(features_SD, lesson.train.y_S, num_classes=lesson.num_classes)
    return Outcome(lesson.student, distance, private, upload)


BUILT_IN: dict[str, Learner] = {"prototypes": learn_prototypes}
