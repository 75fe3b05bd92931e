"""The training loop that teacher, students and controls share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from fedstill.common.errors import CheckpointError, ConfigError, DataError
from fedstill.common.views import Views

if TYPE_CHECKING:
    from fedstill.common.config import DistillConfig

Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Optimisation:
    """How a training's steps change weights."""

    learning_rate: float
    """The highest of the schedule."""
    weight_decay: float
    """Decoupled with adamw; added to the gradients with adam and sgd, as is usual."""
    device: str = "cpu"
    """What torch computes on."""
    optimiser: str = "adamw"
    """adamw, adam or sgd."""
    momentum: float = 0.0
    """Of sgd."""
    schedule: str = "one-cycle"
    """one-cycle (up for a fifth of the steps, then down to nearly nothing), cosine (down to 0), constant."""

    @classmethod
    def of(cls, settings: DistillConfig, device: str = "cpu") -> Optimisation:
        """Takes what the configuration says of students' training."""
        return cls(
            settings.learning_rate,
            settings.weight_decay,
            device,
            optimiser=settings.optimiser,
            momentum=settings.momentum,
            schedule=settings.schedule,
        )


def choose_device(name: str, *, key: str) -> str:
    """Turns a configured device into one that torch has here.

    Args:
        name: auto, cpu or cuda; auto is a GPU where there is one.
        key: The configuration's key, for the error.

    Returns:
        "cpu" or "cuda".

    Raises:
        ConfigError: cuda is asked for, and this process sees no GPU.
    """
    has_gpu = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError(f"{key} is cuda and torch sees no GPU here; set it to auto or cpu")
    return "cuda" if has_gpu else "cpu"


def device_of(model: nn.Module) -> torch.device:
    """Says where a model's values lie; one without any is on the CPU."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


class TrainingGuest(Protocol):
    """Takes part in a training: compresses the model while it learns."""

    def as_deployed(self, model: nn.Module) -> AbstractContextManager[None]:
        """Computes inside with the weights that a device will have; losses and gradients are theirs."""

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Called with the gradients of step 1, 2, … in place, before the optimiser uses them."""

    def after_step(self, model: nn.Module, step: int) -> bool:
        """Called after the optimiser; True says that parameters were replaced by new ones."""


