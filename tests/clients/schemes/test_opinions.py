"""What a node says of the public set leans to no class that it happens to have many of."""

from __future__ import annotations

import numpy as np
import torch

from fedstill.clients.distil import class_log_prior
from fedstill.clients.private import LabelledSamples
from tests.clients.schemes.test_learners import NUM_CLASSES, X, Y, learn

RARE, COMMON, UNSEEN = range(NUM_CLASSES)


def test_prior_is_the_share_of_each_class_with_half_a_sample_more() -> None:
    prior_C = class_log_prior(np.array([0, 0, 0, 2]), num_classes=3)
    torch.testing.assert_close(prior_C.exp(), torch.tensor([3.5, 0.5, 1.5]) / 5.5)


def skewed() -> LabelledSamples:
    rows = np.concatenate([np.flatnonzero(Y == RARE)[:2], np.flatnonzero(Y == COMMON)[:10]])
    return LabelledSamples(X[rows], Y[rows])


def test_opinion_leans_to_no_class_that_the_node_has_many_of() -> None:
    outcome = learn("ensemble", train=skewed(), labels=None)
    # The student begins from the same weights, but keeps its node's prior: right for the node's own samples.
    assert outcome.upload is not None
    with torch.no_grad():
        of_student = outcome.student(torch.from_numpy(X[36:])).numpy()

    def margin(logits_SC: np.ndarray, one: int, other: int) -> float:
        return float((logits_SC[:, one] - logits_SC[:, other]).mean())

    assert margin(outcome.upload.values, RARE, COMMON) > margin(of_student, RARE, COMMON) + 0.2
    assert margin(outcome.upload.values, UNSEEN, COMMON) > margin(of_student, UNSEEN, COMMON) + 0.2


def test_a_longer_revisit_says_more_of_the_nodes_own_data_and_leaves_the_student_alone() -> None:
    short, long = (learn("ensemble", revisit_ratio=ratio) for ratio in (0.1, 3.0))
    assert short.upload is not None
    assert long.upload is not None
    assert not np.array_equal(short.upload.values, long.upload.values)
    for one, two in zip(short.student.parameters(), long.student.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
