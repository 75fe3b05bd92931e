"""The teacher: trained or held, and run over the public set once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.common.config import TeacherConfig
from fedstill.common.datasets import Dataset, Splits
from fedstill.common.errors import ConfigError
from fedstill.common.inference import OnnxPredictor, measure_latency, open_graph
from fedstill.common.models import InputSpec, build_model, resolve_model
from fedstill.common.models.foreign import build_own_teacher, takes_text, unwrap_logits
from fedstill.common.modules import call_foreign, is_reference
from fedstill.common.onnx_export import trace_model
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.training import (
    Batch,
    Optimisation,
    choose_device,
    deterministic,
    fit,
    load_weights,
    predict_logits,
    shuffled_batches,
    steps_per_epoch,
    to_input,
)
from fedstill.common.views import Views, changes

LOGIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Teacher:
    """A teacher that is ready to label."""

    name: str
    model: nn.Module
    validation_hits_S: np.ndarray
    """Which samples of the server's validation part it classifies rightly, bool (S,)."""
    num_epochs: int
    """Epochs that it was trained; 0 where it was held."""

    @property
    def validation_accuracy(self) -> float:
        """Share of the server's validation part that it classifies rightly."""
        return float(np.mean(self.validation_hits_S))


def make_teacher(
    config: TeacherConfig,
    dataset: Dataset,
    splits: Splits,
    spec: InputSpec,
    *,
    seed: int,
    on_epoch: Callable[[int, str], None],
    checkpoint: Path | None = None,
) -> Teacher:
    """Trains the teacher on the server's set, or loads it.

    Args:
        config: The teacher's part of the configuration.
        dataset: All samples.
        splits: Which of them are the server's.
        spec: What samples look like.
        seed: The run's seed.
        on_epoch: Called with epochs done and their validation accuracy in words.
        checkpoint: Weights to load instead of training; None goes by the configuration.

    Returns:
        The teacher in evaluation mode, with its accuracy on the server's validation part.

    Raises:
        ConfigError: An unknown model or a factory that gives none.
        CheckpointError: The checkpoint does not fit the model.
    """
    name, model = build_teacher(config, dataset, splits, spec, seed=seed)
    if checkpoint is None and config.checkpoint:
        checkpoint = Path(config.checkpoint)
    num_epochs = 0
    with deterministic(stream_seed(seed, "teacher-training"), num_threads=config.num_threads):
        if checkpoint is not None:
            load_weights(model, checkpoint)
        else:
            num_epochs = _train(model, config, dataset, splits, seed=seed, on_epoch=on_epoch)
        hits_S = find_hits(model, dataset, splits.server_validation)
    return Teacher(name, model.eval(), hits_S, num_epochs)


def find_hits(model: nn.Module, dataset: Dataset, samples: np.ndarray) -> np.ndarray:
    """Says which of the training part's samples a model classifies rightly.

    Args:
        model: The model, run as it is, with the threads that are set.
        dataset: All samples.
        samples: Rows of its training part (S,).

    Returns:
        Whether each is classified rightly, bool (S,).
    """
    hits_S: np.ndarray = (
        predict_logits(model, seen_by(model, dataset).x_train[samples]).argmax(axis=1)
        == dataset.y_train[samples]
    )
    return hits_S


def teacher_device(config: TeacherConfig) -> str:
    """Says what the teacher is trained and labels on; raises `ConfigError` where it is not there."""
    return choose_device(config.device, key="teacher.device")


def build_teacher(
    config: TeacherConfig, dataset: Dataset, splits: Splits, spec: InputSpec, *, seed: int
) -> tuple[str, nn.Module]:
    """Builds the teacher with its first weights: one of the registry, or of a user's function.

    Args:
        config: The teacher's part of the configuration.
        dataset: All samples.
        splits: Which of them are the server's.
        spec: What samples look like.
        seed: The run's seed.

    Returns:
        Its name, and a module whose answers are logits.

    Raises:
        ConfigError: An unknown model, or a function that gives none, or none for these samples.
    """
    own, key = find_own_teacher(config)
    with deterministic(stream_seed(seed, "teacher-weights"), num_threads=1):
        if not own:
            name = resolve_model(config.model, role="teacher", spec=spec)
            return name, build_model(name, spec, num_classes=dataset.num_classes)
        model = build_own_teacher(own, spec, dataset.num_classes, key=key)
        if takes_text(model) and dataset.texts_train is None:
            raise ConfigError(f"{key}: {own} takes texts, and the data holds {dataset.task} samples")
        example = to_input(seen_by(model, dataset).x_train[splits.server_train[:2]])
        model.eval()
        with torch.no_grad():
            answer = call_foreign(model, example, name=f"the model of {own}", key=key)
        return own, unwrap_logits(model, answer).train()


def find_own_teacher(config: TeacherConfig) -> tuple[str, str]:
    """Finds the `module:function` that makes the teacher, and its key; empty where the registry does."""
    if config.factory:
        return config.factory, "teacher.factory"
    return (config.model if is_reference(config.model) else ""), "teacher.model"


def seen_by(model: nn.Module, dataset: Dataset) -> Dataset:
    """Gives a data set as a model takes it: with raw texts instead of ids, for a teacher that reads them."""
    if not takes_text(model):
        return dataset
    assert dataset.texts_train is not None
    assert dataset.texts_test is not None
    return replace(dataset, x_train=dataset.texts_train, x_test=dataset.texts_test)


