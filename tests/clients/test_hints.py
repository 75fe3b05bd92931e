"""A student learns the teacher's features, whatever the shapes of both."""

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.clients.distil import Distillation, SoftLabels, distil_student
from fedstill.clients.hints import Hint
from fedstill.clients.private import LabelledSamples
from fedstill.common.errors import ConfigError
from fedstill.common.features import compute_features
from fedstill.common.losses import get_loss
from fedstill.common.models import build_model, measure_input
from fedstill.common.training import Optimisation, deterministic, digest_weights

X = np.random.default_rng(0).integers(0, 17, (48, 8, 8)).astype(np.uint8)
Y = np.arange(48) % 10
SPEC = measure_input(X, task="image", layout="HW", scale=1.0)


def build(name, seed=0):
    with deterministic(seed, num_threads=1):
        return build_model(name, SPEC, num_classes=10)


def distil(student, kind, weight, *, private=8, num_steps=60, seed=5):
    teacher = build("cnn-medium", 1).eval()
    with torch.no_grad():
        logits = teacher(torch.from_numpy(X)).numpy()
    features = compute_features(teacher, X, kind=kind)
    if kind == "hint":
        features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-3)
    features = features.astype(np.float16)
    labels = SoftLabels(X, logits, Hint(kind, features, weight, seed))
    with deterministic(0, num_threads=1):
        losses = distil_student(
            student,
            labels,
            LabelledSamples(X[:private], Y[:private]),
            distillation=Distillation(get_loss(kind), 4.0, 1.0, 16),
            optimisation=Optimisation(0.01, 0.0),
            num_steps=num_steps,
            rng=np.random.default_rng(0),
        )
    return losses, features


def attention_gap(student, features):
    own = compute_features(student, X, kind="attention")
    theirs = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(features.astype(np.float32)), own.shape[1:]
    ).numpy()
    flat = [maps.reshape(len(X), -1) for maps in (own, theirs)]
    one, two = (maps / np.linalg.norm(maps, axis=1, keepdims=True) for maps in flat)
    return float(np.square(one - two).sum(axis=1).mean())


def explained_share(student, features):
    """How much of the teacher's features a linear map of the student's explains."""
    own = compute_features(student, X)
    theirs = features.astype(np.float64)
    found, *_ = np.linalg.lstsq(own, theirs, rcond=1e-4)
    rest = np.square(own @ found - theirs).sum()
    return 1 - rest / np.square(theirs - theirs.mean(axis=0)).sum()


def test_attention_moves_where_the_student_looks():
    unhinted, hinted = build("cnn-tiny"), build("cnn-tiny")
    _, features = distil(unhinted, "attention", 0.0)
    distil(hinted, "attention", 100.0)
    assert attention_gap(hinted, features) < 0.7 * attention_gap(unhinted, features)


def test_hint_makes_features_that_explain_the_teachers():
    unhinted, hinted = build("mlp-small"), build("mlp-small")
    _, features = distil(unhinted, "hint", 0.0)
    distil(hinted, "hint", 10.0)
    assert explained_share(hinted, features) > explained_share(unhinted, features) + 0.05


@pytest.mark.parametrize("kind", ["hint", "attention"])
@pytest.mark.parametrize("private", [0, 8])
def test_same_seed_learns_the_same_with_and_without_private_samples(kind, private):
    one, two, other = build("cnn-tiny"), build("cnn-tiny"), build("cnn-tiny")
    losses, _ = distil(one, kind, 1.0, private=private, num_steps=4)
    assert np.isfinite(losses[0])
    distil(two, kind, 1.0, private=private, num_steps=4)
    assert digest_weights(one) == digest_weights(two)
    distil(other, kind, 1.0, private=private, num_steps=4, seed=6)
    assert (digest_weights(one) == digest_weights(other)) == (kind == "attention")


def test_only_the_student_is_kept():
    student = build("cnn-tiny")
    names = set(student.state_dict())
    distil(student, "hint", 1.0, num_steps=2)
    assert set(student.state_dict()) == names
    assert not student.training


def test_attention_of_a_student_without_convolutions_is_refused():
    with pytest.raises(ConfigError, match="this model has none; use hint"):
        distil(build("mlp-small"), "attention", 1.0)


def test_attention_along_time():
    series = np.random.default_rng(0).normal(size=(8, 3, 64)).astype(np.float32)
    spec = measure_input(series, task="series", layout="CT", scale=1.0)
    maps = {}
    for name in ("series-cnn", "series-cnn-large"):
        maps[name] = compute_features(build_model(name, spec, num_classes=4), series, kind="attention")
        assert maps[name].ndim == 2
        assert (maps[name] >= 0).all()
    hint = Hint("attention", maps["series-cnn-large"], 1.0, 0)
    student = build_model("series-cnn", spec, num_classes=4)
    hinted, loss = hint.attach(student, get_loss("attention"), example=series[:1], num_classes=4)
    rows = hinted(torch.from_numpy(series))
    targets = torch.cat([torch.zeros(8, 4), hint.rows(np.arange(8))], dim=1)
    assert torch.isfinite(loss(rows, targets, temperature=2.0))


def test_models_that_end_in_no_linear_layer_are_refused():
    with pytest.raises(ConfigError, match="ends in a linear layer"):
        compute_features(nn.Sequential(nn.Flatten()), X)
