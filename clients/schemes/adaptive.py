"""`distill.mode = "auto"`: temperature, λ and the stop, set by each node in each round.

What is sought: students as near to the soft labels as they can be, that are no worse on the
node's own data than private data alone would make them. The two pull apart on skewed partitions:
where a node has two classes, a student that knows ten confuses its own two with the others.

What is configured stays unless something speaks against it, so that noise costs nothing.

- Temperature: by standardisation. A temperature suits logits of one spread; where the logits that
  came have another by more than a factor of two, it is scaled by it, within bounds (Sun et al. 2024,
  arXiv:2403.01427, per label set instead of per sample).
- Stop: the last weights, unless earlier ones had an objective lower by more than a standard error,
  its private part measured on the validation part (the rule of Breiman et al. 1984 for trees).
- Own classes: answers are shifted by log(q + (1 − q)·C·π), π the node's class frequencies. That is
  the best classifier for a mixture of equally frequent classes (share q) and the node's own
  (Saerens, Latinne, Decaestecker 2002, on adjusting to new priors). A student that is clearly below
  the floor gets the largest q that reaches it; q is folded into the bias of the last layer and taken
  out before the next round.
- λ: where no shift keeps the floor, the teacher is wrong on this node's data, not only about
  frequencies: λ is halved and the round repeated. A later round begins with the λ that was kept,
  and rises again once the floor is kept without a shift.

What all this is judged by stands in `evidence`. Nothing of it is shared but the choice itself.
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

from fedstill.clients.choice import Choice
from fedstill.clients.distil import distil_student, train_alone
from fedstill.clients.schemes.evidence import Evidence, gather_evidence
from fedstill.clients.schemes.records import Lesson, Outcome
from fedstill.common.features import find_head
from fedstill.common.losses import get_loss

# Spread (standard deviation within a row) of the logits that `distill.temperature` is meant for.
REFERENCE_SPREAD = 5.0
TEMPERATURE_BOUNDS = (1.0, 20.0)
# Within this factor of the reference students hardly differ by temperature.
SPREAD_BAND = 2.0
SHARES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
# A student is below the floor by more than this and a standard error, or it stays as it is.
TOLERANCE = 0.01
MAX_ATTEMPTS = 3
NUM_LOOKS = 10
# Steps of the trial on private data alone, as a share of the round's.
ALONE_RATIO = 0.5


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
    keeps_floor: bool


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
    evidence = gather_evidence(lesson)
    before = lesson.remembered
    if before is not None:
        _add_to_answers(lesson.student, -evidence.shift(before.public_share))
    trial = _try_alone(lesson)
    floor = None
    if trial is not None:
        floor = evidence.judge(trial)(evidence.shift(1.0))
        evidence = evidence.weigh(floor)
    attempts: list[_Attempt] = []
    weight = _first_lambda(lesson)
    while len(attempts) < MAX_ATTEMPTS and not any(one.keeps_floor for one in attempts):
        attempts.append(_attempt(lesson, evidence, temperature, weight, floor))
        weight /= 2
    best = max(attempts, key=lambda one: (one.keeps_floor, one.accuracy))
    spent = sum(one.num_made for one in attempts) - best.num_made
    alone = 0.0 if floor is None else evidence.accuracy(floor)
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
        _add_to_answers(outcome.student, gather_evidence(lesson).shift(outcome.choice.public_share))


def choose_temperature(logits_SC: np.ndarray, *, lesson: Lesson) -> float:
    """Scales the default temperature by the spread of the logits, where that is far from usual.

    Args:
        logits_SC: The soft labels' logits (S, C).
        lesson: The round; its loss may standardise by itself, and then nothing is scaled.

    Returns:
        The temperature, within `TEMPERATURE_BOUNDS` unless the default lies outside.
    """
    default = lesson.distillation.temperature
    if lesson.distillation.loss is get_loss("standardised"):
        return default
    ratio = float(np.mean(np.std(logits_SC, axis=1))) / REFERENCE_SPREAD
    if 1 / SPREAD_BAND <= ratio <= SPREAD_BAND:
        return default
    scaled = default * ratio
    low, high = min(TEMPERATURE_BOUNDS[0], default), max(TEMPERATURE_BOUNDS[1], default)
    return round(min(max(scaled, low), high), 3)


def _first_lambda(lesson: Lesson) -> float:
    default, before = lesson.distillation.distill_lambda, lesson.remembered
    if before is None:
        return default
    return min(default, 2 * before.distill_lambda if before.public_share == 1 else before.distill_lambda)


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
    lesson: Lesson, evidence: Evidence, temperature: float, weight: float, floor: np.ndarray | None
) -> _Attempt:
    student = copy.deepcopy(lesson.student)
    distillation = dataclasses.replace(lesson.distillation, temperature=temperature, distill_lambda=weight)
    guest = lesson.guest()
    keep = _KeepBest(student, _look_at(lesson, evidence, temperature, weight), lesson)
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
    judge = evidence.judge(student)
    hits = {share: judge(evidence.shift(share)) for share in SHARES}
    by_share = {share: evidence.accuracy(right) for share, right in hits.items()}
    share = 1.0
    if floor is not None and not keeps_floor(evidence, floor, hits[1.0]):
        share = choose_share(by_share, alone=evidence.accuracy(floor))
    return _Attempt(
        student,
        distillation_loss,
        private_loss,
        weight,
        keep.kept_step,
        keep.last_step,
        share,
        by_share[share],
        by_share[1.0],
        floor is None or keeps_floor(evidence, floor, hits[share]),
    )


def keeps_floor(evidence: Evidence, floor: np.ndarray, hits: np.ndarray) -> bool:
    """Says whether a student's answers are at most `TOLERANCE` and a standard error below the floor's."""
    mean, error = evidence.compare(floor, hits)
    return mean <= TOLERANCE + error


def choose_share(accuracies: dict[float, float], *, alone: float) -> float:
    """Chooses how much of a student's answers is for equally frequent classes.

    Args:
        accuracies: Private accuracy by share; 1 among them.
        alone: Private accuracy of private data alone.

    Returns:
        The largest share that reaches what private data alone do; else the most accurate one.
    """
    enough = [share for share, accuracy in accuracies.items() if accuracy >= alone]
    return max(enough) if enough else max(accuracies, key=lambda share: (accuracies[share], share))


@dataclass(frozen=True)
class Look:
    """A student's objective at one step, and what of it each validation sample (S,) brought in."""

    objective: float
    private_S: np.ndarray

    def is_worse(self, other: Look) -> bool:
        """Says whether the objective is higher than another's by more than the samples' standard error."""
        num = len(self.private_S)
        if num == 1:  # has no spread to judge by
            return False
        error = float(np.std(self.private_S - other.private_S, ddof=1)) / num**0.5 if num else 0.0
        return self.objective - other.objective > error