@contextmanager
def deterministic(seed: int, *, num_threads: int) -> Iterator[None]:
    """Seeds torch and fixes its threads for a block, and puts both back.

    Results depend on the number of threads, so it is configured and never taken
    from the machine.

    Args:
        seed: Seeds torch's default generator (initial weights, dropout).
        num_threads: Threads of torch's operators.

    Yields:
        Nothing.
    """
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    torch.set_num_threads(num_threads)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def shuffled_batches(num_samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields batches of sample indices for ever, each epoch in a new order.

    Args:
        num_samples: Samples to draw from, above 0.
        batch_size: Samples per batch; the last of an epoch may hold fewer.
        rng: Source of the orders.

    Yields:
        Index arrays (B,), int64.

    Raises:
        DataError: There are no samples.
    """
    if num_samples < 1:
        raise DataError("expected samples to train on, got none")
    while True:
        order = rng.permutation(num_samples)
        for start in range(0, num_samples, batch_size):
            yield order[start : start + batch_size]


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Counts the batches that `shuffled_batches` yields in one epoch."""
    return -(-num_samples // batch_size)


def make_optimiser(
    parameters: Iterable[nn.Parameter], optimisation: Optimisation, *, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Makes what changes parameters in each of a number of steps, and its schedule, to be stepped between."""
    common: dict[str, Any] = {
        "lr": optimisation.learning_rate,
        "weight_decay": optimisation.weight_decay,
        "fused": True,
    }
    optimiser: torch.optim.Optimizer
    if optimisation.optimiser == "sgd":
        optimiser = torch.optim.SGD(parameters, momentum=optimisation.momentum, **common)
    elif optimisation.optimiser == "adam":
        optimiser = torch.optim.Adam(parameters, **common)
    else:
        optimiser = torch.optim.AdamW(parameters, **common)
    return optimiser, _make_schedule(optimiser, optimisation, num_steps)


def _make_schedule(
    optimiser: torch.optim.Optimizer, optimisation: Optimisation, num_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if optimisation.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    if optimisation.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=num_steps)
    # The warm-up, a fifth of the steps, has to be longer than one: OneCycleLR divides by the rest.
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=optimisation.learning_rate,
        total_steps=max(6, num_steps),
        pct_start=0.2,
        cycle_momentum=optimisation.optimiser != "sgd",
    )


def fit(
    model: nn.Module,
    batches: Iterator[Batch],
    loss_fn: Callable[[nn.Module, Batch], tuple[torch.Tensor, ...]],
    *,
    loss_weights: tuple[float, ...],
    num_steps: int,
    optimisation: Optimisation,
    on_step: Callable[[int], bool] | None = None,
    guest: TrainingGuest | None = None,
) -> tuple[float, ...]:
    """Trains a model in place for a number of steps.

    Args:
        model: Trained in place, on the optimisation's device, and left on the CPU in evaluation mode.
        batches: Yields at least `num_steps` batches.
        loss_fn: Scalar loss terms of the model on a batch, with gradient.
        loss_weights: Weight of each term in the total.
        num_steps: Optimiser steps, above 0.
        optimisation: Optimiser and schedule, fresh for this call.
        on_step: Called with the number of steps done; True ends training early.
        guest: Takes part between the steps, and may change the model's parameters.

    Returns:
        Mean of each term, unweighted, over the last tenth of the steps that were made.
    """
    device = torch.device(optimisation.device)
    model.to(device)
    optimiser, schedule = make_optimiser(model.parameters(), optimisation, num_steps=num_steps)
    weights = torch.tensor(loss_weights, device=device)
    history = []
    for step in range(1, num_steps + 1):
        model.train()
        optimiser.zero_grad(set_to_none=True)
        batch = tuple(part.to(device) if isinstance(part, torch.Tensor) else part for part in next(batches))
        with nullcontext() if guest is None else guest.as_deployed(model):
            terms = torch.stack(loss_fn(model, batch))
            (terms * weights).sum().backward()  # type: ignore[no-untyped-call]
        if guest is not None:
            guest.after_backward(model, step)
        optimiser.step()
        if guest is not None and guest.after_step(model, step):
            _adopt_parameters(optimiser, model)
        if step < num_steps:
            schedule.step()
        history.append(terms.detach())
        if on_step is not None and on_step(step):
            break
    model.to("cpu").eval()
    tail = history[-max(1, len(history) // 10) :]
    return tuple(torch.stack(tail).mean(dim=0).tolist())


def _adopt_parameters(optimiser: torch.optim.Optimizer, model: nn.Module) -> None:
    # Those that are new begin with no momentum, at the place that the schedule has reached.
    parameters = list(model.parameters())
    optimiser.param_groups[0]["params"] = parameters
    for gone in optimiser.state.keys() - set(parameters):
        del optimiser.state[gone]


def predict_logits(model: nn.Module, x_S: np.ndarray | Views, *, batch_size: int = 256) -> np.ndarray:
    """Runs a model over raw samples.

    Args:
        model: A model of the registry; its mode is left as it is.
        x_S: Raw samples (S, *sample_shape), or views; may be a memory map. Texts, objects (S,), for a
            model that takes those.
        batch_size: Samples per forward pass.

    Returns:
        Logits (S, C), float32.
    """
    was_training, device = model.training, device_of(model)
    model.eval()
    with torch.no_grad():
        parts = [
            model(to_input(x_S[start : start + batch_size], device)).cpu().numpy()
            for start in range(0, len(x_S), batch_size)
        ]
    model.train(was_training)
    return np.concatenate(parts).astype(np.float32, copy=False)


def to_input(x_S: np.ndarray, device: torch.device | str = "cpu") -> Any:
    """Makes what a model is called with: a tensor on a device of numbers, a list of str of texts."""
    if x_S.dtype == object:
        return list(x_S)
    return torch.from_numpy(np.array(x_S)).to(device)


def digest_weights(model: nn.Module) -> str:
    """Computes the SHA-256 over names, types, shapes and values of a model's state, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\x1f{values.dtype}\x1f{tuple(values.shape)}\x1f".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def count_parameters(model: nn.Module) -> int:
    """Counts trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Counts the bytes of a model's state as it stands in memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes a model's state as safetensors, atomically."""
    from safetensors.torch import save

    from fedstill.common.files import write_bytes_atomically

    state: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for name, value in model.state_dict().items():
        place = value.untyped_storage().data_ptr()
        # Weights that a model uses twice stand twice in the file: safetensors refuses shared memory.
        state[name] = value.clone() if place in places else value.contiguous()
        places.add(place)
    write_bytes_atomically(path, save(state))


def load_weights(model: nn.Module, path: Path) -> None:
    """Reads safetensors into a model.

    Args:
        model: Receives the values, all or none.
        path: File that `save_weights` wrote.

    Raises:
        CheckpointError: The file is missing or damaged, or names or shapes differ.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror or 'no such file'}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no valid safetensors file: {error}") from None
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        names = expected.keys() | found.keys()
        wrong = sorted(name for name in names if expected.get(name) != found.get(name))
        name = wrong[0]
        raise CheckpointError(
            f"{path} does not fit the model: {name} should be {expected.get(name, 'absent')},"
            f" the file has {found.get(name, 'nothing')} ({len(wrong)} of {len(names)} tensors differ)"
        )
    model.load_state_dict(state)
