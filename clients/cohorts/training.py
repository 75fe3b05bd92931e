"""K courses of one kind, taken as one batch: the same steps as one after the other, many times faster."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional

from fedstill.clients.course import Course, Losses
from fedstill.clients.distil import SoftLabels, look_interval
from fedstill.clients.private import LabelledSamples
from fedstill.common.models.batched import compute_together
from fedstill.common.training import make_optimiser, shuffled_batches

# Values of a row of parameters are filled up to a multiple of these, so that an optimiser that takes several
# at a time takes each student's alike, wherever it stands.
_ALIGNMENT = 64
# Validation samples that are looked at at once.
_LOOK_SAMPLES = 64


class _Stack:
    """The parameters of K students as rows of one matrix."""

    def __init__(self, students: Sequence[nn.Module], device: torch.device) -> None:
        self.model = students[0]
        self._shapes = [parameter.shape for parameter in self.model.parameters()]
        sizes = [shape.numel() for shape in self._shapes]
        self._sizes = [*sizes, -sum(sizes) % _ALIGNMENT]
        rows = [torch.cat([value.detach().flatten() for value in one.parameters()]) for one in students]
        self.rows_KP = functional.pad(torch.stack(rows), (0, self._sizes[-1])).to(device)

    def parameters(self, rows_KP: torch.Tensor) -> list[torch.Tensor]:
        """Views rows as parameters, each (K, *shape); they begin a graph of their own."""
        parts = torch.split(rows_KP.detach(), self._sizes, dim=1)
        return [
            part.view(len(part), *shape).requires_grad_()
            for part, shape in zip(parts, self._shapes, strict=False)
        ]

    def lay(self, gradients: Sequence[torch.Tensor], rows_KP: torch.Tensor) -> None:
        """Lays gradients, each (K, *shape), in rows (K, P)."""
        for part, gradient in zip(torch.split(rows_KP, self._sizes, dim=1), gradients, strict=False):
            part.copy_(gradient.flatten(1))

    def write_back(self, rows_KP: torch.Tensor, students: Sequence[nn.Module]) -> None:
        """Puts each row into its student, and the student into evaluation mode."""
        with torch.no_grad():
            for row, student in zip(rows_KP.cpu(), students, strict=True):
                for part, value in zip(torch.split(row, self._sizes), student.parameters(), strict=False):
                    value.copy_(part.view(value.shape))
                student.eval()


@dataclasses.dataclass(frozen=True)
class _Batch:
    """One step's samples of K students, soft ones before private ones, and what they are compared with."""

    x_KB: torch.Tensor
    targets_KBC: torch.Tensor | None
    y_KB: torch.Tensor
    weights_KB: torch.Tensor
    """Of private samples in the cross-entropy: one over their number, or 0 where a student has fewer."""