def _train(
    model: nn.Module,
    config: TeacherConfig,
    dataset: Dataset,
    splits: Splits,
    *,
    seed: int,
    on_epoch: Callable[[int, str], None],
) -> int:
    dataset = seen_by(model, dataset)
    train, validation = splits.server_train, splits.server_validation
    x_val = dataset.x_train[validation]
    y_val = torch.from_numpy(dataset.y_train[validation])
    per_epoch = steps_per_epoch(len(train), config.batch_size)
    rng = stream(seed, "teacher-batches")
    best_loss, best_state, best_epoch, last_epoch = float("inf"), None, 0, 0
    shift = _augmentation_reach(dataset) if config.augment else 0

    def batches() -> Iterator[Batch]:
        for index in shuffled_batches(len(train), config.batch_size, rng):
            chosen = np.sort(train[index])
            x = dataset.x_train[chosen]
            yield (
                to_input(shift_images(x, rng, reach=shift) if shift else x),
                torch.from_numpy(dataset.y_train[chosen]),
            )

    def look(step: int) -> bool:
        nonlocal best_loss, best_state, best_epoch, last_epoch
        if step % per_epoch:
            return False
        last_epoch = step // per_epoch
        logits = torch.from_numpy(predict_logits(model, x_val))
        loss = float(functional.cross_entropy(logits, y_val))
        accuracy = float((logits.argmax(dim=1) == y_val).float().mean())
        on_epoch(last_epoch, f"validation accuracy {accuracy:.3f}")
        if loss < best_loss:
            best_loss, best_state, best_epoch = loss, copy.deepcopy(model.state_dict()), last_epoch
        return last_epoch - best_epoch >= config.patience

    fit(
        model,
        batches(),
        lambda module, batch: (functional.cross_entropy(module(batch[0]), batch[1]),),
        loss_weights=(1.0,),
        num_steps=per_epoch * config.num_epochs,
        optimisation=Optimisation(config.learning_rate, config.weight_decay, teacher_device(config)),
        on_step=look,
    )
    if best_state is not None:
        model.load_state_dict(best_state)
    return last_epoch


def _augmentation_reach(dataset: Dataset) -> int:
    if dataset.task != "image" or not dataset.layout.startswith("HW"):
        return 0
    return changes.shift_reach(*dataset.sample_shape[:2])


def shift_images(x_S: np.ndarray, rng: np.random.Generator, *, reach: int) -> np.ndarray:
    """Shifts each image by up to `reach` pixels in both directions; edges are repeated.

    Args:
        x_S: Images (S, H, W) or (S, H, W, C).
        rng: Source of the shifts.
        reach: Largest shift, pixels, above 0.

    Returns:
        Shifted copies of the same shape and type.
    """
    up, left = rng.integers(0, 2 * reach + 1, size=(2, len(x_S))) - reach
    return changes.shift_images(x_S, up, left)


def measure_teacher_latency(teacher: nn.Module, spec: InputSpec, x_S: np.ndarray) -> float | None:
    """Measures one prediction of the teacher at batch 1, one thread of ONNX Runtime, seconds.

    None where the teacher does not run there.
    """
    predict = None if takes_text(teacher) else _open_fast(teacher, spec, x_S[:8], num_threads=1)
    return None if predict is None else measure_latency(predict, x_S)


def label_samples(
    teacher: nn.Module,
    spec: InputSpec,
    x_S: np.ndarray | Views,
    *,
    num_threads: int,
    device: str = "cpu",
    batch_size: int = 256,
    on_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Runs the teacher over samples, through the fastest runtime that gives its logits.

    On a CPU ONNX Runtime is several times faster than torch; it is used where the
    model exports and its logits on the first samples are torch's. A GPU runs torch.

    Args:
        teacher: The teacher, in evaluation mode.
        spec: What samples look like.
        x_S: Raw samples (S, *sample_shape); may be a memory map, or views. Texts (S,), for a teacher
            that takes those.
        num_threads: Threads of either runtime.
        device: Where to run, as `choose_device` says.
        batch_size: Samples per call.
        on_batch: Called with the number of samples done.

    Returns:
        Logits (S, C), float32.
    """
    predict = None
    if device == "cpu" and not takes_text(teacher):
        predict = _open_fast(teacher, spec, x_S[:8], num_threads=num_threads)
    parts = []
    teacher.to(device)
    with deterministic(0, num_threads=num_threads):
        for start in range(0, len(x_S), batch_size):
            x = np.ascontiguousarray(x_S[start : start + batch_size])
            if predict is not None:
                parts.append(predict(x))
            else:
                parts.append(predict_logits(teacher, x, batch_size=batch_size))
            if on_batch is not None:
                on_batch(start + len(x))
    teacher.to("cpu")
    return np.concatenate(parts).astype(np.float32, copy=False)


def _open_fast(
    teacher: nn.Module, spec: InputSpec, x_S: np.ndarray, *, num_threads: int
) -> OnnxPredictor | None:
    try:
        predict = open_graph(trace_model(teacher, spec).SerializeToString(), num_threads=num_threads)
        logits = predict(x_S)
    except Exception:  # noqa: BLE001 - not exportable, or beyond protobuf's 2 GB, or not run: torch it is
        return None
    expected = predict_logits(teacher, x_S)
    close = np.allclose(logits, expected, rtol=LOGIT_TOLERANCE, atol=LOGIT_TOLERANCE)
    return predict if close else None
