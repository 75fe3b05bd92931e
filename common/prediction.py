"""An artefact that is open: from raw samples to classes, on the base install."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.artefact import Artefact, read_artefact
from fedstill.common.datasets.load import fit_shape
from fedstill.common.datasets.values import as_texts, cast_samples, check_samples
from fedstill.common.errors import DataError
from fedstill.common.inference import predict_probabilities


@dataclass(frozen=True)
class OpenArtefact:
    """What a device runs, open here; made by `open_artefact`."""

    artefact: Artefact
    """Its manifest and its files, verified."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities' columns."""
        return self.artefact.class_names

    @property
    def manifest(self) -> dict[str, Any]:
        """How it was made, what it takes, and what it reached."""
        return self.artefact.manifest

    def predict(self, x: np.ndarray | Sequence[str]) -> np.ndarray:
        """Predicts classes.

        Args:
            x: Raw samples (S, …) as the data had them, or a list of S texts or sequences.

        Returns:
            Class indices (S,), int64.

        Raises:
            DataError: Samples of another shape, kind or range.
        """
        predicted: np.ndarray = self.predict_probabilities(x).argmax(axis=1)
        return predicted

    def predict_probabilities(self, x: np.ndarray | Sequence[str]) -> np.ndarray:
        """Predicts the probability of each class: (S, C), float32, rows add up to 1; see `predict`."""
        artefact, origin = self.artefact, "the samples"
        if artefact.encoder is not None:
            texts = [str(text) for text in x]
            if isinstance(x, str) or not all(isinstance(text, str) for text in x):
                raise DataError("expected a list of texts, got something else")
            return predict_probabilities(artefact.predict, artefact.encoder.encode(as_texts(texts)))
        samples = np.asarray(x)
        check_samples(samples, origin=origin)
        samples = fit_shape(samples, artefact.sample_shape, origin=origin)
        samples = cast_samples(samples, np.dtype(artefact.dtype), origin=origin)
        return predict_probabilities(artefact.predict, np.ascontiguousarray(samples))


def open_artefact(path: str | Path, *, num_threads: int = 1) -> OpenArtefact:
    """Opens an artefact, once its files are verified against its manifest.

    Args:
        path: Its folder.
        num_threads: Threads that run it.

    Raises:
        ArtefactError: It is incomplete, altered or of a foreign format.
    """
    # Resolved once: a link to what is served may be switched while the files are read.
    return OpenArtefact(read_artefact(Path(path).resolve(), num_threads=num_threads))