class _KeepBest:
    """Looks at the objective ten times a round; the last weights stay unless others were clearly better.

    Stops when half a round is lost.
    """

    def __init__(self, student: nn.Module, look: Callable[[nn.Module], Look], lesson: Lesson) -> None:
        self._student, self._look, self._lesson = student, look, lesson
        self._interval = max(1, lesson.num_steps // NUM_LOOKS)
        self._best = self._last = Look(float("inf"), np.empty(0))
        self._state = student.state_dict()
        self.first_step = self.kept_step = self.last_step = 0

    def __call__(self, step: int) -> bool:
        self.last_step = step
        is_last, is_lost = step == self._lesson.num_steps, False
        # A student that is being compressed has its shapes from the first step on that counts.
        if is_last or (step % self._interval == 0 and step > self.first_step):
            self._student.eval()
            self._last = self._look(self._student)
            if self._last.objective <= self._best.objective or not self.kept_step:
                self._best, self.kept_step = self._last, step
                self._state = copy.deepcopy(self._student.state_dict())
            is_lost = step - self.kept_step >= NUM_LOOKS // 2 * self._interval
            is_lost = is_lost and self._last.is_worse(self._best)
        return self._lesson.on_step(step) or is_lost

    def restore(self) -> None:
        if self._last.is_worse(self._best):
            self._student.load_state_dict(self._state)
        else:
            self.kept_step = self.last_step


def _look_at(
    lesson: Lesson, evidence: Evidence, temperature: float, weight: float
) -> Callable[[nn.Module], Look]:
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
    def look(model: nn.Module) -> Look:
        distance = float(lesson.distillation.loss(model(x), teacher, temperature=temperature))
        if not len(validation):
            return Look(distance, np.empty(0))
        logits = model(torch.from_numpy(validation.x_S))
        losses_S = functional.cross_entropy(logits, torch.from_numpy(validation.y_S), reduction="none")
        private_S = (1 - weight) * losses_S.numpy()
        return Look(weight * distance + float(private_S.mean()), private_S)

    return look


def _add_to_answers(student: nn.Module, shift_C: np.ndarray) -> None:
    head = find_head(student)
    with torch.no_grad():
        head.bias.add_(torch.from_numpy(shift_C))


def _explain(best: _Attempt, alone: float, num_attempts: int) -> str:
    plain = best.accuracy_unshifted
    if best.keeps_floor and best.share == 1 and num_attempts == 1:
        return f"keeps the floor: {plain:.3f} against {alone:.3f} alone"
    parts = [f"{plain:.3f} against {alone:.3f} alone"]
    if best.share < 1:
        parts.append(f"own class frequencies lift it to {best.accuracy:.3f}")
    if num_attempts > 1:
        parts.append(f"the teacher is wrong here, {num_attempts} values of lambda tried")
    if not best.keeps_floor:
        parts.append("the floor is out of reach")
    return "; ".join(parts)
