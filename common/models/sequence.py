"""Biological sequences: from letter ids to logits, one-hot or k-mers made inside the graph.

Id 0 is padding, 1 an unknown letter; both are zeros in a one-hot row, and no k-mer
goes across them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fedstill.common.models.inputs import InputSpec
from fedstill.common.models.registry import scale_width
from fedstill.common.models.text import make_embedding, sum_up

_NUM_RESERVED = 2
# Rows of a table of k-mers: shorter ones say less, longer ones are too rare to learn. Gene families, teacher,
# training samples that were held back, seeds 0 to 2: 7 bases .835, 6 .802, 5 .745; and with 7, where the
# root of their number divides their sum .835, where the number does .822, nothing .762.
_MAX_KMERS = 16_384


class _OneHot(nn.Module):
    """Letters as rows of zeros with a single one: (S, T) becomes (S, letters, T)."""

    def __init__(self, num_letters: int) -> None:
        super().__init__()
        letters = torch.arange(num_letters).reshape(1, -1, 1) + _NUM_RESERVED
        self.register_buffer("letters", letters, persistent=False)

    letters: torch.Tensor

    def forward(self, ids_ST: torch.Tensor) -> torch.Tensor:
        return (ids_ST.unsqueeze(1) == self.letters).float()


class _Strongest(nn.Module):
    def forward(self, features_SCT: torch.Tensor) -> torch.Tensor:
        return torch.cat([features_SCT.amax(dim=2), features_SCT.mean(dim=2)], dim=1)


def _count_letters(spec: InputSpec) -> int:
    return max(1, spec.num_ids - _NUM_RESERVED)


def build_sequence_cnn(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """One-hot letters, motifs of 12 letters, and what follows what (Zhou 2015, DeepSEA's shape)."""
    first, second = scale_width(24, width), scale_width(32, width)
    letters = _count_letters(spec)
    return nn.Sequential(
        _OneHot(letters),
        nn.Conv1d(letters, first, 12, stride=3, padding=6),
        nn.ReLU(),
        nn.Conv1d(first, second, 6, stride=3, padding=3),
        nn.ReLU(),
        _Strongest(),
        nn.Linear(2 * second, num_classes),
    )


def build_sequence_cnn_large(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """The same with three layers of 96 to 128 filters and dropout."""
    first, second = scale_width(96, width), scale_width(128, width)
    letters = _count_letters(spec)
    return nn.Sequential(
        _OneHot(letters),
        nn.Conv1d(letters, first, 12, stride=3, padding=6),
        nn.ReLU(),
        nn.Conv1d(first, second, 6, stride=3, padding=3),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv1d(second, second, 6, stride=2, padding=3),
        nn.ReLU(),
        _Strongest(),
        nn.Dropout(0.4),
        nn.Linear(2 * second, num_classes),
    )


class _BagOfKmers(nn.Module):
    """Bag of the embeddings of all k letters that follow each other."""

    def __init__(self, num_letters: int, *, max_kmers: int, size: int) -> None:
        super().__init__()
        self._num_letters = num_letters
        self._k = 1
        while self._k < 8 and num_letters ** (self._k + 1) <= max_kmers and num_letters > 1:
            self._k += 1
        self._num_kmers = num_letters**self._k
        self.embedding = make_embedding(self._num_kmers + 1, size, padding=self._num_kmers)

    def forward(self, ids_ST: torch.Tensor) -> torch.Tensor:
        letters = functional.pad(ids_ST, (0, self._k - 1)) - _NUM_RESERVED
        length = ids_ST.shape[1]
        kmers = torch.zeros_like(ids_ST)
        whole = torch.ones_like(ids_ST, dtype=torch.bool)
        for place in range(self._k):
            letter = letters[:, place : place + length]
            kmers = kmers * self._num_letters + letter
            whole = whole & (letter >= 0)
        kmers = torch.where(whole, kmers, self._num_kmers)
        return sum_up(self.embedding(kmers), whole)


def build_kmer_bag(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Bag of up to 16,384 k-mers (7 bases, 3 amino acids) and one linear layer."""
    size = scale_width(8, width)
    kmers = _BagOfKmers(_count_letters(spec), max_kmers=_MAX_KMERS, size=size)
    return nn.Sequential(kmers, nn.Linear(size, num_classes))


def build_kmer_bag_large(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """The same with wide embeddings and dropout."""
    size = scale_width(32, width)
    kmers = _BagOfKmers(_count_letters(spec), max_kmers=_MAX_KMERS, size=size)
    return nn.Sequential(kmers, nn.Dropout(0.3), nn.Linear(size, num_classes))
