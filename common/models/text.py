"""Text: from word ids to logits.

Id 0 is padding everywhere. Its embedding is zero and is never trained, so sums over
words need no mask.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fedstill.common.models.inputs import InputSpec
from fedstill.common.models.registry import scale_width

_NUM_HEADS = 4
# Attention costs the square of the positions; words are merged until there are no more than these.
_MAX_POSITIONS = 128


class WordDropout(nn.Module):
    """Turns words into padding at random while training (Iyyer 2015, deep averaging networks)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def forward(self, ids_ST: torch.Tensor) -> torch.Tensor:
        if not self.training or not self._share:
            return ids_ST
        return ids_ST * (torch.rand(ids_ST.shape) >= self._share)


def make_embedding(num_ids: int, size: int, *, padding: int = 0) -> nn.Embedding:
    """Makes an embedding whose values start small and whose padding stays zero."""
    embedding = nn.Embedding(num_ids, size, padding_idx=padding)
    with torch.no_grad():
        embedding.weight.mul_(0.1)
    return embedding


def sum_up(vectors_STD: torch.Tensor, present_ST: torch.Tensor) -> torch.Tensor:
    """Adds up the vectors of a sample and divides by the root of their number.

    The mean of some hundred vectors is so faint that its weights hardly move at a rate
    that suits the rest; the root keeps the spread of a sum of independent vectors.
    """
    counts_S1 = present_ST.sum(dim=1, keepdim=True).clamp(min=1).float()
    return vectors_STD.sum(dim=1) / counts_S1.sqrt()


class BagOfWords(nn.Module):
    def __init__(self, num_ids: int, size: int) -> None:
        super().__init__()
        self.embedding = make_embedding(num_ids, size)

    def forward(self, ids_ST: torch.Tensor) -> torch.Tensor:
        return sum_up(self.embedding(ids_ST), ids_ST != 0)


def build_embedding_bag(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Bag of word embeddings and one linear layer (Joulin 2017, 1607.01759, without n-grams)."""
    size = scale_width(16, width)
    return nn.Sequential(BagOfWords(spec.num_ids, size), nn.Linear(size, num_classes))


def build_embedding_bag_large(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """The same with wide embeddings, and words dropped at random (Iyyer 2015)."""
    size = scale_width(128, width)
    return nn.Sequential(
        WordDropout(0.3),
        BagOfWords(spec.num_ids, size),
        nn.Dropout(0.3),
        nn.Linear(size, num_classes),
    )


class _TextCnn(nn.Module):
    def __init__(
        self, spec: InputSpec, *, size: int, filters: int, num_classes: int, dropout: tuple[float, float]
    ) -> None:
        super().__init__()
        self.words = WordDropout(dropout[0])
        self.embedding = make_embedding(spec.num_ids, size)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, filters, reach, padding=reach // 2) for reach in (3, 4, 5)
        )
        self.dropout = nn.Dropout(dropout[1])
        self.head = nn.Linear(3 * filters, num_classes)

    def forward(self, ids_ST: torch.Tensor) -> torch.Tensor:
        vectors = self.embedding(self.words(ids_ST)).transpose(1, 2)
        found = [functional.relu(convolution(vectors)).amax(dim=2) for convolution in self.convolutions]
        return self.head(self.dropout(torch.cat(found, dim=1)))  # type: ignore[no-any-return]


def build_text_cnn(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Filters over 3, 4 and 5 words, the strongest answer of each (Kim 2014, 1408.5882)."""
    return _TextCnn(
        spec,
        size=scale_width(16, width),
        filters=scale_width(16, width),
        num_classes=num_classes,
        dropout=(0.0, 0.0),
    )


def build_text_cnn_large(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """The same with 64 filters of each reach, and dropout."""
    return _TextCnn(
        spec,
        size=scale_width(64, width),
        filters=scale_width(64, width),
        num_classes=num_classes,
        dropout=(0.2, 0.5),
    )


class _SelfAttention(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._head_size = size // _NUM_HEADS
        self.norm = nn.LayerNorm(size)
        self.queries, self.keys, self.values = (nn.Linear(size, size) for _ in range(3))
        self.merge = nn.Linear(size, size)
        self.widen = nn.Sequential(
            nn.LayerNorm(size),
            nn.Linear(size, 2 * size),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(2 * size, size),
        )

    def forward(self, vectors_STD: torch.Tensor, bias_S11T: torch.Tensor) -> torch.Tensor:
        normed = self.norm(vectors_STD)
        queries, keys, values = (
            layer(normed).reshape(-1, normed.shape[1], _NUM_HEADS, self._head_size).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        scores = queries @ keys.transpose(2, 3) / self._head_size**0.5 + bias_S11T
        heard = (scores.softmax(dim=3) @ values).transpose(1, 2).flatten(2)
        vectors_STD = vectors_STD + self.merge(heard)
        return vectors_STD + self.widen(vectors_STD)  # type: ignore[no-any-return]


class _Transformer(nn.Module):
    def __init__(self, spec: InputSpec, *, size: int, num_layers: int, num_classes: int) -> None:
        super().__init__()
        (length,) = spec.sample_shape
        self._stride = -(-length // _MAX_POSITIONS)
        self._num_positions = -(-length // self._stride)
        self._missing = self._num_positions * self._stride - length
        self.words = WordDropout(0.2)
        self.embedding = make_embedding(spec.num_ids, size)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self._num_positions, size))
        self.layers = nn.ModuleList(_SelfAttention(size) for _ in range(num_layers))
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(size, num_classes)

    def forward(self, ids_ST: torch.Tensor) -> torch.Tensor:
        ids_ST = functional.pad(self.words(ids_ST), (0, self._missing))
        grouped = ids_ST.reshape(-1, self._num_positions, self._stride)
        present = (grouped != 0).sum(dim=2).float()
        vectors = self.embedding(grouped).sum(dim=2) / present.clamp(min=1).unsqueeze(2)
        vectors = vectors + self.positions
        # Groups of padding are neither looked at nor counted.
        mask_ST = (present > 0).float()
        bias = ((mask_ST - 1) * 1e4).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            vectors = layer(vectors, bias)
        weights = mask_ST / mask_ST.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (self.norm(vectors) * weights.unsqueeze(2)).sum(dim=1)
        return self.head(self.dropout(mean))  # type: ignore[no-any-return]


def build_transformer_small(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Two layers of four heads before which neighbouring words are averaged (Vaswani 2017, 1706.03762)."""
    size = _NUM_HEADS * scale_width(16, width)
    return _Transformer(spec, size=size, num_layers=2, num_classes=num_classes)
