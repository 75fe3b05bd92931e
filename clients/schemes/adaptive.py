"""`distill.mode = "auto"`: temperature, λ and the stop, set by each node in each round.

What is sought: students as near to the soft labels as they can be, that are no worse on the
node's own data than private data alone would make them. The two pull apart on skewed partitions:
where a node has two classes, a student that knows ten confuses its own two with the others.

- Temperature: by standardisation. A temperature suits logits of one spread; it is scaled by the
  spread of the logits that came, within bounds (Sun et al. 2024, arXiv:2403.01427, per label set
  instead of per sample).
- Stop: the weights with the lowest objective, its private part measured on the validation part.
- Own classes: answers are shifted by log(q + (1 − q)·C·π), π the node's class frequencies. That is
  the best classifier for a mixture of equally frequent classes (share q) and the node's own
  (Saerens, Latinne, Decaestecker 2002, on adjusting to new priors). The largest q is taken that
  keeps the floor; it is folded into the bias of the last layer and taken out before the next round.
- λ: where no shift keeps the floor, the teacher is wrong on this node's data, not only about
  frequencies: λ is halved and the round repeated. A later round begins with the λ that was kept,
  and rises again once the floor is kept without a shift.

Accuracies on a validation part of a dozen samples mean little, so they are shrunk towards what the
public samples tell: accuracy there, with the teacher's classes as truth, reweighted to the node's
class frequencies; unless that contradicts the validation part. Nothing is shared of all this but
the choice itself.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clients.choice import Choice
from clients.distil import SoftLabels, distil_student, train_alone
from clients.schemes.records import Lesson, Outcome
from common.features import find_head
from common.losses import get_loss
from common.training import predict_logits

# Spread (standard deviation within a row) of the logits that `distill.temperature` is meant for.
REFERENCE_SPREAD = 5.0
TEMPERATURE_BOUNDS = (1.0, 20.0)
SHARES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
# The floor is accuracy alone minus the tolerance; whoever has to move goes half of it further.
TOLERANCE = 0.01
AIM = 0.005
# What the public samples tell counts as much as so many validation samples.
SHRINK_SAMPLES = 100
MAX_ATTEMPTS = 3
NUM_PROBES = 1024
NUM_LOOKS = 10
# Steps of the trial on private data alone, as a share of the round's.
ALONE_RATIO = 0.5


@dataclass(frozen=True)
class _Evidence:
    """What a node judges its student by."""

    probes: SoftLabels
    truth_SC: np.ndarray
    """The teacher's classes of the probes, one-hot, reweighted to the node's class frequencies; sum 1."""
    frequencies_C: np.ndarray
    lesson: Lesson
    num_shrink: int = SHRINK_SAMPLES
    """Validation samples that the probes count as."""

    def shift(self, share: float) -> np.ndarray:
        """Logits to add to a student's answers (C,), float32."""
        shift = np.log(share + (1 - share) * len(self.frequencies_C) * self.frequencies_C)
        return shift.astype(np.float32)

    def measure(self, model: nn.Module) -> Callable[[np.ndarray], float]:
        """Runs a model once; returns a function from a shift to its private accuracy, shrunk."""
        count = self._count(model)
        num_validation = len(self.lesson.validation)

        def accuracy(shift_C: np.ndarray) -> float:
            hits, expected = count(shift_C)
            return (hits + self.num_shrink * expected) / max(1, num_validation + self.num_shrink)

        return accuracy

    def weigh(self, model: nn.Module) -> _Evidence:
        """Leaves the probes out where they foretell another accuracy than a model has on the validation part.

        Such a teacher is wrong on this node's data, or the data are of another kind than the public
        ones. The model is one that owes the teacher nothing.
        """
        hits, expected = self._count(model)(self.shift(1.0))
        num = len(self.lesson.validation)
        error = float(np.sqrt(num * max(expected * (1 - expected), 0.01)))
        return dataclasses.replace(self, num_shrink=0) if abs(hits - num * expected) > 3 * error else self

    def _count(self, model: nn.Module) -> Callable[[np.ndarray], tuple[int, float]]:
        validation = self.lesson.validation
        probe_SC = predict_logits(model, np.asarray(self.probes.x_S))
        own_SC = predict_logits(model, validation.x_S) if len(validation) else None

        def count(shift_C: np.ndarray) -> tuple[int, float]:
            guessed = (probe_SC + shift_C).argmax(axis=1)
            expected = float(self.truth_SC[np.arange(len(guessed)), guessed].sum())
            hits = 0 if own_SC is None else int(((own_SC + shift_C).argmax(axis=1) == validation.y_S).sum())
            return hits, expected

        return count


@dataclass(frozen=True)
class _Attempt:
    student: nn.Module
    distillation_loss: float
    private_loss: float
    distill_lambda: float
    num_steps: int
    num_made: int
    share: float
    accuracy: float
    accuracy_unshifted: float


