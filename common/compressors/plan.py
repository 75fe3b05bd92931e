"""What is done to a student between its training and the file that a device runs."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.errors import ConfigError, unknown_name
from fedstill.common.modules import is_reference

STEPS = ("prune", "sparsify", "lowrank", "quantise")
"""In this order, each once at most."""
IMPORTANCES = ("magnitude", "taylor", "bn_scale")
BITS = (32, 8, 4, 1)
STORAGES = ("plain", "packed")
_PATTERN = re.compile(r"([1-9]\d?):([1-9]\d?)")


@dataclass(frozen=True)
class CompressionPlan:
    """How a student is compressed; fields carry the names of the keys of `[compress]`.

    Build one with `make_plan`, which checks it. Fields of steps that are not taken
    keep their defaults, so that equal plans are equal records.
    """

    steps: tuple[str, ...] = ("quantise",)
    prune_ratio: float = 0.5
    """Part of each layer's channels that goes; weights fall to about (1 − ratio)²."""
    importance: str = "magnitude"
    sparsity: float = 0.9
    """Part of the weights that becomes zero."""
    pattern: str = "unstructured"
    """Or "n:m": n of m neighbouring weights stay."""
    energy: float = 0.9
    """Part of a weight matrix' squared singular values that low rank keeps."""
    rank: int = 0
    """Ranks at most; 0 goes by energy alone."""
    bits: int = 8
    group_size: int = 32
    """Weights that share one scale, at 4 bits."""
    storage: str = "plain"
    runtime: str = "onnx"
    num_calibration: int = 256
    qat: bool = False
    """Training knows of the quantisation to come."""

    @property
    def changes_training(self) -> bool:
        """Says whether the plan acts while a student trains, which then has no uncompressed form."""
        return any(step != "quantise" for step in self.steps) or self.qat

    def to_json(self) -> dict[str, Any]:
        """Lists the fields as JSON has them."""
        return asdict(self) | {"steps": list(self.steps)}


def without_compression(plan: CompressionPlan) -> CompressionPlan:
    """Returns the plan of the uncompressed control: floats, nothing removed."""
    return replace(CompressionPlan(), steps=(), bits=32, num_calibration=plan.num_calibration)


def parse_steps(text: str) -> tuple[str, ...]:
    """Reads "prune,lowrank,quantise"; "quantize" is another spelling, an empty text no step.

    Raises:
        ConfigError: An unknown step, one twice, or another order than `STEPS`.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    steps = tuple("quantise" if name == "quantize" else name for name in names)
    for step in steps:
        if step not in STEPS:
            raise unknown_name("step in compress.steps", step, STEPS)
    if len(set(steps)) < len(steps):
        raise ConfigError(f"compress.steps: expected each step once, got {','.join(steps)}")
    ordered = tuple(step for step in STEPS if step in steps)
    if steps != ordered:
        raise ConfigError(f"compress.steps: expected the order {','.join(ordered)}, got {','.join(steps)}")
    return steps


def parse_pattern(pattern: str) -> tuple[int, int] | None:
    """Reads "2:4" as (2, 4), and "unstructured" as None.

    Raises:
        ConfigError: Neither.
    """
    if pattern == "unstructured":
        return None
    match = _PATTERN.fullmatch(pattern)
    kept, size = (int(match[1]), int(match[2])) if match else (1, 1)
    if kept >= size:
        raise ConfigError(
            f"compress.pattern: expected unstructured or n:m with n below m, as 2:4, got {pattern!r}"
        )
    return kept, size


def make_plan(
    *, steps: str | tuple[str, ...], bits: int = 8, qat: bool = False, **fields: Any
) -> CompressionPlan:
    """Builds and checks a plan.

    Args:
        steps: Names of `STEPS`, with commas or as a tuple.
        bits: As in `CompressionPlan`; 32 is no quantisation, whatever the steps say.
        qat: As in `CompressionPlan`.
        **fields: The other fields of `CompressionPlan`.

    Returns:
        The plan in its one form: what no step uses has its default.

    Raises:
        ConfigError: Values out of range, or that contradict each other.
    """
    found = parse_steps(steps if isinstance(steps, str) else ",".join(steps))
    if bits == 32 or "quantise" not in found:
        found, bits = tuple(step for step in found if step != "quantise"), 32
    if fields.get("runtime", "onnx") == "onnx" and ("sparsify" in found or bits == 1):
        fields["storage"] = "packed"  # only there do zeros and single bits take less room
    plan = CompressionPlan(steps=found, bits=bits, qat=qat, **fields)
    _check(plan)
    default = CompressionPlan()
    return replace(plan, **{name: getattr(default, name) for name in _list_unused(plan)})


def list_settings(plan: CompressionPlan) -> dict[str, Any]:
    """Lists the fields that say something of a plan, as JSON has them: none of a step that it leaves out."""
    silent = set(_list_unused(plan))
    if plan.bits not in (4, 1):
        silent.add("qat")
    if plan.bits not in (8, 1):
        silent.add("num_calibration")
    return {name: value for name, value in plan.to_json().items() if name not in silent}


def _list_unused(plan: CompressionPlan) -> list[str]:
    unused = []
    if "prune" not in plan.steps:
        unused += ["prune_ratio", "importance"]
    if "sparsify" not in plan.steps:
        unused += ["sparsity", "pattern"]
    elif plan.pattern != "unstructured":
        unused += ["sparsity"]
    if "lowrank" not in plan.steps:
        unused += ["energy", "rank"]
    if plan.bits != 4:
        unused += ["group_size"]
    return unused


def _check(plan: CompressionPlan) -> None:
    parse_pattern(plan.pattern)
    for name, known in (("importance", IMPORTANCES), ("storage", STORAGES)):
        if getattr(plan, name) not in known:
            raise unknown_name(f"compress.{name}", getattr(plan, name), known)
    if plan.runtime not in EXPORTERS.names() and not is_reference(plan.runtime):
        raise unknown_name("compress.runtime", plan.runtime, EXPORTERS.names())
    if plan.bits not in BITS:
        raise ConfigError(f"compress.bits: expected one of {', '.join(map(str, BITS))}, got {plan.bits}")
    for name in ("prune_ratio", "sparsity"):
        if not 0 < getattr(plan, name) < 1:
            raise ConfigError(f"compress.{name}: expected above 0 and below 1, got {getattr(plan, name)}")
    if not 0 < plan.energy <= 1:
        raise ConfigError(f"compress.energy: expected above 0 and at most 1, got {plan.energy}")
    if plan.rank < 0 or plan.group_size < 8 or plan.num_calibration < 1:
        raise ConfigError("compress: expected rank ≥ 0, group_size ≥ 8 and num_calibration ≥ 1")
    if "sparsify" in plan.steps and "lowrank" in plan.steps:
        raise ConfigError("compress.steps: the factors of lowrank fill the zeros of sparsify; leave one out")
    if "sparsify" in plan.steps and plan.bits == 1:
        raise ConfigError("compress.bits: weights of 1 bit hold no zeros; leave sparsify out or take 8 bits")
    if plan.qat and plan.bits not in (4, 1):
        raise ConfigError(
            f"compress.qat: expected compress.bits of 4 or 1, got {plan.bits}; calibrating does at 8"
        )
    if plan.runtime == "executorch" and "sparsify" in plan.steps:
        raise ConfigError(
            "compress.runtime: only packed files of onnx get smaller by sparsify; leave one out"
        )
    if plan.runtime == "executorch" and (plan.storage == "packed" or plan.bits not in (32, 8)):
        raise ConfigError("compress.runtime: executorch runs plain files of 8 or 32 bits; else take onnx")
