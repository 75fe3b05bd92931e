"""The plan of views, which is stored and sent, and the samples that it makes.

References: Shen & Xing 2022, "A Fast Knowledge Distillation Framework for Visual Recognition"
(FKD), arXiv:2112.01528; Wu et al. 2022, "TinyViT", arXiv:2207.10666. Both store what was done
to each sample beside its soft labels, so that the student sees exactly what the teacher
labelled. We store a seed, and everything follows from it and from the sample's place.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedstill.common.errors import ConfigError
from fedstill.common.models.inputs import InputSpec
from fedstill.common.views.changes import change_samples, count_words, mix_samples
from fedstill.common.views.draws import draw_below, draw_words

# Raised whenever the same seed would make other samples: labels of one recipe do not fit another's.
RECIPE = 1
MAX_VIEWS = 256


@dataclass(frozen=True)
class ViewPlan:
    """Which views of the public set are labelled; view 0 is always the sample itself."""

    seed: int = 0
    num_views: int = 1
    mixup_ratio: float = 0.0
    """Share of the changed samples that are mixed with another public sample first."""
    flips: bool = False
    """Whether images may be mirrored left to right."""
    recipe: int = RECIPE

    @property
    def index_key(self) -> int:
        """A number for the label store's index, one per plan; 0 where only the samples are labelled."""
        if self.num_views == 1:
            return 0
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "little") >> 1

    def describe(self) -> dict[str, Any] | None:
        """Writes the plan for the label set that it belongs to; None where there is one view only."""
        return asdict(self) if self.num_views > 1 else None


class Views:
    """Rows of all views of a public set, made when they are asked for.

    Row v·S + s is view v of sample s. Rows are taken by slice or by an array of indices, as
    from an array (V·S, *sample_shape).
    """

    def __init__(self, samples_S: np.ndarray, plan: ViewPlan, spec: InputSpec) -> None:
        """Makes nothing yet.

        Args:
            samples_S: Public samples (S, *sample_shape); may be a memory map.
            plan: What is done to them.
            spec: What samples look like.

        Raises:
            ConfigError: A recipe that this version does not know, or too many views.
        """
        if plan.recipe != RECIPE:
            raise ConfigError(
                f"the soft labels are those of views of recipe {plan.recipe}, this version makes recipe"
                f" {RECIPE}: install the coordinator's version here"
            )
        if not 1 <= plan.num_views <= MAX_VIEWS:
            raise ConfigError(f"expected 1 to {MAX_VIEWS} views of each public sample, got {plan.num_views}")
        self._samples_S = samples_S
        self._plan = plan
        self._spec = spec

    def __len__(self) -> int:
        return self._plan.num_views * len(self._samples_S)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that all rows together would have."""
        return (len(self), *self._samples_S.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the samples."""
        return self._samples_S.dtype

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        view_B, sample_B = np.divmod(np.asarray(rows, np.int64), len(self._samples_S))
        made = np.array(self._samples_S[sample_B])
        changed = np.flatnonzero(view_B)
        if len(changed):
            made[changed] = self._change(made[changed], view_B[changed], sample_B[changed])
        return made

    def _change(self, x_B: np.ndarray, view_B: np.ndarray, sample_B: np.ndarray) -> np.ndarray:
        plan, spec = self._plan, self._spec
        where = (view_B.astype(np.uint64), sample_B.astype(np.uint64))
        if plan.mixup_ratio and len(self._samples_S) > 1:
            words = draw_words(plan.seed, 1, *where, num_words=3)
            mixed = np.flatnonzero(draw_below(words[:, 0], 2**16) < round(plan.mixup_ratio * 2**16))
            partner_B = sample_B + 1 + draw_below(words[:, 1], len(self._samples_S) - 1)
            partner = np.asarray(self._samples_S[partner_B[mixed] % len(self._samples_S)])
            share = 128 + draw_below(words[mixed, 2], 128)
            x_B[mixed] = mix_samples(x_B[mixed], partner, share, holds_ids=spec.num_ids > 0)
        words = draw_words(plan.seed, 2, *where, num_words=count_words(spec))
        return change_samples(x_B, words, spec, flips=plan.flips)


def open_views(samples_S: np.ndarray, plan: ViewPlan, spec: InputSpec) -> np.ndarray | Views:
    """Gives the rows that soft labels belong to: the samples, or all their views."""
    if plan.num_views == 1 and plan.recipe == RECIPE:
        return samples_S
    return Views(samples_S, plan, spec)