def learn_adaptively(lesson: Lesson) -> Outcome:
    """Distils the published soft labels with a temperature, λ, stop and shift of the node's own choice.

    Args:
        lesson: The round; its λ and temperature are the defaults, and stay where nothing
            speaks against them.

    Returns:
        The student without the shift, and the choice; see `settle`.
    """
    assert lesson.labels is not None
    temperature = choose_temperature(lesson.labels.logits_SC, lesson=lesson)
    evidence = _gather(lesson)
    before = lesson.remembered
    if before is not None:
        _add_to_answers(lesson.student, -evidence.shift(before.public_share))
    trial = _try_alone(lesson)
    alone = 0.0
    if trial is not None:
        evidence = evidence.weigh(trial)
        alone = evidence.measure(trial)(evidence.shift(1.0))
    attempts: list[_Attempt] = []
    weight = _first_lambda(lesson)
    while len(attempts) < MAX_ATTEMPTS:
        attempts.append(_attempt(lesson, evidence, temperature, weight, alone))
        if attempts[-1].accuracy >= alone - TOLERANCE:
            break
        weight /= 2
    best = next((one for one in attempts if one.accuracy >= alone - TOLERANCE), None)
    best = best or max(attempts, key=lambda one: one.accuracy)
    spent = sum(one.num_made for one in attempts) - best.num_made
    choice = Choice(
        temperature=temperature,
        distill_lambda=best.distill_lambda,
        num_steps=best.num_steps,
        public_share=best.share,
        own_accuracy=best.accuracy,
        alone_accuracy=alone,
        num_validation=len(lesson.validation),
        num_trial_steps=spent + _num_alone(lesson),
        why=_explain(best, alone, len(attempts)),
    )
    return Outcome(best.student, best.distillation_loss, best.private_loss, choice=choice)


def settle(lesson: Lesson, outcome: Outcome) -> None:
    """Folds the chosen shift into the student's last layer; what it uploads has been computed without."""
    if outcome.choice is not None and outcome.choice.public_share < 1:
        _add_to_answers(outcome.student, _gather(lesson).shift(outcome.choice.public_share))


def choose_temperature(logits_SC: np.ndarray, *, lesson: Lesson) -> float:
    """Scales the default temperature by the spread of the logits.

    Args:
        logits_SC: The soft labels' logits (S, C).
        lesson: The round; its loss may standardise by itself, and then nothing is scaled.

    Returns:
        The temperature, within `TEMPERATURE_BOUNDS` unless the default lies outside.
    """
    default = lesson.distillation.temperature
    if lesson.distillation.loss is get_loss("standardised"):
        return default
    scaled = default * float(np.mean(np.std(logits_SC, axis=1))) / REFERENCE_SPREAD
    low, high = min(TEMPERATURE_BOUNDS[0], default), max(TEMPERATURE_BOUNDS[1], default)
    return round(min(max(scaled, low), high), 3)


def _first_lambda(lesson: Lesson) -> float:
    default, before = lesson.distillation.distill_lambda, lesson.remembered
    if before is None:
        return default
    return min(default, 2 * before.distill_lambda if before.public_share == 1 else before.distill_lambda)


def _gather(lesson: Lesson) -> _Evidence:
    labels = lesson.labels
    assert labels is not None
    chosen = np.unique(np.linspace(0, len(labels.logits_SC) - 1, NUM_PROBES).round().astype(np.int64))
    probes = SoftLabels(np.asarray(labels.x_S[chosen]), np.asarray(labels.logits_SC[chosen]))
    y = np.concatenate([lesson.train.y_S, lesson.validation.y_S])
    # Half a sample in all for classes that were not seen: they are rare here, not impossible.
    counts = np.bincount(y, minlength=lesson.num_classes) + 0.5 / lesson.num_classes
    frequencies = counts / counts.sum()
    # The teacher's classes, not its probabilities: an unsure teacher would speak for frequent classes.
    truth = np.eye(lesson.num_classes)[probes.logits_SC.argmax(axis=1)]
    truth = truth * (frequencies / np.maximum(truth.mean(axis=0), 1e-3))
    return _Evidence(probes, truth / truth.sum(), frequencies, lesson)


def _num_alone(lesson: Lesson) -> int:
    return max(1, round(ALONE_RATIO * lesson.num_steps)) if len(lesson.train) else 0


def _try_alone(lesson: Lesson) -> nn.Module | None:
    """Makes what the student would be if it went on with private data alone; None without such data."""
    if not len(lesson.train):
        return None
    trial = copy.deepcopy(lesson.student)
    (rng,) = lesson.rng.spawn(1)  # the round's own stream stays as it would be without trials
    with torch.random.fork_rng(devices=[]):
        train_alone(
            trial,
            lesson.train,
            lesson.validation,
            batch_size=lesson.distillation.batch_size,
            optimisation=lesson.optimisation,
            num_steps=_num_alone(lesson),
            rng=rng,
            on_step=lesson.on_step,
        )
    return trial


