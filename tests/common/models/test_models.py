"""The contract that every model of the registry passes through, and what `auto` chooses."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from common.models import MODELS, InputSpec, build_model, measure_input, resolve_model
from common.training import count_parameters, deterministic, digest_weights

# Task, layout, shape and type of raw samples.
KINDS = {
    "grey image": ("image", "HW", (8, 8), "uint8"),
    "odd grey image": ("image", "HW", (11, 9), "uint8"),
    "colour image": ("image", "HWC", (16, 12, 3), "uint8"),
    "channels first": ("image", "CHW", (3, 16, 12), "float32"),
    "table": ("tabular", "F", (7,), "float32"),
    "series": ("series", "TC", (20, 4), "int16"),
}
PAIRS = [(name, kind) for name in MODELS for kind in KINDS if KINDS[kind][0] in MODELS[name].tasks]
every_pair = pytest.mark.parametrize(("name", "kind"), PAIRS)


def draw_samples(kind, num_samples=32):
    _, _, shape, dtype = KINDS[kind]
    return np.random.default_rng(0).integers(0, 200, size=(num_samples, *shape)).astype(dtype)


def measure(kind):
    task, layout, _, _ = KINDS[kind]
    return measure_input(draw_samples(kind), task=task, layout=layout, scale=1.0)


def spec_of(task, layout, shape, *, dtype="uint8", channels=1):
    return InputSpec(task, shape, dtype, layout, 1.0, (0.0,) * channels, (1.0,) * channels)


def build(name, kind, *, width=1.0, seed=0):
    with deterministic(seed, num_threads=1):
        return build_model(name, measure(kind), num_classes=5, width=width).eval()


@every_pair
def test_model_turns_raw_samples_into_finite_logits(name, kind):
    logits = build(name, kind)(torch.from_numpy(draw_samples(kind, 3)))
    assert logits.shape == (3, 5)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@every_pair
def test_logits_depend_on_the_samples(name, kind):
    logits = build(name, kind)(torch.from_numpy(draw_samples(kind, 2)))
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_width_scales_the_number_of_parameters(name):
    kind = next(kind for other, kind in PAIRS if other == name)
    counts = [count_parameters(build(name, kind, width=width)) for width in (0.5, 1.0, 2.0)]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_smallest_width_still_works(name):
    kind = next(kind for other, kind in PAIRS if other == name)
    assert build(name, kind, width=1e-6)(torch.from_numpy(draw_samples(kind, 2))).shape == (2, 5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_weights_follow_from_the_seed(name):
    kind = next(kind for other, kind in PAIRS if other == name)
    digests = [digest_weights(build(name, kind, seed=seed)) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("cnn")])
def test_too_small_images_are_refused(name):
    with pytest.raises(ConfigError, match=r"needs images of \d×\d pixels at least, the data has 3×20"):
        build_model(name, spec_of("image", "HW", (3, 20)), num_classes=2)


def test_cnn_tiny_keeps_its_size_on_digits():
    assert count_parameters(build_model("cnn-tiny", spec_of("image", "HW", (8, 8)), num_classes=10)) == 2730


def test_unknown_model_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown student model 'cnn-tinny'; did you mean 'cnn-tiny'\?"):
        resolve_model("cnn-tinny", role="student", spec=measure("grey image"))


def test_building_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match="unknown model 'auto'"):
        build_model("auto", measure("table"), num_classes=2)


def test_model_for_other_samples_is_refused_with_those_that_fit():
    with pytest.raises(ConfigError, match=r"teacher.model: cnn-tiny takes image .* tabular; use one of mlp"):
        resolve_model("cnn-tiny", role="teacher", spec=measure("table"))


@pytest.mark.parametrize(
    ("task", "layout", "shape", "role", "expected"),
    [
        ("image", "HW", (8, 8), "teacher", "cnn-medium"),
        ("image", "HW", (8, 8), "student", "cnn-tiny"),
        ("image", "HW", (28, 28), "teacher", "cnn-large"),
        ("image", "HW", (28, 28), "student", "cnn-small"),
        ("image", "CHW", (3, 15, 40), "student", "cnn-tiny"),
        ("image", "HWC", (16, 40, 3), "student", "cnn-small"),
        ("tabular", "F", (9,), "teacher", "mlp-large"),
        ("tabular", "F", (9,), "student", "mlp-small"),
        ("series", "CT", (2, 90), "teacher", "mlp-large"),
        ("series", "CT", (2, 90), "student", "mlp-small"),
    ],
)
def test_auto_goes_by_role_task_and_size(task, layout, shape, role, expected):
    assert resolve_model("auto", role=role, spec=spec_of(task, layout, shape)) == expected


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_auto_builds_on_every_kind_of_samples(kind, role):
    spec = measure(kind)
    build_model(resolve_model("auto", role=role, spec=spec), spec, num_classes=3)


def test_a_name_of_the_registry_is_kept():
    assert resolve_model("mlp-large", role="student", spec=measure("grey image")) == "mlp-large"
