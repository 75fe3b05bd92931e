"""The contract that every model of the registry passes through, and what `auto` chooses."""

import numpy as np
import pytest
import torch

from fedstill.common.errors import ConfigError
from fedstill.common.models import MODELS, InputSpec, build_model, measure_input, resolve_model
from fedstill.common.training import count_parameters, deterministic, digest_weights

# Task, layout, shape and type of raw samples.
KINDS = {
    "grey image": ("image", "HW", (8, 8), "uint8"),
    "odd grey image": ("image", "HW", (11, 9), "uint8"),
    "colour image": ("image", "HWC", (16, 12, 3), "uint8"),
    "channels first": ("image", "CHW", (3, 16, 12), "float32"),
    "table": ("tabular", "F", (7,), "float32"),
    "series": ("series", "TC", (20, 4), "int16"),
    "channels before time": ("series", "CT", (4, 21), "float32"),
    "text": ("text", "T", (300,), "int16"),
    "short text": ("text", "T", (3,), "uint8"),
    "sequence": ("sequence", "T", (41,), "uint8"),
}
NUM_IDS = {"text": 200, "sequence": 6}
PAIRS = [(name, kind) for name in MODELS for kind in KINDS if KINDS[kind][0] in MODELS[name].tasks]
every_pair = pytest.mark.parametrize(("name", "kind"), PAIRS)


def draw_samples(kind, num_samples=32):
    task, _, shape, dtype = KINDS[kind]
    highest = NUM_IDS.get(task, 200)
    return np.random.default_rng(0).integers(0, highest, size=(num_samples, *shape)).astype(dtype)


def measure(kind):
    task, layout, _, _ = KINDS[kind]
    return measure_input(
        draw_samples(kind), task=task, layout=layout, scale=1.0, num_ids=NUM_IDS.get(task, 0)
    )


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
        ("series", "CT", (2, 90), "teacher", "series-cnn-large"),
        ("series", "CT", (2, 90), "student", "series-cnn"),
        ("text", "T", (90,), "teacher", "embedding-bag-large"),
        ("text", "T", (90,), "student", "embedding-bag"),
        ("sequence", "T", (90,), "teacher", "kmer-bag-large"),
        ("sequence", "T", (90,), "student", "kmer-bag"),
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


@pytest.mark.parametrize("name", [name for name, family in MODELS.items() if "text" in family.tasks])
def test_padding_behind_a_text_says_nothing(name):
    model = build(name, "text")
    ids = torch.from_numpy(draw_samples("text", 2)).clamp(min=1)
    ids[:, 200:] = 0
    cut = ids.clone()
    cut[1, :] = ids[0, :]
    assert torch.allclose(model(ids)[0], model(cut)[1], atol=1e-5)
    assert torch.isfinite(model(torch.zeros_like(ids))).all()


@pytest.mark.parametrize("name", ["embedding-bag", "embedding-bag-large"])
def test_a_bag_does_not_know_the_order_of_its_words(name):
    model = build(name, "text")
    ids = torch.from_numpy(draw_samples("text", 2))
    assert torch.allclose(model(ids), model(ids.flip(1)), atol=1e-5)


def test_words_that_only_padding_follows_keep_their_share():
    bag = build("embedding-bag", "text")[1][0]
    ids = torch.tensor([[5, 7, 0, 0]])
    expected = (bag.embedding.weight[5] + bag.embedding.weight[7]) / 2**0.5
    assert torch.allclose(bag(ids)[0], expected)


def test_kmers_are_those_of_the_letters_and_never_across_an_unknown_one():
    bag = build("kmer-bag", "sequence")[1][0]
    table, letters = bag.embedding.weight, [0, 1, 2, 3, 1, 2, 0]
    number = sum(letter * 4 ** (6 - place) for place, letter in enumerate(letters))
    ids = torch.tensor([[*(letter + 2 for letter in letters), 1, *(letter + 2 for letter in letters[1:]), 0]])
    assert len(table) == 4**7 + 1
    assert torch.allclose(bag(ids)[0], table[number])


def test_a_large_alphabet_has_shorter_kmers():
    bag = build_model("kmer-bag", spec_of_ids(22), num_classes=2)[1][0]
    assert len(bag.embedding.weight) == 20**3 + 1


def spec_of_ids(num_ids):
    return InputSpec("sequence", (30,), "uint8", "T", 1.0, (), (), num_ids)


def test_unknown_letters_and_padding_are_zeros_of_a_one_hot_row():
    one_hot = build("sequence-cnn", "sequence")[1][0]
    assert one_hot(torch.tensor([[0, 1, 2, 5]])).sum(dim=1).tolist() == [[0, 0, 1, 1]]


def test_resnet_has_about_four_hundred_thousand_weights_on_cifar():
    spec = spec_of("image", "HWC", (32, 32, 3), channels=3)
    assert 350_000 < count_parameters(build_model("resnet-small", spec, num_classes=10)) < 450_000


def test_residual_branches_begin_at_zero():
    body = build("resnet-small", "colour image")[1]
    x = torch.rand(1, 24, 8, 8)
    assert torch.equal(body[2](x), x)


def test_separable_convolutions_are_small():
    spec = spec_of("image", "HW", (28, 28))
    separable, plain = (build_model(name, spec, num_classes=10) for name in ("cnn-separable", "cnn-small"))
    assert count_parameters(separable) < 12_000 < count_parameters(plain)


def test_words_are_dropped_in_training_only():
    model = build("embedding-bag-large", "text")
    ids = torch.from_numpy(draw_samples("text", 2))
    assert torch.equal(model(ids), model(ids))
    model.train()
    with deterministic(0, num_threads=1):
        assert not torch.equal(model(ids), model(ids))