def train_together(courses: Sequence[Course]) -> list[Losses | Exception]:
    """Takes courses of one kind together; see `clients.cohorts.lockstep` for which are of a kind.

    Batches, initial weights and orders are those of each course by itself, and so are its results, up to
    what rounding makes of sums in another order. They do not depend on the other courses.

    Args:
        courses: Of equal designs, objectives, steps, optimisation and soft labels; their students are
            trained in place.

    Returns:
        Each course's losses, or what its `on_step` raised; the student is then as far as it had come.
    """
    first, num = courses[0], len(courses)
    device = torch.device(first.optimisation.device)
    for course in courses:
        course.student.train().to(device)
    stack = _Stack([course.student for course in courses], device)
    rows = nn.Parameter(stack.rows_KP)
    rows.grad = torch.zeros_like(rows)
    anchor = stack.rows_KP.clone() if first.proximal_mu else None
    optimiser, schedule = make_optimiser([rows], first.optimisation, num_steps=first.num_steps)
    batches, prior = _batches(courses), _log_priors(courses, device)
    best = _Best(courses, prior, stack)
    failures: list[Exception | None] = [None] * num
    history: list[torch.Tensor] = []
    objective = _objective(courses, prior, device)
    for step in range(1, first.num_steps + 1):
        parameters = stack.parameters(rows)
        batch = next(batches)
        answers = compute_together(stack.model, parameters, batch.x_KB.to(device))
        terms_2K, total = objective(answers, batch)
        stack.lay(torch.autograd.grad(total, parameters), rows.grad)
        if anchor is not None:
            rows.grad.add_(first.proximal_mu * (rows.detach() - anchor))
        optimiser.step()
        if step < first.num_steps:
            schedule.step()
        history.append(terms_2K)
        best.look(rows.detach(), step)
        _tell(courses, failures, step)
        if all(failures):
            break
    stack.model.to("cpu")
    stack.write_back(best.rows(rows.detach()), [course.student for course in courses])
    tail = torch.stack(history[-max(1, len(history) // 10) :]).double().mean(dim=0).tolist()
    return [failure or Losses(*pair) for failure, *pair in zip(failures, *tail, strict=True)]


def _tell(courses: Sequence[Course], failures: list[Exception | None], step: int) -> None:
    for place, course in enumerate(courses):
        if failures[place] is None:
            try:
                course.on_step(step)
            except Exception as error:  # noqa: BLE001 - one student's end is not the others'
                failures[place] = error


def _log_priors(courses: Sequence[Course], device: torch.device) -> torch.Tensor | None:
    priors = [course.log_prior_C for course in courses if course.log_prior_C is not None]
    return torch.stack(priors).unsqueeze(1).to(device) if priors else None


def _objective(
    courses: Sequence[Course], prior_K1C: torch.Tensor | None, device: torch.device
) -> Callable[[torch.Tensor, _Batch], tuple[torch.Tensor, torch.Tensor]]:
    """Makes what turns answers (K, B, C) into terms (2, K), detached, and the total that is minimised."""
    given = courses[0].distillation
    loss = vmap(functools.partial(given.loss, temperature=given.temperature))
    if courses[0].labels is None:
        shares = [0.0] * len(courses)
    else:
        shares = [one.distillation.distill_lambda if len(one.private) else 1.0 for one in courses]
    share_K = torch.tensor(shares, device=device)

    def terms(answers_KBC: torch.Tensor, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        num_private = batch.y_KB.shape[1]
        private_KBC = answers_KBC[:, answers_KBC.shape[1] - num_private :]
        entropies_KB = _entropies(private_KBC, batch.y_KB.to(device), prior_K1C)
        private_K = (entropies_KB * batch.weights_KB.to(device)).sum(dim=1)
        if batch.targets_KBC is None:
            return torch.stack([torch.full_like(share_K, torch.nan), private_K.detach()]), private_K.sum()
        soft_KBC = answers_KBC[:, : answers_KBC.shape[1] - num_private]
        soft_K = loss(soft_KBC, batch.targets_KBC.to(device))
        total = (share_K * soft_K + (1 - share_K) * private_K).sum()
        private_K = torch.where(share_K < 1, private_K, torch.nan)
        return torch.stack([soft_K.detach(), private_K.detach()]), total

    return terms


def _entropies(answers_KBC: torch.Tensor, y_KB: torch.Tensor, prior_K1C: torch.Tensor | None) -> torch.Tensor:
    """Computes the cross-entropy of each sample (K, B)."""
    if prior_K1C is not None:
        answers_KBC = answers_KBC + prior_K1C
    # Classes before samples: a softmax over few values goes four times faster for many samples at a time.
    log_probabilities = functional.log_softmax(answers_KBC.transpose(1, 2), dim=1)
    return -log_probabilities.gather(1, y_KB.unsqueeze(1)).squeeze(1)


def _batches(courses: Sequence[Course]) -> Iterator[_Batch]:
    """Yields for ever what `distil_student` and `train_alone` would, for all courses at once."""
    labels, size = courses[0].labels, courses[0].distillation.batch_size
    wanted = size if labels is None else max(1, size // 2)
    pool = _Pool([course.private for course in courses])
    public = [shuffled_batches(len(labels.x_S), size, one.rng) for one in courses] if labels else []
    private = [
        shuffled_batches(len(one.private), min(wanted, len(one.private)), one.rng)
        if len(one.private)
        else None
        for one in courses
    ]
    while True:
        places = np.repeat(pool.starts[:, None], wanted, axis=1)
        weights = np.zeros((len(courses), wanted), np.float32)
        chosen = []
        for row, own in enumerate(private):
            if public:  # in the order in which a student by itself draws from its stream
                chosen.append(next(public[row]))
            if own is not None:
                index = next(own)
                places[row, : len(index)] = pool.starts[row] + index
                weights[row, : len(index)] = 1 / len(index)
        x_KB, y_KB = pool.x[places], torch.from_numpy(pool.y[places])
        targets = None
        if public:
            soft_KB, logits_KBC = _take_soft([course.labels for course in courses], np.stack(chosen))
            x_KB, targets = np.concatenate([soft_KB, x_KB], axis=1), torch.from_numpy(logits_KBC)
        yield _Batch(torch.from_numpy(x_KB), targets, y_KB, torch.from_numpy(weights))


def _take_soft(labels: Sequence[SoftLabels | None], index_KB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes each student's public samples and their logits, at once where all have the same."""
    own = [one for one in labels if one is not None]
    if all(one is own[0] for one in own):
        x_B = own[0].x_S[index_KB.ravel()]
        return x_B.reshape(*index_KB.shape, *x_B.shape[1:]), np.asarray(own[0].logits_SC)[index_KB]
    pairs = [(one.x_S[index], one.logits_SC[index]) for one, index in zip(own, index_KB, strict=True)]
    return np.stack([x_B for x_B, _ in pairs]), np.stack([logits_BC for _, logits_BC in pairs])


class _Pool:
    """Private samples of all students in one array, and where each one's begin."""

    def __init__(self, parts: Sequence[LabelledSamples]) -> None:
        nothing = np.zeros((1, *parts[0].x_S.shape[1:]), parts[0].x_S.dtype)
        self.x = np.concatenate([*(part.x_S for part in parts), nothing])
        self.y = np.concatenate([*(part.y_S for part in parts), [0]])
        ends = np.cumsum(list(map(len, parts)))
        self.starts = np.where(
            [len(part) > 0 for part in parts], ends - list(map(len, parts)), len(self.x) - 1
        )
        """Of one that has no samples: a sample of zeros, which weighs nothing."""


class _Best:
    """Keeps each student as it did best on its validation part, as `train_alone` does."""

    def __init__(self, courses: Sequence[Course], prior_K1C: torch.Tensor | None, stack: _Stack) -> None:
        none = LabelledSamples(courses[0].private.x_S[:0], courses[0].private.y_S[:0])
        parts = [course.validation or none for course in courses]
        self._stack, self._prior_K1C = stack, prior_K1C
        self._num_steps = courses[0].num_steps
        self._kept_KP, self._device = stack.rows_KP.clone(), stack.rows_KP.device
        self._counts_K = torch.tensor([len(part) for part in parts])
        self._losses_K = torch.full((len(parts),), torch.inf, dtype=torch.float64)
        self._pool, most = _Pool(parts), max(map(len, parts))
        self._is_off = courses[0].labels is not None or not most
        self._blocks = range(0, most, _LOOK_SAMPLES)

    def look(self, rows_KP: torch.Tensor, step: int) -> None:
        """Looks at the students after a step, if it is time."""
        if self._is_off or (step % look_interval(self._num_steps) and step != self._num_steps):
            return
        parameters = self._stack.parameters(rows_KP)
        with torch.no_grad():
            losses_K = torch.stack([self._entropy(parameters, start) for start in self._blocks]).sum(dim=0)
        is_better_K = losses_K < self._losses_K
        self._losses_K = torch.where(is_better_K, losses_K, self._losses_K)
        better_K1 = is_better_K.unsqueeze(1).to(self._device)
        self._kept_KP = torch.where(better_K1, rows_KP, self._kept_KP)

    def _entropy(self, parameters: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        places = start + torch.arange(_LOOK_SAMPLES)
        is_there_KB = places < self._counts_K.unsqueeze(1)
        index_KB = np.where(
            is_there_KB, self._pool.starts[:, None] + places.numpy(), self._pool.starts[:, None]
        )
        x_KB = torch.from_numpy(self._pool.x[index_KB]).to(self._device)
        answers = compute_together(self._stack.model, parameters, x_KB)
        y_KB = torch.from_numpy(self._pool.y[index_KB]).to(self._device)
        losses_KB = _entropies(answers, y_KB, self._prior_K1C)
        return torch.where(is_there_KB, losses_KB.cpu().double(), 0.0).sum(dim=1)

    def rows(self, rows_KP: torch.Tensor) -> torch.Tensor:
        """Takes the rows that are kept: the last ones of a student that has no validation part."""
        if self._is_off:
            return rows_KP
        has_seen_K1 = torch.isfinite(self._losses_K).unsqueeze(1).to(self._device)
        return torch.where(
            has_seen_K1 & (self._counts_K > 0).unsqueeze(1).to(self._device), self._kept_KP, rows_KP
        )