def _attempt(
    lesson: Lesson, evidence: _Evidence, temperature: float, weight: float, alone: float
) -> _Attempt:
    student = copy.deepcopy(lesson.student)
    distillation = dataclasses.replace(lesson.distillation, temperature=temperature, distill_lambda=weight)
    guest = lesson.guest()
    keep = _KeepBest(student, _objective(lesson, evidence, temperature, weight), lesson)
    keep.first_step = 0 if guest is None else guest.settled_step
    assert lesson.labels is not None
    distillation_loss, private_loss = distil_student(
        student,
        lesson.labels,
        lesson.train,
        distillation=distillation,
        optimisation=lesson.optimisation,
        num_steps=lesson.num_steps,
        rng=lesson.rng,
        on_step=keep,
        guest=guest,
    )
    keep.restore()
    accuracy = evidence.measure(student)
    by_share = {share: accuracy(evidence.shift(share)) for share in SHARES}
    share = choose_share(by_share, alone=alone)
    return _Attempt(
        student,
        distillation_loss,
        private_loss,
        weight,
        keep.best_step,
        keep.last_step,
        share,
        by_share[share],
        by_share[1.0],
    )


def choose_share(accuracies: dict[float, float], *, alone: float) -> float:
    """Chooses how much of a student's answers is for equally frequent classes.

    Args:
        accuracies: Private accuracy by share; 1 among them.
        alone: Private accuracy of private data alone.

    Returns:
        1 if that keeps the floor; else the largest share that reaches it with room; else
        the most accurate one.
    """
    if accuracies[1.0] >= alone - TOLERANCE:
        return 1.0
    enough = [share for share, accuracy in accuracies.items() if accuracy >= alone - AIM]
    return max(enough) if enough else max(accuracies, key=lambda share: (accuracies[share], share))


class _KeepBest:
    """Looks at the objective ten times a round, keeps the best weights, stops when half a round is lost."""

    def __init__(self, student: nn.Module, objective: Callable[[nn.Module], float], lesson: Lesson) -> None:
        self._student, self._objective, self._lesson = student, objective, lesson
        self._interval = max(1, lesson.num_steps // NUM_LOOKS)
        self._best = float("inf")
        self._state = student.state_dict()
        self.first_step = self.best_step = self.last_step = 0

    def __call__(self, step: int) -> bool:
        self.last_step = step
        is_last = step == self._lesson.num_steps
        # A student that is being compressed has its shapes from the first step on that counts.
        if is_last or (step % self._interval == 0 and step > self.first_step):
            self._student.eval()
            value = self._objective(self._student)
            if value <= self._best or not self.best_step:
                self._best, self.best_step = value, step
                self._state = copy.deepcopy(self._student.state_dict())
        stop = bool(self.best_step) and step - self.best_step >= NUM_LOOKS // 2 * self._interval
        return self._lesson.on_step(step) or stop

    def restore(self) -> None:
        self._student.load_state_dict(self._state)


def _objective(
    lesson: Lesson, evidence: _Evidence, temperature: float, weight: float
) -> Callable[[nn.Module], float]:
    """λ·loss on probes + (1−λ)·CE on the validation part: what training minimises.

    The probes are samples of the public set that are trained on: it is on private labels that
    students overfit.
    """
    every = max(1, len(evidence.probes.logits_SC) // 256)
    x, teacher = (
        torch.from_numpy(np.array(part[::every])) for part in (evidence.probes.x_S, evidence.probes.logits_SC)
    )
    validation = lesson.validation

    @torch.no_grad()
    def objective(model: nn.Module) -> float:
        distance = float(lesson.distillation.loss(model(x), teacher, temperature=temperature))
        if not len(validation):
            return distance
        logits = model(torch.from_numpy(validation.x_S))
        private = float(functional.cross_entropy(logits, torch.from_numpy(validation.y_S)))
        return weight * distance + (1 - weight) * private

    return objective


def _add_to_answers(student: nn.Module, shift_C: np.ndarray) -> None:
    head = find_head(student)
    with torch.no_grad():
        head.bias.add_(torch.from_numpy(shift_C))


def _explain(best: _Attempt, alone: float, num_attempts: int) -> str:
    plain = best.accuracy_unshifted
    if plain >= alone - TOLERANCE and num_attempts == 1:
        return f"keeps the floor: {plain:.3f} against {alone:.3f} alone"
    parts = [f"{plain:.3f} against {alone:.3f} alone"]
    if best.share < 1:
        parts.append(f"own class frequencies lift it to {best.accuracy:.3f}")
    if num_attempts > 1:
        parts.append(f"the teacher is wrong here, {num_attempts} values of lambda tried")
    if best.accuracy < alone - TOLERANCE:
        parts.append("the floor is out of reach")
    return "; ".join(parts)
