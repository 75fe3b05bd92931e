"""Every scheme's learner keeps the same promises; and what each computes, by hand."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.clients.distil import Distillation, SoftLabels
from fedstill.clients.private import LabelledSamples
from fedstill.clients.schemes import LEARNERS, Lesson, Outcome, Rows, get_learner
from fedstill.clients.schemes.by_class import mean_by_class
from fedstill.clients.schemes.classwise import leave_one_out
from fedstill.clients.schemes.weights import flatten_weights, unflatten_weights
from fedstill.common.errors import ConfigError, ExchangeError
from fedstill.common.features import compute_features, find_head
from fedstill.common.losses import get_loss
from fedstill.common.models import build_model, measure_input
from fedstill.common.training import Optimisation, digest_weights

NUM_CLASSES = 3
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 4, (NUM_CLASSES, 6)).astype(np.float32)
Y = RNG.integers(0, NUM_CLASSES, 60)
X = (CENTRES[Y] + RNG.normal(0, 1, (60, 6))).astype(np.float32)
SPEC = measure_input(X, task="tabular", layout="F", scale=1.0)


def a_student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("mlp-small", SPEC, num_classes=NUM_CLASSES, width=0.25)


def a_lesson(**changes: object) -> Lesson:
    lesson = Lesson(
        student=a_student(),
        train=LabelledSamples(X[:30], Y[:30]),
        validation=LabelledSamples(X[30:36], Y[30:36]),
        num_classes=NUM_CLASSES,
        public_S=X[36:],
        labels=SoftLabels(X[36:], (np.eye(NUM_CLASSES, dtype=np.float32) * 8)[Y[36:]]),
        shared=None,
        own=None,
        own_weight=1.0,
        distillation=Distillation(get_loss("kl"), 4.0, 0.5, 8),
        optimisation=Optimisation(1e-2, 0.0),
        num_steps=40,
        proximal_mu=0.0,
        wants_upload=True,
        selective_quantile=0.0,
        revisit_ratio=0.5,
        rng=np.random.default_rng(1),
        on_step=lambda step: False,
    )
    return dataclasses.replace(lesson, **changes)


def learn(name: str, **changes: object) -> Outcome:
    torch.manual_seed(0)
    return get_learner(name)(a_lesson(**changes))


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(torch.from_numpy(X)).argmax(dim=1).numpy() == Y).mean())


def shared_rows(name: str) -> Rows | None:
    """What the coordinator would publish after a first round of one node."""
    first = learn(name).upload
    if first is None or name in ("ensemble", "co-teaching"):
        return None
    return Rows(first.values, np.maximum(first.counts_R, 1))


@pytest.mark.parametrize("name", LEARNERS)
def test_learner_returns_a_finite_student(name: str) -> None:
    outcome = learn(name, shared=shared_rows(name))
    assert all(torch.isfinite(value).all() for value in outcome.student.state_dict().values())


@pytest.mark.parametrize("name", LEARNERS)
def test_same_lesson_teaches_the_same(name: str) -> None:
    shared = shared_rows(name)
    one, two = (learn(name, shared=shared) for _ in range(2))
    assert digest_weights(one.student) == digest_weights(two.student)
    if one.upload is not None and two.upload is not None:
        np.testing.assert_array_equal(one.upload.values, two.upload.values)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "weights"])
def test_student_learns_its_classes(name: str) -> None:
    assert accuracy(learn(name, shared=shared_rows(name), num_steps=120).student) > 0.85


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in ("teacher", "local")])
def test_nothing_is_sent_where_nothing_is_wanted(name: str) -> None:
    assert learn(name, wants_upload=False).upload is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ensemble", (24, NUM_CLASSES)),
        ("co-teaching", (24, NUM_CLASSES)),
        ("classwise", (NUM_CLASSES, NUM_CLASSES)),
        ("prototypes", (NUM_CLASSES, 8)),
        ("weights", (1, 6 * 8 + 8 + 8 * NUM_CLASSES + NUM_CLASSES)),
    ],
)
def test_upload_has_the_schemes_shape(name: str, shape: tuple[int, int]) -> None:
    upload = learn(name).upload
    assert upload is not None
    assert upload.values.shape == shape
    assert upload.values.dtype == np.float32
    assert len(upload.counts_R) == shape[0]


def test_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="classwise"):
        get_learner("claswise")


def test_ensemble_without_labels_begins_alone() -> None:
    alone = learn("local")
    assert digest_weights(learn("ensemble", labels=None).student) == digest_weights(alone.student)


def test_revisit_changes_what_is_said_and_not_the_student() -> None:
    sent = learn("ensemble")
    kept = learn("ensemble", wants_upload=False)
    assert digest_weights(sent.student) == digest_weights(kept.student)
    from fedstill.common.training import predict_logits

    assert sent.upload is not None
    assert not np.allclose(sent.upload.values, predict_logits(sent.student, X[36:]))


def test_leave_one_out_of_a_hand_computed_case() -> None:
    # Three nodes know class 0 with means 1, 2 and 6; two know class 1; nobody else knows class 2.
    shared = Rows(np.array([[3.0], [5.0], [7.0]], np.float32), np.array([3, 2, 1]))
    own = Rows(np.array([[6.0], [0.0], [7.0]], np.float32), np.array([4, 0, 9]))
    others = leave_one_out(shared, own)
    np.testing.assert_allclose(others.values, [[1.5], [5.0], [0.0]])
    assert others.counts_R.tolist() == [2, 2, 0]


def test_mean_by_class_of_a_hand_computed_case() -> None:
    rows = mean_by_class(np.array([[1.0, 0], [3, 2], [5, 5]], np.float32), np.array([0, 0, 2]), num_classes=3)
    np.testing.assert_allclose(rows.values, [[2, 1], [0, 0], [5, 5]])
    assert rows.counts_R.tolist() == [2, 0, 1]


def test_classwise_stays_finite_against_extreme_logits() -> None:
    shared = Rows(np.full((NUM_CLASSES, NUM_CLASSES), 1e4, np.float32) * np.eye(NUM_CLASSES), np.full(3, 5))
    outcome = learn("classwise", shared=shared.__class__(shared.values.astype(np.float32), shared.counts_R))
    assert np.isfinite(outcome.distillation_loss)
    assert outcome.upload is not None
    assert np.isfinite(outcome.upload.values).all()


def test_classwise_masks_classes_that_no_other_node_knows() -> None:
    nobody = Rows(np.full((NUM_CLASSES, NUM_CLASSES), 50.0, np.float32), np.zeros(NUM_CLASSES, np.int64))
    assert learn("classwise", shared=nobody).distillation_loss == 0


def test_prototypes_draw_features_nearer() -> None:
    target = np.full((NUM_CLASSES, 8), 2.0, np.float32)
    shared = Rows(target, np.full(NUM_CLASSES, 5))
    drawn = learn("prototypes", shared=shared, distillation=Distillation(get_loss("kl"), 4.0, 0.9, 8))
    free = learn("prototypes")
    train = X[:30]

    def distance(model: nn.Module) -> float:
        return float(((compute_features(model, train) - target[0]) ** 2).mean())

    assert distance(drawn.student) < distance(free.student)


def test_weights_evaluates_the_average_and_sends_the_trained_copy() -> None:
    average = a_student(seed=7)
    shared = Rows(flatten_weights(average)[None, :], np.array([90]))
    outcome = learn("weights", shared=shared)
    np.testing.assert_array_equal(flatten_weights(outcome.student), shared.values[0])
    assert outcome.upload is not None
    assert not np.allclose(outcome.upload.values, shared.values)
    assert outcome.upload.counts_R.tolist() == [30]


def test_proximal_term_keeps_weights_near_the_average() -> None:
    start = flatten_weights(a_student())
    free, held = (learn("weights", proximal_mu=mu).upload for mu in (0.0, 10.0))
    assert free is not None
    assert held is not None
    assert np.linalg.norm(held.values - start) < 0.5 * np.linalg.norm(free.values - start)


def test_weights_survive_the_round_trip_bit_for_bit() -> None:
    one, two = a_student(1), a_student(2)
    unflatten_weights(two, flatten_weights(one))
    assert digest_weights(one) == digest_weights(two)


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(ExchangeError, match="weights for this student"):
        unflatten_weights(a_student(), np.zeros(5, np.float32))


def test_features_are_what_the_head_is_fed_with() -> None:
    model = a_student()
    head = find_head(model)
    expected = head(torch.from_numpy(compute_features(model, X[:5])))
    with torch.no_grad():
        torch.testing.assert_close(model(torch.from_numpy(X[:5])), expected.detach())


def test_model_without_a_linear_layer_has_no_features() -> None:
    with pytest.raises(ConfigError, match="linear layer"):
        find_head(nn.Sequential(nn.Flatten(), nn.ReLU()))


def test_learning_leaves_the_lessons_arrays_alone() -> None:
    lesson = a_lesson()
    before = copy.deepcopy((lesson.train.x_S, lesson.public_S))
    get_learner("ensemble")(lesson)
    np.testing.assert_array_equal(lesson.train.x_S, before[0])
    np.testing.assert_array_equal(lesson.public_S, before[1])


@pytest.mark.parametrize("name", ["ensemble", "co-teaching"])
def test_selective_nodes_speak_of_what_resembles_their_own_data(name: str) -> None:
    own = Y == 0
    lesson = {"train": LabelledSamples(X[own][:10], Y[own][:10]), "public_S": X[36:]}
    upload = learn(
        name, labels=SoftLabels(X[36:], np.eye(NUM_CLASSES, dtype=np.float32)[Y[36:]]), **lesson
    ).upload
    chosen = learn(name, selective_quantile=0.9, labels=None, **lesson).upload
    assert upload is not None
    assert chosen is not None
    assert upload.counts_R.all()
    shared = chosen.counts_R > 0
    assert 0 < shared.sum() < len(shared)
    assert (Y[36:][shared] == 0).mean() > (Y[36:] == 0).mean()


def test_a_late_contribution_is_taken_out_with_its_weight() -> None:
    # Node 0 knows 4 at weight ½, node 1 says 1 at weight 1: the mean is (2 + 1) / 1.5 = 2.
    shared = Rows(np.array([[2.0], [4.0]], np.float32), np.array([1.5, 0.5]))
    own = Rows(np.array([[4.0], [4.0]], np.float32), np.array([3, 3]))
    others = leave_one_out(shared, own, weight=0.5)
    np.testing.assert_allclose(others.values, [[1.0], [0.0]])
    np.testing.assert_allclose(others.counts_R, [1.0, 0.0])
