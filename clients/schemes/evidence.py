"""What a node judges its student by: its validation part, and what public samples tell beside it.

Accuracies on a validation part of a dozen samples mean little, so public samples stand beside
them: with the teacher's classes as truth, reweighted to the node's class frequencies, and together
worth a fixed number of validation samples; none where they contradict the validation part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from fedstill.clients.distil import SoftLabels
from fedstill.clients.private import LabelledSamples
from fedstill.clients.schemes.records import Lesson
from fedstill.common.training import predict_logits

# What the public samples tell counts as much as so many validation samples.
SHRINK_SAMPLES = 100
NUM_PROBES = 1024

Judge = Callable[[np.ndarray], np.ndarray]
"""From a shift of the answers (C,) to which samples of the evidence are answered rightly (V + P,)."""


@dataclass(frozen=True)
class Evidence:
    """V validation samples, and P public samples, the probes."""

    validation: LabelledSamples
    probes: SoftLabels
    classes_P: np.ndarray
    """The teacher's classes of the probes; an unsure one's probabilities would speak for frequent classes."""
    weights_P: np.ndarray
    """So that the probes have the node's class frequencies; sum 1."""
    frequencies_C: np.ndarray
    num_shrink: int = SHRINK_SAMPLES
    """Validation samples that the probes count as."""

    @property
    def num_samples(self) -> int:
        """What all of it counts as, in validation samples; 1 at least."""
        return max(1, len(self.validation) + self.num_shrink)

    def shift(self, share: float) -> np.ndarray:
        """Logits to add to a student's answers (C,), float32."""
        shift = np.log(share + (1 - share) * len(self.frequencies_C) * self.frequencies_C)
        return shift.astype(np.float32)

    def judge(self, model: nn.Module) -> Judge:
        """Runs a model once; its answers are then judged under any shift."""
        probe_PC = predict_logits(model, np.asarray(self.probes.x_S))
        own_VC = predict_logits(model, self.validation.x_S) if len(self.validation) else probe_PC[:0]
        answers, truth = np.concatenate([own_VC, probe_PC]), np.append(self.validation.y_S, self.classes_P)
        return lambda shift_C: (answers + shift_C).argmax(axis=1) == truth

    def accuracy(self, hits: np.ndarray) -> float:
        """Private accuracy, shrunk, from what a judge said; within [0, 1]."""
        return min(1.0, float(self._weights() @ hits))  # weights may add up to one and a rounding more

    def compare(self, floor: np.ndarray, hits: np.ndarray) -> tuple[float, float]:
        """How far a student is below a floor, sample by sample, and the standard error of that."""
        gaps, weights = floor.astype(float) - hits, self._weights()
        mean = float(weights @ gaps)
        return mean, float(np.sqrt(max(0.0, weights @ gaps**2 - mean**2) / self.num_samples))

    def weigh(self, hits: np.ndarray) -> Evidence:
        """Leaves the probes out where they foretell another accuracy than a model has on the validation part.

        Such a teacher is wrong on this node's data, or the data are of another kind than the public
        ones. The model is one that owes the teacher nothing.
        """
        num = len(self.validation)
        expected = float(self.weights_P @ hits[num:])
        error = float(np.sqrt(num * max(expected * (1 - expected), 0.01)))
        is_contradicted = abs(hits[:num].sum() - num * expected) > 3 * error
        return dataclasses.replace(self, num_shrink=0) if is_contradicted else self

    def _weights(self) -> np.ndarray:
        own_V = np.ones(len(self.validation))
        return np.append(own_V, self.num_shrink * self.weights_P) / self.num_samples


def gather_evidence(lesson: Lesson) -> Evidence:
    """Takes a lesson's validation part, and probes from its soft labels."""
    labels = lesson.labels
    assert labels is not None
    chosen = np.unique(np.linspace(0, len(labels.logits_SC) - 1, NUM_PROBES).round().astype(np.int64))
    probes = SoftLabels(np.asarray(labels.x_S[chosen]), np.asarray(labels.logits_SC[chosen]))
    y = np.concatenate([lesson.train.y_S, lesson.validation.y_S])
    # Half a sample in all for classes that were not seen: they are rare here, not impossible.
    counts = np.bincount(y, minlength=lesson.num_classes) + 0.5 / lesson.num_classes
    frequencies = counts / counts.sum()
    classes = probes.logits_SC.argmax(axis=1)
    named = np.bincount(classes, minlength=lesson.num_classes) / len(classes)
    weights = (frequencies / np.maximum(named, 1e-3))[classes]
    return Evidence(lesson.validation, probes, classes, weights / weights.sum(), frequencies)
