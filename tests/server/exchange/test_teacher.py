from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.common.config import Config, load_config
from fedstill.common.datasets import Dataset, Splits, load_dataset, split_dataset
from fedstill.common.errors import CheckpointError, ConfigError
from fedstill.common.models import InputSpec, measure_input
from fedstill.common.training import digest_weights, predict_logits, save_weights
from fedstill.server.exchange.teacher import Teacher, label_samples, make_teacher, shift_images


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(overrides=["teacher.num_epochs=8", "teacher.num_threads=1"])


@pytest.fixture(scope="module")
def digits(config: Config) -> tuple[Dataset, Splits, InputSpec]:
    dataset = load_dataset(config.data, seed=0)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=0)
    spec = measure_input(dataset.x_train[splits.server_train], task="image", layout="HW", scale=1.0)
    return dataset, splits, spec


def train(config: Config, digits: tuple[Dataset, Splits, InputSpec], **changes: object) -> Teacher:
    settings = config.teacher.model_copy(update=changes)
    return make_teacher(settings, *digits, seed=0, on_epoch=lambda done, detail: None)


@pytest.fixture(scope="module")
def teacher(config: Config, digits: tuple[Dataset, Splits, InputSpec]) -> Teacher:
    return train(config, digits)


def test_teacher_learns_from_the_servers_set(teacher: Teacher) -> None:
    assert teacher.validation_accuracy > 0.8


def test_same_seed_trains_the_same_teacher(
    config: Config, digits: tuple[Dataset, Splits, InputSpec], teacher: Teacher
) -> None:
    assert digest_weights(train(config, digits).model) == digest_weights(teacher.model)


def test_training_stops_when_validation_no_longer_improves(
    config: Config, digits: tuple[Dataset, Splits, InputSpec]
) -> None:
    stopped = train(config, digits, num_epochs=60, patience=1, learning_rate=5e-3)
    assert stopped.num_epochs < 60


def test_held_teacher_is_loaded_and_not_trained(
    config: Config, digits: tuple[Dataset, Splits, InputSpec], teacher: Teacher, tmp_path: Path
) -> None:
    path = tmp_path / "held.safetensors"
    save_weights(teacher.model, path)
    held = train(config, digits, checkpoint=str(path))
    assert held.num_epochs == 0
    assert digest_weights(held.model) == digest_weights(teacher.model)
    assert held.validation_accuracy == teacher.validation_accuracy


def test_checkpoint_of_another_model_names_the_tensor(
    config: Config, digits: tuple[Dataset, Splits, InputSpec], tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    save_weights(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="should be"):
        train(config, digits, checkpoint=str(path))


def test_factory_of_the_users_module_makes_the_teacher(
    config: Config, digits: tuple[Dataset, Splits, InputSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_teacher.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(); self.layer = nn.Linear(64, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x.flatten(1).float() / 16)\n"
        "def make(spec, num_classes):\n    return Net(num_classes)\n"
        "def broken(spec, num_classes):\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert train(config, digits, factory="my_teacher:make").name == "my_teacher:make"
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module"):
        train(config, digits, factory="my_teacher:broken")


@pytest.mark.parametrize("factory", ["no_such_module:make", "json:no_such_function", "json"])
def test_factory_that_cannot_be_imported_is_named(
    config: Config, digits: tuple[Dataset, Splits, InputSpec], factory: str
) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.factory"):
        train(config, digits, factory=factory)


def test_labels_are_the_teachers_logits(digits: tuple[Dataset, Splits, InputSpec], teacher: Teacher) -> None:
    dataset, splits, spec = digits
    public = dataset.x_train[splits.public][:100]
    logits = label_samples(teacher.model, spec, public, num_threads=1, batch_size=32)
    np.testing.assert_allclose(logits, predict_logits(teacher.model, public), atol=1e-3)


def test_model_that_does_not_export_is_labelled_by_torch(digits: tuple[Dataset, Splits, InputSpec]) -> None:
    class Untraceable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = 2.0 if float(x.float().sum()) > 0 else 1.0  # a branch on data
            return x.flatten(1).float()[:, :10] * scale

    dataset, _, spec = digits
    logits = label_samples(Untraceable(), spec, dataset.x_test[:20], num_threads=1)
    np.testing.assert_array_equal(logits, dataset.x_test[:20].reshape(20, -1)[:, :10] * 2.0)


def test_shifted_images_are_moved_by_at_most_the_reach() -> None:
    image = np.zeros((1, 5, 5), np.uint8)
    image[0, 2, 2] = 9
    rng = np.random.default_rng(0)
    seen = {tuple(np.argwhere(shift_images(image, rng, reach=1)[0] == 9)[0]) for _ in range(200)}
    assert seen == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_shift_keeps_channels_together() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 6, 6, 3)).astype(np.uint8)
    shifted = shift_images(np.repeat(image[..., :1], 3, axis=3), np.random.default_rng(1), reach=2)
    assert shifted.dtype == np.uint8
    assert (shifted[..., 0] == shifted[..., 2]).all()
