"""What the planner chooses from: student models, their widths, and what compresses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedstill.common.compressors import CompressionPlan, make_plan
from fedstill.common.compressors.plan import without_compression
from fedstill.common.config import Config
from fedstill.common.models import InputSpec, resolve_model

WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Times `student.width`."""
# What `student.model = "auto"` stands for, by kind of samples; the smallest first.
LADDERS = {
    "image": ("cnn-tiny", "cnn-small", "cnn-separable"),
    "tabular": ("mlp-small",),
    "series": ("mlp-small", "series-cnn"),
    "text": ("embedding-bag", "text-cnn"),
    "sequence": ("kmer-bag", "sequence-cnn"),
}
_SMALLEST_IMAGE = {"cnn-tiny": 4, "cnn-small": 8, "cnn-separable": 8}


@dataclass(frozen=True)
class Candidate:
    """One student as a device would run it."""

    model: str
    width: float
    compression: CompressionPlan

    @property
    def arithmetic(self) -> str:
        """What its weights are computed with, or held in where that is not computed with."""
        return {32: "fp32", 8: "int8", 4: "int4", 1: "binary"}[self.compression.bits]

    @property
    def design(self) -> tuple[str, float]:
        """The architecture that is trained."""
        return self.model, self.width

    @property
    def uncompressed(self) -> Candidate:
        """The same student in floats, nothing removed."""
        return Candidate(self.model, self.width, without_compression(self.compression))

    def describe(self) -> str:
        """Names it in a few words."""
        return f"{self.model} ×{self.width:g}, {describe_compression(self.compression)}"


def describe_compression(plan: CompressionPlan) -> str:
    """Names a compression in a few words."""
    parts = [f"prune {plan.prune_ratio:g}"] if "prune" in plan.steps else []
    if "sparsify" in plan.steps:
        parts.append(f"sparse {plan.sparsity:g}" if plan.pattern == "unstructured" else plan.pattern)
    parts += ["low rank"] if "lowrank" in plan.steps else []
    parts.append({32: "fp32", 8: "int8", 4: "int4", 1: "binary"}[plan.bits])
    parts += ["QAT"] if plan.qat else []
    parts += ["packed"] if plan.storage == "packed" else []
    parts += [plan.runtime] if plan.runtime != "onnx" else []
    return " + ".join(parts)


def list_candidates(config: Config, spec: InputSpec) -> list[Candidate]:
    """Lists every candidate of a run, in a fixed order.

    Args:
        config: `student.model` names the models, or "auto"; `student.width` scales all
            widths; the run's own `[compress]` is always among the compressions.
        spec: What samples look like.

    Returns:
        Candidates; the uncompressed form of each is among them.

    Raises:
        ConfigError: An unknown model, or one that takes other samples.
    """
    names = [name.strip() for name in config.student.model.split(",")]
    if names == ["auto"]:
        smallest = min(spec.channels_first_shape[1:], default=0)
        names = [name for name in LADDERS[spec.task] if _SMALLEST_IMAGE.get(name, 0) <= smallest]
    models = list(dict.fromkeys(resolve_model(name, role="student", spec=spec) for name in names))
    return [
        Candidate(model, width * config.student.width, plan)
        for model in models
        for width in WIDTHS
        for plan in list_compressions(config)
    ]


def list_compressions(config: Config) -> list[CompressionPlan]:
    """Lists the compressions to choose from, the configuration's own among them.

    Floats; 8 bits, plain and packed; 4 bits packed, which are computed in floats. ExecuTorch takes
    seconds to export for, so its files are candidates only where `compress.runtime` names it.
    """
    num_calibration = config.compress.num_calibration
    forms: list[dict[str, Any]] = [
        {"steps": "", "bits": 32},
        {"steps": "quantise", "bits": 8},
        {"steps": "quantise", "bits": 8, "storage": "packed"},
        {"steps": "quantise", "bits": 4, "storage": "packed"},
    ]
    plans = [make_plan(num_calibration=num_calibration, **form) for form in forms]
    return list(dict.fromkeys([*plans, config.compress.plan]))
